//! Counts: one writer each, any reader.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::backend::board::Board;
use crate::engine::EngineStats;
use crate::op::ListenerId;
use crate::session::{CloseReason, Report};

/// A count that one thread writes and any thread reads. No read-modify-write: there is no other
/// writer to lose against.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is told of a session that has ended.
#[derive(Debug)]
pub struct SessionRecord {
    pub listener: ListenerId,
    pub client: SocketAddr,
    pub server: Option<Arc<Board>>,
    pub report: Report,
}

/// One worker's counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    pub accepted: Counter,
    pub accept_failures: Counter,
    pub refused: Counter,
    pub sessions: Counter,
    pub sessions_total: Counter,
    pub connect_attempts: Counter,
    pub connect_failures: Counter,
    pub port_conflicts: Counter,
    pub records_dropped: Counter,
    pub ended: [Counter; CloseReason::COUNT],
    pub engine: [Counter; 1],
}

impl Counters {
    pub fn publish(&self, _stats: &EngineStats) {}
}
