//! `gpurec`: parses the arguments, runs the command, reports what went wrong.

use clap::Parser;
use gpurec::cli::{Cli, console, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    quiet_wayland();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            console::complain(&error);
            console::exit_code(&error)
        }
    }
}

/// Drivers look for a window system while adapters are listed, and libwayland prints an error of its own where this
/// variable is missing, as it is on servers and in containers. Nothing here opens a window.
fn quiet_wayland() {
    const VARIABLE: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: this is the first statement of the program; there are no other threads that could read the environment.
        unsafe { std::env::set_var(VARIABLE, std::env::temp_dir()) };
    }
}
