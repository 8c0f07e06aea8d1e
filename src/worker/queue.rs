//! Sessions that wait for a place at a server, because all that may be chosen are full: in the order in
//! which they came, each backend's by itself, for so long and so many as the backend says. What their
//! clients have sent meanwhile is held as while they are connected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::engine::Engine;
use crate::gate::Quota;
use crate::metrics::Queued;
use crate::op::{SessionKey, Time};
use crate::session::{CloseReason, Step};

use super::{Relay, Worker};

/// How soon a worker whose sessions wait looks again: a place may have come free in another worker, and
/// nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(16);

/// How sessions of one backend wait, the same for all workers.
#[derive(Debug)]
pub struct Queue {
    /// How long each may, all its waits together; zero is not at all.
    pub patience: Duration,
    /// How many may at one time, in the whole process.
    pub places: Quota,
    most: AtomicU32,
}

impl Queue {
    /// One in which nobody waits yet.
    pub const fn new(patience: Duration, places: u32) -> Self {
        Self { patience, places: Quota::new(places), most: AtomicU32::new(0) }
    }

    /// The most that have waited at one time.
    pub fn most(&self) -> u32 {
        self.most.load(Relaxed)
    }

    /// That begins anew.
    pub fn forget_most(&self) {
        self.most.store(self.places.taken(), Relaxed);
    }

    /// Takes a place behind those who wait, and tells how many these are.
    fn enter(&self) -> Option<u32> {
        let entered = self.places.acquire();
        entered.then(|| {
            let waiting = self.places.taken();
            self.most.fetch_max(waiting, Relaxed);
            waiting.saturating_sub(1)
        })
    }
}

/// A session's waits. Memory is taken only for one that ever has to.
#[derive(Debug, Default)]
pub(super) struct Wait(Option<Box<Waits>>);

#[derive(Debug, Default)]
struct Waits {
    /// While it lasts: where, since when.
    current: Option<(Arc<Queue>, Time)>,
    /// Those that are over.
    past: Queued,
}

impl Wait {
    /// Behind so many others.
    fn begin(&mut self, queue: &Arc<Queue>, behind: u32, now: Time) {
        let waits = self.0.get_or_insert_default();
        waits.past.behind = behind;
        waits.current = Some((Arc::clone(queue), now));
    }

    /// It is over, if it was not; what came of it.
    pub(super) fn end(&mut self, now: Time) -> Queued {
        let Some(waits) = &mut self.0 else { return Queued::default() };
        if let Some((queue, since)) = waits.current.take() {
            queue.places.release();
            waits.past.time += now.since(since);
        }
        waits.past
    }

    fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|waits| waits.current.is_none())
    }

    /// When it has gone on for too long.
    fn until(&self) -> Option<Time> {
        let waits = self.0.as_ref()?;
        let (queue, since) = waits.current.as_ref()?;
        Some(*since + queue.patience.saturating_sub(waits.past.time))
    }
}

/// Who waits in this worker, by backend; those whose wait is over are passed over.
#[derive(Debug, Default)]
pub(super) struct Queues {
    waiting: Vec<VecDeque<SessionKey>>,
    /// When to look again, while anybody waits.
    next: Option<Time>,
}

impl Queues {
    pub(super) const fn next(&self) -> Option<Time> {
        self.next
    }

    fn is_empty(&self, backend: usize) -> bool {
        self.waiting.get(backend).is_none_or(VecDeque::is_empty)
    }

    fn push(&mut self, backend: usize, key: SessionKey) {
        if self.waiting.len() <= backend {
            self.waiting.resize_with(backend + 1, VecDeque::new);
        }
        self.waiting[backend].push_back(key);
    }
}

impl<E: Engine> Worker<E> {
    /// Has a session wait if others wait already, or goes on waiting; whether it does.
    pub(super) fn waits(&mut self, key: SessionKey) -> bool {
        let Some(relay) = self.sessions.of(key) else { return true };
        if relay.wait.until().is_some_and(|until| until <= self.now) {
            self.end_wait(key, CloseReason::QueueTimeout);
            return true;
        }
        let backend = self.plan.target(relay.listener, relay.way).backend;
        if relay.wait.is_over() && self.queues.is_empty(backend) {
            return false;
        }
        self.enqueue(key);
        true
    }

    /// Has a session wait for a place, unless it waits already.
    pub(super) fn enqueue(&mut self, key: SessionKey) {
        let Some(relay) = self.sessions.of(key) else { return };
        let backend = self.plan.target(relay.listener, relay.way).backend;
        let queue = &self.plan.backends[backend].queue;
        if relay.wait.is_over() {
            let Some(behind) = queue.enter() else {
                return self.end_wait(key, CloseReason::QueueFull);
            };
            relay.wait.begin(queue, behind, self.now);
            self.queues.push(backend, key);
        }
        let Some(until) = relay.wait.until() else { return };
        relay.session.pause(until);
        self.timers.bring_forward(key.index(), until);
        self.queues.next.get_or_insert(self.now + LOOK_AGAIN);
    }

    fn end_wait(&mut self, key: SessionKey, reason: CloseReason) {
        self.with(key, |relay, now, _, ops| {
            let _ = relay.wait.end(now);
            relay.session.begin_close(reason, ops);
            Step::Continue
        });
    }

    /// Gives places that have come free to those who wait for them.
    pub(super) fn serve_queues(&mut self) {
        if self.queues.next.is_none() {
            return;
        }
        let mut anybody = false;
        for backend in 0..self.queues.waiting.len() {
            while let Some(&key) = self.queues.waiting[backend].front() {
                let is_over =
                    |relay: &mut Relay| relay.wait.is_over() || relay.session.is_closing();
                let over = self.sessions.of(key).is_none_or(is_over);
                if !over && !self.serve_waiting(key) {
                    anybody = true;
                    break;
                }
                self.queues.waiting[backend].pop_front();
            }
        }
        self.queues.next = anybody.then(|| self.now + LOOK_AGAIN);
    }

    /// Dials for the first of those who wait; whether it waits no more.
    fn serve_waiting(&mut self, key: SessionKey) -> bool {
        let (choice, avoid) = self.choose(key);
        let Some(relay) = self.sessions.of(key) else { return true };
        let backend = self.plan.target(relay.listener, relay.way).backend;
        if choice.is_none() && self.backends.takes_sessions(backend) {
            return false;
        }
        let _ = relay.wait.end(self.now);
        self.follow(key, choice, avoid);
        true
    }

    /// Backends may have other numbers than before.
    pub(super) fn requeue(&mut self) {
        let before = std::mem::take(&mut self.queues.waiting);
        for key in before.into_iter().flatten() {
            let Some(relay) = self.sessions.of(key) else { continue };
            let backend = self.plan.target(relay.listener, relay.way).backend;
            self.queues.push(backend, key);
        }
    }
}
