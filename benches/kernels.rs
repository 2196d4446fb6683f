//! `cargo bench -- attention --device cpu` is `gpurec bench attention --device cpu`; without a name it measures `all`.

use clap::Parser;
use gpurec::cli::{self, Cli, console};
use std::process::ExitCode;

fn main() -> ExitCode {
    // cargo adds `--bench`.
    let mut given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if given.is_empty() {
        given.push("all".into());
    }
    let words = ["gpurec".into(), "bench".into()].into_iter().chain(given);
    cli::run(Cli::parse_from(words)).unwrap_or_else(|error| {
        console::complain(&error);
        console::exit_code(&error)
    })
}
