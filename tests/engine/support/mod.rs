//! What the tests stand on.

pub mod child;
pub mod dice;
pub mod oracle;
pub mod peers;
pub mod relay;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Waits until `condition` gives something.
#[track_caller]
pub fn await_some<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    await_within(PATIENCE, what, condition)
}

/// Waits until `condition` holds.
#[track_caller]
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// Waits until `condition` gives something, for as long as `patience`.
#[track_caller]
pub fn await_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(POLL);
    }
}

/// Looks for as long as `window` whether `condition` goes on to hold.
#[track_caller]
pub fn holds_for(window: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + window;
    while Instant::now() < end {
        assert!(condition(), "{what}: no longer so");
        std::thread::sleep(POLL);
    }
}

/// Waits until a count has stopped moving: the same for as long as `window`.
#[track_caller]
pub fn await_rest(what: &str, window: Duration, mut count: impl FnMut() -> u64) -> u64 {
    let (mut last, mut since) = (count(), Instant::now());
    await_some(what, || {
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() >= window).then_some(last)
    })
}

/// Shut until somebody opens it; all who wait go through then.
#[derive(Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn open(&self) {
        self.0.store(true, SeqCst);
    }

    #[track_caller]
    pub fn wait(&self) {
        await_that("a gate opens", || self.0.load(SeqCst));
    }
}
