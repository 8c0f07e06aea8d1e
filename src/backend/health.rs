//! What consecutive failures to connect say about a server. PURE.

use std::time::Duration;

use super::backoff;

/// So many failed connects in a row make a server doubtful (HAProxy's `fall` default is 3).
const FAILURES_MAX: u32 = 3;
/// How long a doubtful server is left alone, at first and at most.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);

/// One worker's opinion of one server. Each worker learns by its own sessions; the opinion only
/// puts others first, it never leaves a client without a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    failures: u32,
    /// Microseconds on the worker's clock until which it is left alone.
    rest_until: u64,
    /// Its rest was over, and one session is trying it.
    on_trial: bool,
}

impl Health {
    /// Whether sessions should be given to it at `now`. After its rest one session tries it;
    /// the next failure sends it back to rest for longer.
    pub(super) const fn is_good(&self, now: u64) -> bool {
        self.failures < FAILURES_MAX || now >= self.rest_until
    }

    /// A connect succeeded.
    pub(super) const fn on_success(&mut self) {
        *self = Self { failures: 0, rest_until: 0, on_trial: false };
    }

    /// A connect failed, for a reason that is the server's.
    pub(super) fn on_failure(&mut self, now: u64, random: u32) {
        if self.failures >= FAILURES_MAX && now < self.rest_until && !self.on_trial {
            // One of those that were on their way when it was sent to rest: a thousand sessions
            // that failed together say no more than three.
            return;
        }
        self.on_trial = false;
        self.failures = self.failures.saturating_add(1);
        if let Some(rests) = self.failures.checked_sub(FAILURES_MAX) {
            let rest = backoff::delay(rests + 1, REST_MIN, REST_MAX, random);
            self.rest_until = now + u64::try_from(rest.as_micros()).unwrap_or(u64::MAX / 2);
        }
    }

    /// It is being tried, after its rest or as the last resort: others wait for the outcome.
    pub(super) fn on_trial(&mut self, now: u64) {
        if self.failures >= FAILURES_MAX {
            self.on_trial |= now >= self.rest_until;
            let outcome_by = now + u64::try_from(REST_MIN.as_micros()).unwrap_or(0);
            self.rest_until = self.rest_until.max(outcome_by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn rests_after_failures_in_a_row_and_longer_each_time() {
        let mut health = Health::default();
        health.on_failure(0, 0);
        health.on_failure(0, 0);
        assert!(health.is_good(0));
        health.on_failure(0, 0);
        assert!(!health.is_good(SECOND - 1) && health.is_good(SECOND));
        health.on_failure(SECOND, 0);
        assert!(!health.is_good(3 * SECOND - 1) && health.is_good(3 * SECOND));
    }

    #[test]
    fn those_that_fail_together_send_it_to_rest_once() {
        let mut health = Health::default();
        for _ in 0..1000 {
            health.on_failure(0, 0);
        }
        assert!(!health.is_good(SECOND - 1) && health.is_good(SECOND));
        health.on_trial(SECOND);
        health.on_failure(SECOND + 1, 0);
        assert!(!health.is_good(3 * SECOND) && health.is_good(3 * SECOND + 1), "now for longer");
    }

    #[test]
    fn one_success_clears_the_record() {
        let mut health = Health::default();
        for _ in 0..10 {
            health.on_failure(0, 0);
        }
        health.on_success();
        health.on_failure(0, 0);
        assert!(health.is_good(0));
    }

    #[test]
    fn being_the_last_resort_does_not_shorten_its_rest() {
        let mut health = Health::default();
        // Each failure after the rest before it.
        for minute in 0..8 {
            health.on_failure(minute * 60 * SECOND, 0);
        }
        let last = 7 * 60 * SECOND;
        health.on_trial(last);
        assert!(!health.is_good(last + 29 * SECOND) && health.is_good(last + 30 * SECOND));
    }

    #[test]
    fn after_its_rest_one_session_tries_it() {
        let mut health = Health::default();
        for _ in 0..3 {
            health.on_failure(0, 0);
        }
        assert!(health.is_good(SECOND));
        health.on_trial(SECOND);
        assert!(!health.is_good(SECOND), "a second session does not follow before the outcome");
    }
}
