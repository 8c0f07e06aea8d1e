//! What servers and backends have been through, as HAProxy tells it: since when they are what they are,
//! how long they were down, when a session last came, and averages over the last [`AVERAGED`] sessions.
//! Looked at once a second. PURE.

use std::collections::HashMap;
use std::time::Duration;

use crate::backend::histogram::Times;

use super::observer::Subject;
use super::status::{RelayStatus, ServerStatus};

/// Sessions that an average is of (management guide, 9.1: `qtime`).
const AVERAGED: u64 = 1024;

/// What one of them has been through.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// How long it has been what it is, in seconds.
    pub(super) seconds: u64,
    /// How long it could not be used, so far, and how often that began.
    pub(super) down_seconds: u64,
    pub(super) downs: u64,
    /// Since the last session began; `None` is that none has.
    pub(super) last_session_seconds: Option<u64>,
    /// The most sessions at one time.
    pub(super) sessions_max: u64,
    /// How long sessions waited for a place, for the connection, and lasted.
    pub(super) waits: Average,
    pub(super) connects: Average,
    pub(super) durations: Average,
}

/// An average of what came last, and the highest.
#[derive(Clone, Debug, Default)]
pub(super) struct Average {
    count: u64,
    sum_micros: u64,
    micros: u64,
    max_micros: u64,
    /// What the highest was when it was to begin anew: only a higher one is one.
    forgotten_micros: u64,
}

impl Average {
    pub(super) const fn millis(&self) -> u64 {
        self.micros / 1000
    }

    pub(super) const fn max_millis(&self) -> u64 {
        if self.max_micros > self.forgotten_micros { self.max_micros / 1000 } else { 0 }
    }

    /// So many so far, which took so long together, the longest so long.
    fn look(&mut self, count: u64, sum_micros: u64, max_micros: u64) {
        let new = count.saturating_sub(self.count);
        let took = sum_micros.saturating_sub(self.sum_micros);
        (self.count, self.sum_micros, self.max_micros) = (count, sum_micros, max_micros);
        if new > 0 {
            // Of the sessions that count, so many are new.
            let counted = count.clamp(1, AVERAGED);
            let new_of_them = new.min(counted);
            let before = self.micros.saturating_mul(counted - new_of_them);
            self.micros = before.saturating_add(took / new * new_of_them) / counted;
        }
    }

    fn look_at(&mut self, times: &Times) {
        self.look(times.count(), times.sum_micros, times.max_micros);
    }
}

/// What is known between two looks.
#[derive(Clone, Debug, Default)]
struct Record {
    /// When it was last there.
    seen: u64,
    state: String,
    since: u64,
    sessions: u64,
    last_session: Option<u64>,
    waited_micros: u64,
    waited_max_micros: u64,
    past: Past,
}

impl Record {
    /// What it is now; `usable` is whether sessions may go there.
    fn turn(&mut self, state: &str, usable: bool, now: u64) {
        self.seen = now;
        if self.state != state {
            // What it is at first has not begun now.
            if !self.state.is_empty() {
                self.since = now;
                self.past.downs += u64::from(!usable);
            }
            state.clone_into(&mut self.state);
        }
        self.past.down_seconds += u64::from(!usable);
        self.past.seconds = now - self.since;
    }

