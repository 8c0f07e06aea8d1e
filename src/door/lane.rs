//! The way of a pair of connections to a worker, which relays it from then on.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::sleep;

use crate::metrics::Counters;
use crate::sys::passage;
use crate::worker::{Command, Tunnel};

/// How soon a full passage is tried again, and how often: a worker empties it in every turn.
const PAUSE: Duration = Duration::from_millis(1);
const TRIES_MAX: u32 = 1000;

/// The way to one worker.
#[derive(Clone)]
pub struct Lane {
    counters: Arc<Counters>,
    passage: Arc<OwnedFd>,
    /// Pairs that were passed so far, by all threads.
    passed: Arc<AtomicU64>,
    post: Arc<dyn Fn(Command) + Send + Sync>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("passed", &self.passed).finish_non_exhaustive()
    }
}

impl Lane {
    /// The way to the worker that counts here, takes pairs at the other end of this passage and hears
    /// what is posted.
    pub fn new(
        counters: Arc<Counters>,
        passage: OwnedFd,
        post: Arc<dyn Fn(Command) + Send + Sync>,
    ) -> Self {
        Self { counters, passage: Arc::new(passage), passed: Arc::default(), post }
    }

    /// The ways, that to the worker with the fewest sessions first; of those that count alike, for they
    /// count once a turn, the one that was passed the fewest.
    pub(super) fn by_load(lanes: &[Self]) -> Vec<&Self> {
        let mut lanes: Vec<_> = lanes.iter().collect();
        let load = |lane: &&Self| (lane.counters.sessions.value(), lane.passed.load(Relaxed));
        lanes.sort_by_cached_key(load);
        lanes
    }

    /// Passes a client's connection and its server's to the worker's engine, and says under which number.
    /// The caller's descriptors stay the caller's.
    ///
    /// # Errors
    /// Those of [`passage::pass`].
    pub(super) async fn pass(&self, pair: [BorrowedFd<'_>; 2]) -> Result<u64, Errno> {
        let number = self.passed.fetch_add(1, Relaxed);
        let mut tries = 0;
        while let Err(errno) = passage::pass(self.passage.as_fd(), number, pair) {
            tries += 1;
            if errno != Errno::EAGAIN || tries == TRIES_MAX {
                return Err(errno);
            }
            sleep(PAUSE).await;
        }
        Ok(number)
    }

    /// Has the worker relay what was passed. The ticket, and the places that it holds, are the worker's from
    /// then on.
    pub(super) fn join(&self, tunnel: Tunnel) {
        (self.post)(Command::Join(Box::new(tunnel)));
    }
}
