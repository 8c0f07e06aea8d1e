//! How long something took, counted by size: what workers share, and what is read of it.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// Upper bounds in microseconds; what is above the last is counted behind it.
pub const BOUNDS_MICROS: [u64; 14] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    30_000_000,
    300_000_000,
];

/// The same for what takes microseconds: a turn of a worker.
pub const TURN_BOUNDS_MICROS: [u64; BOUNDS_MICROS.len()] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Times that many threads note, once a session: two additions that nobody waits for.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
    max_micros: AtomicU64,
}

impl Histogram {
    /// Counts one more.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.counts[class].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
        // Read first: a record is rare, and a read keeps the line shared.
        if self.max_micros.load(Relaxed) < micros {
            self.max_micros.fetch_max(micros, Relaxed);
        }
    }

    /// The counts as they are now; those of different classes may be of different moments.
    pub fn read(&self) -> Times {
        Times {
            counts: self.counts.each_ref().map(|count| count.load(Relaxed)),
            sum_micros: self.sum_micros.load(Relaxed),
            max_micros: self.max_micros.load(Relaxed),
        }
    }
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Times {
    /// By class; see [`BOUNDS_MICROS`], or [`TURN_BOUNDS_MICROS`] for turns.
    pub counts: [u64; BOUNDS_MICROS.len() + 1],
    pub sum_micros: u64,
    /// The longest; 0 where that is not noted.
    pub max_micros: u64,
}

impl Times {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The mean, in microseconds; zero of nothing.
    pub fn mean_micros(&self) -> u64 {
        self.sum_micros.checked_div(self.count()).unwrap_or_default()
    }
}

impl AddAssign<&Self> for Times {
    fn add_assign(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
        self.sum_micros += other.sum_micros;
        self.max_micros = self.max_micros.max(other.max_micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_at_the_first_bound_that_it_is_not_above() {
        let histogram = Histogram::default();
        for micros in [0, 250, 251, 300_000_000, 300_000_001] {
            histogram.note(Duration::from_micros(micros));
        }
        let times = histogram.read();
        assert_eq!((times.counts[0], times.counts[1]), (2, 1));
        assert_eq!((times.counts[13], times.counts[14]), (1, 1));
        assert_eq!((times.sum_micros, times.max_micros), (600_000_502, 300_000_001));
    }

    #[test]
    fn the_mean_is_that_of_all_that_were_added_and_nothing_has_none() {
        assert_eq!(Times::default().mean_micros(), 0);
        let histogram = Histogram::default();
        for micros in [100, 100, 100, 4_000] {
            histogram.note(Duration::from_micros(micros));
        }
        let mut times = histogram.read();
        assert_eq!(times.mean_micros(), 1075);
        times += &histogram.read();
        assert_eq!((times.mean_micros(), times.count(), times.counts[0]), (1075, 8, 6));
    }
}
