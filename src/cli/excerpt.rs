//! A data error with the line it is about, drawn by miette, for people at a terminal.

use crate::error::Error;
use miette::{
    GraphicalReportHandler, LabeledSpan, MietteDiagnostic, MietteError, MietteSpanContents, Report, SourceCode,
    SourceSpan, SpanContents,
};
use std::path::Path;

/// Bytes shown on either side of the column.
const AROUND: usize = 60;

/// The picture of a data error; `None` for other errors, and where the file is no plain text.
pub fn graphical(error: &Error) -> Option<String> {
    let Error::Data { path, line, column, problem, help } = error else { return None };
    let (excerpt, at, length) = Excerpt::read(path, *line, *column)?;
    let diagnostic = MietteDiagnostic::new(error.to_string())
        .with_help(help.clone())
        .with_label(LabeledSpan::at(at..at + length, problem.clone()));
    let report = Report::new(diagnostic).with_source_code(excerpt);
    let mut text = String::new();
    GraphicalReportHandler::new().render_report(&mut text, report.as_ref()).ok()?;
    Some(text)
}

/// A part of one line of a file.
#[derive(Debug)]
struct Excerpt {
    name: String,
    text: String,
    /// Of the file, from 0.
    line: usize,
    column: usize,
}

impl Excerpt {
    /// The excerpt, and start and length of the word at `column` within it. Line and column count from 1.
    fn read(path: &Path, line: usize, column: usize) -> Option<(Excerpt, usize, usize)> {
        let content = std::fs::read(path).ok()?;
        let content = std::str::from_utf8(&content).ok()?;
        let whole = content.lines().nth(line - 1)?;
        let at = (column - 1).min(whole.len());
        let start = whole.floor_char_boundary(at.saturating_sub(AROUND));
        let end = whole.ceil_char_boundary((at + AROUND).min(whole.len()));
        let word = whole.get(at..end)?.split_ascii_whitespace().next().map_or(0, str::len);
        let text = whole[start..end].to_string();
        let excerpt = Excerpt { name: path.display().to_string(), text, line: line - 1, column: start };
        Some((excerpt, at - start, word))
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let inner = self.text.read_span(span, lines_before, lines_after)?;
        let column = self.column + inner.column();
        let span = *inner.span();
        let contents =
            MietteSpanContents::new_named(self.name.clone(), inner.data(), span, self.line, column, inner.line_count());
        Ok(Box::new(contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_the_line_its_number_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.txt");
        std::fs::write(&path, format!("1 2 3 4\n2 {}x7 5 6\n", "3 ".repeat(200))).unwrap();
        let picture = graphical(&crate::data::read(&path, &crate::data::ReadOptions::default()).unwrap_err()).unwrap();
        assert!(
            ["3 3 x7 5 6", "bad.txt:2:403", "is not a number", "help"].iter().all(|part| picture.contains(part)),
            "{picture}"
        );
        assert!(picture.lines().all(|line| line.len() < 400), "{picture}");
    }
}
