//! Who may come in, whoever lets them in: the rules of a listener, what its sources have, and how many
//! places there are. Shared by the workers and the doors. PURE, but for what they share: counts that
//! are changed at the accept and at the end, without a lock.

pub mod rules;
pub mod sources;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// So many places, shared by all threads.
#[derive(Debug)]
pub struct Quota {
    limit: AtomicU32,
    taken: AtomicU32,
}

impl Quota {
    /// `limit` places, all free.
    pub const fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), taken: AtomicU32::new(0) }
    }

    /// Changes the number of places. Sessions beyond it stay.
    pub fn resize(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// How many places there are.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Places taken now.
    pub fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// Whether one is free now.
    pub fn has_room(&self) -> bool {
        self.taken() < self.limit()
    }

    /// Takes one, if one is free.
    pub fn acquire(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        let more = |taken: u32| (taken < limit).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Gives one back.
    pub fn release(&self) {
        self.taken.fetch_sub(1, Relaxed);
    }
}
