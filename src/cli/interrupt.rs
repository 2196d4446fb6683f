//! Ctrl-C, and what a batch system sends before it kills. Training ends with a checkpoint, and at once when asked twice; every
//! other command ends at once. None leaves a file half written.

use super::console::{INTERRUPTED, note};
use crate::files::discard_unfinished;
use std::sync::atomic::{AtomicBool, Ordering};

static TRAINING: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Listens for signals from here on.
pub fn listen() {
    let on_signal = || {
        if !TRAINING.load(Ordering::Relaxed) || REQUESTED.swap(true, Ordering::Relaxed) {
            discard_unfinished();
            std::process::exit(INTERRUPTED.into());
        }
        note("stopping after this step, with a checkpoint; once more stops at once");
    };
    // Without a handler the signal ends the process as it always would.
    keeping_ignored(|| drop(ctrlc::set_handler(on_signal)));
}

/// Signals that the parent process made us ignore, as `nohup` does, are ignored after `install` too.
#[cfg(unix)]
fn keeping_ignored(install: impl FnOnce()) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: to ignore a signal runs no code of ours.
    let ignore = |kind: Signal| unsafe { signal(kind, SigHandler::SigIgn) };
    let before = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].map(|kind| (kind, ignore(kind)));
    install();
    for (kind, before) in before {
        if matches!(before, Ok(SigHandler::SigIgn)) {
            ignore(kind).ok();
        }
    }
}

#[cfg(not(unix))]
fn keeping_ignored(install: impl FnOnce()) {
    install();
}

/// From here on the first signal is noted, not fatal.
pub fn training_begins() {
    TRAINING.store(true, Ordering::Relaxed);
}

/// Whether a signal has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