    fn count(&mut self, servers: &[ServerStatus], now: u64) {
        let sum = |of: fn(&ServerStatus) -> u64| servers.iter().map(of).sum::<u64>();
        let all = |of: fn(&ServerStatus) -> &Times| {
            let mut times = Times::default();
            servers.iter().for_each(|server| times += of(server));
            times
        };
        let total = sum(|server| server.tally.sessions_total);
        if total > self.sessions {
            self.last_session = Some(now);
        }
        self.sessions = total;
        let past = &mut self.past;
        past.last_session_seconds = self.last_session.map(|last| now - last);
        past.sessions_max = past.sessions_max.max(sum(|server| server.tally.sessions));
        past.connects.look_at(&all(|server| &server.tally.connects));
        let durations = all(|server| &server.tally.durations);
        // Waits are told as sessions end.
        past.waits.look(durations.count(), self.waited_micros, self.waited_max_micros);
        past.durations.look_at(&durations);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Standings {
    /// Seconds since the first look.
    now: u64,
    records: HashMap<Subject, Record>,
}

/// As it was at one look.
#[derive(Clone, Debug, Default)]
pub(super) struct Pasts(HashMap<Subject, Past>);

impl Pasts {
    pub(super) fn of(&self, subject: &Subject) -> Past {
        self.0.get(subject).cloned().unwrap_or_default()
    }
}

impl Standings {
    /// A session of a server has waited for a place there.
    pub(super) fn waited(&mut self, server: &str, time: Duration) {
        let Some((backend, name)) = server.split_once('/') else { return };
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let whole = Subject::Backend(backend.to_owned());
        for subject in [whole, Subject::Server(backend.to_owned(), name.to_owned())] {
            if let Some(record) = self.records.get_mut(&subject) {
                record.waited_micros = record.waited_micros.saturating_add(micros);
                record.waited_max_micros = record.waited_max_micros.max(micros);
            }
        }
    }

    /// A second has passed. `word` is what a server is, in a word.
    pub(super) fn look(&mut self, relay: &RelayStatus, word: impl Fn(&ServerStatus) -> String) {
        self.now += 1;
        let now = self.now;
        for servers in relay.backends() {
            for server in servers {
                let record = self.records.entry(Subject::server(server)).or_default();
                let state = word(server);
                // On its way up or down it is still what it was: "UP 2/3".
                let state = state.split(' ').next().unwrap_or_default();
                record.turn(state, !matches!(state, "DOWN" | "MAINT"), now);
                record.count(std::slice::from_ref(server), now);
            }
            let backend = Subject::Backend(servers[0].backend.clone());
            let record = self.records.entry(backend).or_default();
            let usable = servers.iter().any(ServerStatus::is_usable);
            record.turn(if usable { "UP" } else { "DOWN" }, usable, now);
            record.count(servers, now);
        }
        self.records.retain(|_, record| record.seen == now);
    }

    /// The most so far begin anew.
    pub(super) fn forget_highest(&mut self) {
        for Record { past, .. } in self.records.values_mut() {
            past.sessions_max = 0;
            for average in [&mut past.waits, &mut past.connects, &mut past.durations] {
                average.forgotten_micros = average.max_micros;
            }
        }
    }

    pub(super) fn pasts(&self) -> Pasts {
        let past = |(subject, record): (&Subject, &Record)| (subject.clone(), record.past.clone());
        Pasts(self.records.iter().map(past).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::relay_status;
    use super::*;

    fn server() -> Subject {
        Subject::Server("intake".to_owned(), "a".to_owned())
    }

    #[test]
    fn what_it_is_now_is_told_with_its_seconds_and_the_time_that_it_was_down() {
        let mut standings = Standings::default();
        let relay = relay_status();
        let mut look = |state: &str, times: u32| {
            for _ in 0..times {
                standings.look(&relay, |_| state.to_owned());
            }
            let past = standings.pasts().of(&server());
            (past.seconds, past.down_seconds, past.downs)
        };
        assert_eq!(look("UP", 3), (3, 0, 0));
        assert_eq!(look("UP 2/3", 2), (5, 0, 0), "still up");
        assert_eq!(look("DOWN", 4), (3, 4, 1));
        assert_eq!(look("DOWN 1/2", 1), (4, 5, 1));
        assert_eq!(look("UP", 1), (0, 5, 1));
    }

    #[test]
    fn averages_follow_what_came_last_and_sessions_are_dated() {
        let mut standings = Standings::default();
        let mut relay = relay_status();
        relay.servers[0].tally.sessions_total = 0;
        let mut look = |sessions: u64, micros_each: u64, waited: u64| {
            let tally = &mut relay.servers[0].tally;
            tally.sessions_total += sessions;
            tally.connects.counts[0] += sessions;
            tally.connects.sum_micros += sessions * micros_each;
            tally.connects.max_micros = tally.connects.max_micros.max(micros_each);
            tally.durations.counts[0] += sessions;
            if waited > 0 {
                standings.waited("intake/a", Duration::from_micros(waited));
            }
            standings.look(&relay, |_| "UP".to_owned());
            standings.pasts().of(&server())
        };
        assert_eq!(look(0, 0, 0).last_session_seconds, None);
        let past = look(10, 4_000, 0);
        assert_eq!((past.last_session_seconds, past.connects.millis()), (Some(0), 4));
        assert_eq!(look(0, 0, 0).last_session_seconds, Some(1));
        // As many again: the mean of both.
        assert_eq!(look(10, 8_000, 60_000).connects.millis(), 6);
        // So many that what came before does not count any more.
        let past = look(4_096, 2_000, 0);
        assert_eq!((past.connects.millis(), past.connects.max_millis()), (2, 8));
        assert_eq!((past.waits.millis(), past.waits.max_millis()), (0, 60));
        standings.forget_highest();
        let past = standings.pasts().of(&server());
        assert_eq!((past.waits.max_millis(), past.connects.max_millis()), (0, 0));
    }
}
