//! Letting a crowd in step by step: after a start or an outage all agents come at once, and servers
//! that have just come back would be hit by all of them. PURE, but for what the worker is told.
//!
//! Agents of version 5 try again every 20 s without jitter, so a crowd stays together until somebody
//! spreads it. Nobody is turned away: who is not let in yet waits in the kernel's queue.

use std::time::Duration;

use crate::engine::Engine;
use crate::op::{ListenerId, Time};
use crate::session::CloseReason;

use super::Worker;
use super::plan::Way;

/// How long a pace lasts before it doubles.
const STEP: Duration = Duration::from_secs(5);
/// After so many doublings, 50 s, whoever comes is let in.
const STEPS: u32 = 10;
/// What may come at once: so much of a second's pace.
const BURST: u64 = 10;

/// One listener's pace in one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ramp {
    /// Connections a second in the first step.
    first: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has come since the ramp was set up.
    Fresh,
    /// Since `begun`; `credit` is in millionths of a connection, as of `counted`.
    Climbing { begun: Time, counted: Time, credit: u64 },
    /// Whoever comes is let in.
    Over,
}

impl Ramp {
    /// A ramp of which this worker has its share.
    pub(super) fn new(connections_a_second: u32, workers: u16) -> Self {
        let first = connections_a_second.div_ceil(workers.max(1).into()).max(1);
        Self { first, stage: Stage::Fresh }
    }

    /// Whether it is another pace than the other's.
    pub(super) const fn differs(self, other: Self) -> bool {
        self.first != other.first
    }

    /// Lets one more in, or says when the next may come.
    pub(super) fn admit(&mut self, now: Time) -> Result<(), Time> {
        const ONE: u64 = 1_000_000;
        let (begun, counted, credit) = match self.stage {
            Stage::Over => return Ok(()),
            Stage::Fresh => (now, now, ONE),
            Stage::Climbing { begun, counted, credit } => (begun, counted, credit),
        };
        let steps = now.since(begun).as_micros() / STEP.as_micros();
        if steps >= STEPS.into() {
            self.stage = Stage::Over;
            return Ok(());
        }
        let pace = u64::from(self.first) << u32::try_from(steps).unwrap_or(STEPS);
        let micros = u64::try_from(now.since(counted).as_micros()).unwrap_or(u64::MAX);
        let most = (pace * ONE / BURST).max(ONE);
        let credit = credit.saturating_add(micros.saturating_mul(pace)).min(most);
        let left = credit.checked_sub(ONE);
        self.stage = Stage::Climbing { begun, counted: now, credit: left.unwrap_or(credit) };
        match left {
            Some(_) => Ok(()),
            None => Err(now + Duration::from_micros((ONE - credit).div_ceil(pace))),
        }
    }
}

impl<E: Engine> Worker<E> {
    /// A session of this listener has ended, and that may say that its servers are gone.
    pub(super) fn note_outage(&mut self, listener: ListenerId, way: Way, reason: CloseReason) {
        let gave_up = matches!(
            reason,
            CloseReason::ConnectRefused
                | CloseReason::ConnectTimeout
                | CloseReason::ConnectFailed
                | CloseReason::NoServer
        );
        if gave_up && self.rules(listener).ramp.is_some() {
            self.admission.note_outage(listener, way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(1_000_000 + millis * 1000)
    }

    /// How many are let in from one moment to another, of a crowd that never ends.
    fn let_in(ramp: &mut Ramp, from: u64, to: u64) -> u32 {
        let (mut count, mut now) = (0, at(from));
        while now < at(to) {
            match ramp.admit(now) {
                Ok(()) => count += 1,
                Err(next) => {
                    assert!(next > now, "time goes on");
                    now = next;
                }
            }
        }
        count
    }

    #[test]
    fn the_pace_doubles_every_five_seconds_until_all_are_let_in() {
        let mut ramp = Ramp::new(200, 2);
        let paces: Vec<u32> =
            (0..4).map(|step| let_in(&mut ramp, step * 5000, step * 5000 + 5000)).collect();
        for (pace, expected) in paces.iter().zip([500, 1000, 2000, 4000]) {
            assert!(pace.abs_diff(expected) <= expected / 10, "{paces:?}");
        }
        for _ in 0..100_000 {
            assert_eq!(ramp.admit(at(50_000)), Ok(()));
        }
    }

    #[test]
    fn a_quiet_while_does_not_save_up_for_a_crowd() {
        let mut ramp = Ramp::new(100, 1);
        assert_eq!(ramp.admit(at(0)), Ok(()));
        let crowd = (0..1000).take_while(|_| ramp.admit(at(4900)).is_ok()).count();
        assert_eq!(crowd, 10, "a tenth of a second's pace");
    }

    #[test]
    fn the_slowest_pace_is_one_a_second_in_each_worker() {
        let mut ramp = Ramp::new(1, 64);
        assert_eq!(ramp.admit(at(0)), Ok(()));
        assert_eq!(ramp.admit(at(0)), Err(at(1000)));
        assert_eq!(ramp.admit(at(1000)), Ok(()));
    }
}
