//! Makes batches ahead of use on a background thread, in order.
//!
//! At most two finished batches wait, so memory stays bounded; while the device works on one batch the next is made.

use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use crate::error::Result;

const AHEAD: usize = 2;

/// An iterator over the batches `range`, ending after the first error. Dropping it stops the thread.
pub struct Prefetch<T> {
    batches: Option<Receiver<Result<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes batch `i` by `make(i)`. A resumed epoch begins its range where it was interrupted.
    pub fn new(range: Range<usize>, make: impl Fn(usize) -> Result<T> + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for i in range {
                let batch = make(i);
                let failed = batch.is_err();
                // A send fails when nobody waits any more.
                if sender.send(batch).is_err() || failed {
                    break;
                }
            }
        });
        Prefetch { batches: Some(receiver), thread: Some(thread) }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let batch = self.batches.as_ref()?.recv().ok();
        if batch.is_none() {
            // The thread has ended. If it panicked, a broken invariant must not look like the end of an epoch.
            self.batches = None;
            if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        }
        batch
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // The receiver first: a thread that waits for room in the channel then gives up and can be joined.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    #[test]
    fn batches_arrive_in_order_and_all_of_them() {
        let squares: Vec<usize> = Prefetch::new(3..100, |i| Ok(i * i)).map(|batch| batch.unwrap()).collect();
        assert!(squares.into_iter().eq((3..100).map(|i| i * i)));
        assert!(Prefetch::new(0..0, Ok).next().is_none());
    }

    #[test]
    fn the_thread_runs_ahead_by_two_batches_and_stops_when_dropped() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let mut batches = Prefetch::new(0..1_000_000, move |i| Ok((i, counter.fetch_add(1, Ordering::SeqCst))));
        assert_eq!(batches.next().unwrap().unwrap(), (0, 0));
        drop(batches);
        assert!(made.load(Ordering::SeqCst) <= 1 + AHEAD + 1, "one taken, two waiting, one in the making");
        assert_eq!(Arc::strong_count(&made), 1, "the thread has ended and given up what it held");
    }

    #[test]
    fn an_error_is_handed_on_and_ends_the_batches() {
        let fail_at_two = |i| if i == 2 { Err(Error::usage("broken batch", "none")) } else { Ok(i) };
        let mut batches = Prefetch::new(0..5, fail_at_two);
        assert!(batches.next().unwrap().is_ok() && batches.next().unwrap().is_ok());
        assert_eq!(batches.next().unwrap().unwrap_err().to_string(), "broken batch");
        assert!(batches.next().is_none() && batches.next().is_none());
    }

    #[test]
    #[should_panic(expected = "a broken invariant")]
    fn a_panic_of_the_thread_is_not_taken_for_the_end() {
        let make = |i: usize| if i == 1 { panic!("a broken invariant") } else { Ok(i) };
        Prefetch::new(0..3, make).for_each(drop);
    }
}
