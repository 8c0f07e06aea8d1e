//! What the workers share about one server: a handful of counts, touched once or twice a session
//! and never for a byte.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Times};

/// One server's public record. All workers write it, anyone may read it.
#[derive(Debug)]
// A line of its own (two, for the adjacent-line prefetcher), so that servers do not slow each
// other down.
#[repr(align(128))]
pub struct Board {
    /// `backend/server`: who this is, for people.
    name: String,
    /// Checks have found it down.
    down: AtomicBool,
    /// When it last came back into service, in microseconds on the clock of all threads; 0 is never.
    returned: AtomicU64,
    /// An [`Admin`], as a number.
    admin: AtomicU8,
    /// A weight that somebody has set, or [`AS_CONFIGURED`].
    weight: AtomicU16,
    sessions: AtomicU32,
    /// Of these, those that are being connected.
    connecting: AtomicU32,
    sessions_max: AtomicU32,
    sessions_total: AtomicU64,
    connect_failures: AtomicU64,
    retries: AtomicU64,
    redispatches: AtomicU64,
    client_aborts: AtomicU64,
    server_aborts: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_from_server: AtomicU64,
    connects: Histogram,
    first_bytes: Histogram,
    durations: Histogram,
    reuses: AtomicU64,
    kept: AtomicU32,
    handshakes: [AtomicU64; 3],
}

/// What became of a TLS handshake with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Handshake {
    /// With certificates and keys from scratch.
    Full = 0,
    /// By what an earlier one left.
    Resumed = 1,
    Failed = 2,
}

/// What a [`Board`] has counted, as read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Being connected or established now, and at most so far.
    pub sessions: u64,
    pub sessions_max: u64,
    /// Established so far.
    pub sessions_total: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Attempts that were not a session's first.
    pub retries: u64,
    /// Times a session went elsewhere after an attempt here had failed.
    pub redispatches: u64,
    /// Sessions that one of the two ended before they were whole.
    pub client_aborts: u64,
    pub server_aborts: u64,
    /// Of ended sessions.
    pub bytes_to_server: u64,
    pub bytes_from_server: u64,
    /// How long connects took that succeeded.
    pub connects: Times,
    /// How long it took from there until the client got the first byte.
    pub first_bytes: Times,
    /// How long sessions lasted, from the accept to the end.
    pub durations: Times,
    /// Requests over a connection that an earlier one had left; an agent door's alone, as are those
    /// that follow.
    pub reuses: u64,
    /// Connections that are kept for the next request now.
    pub kept: u64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub handshakes_failed: u64,
}

/// The whole of a server's share: see [`Board::ramp`].
pub const RAMP_FULL: u32 = 256;

/// How many sessions a server takes at one time; `None` is as many as come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Being connected or established.
    pub sessions: Option<u32>,
    /// Being connected.
    pub connecting: Option<u32>,
}

/// No weight but that of the configuration.
const AS_CONFIGURED: u16 = u16::MAX;

/// What an administrator wants of a server (HAProxy's `set server ... state`, management guide 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Admin {
    /// It serves.
    #[default]
    Ready = 0,
    /// It gets no more sessions; those that it has go on.
    Drain = 1,
    /// The same, and said to be out of service.
    Maint = 2,
}

impl Admin {
    /// The word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maintenance",
        }
    }
}

/// Who ended a session before it was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    Client,
    Server,
    Nobody,
}

