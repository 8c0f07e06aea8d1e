//! What the workers share about one server: a handful of counts, touched once or twice a session
//! and never for a byte.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// One server's public record. All workers write it, anyone may read it.
#[derive(Debug)]
// A line of its own (two, for the adjacent-line prefetcher), so that servers do not slow each
// other down.
#[repr(align(128))]
pub struct Board {
    /// `backend/server`: who this is, for people.
    name: String,
    sessions: AtomicU32,
    sessions_total: AtomicU64,
    connect_failures: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_from_server: AtomicU64,
}

impl Board {
    /// A record of nothing yet.
    pub const fn new(name: String) -> Self {
        Self {
            name,
            sessions: AtomicU32::new(0),
            sessions_total: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_from_server: AtomicU64::new(0),
        }
    }

    /// `backend/server`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has fewer than `maxconn` sessions.
    pub fn has_room(&self, maxconn: Option<u32>) -> bool {
        maxconn.is_none_or(|limit| self.sessions() < limit)
    }

    /// Takes a place at this server unless it has `maxconn` sessions already.
    pub fn acquire(&self, maxconn: Option<u32>) -> bool {
        let limit = maxconn.unwrap_or(u32::MAX);
        let more = |sessions: u32| (sessions < limit).then_some(sessions + 1);
        self.sessions.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Gives back the place of a session that was never established.
    pub fn release_failed(&self) {
        self.connect_failures.fetch_add(1, Relaxed);
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Gives back a place for a reason that is not the server's.
    pub fn release(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// A session was established.
    pub fn established(&self) {
        self.sessions_total.fetch_add(1, Relaxed);
    }

    /// Adds what an ended session carried.
    pub fn carried(&self, to_server: u64, from_server: u64) {
        self.bytes_to_server.fetch_add(to_server, Relaxed);
        self.bytes_from_server.fetch_add(from_server, Relaxed);
    }

    /// Sessions being connected or established now.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// Sessions established so far.
    pub fn sessions_total(&self) -> u64 {
        self.sessions_total.load(Relaxed)
    }

    /// Attempts to connect that failed.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Relaxed)
    }

    /// Bytes delivered to the server and taken from it, by ended sessions.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_to_server.load(Relaxed), self.bytes_from_server.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxconn_holds_and_places_come_back() {
        let board = Board::new("b/s".into());
        assert!(board.acquire(Some(2)) && board.acquire(Some(2)));
        assert!(!board.acquire(Some(2)));
        board.release_failed();
        assert!(board.acquire(Some(2)));
        board.release();
        assert_eq!((board.sessions(), board.connect_failures()), (1, 1));
    }
}
