//! How long the turns of a worker take: from the moment it wakes until it waits again. What a client
//! notices of a busy relay is this, since nothing that comes meanwhile is looked at before.

use std::time::Duration;

use crate::backend::histogram::{TURN_BOUNDS_MICROS, Times};

use super::Counter;

/// Times that one thread notes.
#[derive(Debug, Default)]
pub(super) struct Turns {
    counts: [Counter; TURN_BOUNDS_MICROS.len() + 1],
    sum_micros: Counter,
}

impl Turns {
    pub(super) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = TURN_BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.counts[class].add(1);
        self.sum_micros.add(micros);
    }

    pub(super) fn read(&self) -> Times {
        Times {
            counts: self.counts.each_ref().map(Counter::value),
            sum_micros: self.sum_micros.value(),
            max_micros: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_at_the_first_bound_that_it_is_not_above() {
        let turns = Turns::default();
        for micros in [0, 10, 11, 1_000_001] {
            turns.note(Duration::from_micros(micros));
        }
        let times = turns.read();
        assert_eq!((times.counts[0], times.counts[1], times.counts[14]), (2, 1, 1));
        assert_eq!(times.sum_micros, 1_000_022);
    }
}