impl Board {
    /// A record of nothing yet.
    pub fn new(name: String) -> Self {
        Self {
            name,
            down: AtomicBool::new(false),
            returned: AtomicU64::new(0),
            admin: AtomicU8::new(0),
            weight: AtomicU16::new(AS_CONFIGURED),
            sessions: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            sessions_max: AtomicU32::new(0),
            sessions_total: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            redispatches: AtomicU64::new(0),
            client_aborts: AtomicU64::new(0),
            server_aborts: AtomicU64::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_from_server: AtomicU64::new(0),
            connects: Histogram::default(),
            first_bytes: Histogram::default(),
            durations: Histogram::default(),
            reuses: AtomicU64::new(0),
            kept: AtomicU32::new(0),
            handshakes: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// `backend/server`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What checks have found at `now`, in microseconds on the clock of all threads.
    pub fn judge(&self, up: bool, now: u64) {
        let was_down = self.down.swap(!up, Relaxed);
        if was_down && up {
            self.returned.store(now, Relaxed);
        }
    }

    /// Whether checks have found it down; one that is not checked is not.
    pub fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// What an administrator wants of it from `now` on, in microseconds on the clock of all threads;
    /// kept over reloads.
    pub fn administer(&self, admin: Admin, now: u64) {
        let before = self.admin.swap(admin as u8, Relaxed);
        if before == Admin::Maint as u8 && admin == Admin::Ready {
            self.returned.store(now, Relaxed);
        }
    }

    /// How much of its share a server that came back is to get at `now`, in [`RAMP_FULL`]ths: it grows
    /// evenly over `slow_start` and is never nothing.
    pub fn ramp(&self, slow_start: Duration, now: u64) -> u32 {
        let returned = self.returned.load(Relaxed);
        let whole = u64::try_from(slow_start.as_micros()).unwrap_or(u64::MAX);
        let since = now.saturating_sub(returned);
        if whole == 0 || returned == 0 || since >= whole {
            return RAMP_FULL;
        }
        let part = u128::from(since) * u128::from(RAMP_FULL) / u128::from(whole);
        u32::try_from(part).unwrap_or(RAMP_FULL).max(1)
    }

    /// What an administrator wants of it.
    pub fn admin(&self) -> Admin {
        match self.admin.load(Relaxed) {
            0 => Admin::Ready,
            1 => Admin::Drain,
            _ => Admin::Maint,
        }
    }

    /// Another weight than the configured one; `None` is that again.
    pub fn reweigh(&self, weight: Option<u16>) {
        self.weight.store(weight.unwrap_or(AS_CONFIGURED), Relaxed);
    }

    /// The weight that was set in the place of the configured one.
    pub fn reweighed(&self) -> Option<u16> {
        Some(self.weight.load(Relaxed)).filter(|&weight| weight != AS_CONFIGURED)
    }

    /// Its weight, where `configured` is what stands in the configuration.
    pub fn weight(&self, configured: u16) -> u16 {
        self.reweighed().unwrap_or(configured)
    }

    /// Whether it takes another session.
    pub fn has_room(&self, room: Room) -> bool {
        room.sessions.is_none_or(|limit| self.sessions() < limit)
            && room.connecting.is_none_or(|limit| self.connecting.load(Relaxed) < limit)
    }

    /// Takes a place at this server for a session that is to be connected, unless it is full.
    pub fn acquire(&self, room: Room) -> bool {
        if !one_more(&self.connecting, room.connecting) {
            return false;
        }
        if !one_more(&self.sessions, room.sessions) {
            self.connecting.fetch_sub(1, Relaxed);
            return false;
        }
        // Read first: a record is rare, and a read keeps the line shared.
        let sessions = self.sessions();
        if self.sessions_max.load(Relaxed) < sessions {
            self.sessions_max.fetch_max(sessions, Relaxed);
        }
        true
    }

    /// The most sessions so far begin anew.
    pub fn forget_highest(&self) {
        self.sessions_max.store(self.sessions(), Relaxed);
    }

    /// Gives back the place of a session whose connect failed.
    pub fn release_failed(&self) {
        self.connect_failures.fetch_add(1, Relaxed);
        self.release_unconnected();
    }

    /// Gives back the place of a session that was not connected, for a reason that is not the
    /// server's.
    pub fn release_unconnected(&self) {
        self.connecting.fetch_sub(1, Relaxed);
        self.release();
    }

    /// Gives back the place of a session that was established.
    pub fn release(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// A session was established, after a connect that took so long if it was for this session.
    pub fn established(&self, took: Option<Duration>) {
        self.connecting.fetch_sub(1, Relaxed);
        self.sessions_total.fetch_add(1, Relaxed);
        if let Some(took) = took {
            self.connects.note(took);
        }
    }

    /// A request goes over a connection that an earlier one has left.
    pub fn reused(&self) {
        self.connecting.fetch_sub(1, Relaxed);
        self.sessions_total.fetch_add(1, Relaxed);
        self.reuses.fetch_add(1, Relaxed);
    }

    /// A connection is kept for the next request.
    pub fn keep(&self) {
        self.kept.fetch_add(1, Relaxed);
    }

    /// One that was kept is in use again, or has ended.
    pub fn unkeep(&self) {
        self.kept.fetch_sub(1, Relaxed);
    }

    /// A TLS handshake is over.
    pub fn shook_hands(&self, how: Handshake) {
        self.handshakes[how as usize].fetch_add(1, Relaxed);
    }

    /// The client got the first byte so long after the server was connected.
    pub fn answered(&self, took: Duration) {
        self.first_bytes.note(took);
    }

    /// A further attempt is made here.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// A session that failed to connect here goes elsewhere.
    pub fn left(&self) {
        self.redispatches.fetch_add(1, Relaxed);
    }

    /// Adds what an ended session carried, who ended it, and how long it lasted.
    pub fn carried(&self, [to_server, from_server]: [u64; 2], culprit: Culprit, took: Duration) {
        self.durations.note(took);
        self.bytes_to_server.fetch_add(to_server, Relaxed);
        self.bytes_from_server.fetch_add(from_server, Relaxed);
        match culprit {
            Culprit::Client => self.client_aborts.fetch_add(1, Relaxed),
            Culprit::Server => self.server_aborts.fetch_add(1, Relaxed),
            Culprit::Nobody => 0,
        };
    }

    /// Sessions being connected or established now.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// Attempts to connect that failed.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Relaxed)
    }

    /// Everything, as it is now.
    pub fn read(&self) -> Tally {
        let [full, resumed, failed] = self.handshakes.each_ref().map(|count| count.load(Relaxed));
        Tally {
            sessions: self.sessions().into(),
            sessions_max: self.sessions_max.load(Relaxed).into(),
            sessions_total: self.sessions_total.load(Relaxed),
            connect_failures: self.connect_failures(),
            retries: self.retries.load(Relaxed),
            redispatches: self.redispatches.load(Relaxed),
            client_aborts: self.client_aborts.load(Relaxed),
            server_aborts: self.server_aborts.load(Relaxed),
            bytes_to_server: self.bytes_to_server.load(Relaxed),
            bytes_from_server: self.bytes_from_server.load(Relaxed),
            connects: self.connects.read(),
            first_bytes: self.first_bytes.read(),
            durations: self.durations.read(),
            reuses: self.reuses.load(Relaxed),
            kept: self.kept.load(Relaxed).into(),
            handshakes_full: full,
            handshakes_resumed: resumed,
            handshakes_failed: failed,
        }
    }
}

/// Counts one more, unless there are `limit` already.
fn one_more(count: &AtomicU32, limit: Option<u32>) -> bool {
    let Some(limit) = limit else {
        count.fetch_add(1, Relaxed);
        return true;
    };
    let more = |count: u32| (count < limit).then_some(count + 1);
    count.fetch_update(Relaxed, Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_and_places_come_back() {
        let board = Board::new("b/s".into());
        let room = Room { sessions: Some(3), connecting: Some(2) };
        assert!(board.acquire(room) && board.acquire(room));
        assert!(!board.has_room(room) && !board.acquire(room), "two are being connected");
        board.established(Some(Duration::ZERO));
        assert!(board.acquire(room));
        board.release_failed();
        board.release_unconnected();
        assert!(board.acquire(room) && board.acquire(room));
        assert!(!board.has_room(room) && !board.acquire(room), "there are three");
        let tally = board.read();
        assert_eq!((tally.sessions, tally.sessions_max, tally.connect_failures), (3, 3, 1));
        board.release();
        assert!(!board.acquire(room), "two are being connected still");
    }

    #[test]
    fn a_server_that_comes_back_grows_into_its_share() {
        const SECOND: u64 = 1_000_000;
        let board = Board::new("b/s".into());
        let ramp = |now| board.ramp(Duration::from_secs(60), now);
        board.judge(true, 5 * SECOND);
        assert_eq!(ramp(5 * SECOND), RAMP_FULL, "it was never away");
        board.judge(false, 6 * SECOND);
        board.judge(true, 10 * SECOND);
        assert_eq!([ramp(10 * SECOND), ramp(40 * SECOND), ramp(70 * SECOND)], [1, 128, 256]);
        board.judge(true, 80 * SECOND);
        assert_eq!(ramp(81 * SECOND), RAMP_FULL, "found up again is not come back");
        board.administer(Admin::Maint, 90 * SECOND);
        board.administer(Admin::Ready, 100 * SECOND);
        assert_eq!(ramp(130 * SECOND), 128);
        assert_eq!(board.ramp(Duration::ZERO, 100 * SECOND), RAMP_FULL);
    }
}
