//! Ctrl-C, and what a batch system sends before it kills: training ends with a checkpoint; a second one ends at once.

use std::sync::atomic::{AtomicUsize, Ordering};

static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// From here on the first signal is noted, not fatal.
pub fn listen() {
    let on_signal = || {
        if REQUESTS.fetch_add(1, Ordering::Relaxed) > 0 {
            std::process::exit(130);
        }
        super::console::note("stopping after this step, with a checkpoint; once more stops at once");
    };
    // A second call in one process finds the handler in place.
    drop(ctrlc::set_handler(on_signal));
}

/// Whether a signal has come.
pub fn requested() -> bool {
    REQUESTS.load(Ordering::Relaxed) > 0
}
