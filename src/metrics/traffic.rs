//! What comes through a listener, counted by all workers together: a handful of additions a session,
//! none a byte.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use crate::backend::board::{Board, Culprit};
use crate::backend::histogram::{Histogram, Times};
use crate::session::{CloseReason, Report};

/// Classes of status codes: 1xx to 5xx.
const ANSWER_CLASSES: usize = 5;

/// One listener's public record. All workers write it, anyone may read it.
#[derive(Debug, Default)]
// Lines of its own (two, for the adjacent-line prefetcher).
#[repr(align(128))]
pub struct Traffic {
    accepted: AtomicU64,
    denied: AtomicU64,
    source_limited: AtomicU64,
    refused: AtomicU64,
    sessions_total: AtomicU64,
    sessions_max: AtomicU32,
    named: AtomicU64,
    ended: [AtomicU64; CloseReason::COUNT],
    bytes_to_server: AtomicU64,
    bytes_from_server: AtomicU64,
    durations: Histogram,
    answers: [AtomicU64; ANSWER_CLASSES],
    own_answers: AtomicU64,
}

impl Traffic {
    /// A connection came.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// Its address may not connect.
    pub fn denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    /// Its source has too many, or they come too fast.
    pub fn source_limited(&self) {
        self.source_limited.fetch_add(1, Relaxed);
    }

    /// There was no place for it, not even to wait.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A session began; so many there are now.
    pub fn opened(&self, sessions: u32) {
        self.sessions_total.fetch_add(1, Relaxed);
        if self.sessions_max.load(Relaxed) < sessions {
            self.sessions_max.fetch_max(sessions, Relaxed);
        }
    }

    /// A TLS client has named its server.
    pub fn named(&self) {
        self.named.fetch_add(1, Relaxed);
    }

    /// The most sessions so far begin anew, with so many there are now.
    pub fn forget_highest(&self, sessions: u32) {
        self.sessions_max.store(sessions, Relaxed);
    }

    /// A request was answered with this status.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, ANSWER_CLASSES) - 1;
        self.answers[class].fetch_add(1, Relaxed);
    }

    /// Somebody asked for the status of the door itself.
    pub fn answered_itself(&self) {
        self.own_answers.fetch_add(1, Relaxed);
    }

    /// A session ended.
    pub fn ended(&self, report: &Report) {
        self.ended[report.reason.index()].fetch_add(1, Relaxed);
        self.bytes_to_server.fetch_add(report.bytes[0], Relaxed);
        self.bytes_from_server.fetch_add(report.bytes[1], Relaxed);
        self.durations.note(report.total_time);
    }

    /// Everything, as it is now.
    pub fn read(&self) -> TrafficCounts {
        TrafficCounts {
            accepted: self.accepted.load(Relaxed),
            denied: self.denied.load(Relaxed),
            source_limited: self.source_limited.load(Relaxed),
            refused: self.refused.load(Relaxed),
            sessions_total: self.sessions_total.load(Relaxed),
            sessions_max: self.sessions_max.load(Relaxed),
            named: self.named.load(Relaxed),
            ended: self.ended.each_ref().map(|count| count.load(Relaxed)),
            bytes_to_server: self.bytes_to_server.load(Relaxed),
            bytes_from_server: self.bytes_from_server.load(Relaxed),
            durations: self.durations.read(),
            answers: self.answers.each_ref().map(|count| count.load(Relaxed)),
            own_answers: self.own_answers.load(Relaxed),
        }
    }
}

/// What a [`Traffic`] has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficCounts {
    pub accepted: u64,
    pub denied: u64,
    pub source_limited: u64,
    pub refused: u64,
    pub sessions_total: u64,
    pub sessions_max: u32,
    /// TLS clients that named their server, where that is read.
    pub named: u64,
    /// By [`CloseReason::index`].
    #[serde(serialize_with = "super::by_reason")]
    pub ended: [u64; CloseReason::COUNT],
    /// Of ended sessions.
    pub bytes_to_server: u64,
    pub bytes_from_server: u64,
    /// How long sessions lasted.
    pub durations: Times,
    /// Requests answered, by class: 1xx to 5xx.
    pub answers: [u64; ANSWER_CLASSES],
    /// Questions for the status of an agent door itself.
    pub own_answers: u64,
}

impl TrafficCounts {
    /// Sessions that have begun and not ended.
    pub fn open(&self) -> u64 {
        self.sessions_total.saturating_sub(self.ended_by(|_| true))
    }

    /// Sessions that ended for one of the reasons that this holds of.
    pub fn ended_by(&self, holds: impl Fn(CloseReason) -> bool) -> u64 {
        CloseReason::ALL
            .into_iter()
            .filter(|reason| holds(*reason))
            .map(|reason| self.ended[reason.index()])
            .sum()
    }
}

/// Tells a server's record of a session that was established there and has ended.
pub fn tell(board: &Board, report: &Report) {
    board.carried(report.bytes, culprit(report.reason), report.total_time);
    if let Some(first) = report.first_byte {
        board.answered(first.saturating_sub(report.connect_time.unwrap_or_default()));
    }
}

/// Who ended a session that ended so before it was whole.
pub const fn culprit(reason: CloseReason) -> Culprit {
    use CloseReason::{
        ClientFailed, ClientGone, ClientIdle, ClientReset, ServerFailed, ServerGone, ServerIdle,
        ServerReset,
    };
    match reason {
        ClientReset | ClientGone | ClientFailed | ClientIdle => Culprit::Client,
        ServerReset | ServerGone | ServerFailed | ServerIdle => Culprit::Server,
        _ => Culprit::Nobody,
    }
}
