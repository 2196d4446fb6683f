//! `gpurec`: parses the arguments, runs the command, reports what went wrong.

use clap::Parser;
use gpurec::cli::{Cli, console, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            console::complain(&error);
            console::exit_code(&error)
        }
    }
}
