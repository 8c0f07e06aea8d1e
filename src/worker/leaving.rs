//! Sessions that are to leave their server before they end by themselves: at once, because it is down
//! or an administrator wants it, or gently, because it has moved or has more than its share.
//!
//! To leave gently is to be ended at rest, between an answer and the next request: an agent that keeps
//! its connection finds it closed as after an idle time, makes another and comes to where it belongs.
//! That is a guess from the bytes' direction, so nobody leaves so unless the configuration asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::backend::Backends;
use crate::backend::board::Board;
use crate::engine::Engine;
use crate::op::{SessionKey, Time};
use crate::session::{CloseReason, Step};

use super::plan::Target;
use super::{Relay, Worker};

/// How often those who are to leave gently are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a session must have been at rest: longer than nearly any server takes between two parts of
/// an answer.
const REST_MIN: Duration = Duration::from_secs(1);
/// Of those who are to leave, so many go in one sweep at most: they all come back as new connections.
const SWEEPS_MIN: u32 = 10;

/// Who is to leave gently.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Sessions with the mark.
    marked: u32,
    /// The most that one sweep ends.
    pace: u32,
    /// When the next sweep is due, while there is anybody.
    next: Option<Time>,
}

impl Leaving {
    /// When to look again.
    pub(super) const fn next(&self) -> Option<Time> {
        self.next
    }

    /// A session with the mark has ended.
    pub(super) const fn left(&mut self) {
        self.marked -= 1;
        if self.marked == 0 {
            self.next = None;
        }
    }

    fn begin(&mut self, marked: u32, now: Time) {
        self.marked += marked;
        if marked > 0 {
            self.pace = self.marked.div_ceil(SWEEPS_MIN);
            self.next.get_or_insert(now + SWEEP_EVERY);
        }
    }
}

impl Relay {
    /// Whether its place is at the server of this record.
    fn is_at(&self, server: &Arc<Board>, backends: &Backends) -> bool {
        let known = self.server.and_then(|id| backends.known(id));
        known.is_some_and(|known| Arc::ptr_eq(known, server))
    }
}

impl<E: Engine> Worker<E> {
    /// Ends every established session of a server. Those that are being connected find out by themselves.
    pub(super) fn expel(&mut self, server: &Arc<Board>, reason: CloseReason) {
        for key in self.sessions.keys() {
            let backends = &self.backends;
            let Some(relay) = self.sessions.of(key) else { continue };
            if relay.session.is_relaying() && relay.is_at(server, backends) {
                self.with(key, |relay, _, _, ops| {
                    relay.session.begin_close(reason, ops);
                    Step::Continue
                });
            }
        }
    }

    /// So many sessions of a server, in all workers, are to leave it gently, and of these `left` are
    /// nobody's yet. Connections are not spread evenly over the workers, so that each takes of them what
    /// it has of the server's sessions: an even part would be more than some have, and less than others
    /// should give up.
    pub(super) fn shed(&mut self, server: &Arc<Board>, sessions: u32, left: &AtomicU32) {
        let keys = self.sessions.keys();
        let backends = &self.backends;
        let is_there = |key: &&SessionKey| {
            self.sessions.of(**key).is_some_and(|relay| relay.is_at(server, backends))
        };
        let ours = keys.iter().filter(is_there).count() as u64;
        let all = u64::from(server.sessions()).max(ours).max(1);
        let part = u32::try_from((u64::from(sessions) * ours).div_ceil(all)).unwrap_or(u32::MAX);
        let take = |left: u32| Some(left.saturating_sub(part));
        let before = left.fetch_update(Relaxed, Relaxed, take).unwrap_or_default();
        let mut wanted = part.min(before);
        let mut marked = 0;
        for key in keys {
            let backends = &self.backends;
            let Some(relay) = self.sessions.of(key) else { continue };
            if !relay.is_at(server, backends) {
                continue;
            }
            if wanted == 0 && std::mem::take(&mut relay.leaving) {
                self.leaving.left();
            } else if wanted > 0 {
                wanted -= 1;
                marked += u32::from(!std::mem::replace(&mut relay.leaving, true));
            }
        }
        self.leaving.begin(marked, self.now);
    }

    /// Sessions at an address that their server no longer has are to leave it, where that is wanted.
    pub(super) fn mark_moved(&mut self) {
        if !self.plan.backends.iter().any(|backend| backend.drain_moved) {
            return;
        }
        let mut marked = 0;
        for key in self.sessions.keys() {
            let (backends, plan) = (&self.backends, &self.plan);
            let Some(relay) = self.sessions.of(key) else { continue };
            let Target { backend, .. } = plan.target(relay.listener, relay.way);
            let Some(server) = relay.server else { continue };
            let addresses = backends.addresses(server);
            // Without an address nothing is known of where it is.
            let moved = !addresses.is_empty() && !addresses.contains(&relay.address);
            if plan.backends[backend].drain_moved && moved {
                marked += u32::from(!std::mem::replace(&mut relay.leaving, true));
            }
        }
        self.leaving.begin(marked, self.now);
    }

    /// Ends some of those who are to leave and are at rest.
    pub(super) fn sweep(&mut self) {
        if self.leaving.next.is_none_or(|next| next > self.now) {
            return;
        }
        let mut left = self.leaving.pace;
        for key in self.sessions.keys() {
            let Some(relay) = self.sessions.of(key) else { continue };
            let rests =
                || relay.session.rests_since().is_some_and(|at| self.now.since(at) >= REST_MIN);
            if left > 0 && relay.leaving && rests() {
                left -= 1;
                self.with(key, |relay, _, _, ops| {
                    relay.session.begin_close(CloseReason::Rebalanced, ops);
                    Step::Continue
                });
            }
        }
        self.leaving.next = Some(self.now + SWEEP_EVERY);
    }
}
