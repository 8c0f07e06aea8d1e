//! The one clock of a run. Pure modules take `Nanos`; only threads and tasks read this.

use std::time::{Duration, Instant};

/// Nanoseconds since the run's origin.
pub(crate) type Nanos = u64;

/// Nanoseconds in a second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Nanoseconds in a millisecond.
pub(crate) const MILLISECOND: Nanos = 1_000_000;

/// Counts from an origin that all threads of a run share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose zero lies `lead` ahead, so that every thread is ready when time begins.
    #[expect(clippy::disallowed_methods, reason = "this is the generator's own clock")]
    pub(crate) fn starting_in(lead: Duration) -> Self {
        Self { origin: Instant::now() + lead }
    }

    /// Time since the origin; zero before it.
    #[expect(clippy::disallowed_methods, reason = "this is the generator's own clock")]
    pub(crate) fn now(&self) -> Nanos {
        nanos(Instant::now().saturating_duration_since(self.origin))
    }

    /// The instant at which this clock reads `at`.
    pub(crate) fn instant(&self, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(at)
    }
}

/// A duration in the clock's unit; durations beyond 584 years are cut to that.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}
