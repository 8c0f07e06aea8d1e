//! Letting events gather before they are looked at.
//!
//! Evenly spread messages wake a worker once each. With a latency budget it rests between two looks
//! instead, and each look finds several. It rests only while that pays: a worker that is busy for
//! longer than the budget, and one to which events come further apart than that, look at once.

use std::time::Duration;

use crate::op::Time;
use crate::sys::process;

/// When to rest, and for how long.
#[derive(Debug)]
pub(super) struct Gather {
    budget: Duration,
    /// Of the sockets.
    looked: Time,
    /// Events come so close together that some can be had with one look.
    dense: bool,
}

impl Gather {
    /// Events may gather for `budget`; zero is not at all.
    pub(super) fn new(budget: Duration) -> Self {
        if !budget.is_zero() {
            process::wake_on_time();
        }
        Self { budget, looked: Time::default(), dense: false }
    }

    /// Whether [`Self::pause`] has anything to say: without a budget it never has.
    pub(super) const fn is_dense(&self) -> bool {
        self.dense
    }

    /// How long to rest before a look at the sockets that may last until `until`, if that pays. What
    /// has gathered is then looked at without waiting for more.
    pub(super) fn pause(&self, now: Time, until: Option<Time>) -> Option<Duration> {
        let next = self.looked + self.budget;
        let until = until.map_or(next, |until| until.min(next));
        (self.dense && now < until).then(|| until.since(now))
    }

    /// A look at the sockets that ended at `now` has found so many events.
    pub(super) fn note(&mut self, now: Time, found: usize, rested: bool) {
        self.dense = if rested { found > 1 } else { now.since(self.looked) < self.budget };
        self.looked = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(1);

    fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    fn gather() -> Gather {
        let mut gather = Gather::new(BUDGET);
        gather.note(at(10_000), 1, false);
        gather
    }

    #[test]
    fn events_far_apart_are_answered_at_once() {
        let mut gather = gather();
        for micros in [20_000, 21_000, 23_000] {
            assert_eq!(gather.pause(at(micros), None), None);
            gather.note(at(micros), 1, false);
        }
    }

    #[test]
    fn events_close_together_gather_until_the_budget_is_used_up() {
        let mut gather = gather();
        gather.note(at(10_200), 1, false);
        assert_eq!(gather.pause(at(10_300), None), Some(Duration::from_micros(900)));
        gather.note(at(11_200), 5, true);
        assert_eq!(gather.pause(at(11_700), None), Some(Duration::from_micros(500)));
    }

    #[test]
    fn who_was_busy_for_longer_looks_at_once_and_a_deadline_is_kept() {
        let mut gather = gather();
        gather.note(at(10_200), 9, false);
        assert_eq!(gather.pause(at(11_200), None), None);
        assert_eq!(gather.pause(at(10_300), Some(at(10_400))), Some(Duration::from_micros(100)));
        assert_eq!(gather.pause(at(10_300), Some(at(10_300))), None);
    }

    #[test]
    fn a_rest_that_brought_nothing_together_is_the_last() {
        let mut gather = gather();
        gather.note(at(10_200), 1, false);
        gather.note(at(11_200), 1, true);
        assert_eq!(gather.pause(at(11_300), None), None);
    }

    #[test]
    fn without_a_budget_nobody_rests() {
        let mut gather = Gather::new(Duration::ZERO);
        gather.note(at(10), 3, false);
        gather.note(at(10), 3, false);
        assert_eq!(gather.pause(at(10), None), None);
    }
}
