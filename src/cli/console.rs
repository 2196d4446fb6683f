//! Output that never panics: text to stdout, complaints to stderr, tables and progress bars.

use super::excerpt;
use crate::error::{Error, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

/// Prints a line. A reader that has gone away (`| head`) is no error.
pub fn say(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write to", Path::new("standard output"), e)),
        _ => Ok(()),
    }
}

/// Prints a line on stderr, if anyone listens.
pub fn note(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// A command as it can be typed into a POSIX shell.
pub fn shell_command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    shlex::Quoter::new().allow_nul(true).join(words).expect("quoting fails for NUL alone, which is allowed")
}

/// One readable message: what is wrong and where, then what to do. On a terminal, data errors show the line.
pub fn complain(error: &Error) {
    let shown = std::io::stderr().is_terminal().then(|| excerpt::graphical(error)).flatten();
    note(shown.unwrap_or_else(|| plain(error)));
}

fn plain(error: &Error) -> String {
    let help = error.help().map(|help| format!("\nhelp: {help}"));
    format!("error: {error}{}", help.unwrap_or_default())
}

/// What shells report of a command that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// 2 when the user can mend it, 1 when a computation failed, `INTERRUPTED` when the user stopped it.
pub fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Data { .. }
        | Error::Usage { .. }
        | Error::Io { .. }
        | Error::Format { .. }
        | Error::NoAdapter { .. }
        | Error::AdapterLimit { .. } => ExitCode::from(2),
        Error::Interrupted { .. } => ExitCode::from(INTERRUPTED),
        Error::Graph { .. }
        | Error::ShaderCompile { .. }
        | Error::DeviceLost { .. }
        | Error::OutOfMemory { .. }
        | Error::NotFinite { .. } => ExitCode::FAILURE,
    }
}

/// A table as wide as the terminal allows; columns from `numbers_from` on are set to the right.
pub fn table<R: IntoIterator<Item = String>>(
    header: &[&str],
    rows: impl IntoIterator<Item = R>,
    numbers_from: usize,
) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row.into_iter().collect::<Vec<String>>());
    }
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A progress bar on stderr; invisible when that is no terminal, or when asked to be quiet.
pub fn bar(length: usize, template: &str, quiet: bool) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates are constants").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(length as u64), draw_target(quiet)).with_style(style)
}

/// Where bars are drawn.
pub fn draw_target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// 12345 as `12,345`.
pub fn grouped(n: usize) -> String {
    HumanCount(n as u64).to_string()
}

/// `2 of 11 (18.18 %)`.
pub fn share(count: usize, whole: usize) -> String {
    format!("{} of {} ({:.2} %)", grouped(count), grouped(whole), 100.0 * count as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_complaint_has_a_line_for_the_problem_and_one_for_the_remedy() {
        let error = Error::unknown("method", "sasrek", &["sasrec", "pop"]);
        assert_eq!(plain(&error), "error: unknown method `sasrek`\nhelp: did you mean `sasrec`? valid: sasrec, pop");
    }
}
