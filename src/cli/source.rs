//! Where interactions come from, on the command line: the same options wherever a data set is named.

use crate::data::{Columns, Format, ReadOptions, SplitRule};
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::str::FromStr;

/// On each option by itself: a heading for all that follow would go on into the command's other options.
const HEADING: &str = "Reading tables";

/// How to read a data set. Files of text, prepared folders and known names need none of this.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SourceArgs {
    /// One of the formats that `gpurec data --help` lists; by the file's name when not given
    #[arg(long, help_heading = HEADING, value_name = "FORMAT", value_parser = parsed::<Format>)]
    format: Option<Format>,

    /// Column of users, by name or number from 1
    #[arg(long, help_heading = HEADING, value_name = "COLUMN")]
    user_col: Option<String>,

    /// Column of items
    #[arg(long, help_heading = HEADING, value_name = "COLUMN")]
    item_col: Option<String>,

    /// Column of times: numbers or dates. Without one the file must be in time order
    #[arg(long, help_heading = HEADING, value_name = "COLUMN")]
    time_col: Option<String>,

    /// Column of kinds of events
    #[arg(long, help_heading = HEADING, value_name = "COLUMN")]
    event_col: Option<String>,

    /// The first line is data, not names of columns
    #[arg(long, help_heading = HEADING)]
    no_header: bool,

    /// Separator of csv and tsv, one character
    #[arg(long, help_heading = HEADING, value_name = "CHAR")]
    separator: Option<String>,

    /// A TOML file that says what the columns of a log of lists mean, or the name of one that comes with gpurec
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    schema: Option<PathBuf>,

    /// leave-one-out, ratio:0.8,0.1,0.1, time:0.8,0.1,0.1, time:2019-10-01,2019-12-01 or sessions:0.8,0.1,0.1
    #[arg(long, help_heading = HEADING, value_name = "RULE", value_parser = parsed::<SplitRule>)]
    split: Option<SplitRule>,
}

impl SourceArgs {
    pub fn options(&self) -> Result<ReadOptions> {
        let columns = Columns {
            user: self.user_col.clone(),
            item: self.item_col.clone(),
            time: self.time_col.clone(),
            event: self.event_col.clone(),
            no_header: self.no_header,
        };
        let separator = self.separator.as_deref().map(separator).transpose()?;
        let (split, schema) = (self.split.clone(), self.schema.clone());
        Ok(ReadOptions { format: self.format, columns, separator, split, schema })
    }

    /// The same over what is known already: what was given wins.
    pub fn options_over(&self, known: &ReadOptions) -> Result<ReadOptions> {
        let ReadOptions { format, columns, separator, split, schema } = self.options()?;
        let known = known.clone();
        let columns = Columns {
            user: columns.user.or(known.columns.user),
            item: columns.item.or(known.columns.item),
            time: columns.time.or(known.columns.time),
            event: columns.event.or(known.columns.event),
            no_header: columns.no_header || known.columns.no_header,
        };
        Ok(ReadOptions {
            format: format.or(known.format),
            columns,
            separator: separator.or(known.separator),
            split: split.or(known.split),
            schema: schema.or(known.schema),
        })
    }

    /// The words of the command line that were given.
    pub fn words(&self) -> Vec<String> {
        self.given().into_iter().flat_map(|(name, value)| [Some(name.to_string()), value]).flatten().collect()
    }

    /// The options that were given, with their values.
    pub fn given(&self) -> Vec<(&'static str, Option<String>)> {
        let options = [
            ("--format", self.format.map(|format| format.name().into())),
            ("--user-col", self.user_col.clone()),
            ("--item-col", self.item_col.clone()),
            ("--time-col", self.time_col.clone()),
            ("--event-col", self.event_col.clone()),
            ("--separator", self.separator.clone()),
            ("--schema", self.schema.as_ref().map(|file| file.display().to_string())),
            ("--split", self.split.as_ref().map(|rule| rule.to_string())),
        ];
        let given = options.into_iter().filter(|(_, value)| value.is_some());
        given.chain(self.no_header.then_some(("--no-header", None))).collect()
    }
}

/// A value with the help for a wrong one in the message, for clap.
fn parsed<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| told(&error))
}

/// An error with its help, for clap.
pub fn told(error: &Error) -> String {
    format!("{error}\nhelp: {}", error.help().unwrap_or_default())
}

fn separator(text: &str) -> Result<char> {
    match (text, text.as_bytes()) {
        ("\\t" | "tab", _) => Ok('\t'),
        (_, [byte]) if byte.is_ascii() => Ok(char::from(*byte)),
        _ => Err(Error::usage(
            format!("the separator `{text}` is not one character"),
            "for example --separator ';' or --separator tab; for `::` take --format dat",
        )),
    }
}
