//! `gpurec methods`: what can be trained, from which paper, with which presets and keys.

use super::console::{say, table};
use crate::error::Result;
use crate::methods::{METHODS, MethodInfo, config, find};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gpurec methods\n  gpurec methods sasrec     presets with the source of each value, and all keys"
)]
pub struct MethodsArgs {
    /// Show the presets and the keys of this method
    name: Option<String>,
}

pub fn methods(args: &MethodsArgs) -> Result<()> {
    match &args.name {
        None => list(),
        Some(name) => show(find(name)?),
    }
}

fn list() -> Result<()> {
    let row =
        |info: &MethodInfo| [info.name.into(), info.title.into(), config::modes(info).join(", "), info.paper.into()];
    say(table(&["method", "title", "modes", "paper"], METHODS.iter().map(row), 4))?;
    say("`gpurec methods NAME` shows presets and keys; `gpurec run --method NAME --set mode=paper` uses one.")
}

fn show(info: &MethodInfo) -> Result<()> {
    let defaults = toml::to_string(&(info.defaults)()).expect("tables serialise");
    say(format!("{} ({}): {}\n", info.title, info.name, info.paper))?;
    say(format!("Presets, chosen with --set mode=...; quality is the default:\n\n{}", indented(info.preset)))?;
    say(format!(
        "Keys of --set and --config with the values they have where no preset sets them:\n\n{}",
        indented(&defaults)
    ))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".into() } else { format!("    {line}\n") }).collect()
}
