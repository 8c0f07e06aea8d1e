//! What counts alone do not tell: how fast they grow, how high that was, and how it was a while ago.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use crate::metrics::{CloseReason, culprit};

use super::status::{RelayStatus, ServerStatus};
use crate::backend::board::Culprit;

/// Points that are kept: five minutes, one a second.
const POINTS_MAX: usize = 300;

/// Sessions a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Rate {
    /// In the last whole second.
    pub(super) now: u64,
    pub(super) max: u64,
}

/// Who has a rate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Process,
    Listener(String),
    Backend(String),
    Server(String, String),
}

impl Subject {
    pub(super) fn server(server: &ServerStatus) -> Self {
        Self::Server(server.backend.clone(), server.name.clone())
    }
}

/// The rates of everybody.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(HashMap<Subject, Rate>);

impl Rates {
    pub(super) fn of(&self, subject: &Subject) -> Rate {
        self.0.get(subject).copied().unwrap_or_default()
    }
}

/// The relay in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Point {
    pub(super) sessions: u64,
    /// Sessions that began, bytes that were delivered, sessions that did not end as they should.
    pub(super) opened: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
}

/// Sums that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    opened: u64,
    bytes: u64,
    errors: u64,
}

/// Looks once a second.
#[derive(Debug, Default)]
pub(super) struct Observer {
    before: HashMap<Subject, u64>,
    sums: Option<Sums>,
    rates: Rates,
    points: VecDeque<Point>,
    /// What the workers' turns have taken, and what they took of the last second, in hundredths.
    busy_micros: u64,
    busy_percent: u64,
}

impl Observer {
    /// A second has passed.
    pub(super) fn look(&mut self, relay: &RelayStatus) {
        let mut now: HashMap<Subject, u64> = HashMap::new();
        let mut sums = Sums::default();
        let mut sessions = 0;
        for counts in relay.counts() {
            sums.opened += counts.sessions_total;
            sums.bytes += counts.engine.bytes().total();
            sums.errors += errors(&counts.ended);
            sessions += counts.sessions;
        }
        now.insert(Subject::Process, sums.opened);
        let turns = relay.workers.iter().map(|worker| worker.counts.turns.sum_micros);
        let before = std::mem::replace(&mut self.busy_micros, turns.sum());
        let second = 1_000_000 * (relay.workers.len() as u64).max(1);
        self.busy_percent = 100 * self.busy_micros.saturating_sub(before) / second;
        for listener in &relay.listeners {
            let name = listener.name.clone();
            now.insert(Subject::Listener(name), listener.traffic.sessions_total);
        }
        for server in &relay.servers {
            *now.entry(Subject::Backend(server.backend.clone())).or_default() +=
                server.tally.sessions_total;
            now.insert(Subject::server(server), server.tally.sessions_total);
        }
        for (subject, count) in &now {
            let rate = self.rates.0.entry(subject.clone()).or_default();
            rate.now = self.before.get(subject).map_or(0, |before| count.saturating_sub(*before));
            rate.max = rate.max.max(rate.now);
        }
        self.rates.0.retain(|subject, _| now.contains_key(subject));
        self.before = now;
        if let Some(before) = self.sums.replace(sums) {
            if self.points.len() == POINTS_MAX {
                self.points.pop_front();
            }
            self.points.push_back(Point {
                sessions,
                opened: sums.opened.saturating_sub(before.opened),
                bytes: sums.bytes.saturating_sub(before.bytes),
                errors: sums.errors.saturating_sub(before.errors),
            });
        }
    }

    /// The highest rates so far begin anew.
    pub(super) fn forget_highest(&mut self) {
        for rate in self.rates.0.values_mut() {
            rate.max = rate.now;
        }
    }

    /// How much of the last second the workers had nothing to do, in hundredths.
    pub(super) const fn idle_percent(&self) -> u64 {
        100u64.saturating_sub(self.busy_percent)
    }

    pub(super) const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The last seconds, the latest at the end.
    pub(super) fn points(&self) -> Vec<Point> {
        self.points.iter().copied().collect()
    }
}

/// Sessions that found no server or were cut.
fn errors(ended: &[u64; CloseReason::COUNT]) -> u64 {
    let is_error = |reason: &CloseReason| {
        culprit(*reason) == Culprit::Server
            || matches!(
                reason,
                CloseReason::ConnectTimeout
                    | CloseReason::ConnectRefused
                    | CloseReason::ConnectFailed
                    | CloseReason::TlsFailed
                    | CloseReason::NoPort
                    | CloseReason::NoServer
                    | CloseReason::NoResources
            )
    };
    CloseReason::ALL.into_iter().filter(is_error).map(|reason| ended[reason.index()]).sum()
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::relay_status;
    use super::*;

    #[test]
    fn rates_are_what_was_added_in_a_second_and_the_highest_is_kept() {
        let mut relay = relay_status();
        let mut observer = Observer::default();
        observer.look(&relay);
        let subject = Subject::Listener("agents".to_owned());
        for (more, now, max) in [(7, 7, 7), (9, 9, 9), (0, 0, 9)] {
            relay.listeners[0].traffic.sessions_total += more;
            relay.workers[0].counts.sessions_total += more;
            observer.look(&relay);
            assert_eq!(observer.rates().of(&subject), Rate { now, max });
        }
        let opened: Vec<u64> = observer.points().iter().map(|point| point.opened).collect();
        assert_eq!(opened, [7, 9, 0]);
    }

    #[test]
    fn five_minutes_are_kept() {
        let mut observer = Observer::default();
        for _ in 0..=POINTS_MAX + 5 {
            observer.look(&relay_status());
        }
        assert_eq!(observer.points().len(), POINTS_MAX);
    }
}
