//! The shadow model: what sessions may ask for, and must, given what they were told.
//!
//! It sees each operation as it is submitted and each completion as it is delivered, and nothing
//! of the inside of a session. After each turn it looks at everybody: whoever should have done
//! something by now has done it.

mod asked;
mod told;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use fanin::metrics::SessionRecord;
use fanin::op::{ListenerId, SessionKey};
use fanin::session::CloseReason;
use fanin::worker::plan::Plan;
use fanin::worker::queue::Queue;
use fanin::worker::timers::TICK;
use fanin::worker::{CATCH_UP_MAX, STALL};

use crate::faults::{Seen, Sight};
use crate::shadow::{LINGER_BYTES_MAX, Shadow, gone, micros, route};
use crate::workload::{Mail, SECOND, server_of};

/// As in `worker`: the shortest pause between two attempts at one server.
const PAUSE_MIN: u64 = SECOND / 8;
/// As in `worker`: source ports tried for one attempt.
const PORTS_TRIED_MAX: u32 = 8;
/// As in `worker`: how long a drain takes connections at most.
const UNLISTEN_MAX: u64 = SECOND;
/// Longer than any run.
const NEVER: u64 = 1_000_000_000 * SECOND;
/// Within this time a worker accepts again when there is room.
const ACCEPT_PAUSE_MAX: u64 = SECOND / 10;

/// What one worker may and must do.
#[derive(Debug)]
pub(crate) struct Checker {
    worker: u16,
    workers: u16,
    pub(crate) plan: Arc<Plan>,
    /// The plan that was in force when the turn began, if another is now.
    plan_before: Option<Arc<Plan>>,
    replaced_at: u64,
    /// When a wait last ended so late that deadlines may give way to what came meanwhile.
    kept_at: Option<u64>,
    now: u64,
    sessions: BTreeMap<(usize, u32), Shadow>,
    /// Server and source of connections from ports of ours, between a connect and the end of what came of it.
    leased: HashMap<(SocketAddr, SocketAddr), SessionKey>,
    /// Those given back in this turn.
    returned: Vec<(SocketAddr, SocketAddr)>,
    /// Ended in this turn, and not told of yet.
    ended: Vec<Shadow>,
    /// By listener: brought up, and neither a session nor refused.
    waiting: Vec<u64>,
    /// By board: how many were to leave.
    shed: Vec<(usize, u32)>,
    /// Addresses that a server has had and then lacked.
    moved: HashSet<SocketAddr>,
    /// The queues of all plans so far.
    queues: Vec<Arc<Queue>>,
    draining_until: Option<u64>,
    /// Until then a drain takes connections as long as they come.
    unlisten_by: Option<u64>,
    stopped: bool,
    stopped_at: u64,
    unlistened: bool,
    /// So it was when the turn began.
    was_unlistened: bool,
    pub(crate) totals: Totals,
    pub(crate) seen: Seen,
}

/// What the counters should say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    pub(crate) accept_failures: u64,
    pub(crate) refused: u64,
    pub(crate) adopted: u64,
    pub(crate) attempts: u64,
    pub(crate) connect_failures: u64,
    pub(crate) retries: u64,
    pub(crate) redispatches: u64,
    /// Attempts at a server that failed, was taken away and came back: the same one or another,
    /// as the worker's place for it was kept or not.
    pub(crate) redispatches_perhaps: u64,
    pub(crate) port_conflicts: u64,
    pub(crate) established: u64,
    pub(crate) ended: u64,
    /// By flow, of sessions that have ended at a server.
    pub(crate) bytes: [u64; 2],
}

impl Checker {
    pub(crate) fn new(worker: u16, workers: u16, plan: Arc<Plan>) -> Self {
        Self {
            worker,
            workers,
            plan: Arc::clone(&plan),
            plan_before: None,
            replaced_at: 0,
            kept_at: None,
            now: 0,
            sessions: BTreeMap::new(),
            leased: HashMap::new(),
            returned: Vec::new(),
            ended: Vec::new(),
            waiting: Vec::new(),
            shed: Vec::new(),
            moved: HashSet::new(),
            queues: plan.backends.iter().map(|backend| Arc::clone(&backend.queue)).collect(),
            draining_until: None,
            unlisten_by: None,
            stopped: false,
            stopped_at: 0,
            unlistened: false,
            was_unlistened: false,
            totals: Totals::default(),
            seen: Seen::default(),
        }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn sessions_of(&self, listener: ListenerId) -> usize {
        self.sessions.values().filter(|shadow| shadow.listener == listener).count()
    }

    /// Sessions that take a place at a server.
    pub(crate) fn sessions_at_servers(&self) -> usize {
        self.sessions.values().filter(|shadow| shadow.at_server).count()
    }

    /// Connections that were brought up and are neither a session nor refused.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.iter().sum()
    }

    /// The same, by listener.
    pub(crate) fn waiting_for(&self, listener: ListenerId) -> u64 {
        self.waiting.get(usize::from(listener.0)).copied().unwrap_or_default()
    }

    /// Whether there is neither a session, nor anybody who waits, nor an end ahead.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.waiting() == 0 && !self.is_ending()
    }

    /// Whether a new plan came in the turn that is over.
    pub(crate) const fn just_replaced(&self) -> bool {
        self.replaced_at == self.now
    }

    /// Whether the worker has been told to end.
    pub(crate) const fn is_ending(&self) -> bool {
        self.stopped || self.draining_until.is_some()
    }

    /// The wait is over; what is delivered from now on happens at `now`.
    pub(crate) fn begin_turn(&mut self, now: u64) {
        assert!(now >= self.now, "the clock went back");
        self.now = now;
    }

    pub(crate) fn on_accepted(&mut self, listener: ListenerId) {
        self.totals.accepted += 1;
        let at = usize::from(listener.0);
        if self.waiting.len() <= at {
            self.waiting.resize(at + 1, 0);
        }
        self.waiting[at] += 1;
    }

    pub(crate) fn on_refused(&mut self, listener: ListenerId) {
        self.totals.refused += 1;
        self.waiting[usize::from(listener.0)] -= 1;
        if !self.is_ending() {
            self.seen.sight(Sight::RefusedWaiting);
        }
    }

    /// `lost` connections were in the queue of a listener that accepted.
    pub(crate) fn on_unlisten(&mut self, lost: usize) {
        assert!(self.stopped || self.draining_until.is_some(), "a listener was given up");
        let enough = self.stopped || self.unlisten_by.is_some_and(|by| by <= self.now);
        assert!(enough || lost == 0, "a drain lost {lost} connections");
        self.unlistened = true;
    }

    pub(crate) fn on_mail(&mut self, mail: Mail, plans: &[Arc<Plan>]) {
        if self.stopped {
            return;
        }
        match mail {
            Mail::Replace(plan) => self.on_replaced(Arc::clone(&plans[plan])),
            Mail::Drain { grace } => {
                let until = self.now + micros(grace);
                self.draining_until.get_or_insert(until);
                let enough = until.min(self.now + UNLISTEN_MAX);
                self.unlisten_by.get_or_insert(enough);
            }
            Mail::Expel(board) => {
                let keys: Vec<_> = self.sessions.values().map(|shadow| shadow.key).collect();
                for key in keys {
                    if self.shadow(key).is_at(board) {
                        self.set_cause(key, CloseReason::ServerDown);
                    }
                }
            }
            Mail::Shed(board, sessions) => self.shed.push((board, sessions)),
            Mail::Stop | Mail::Gone => {
                self.stopped = true;
                self.stopped_at = self.now;
                let keys: Vec<_> = self.sessions.values().map(|shadow| shadow.key).collect();
                for key in keys {
                    self.set_cause(key, CloseReason::Stopped);
                }
            }
        }
    }

    /// The worker was to be woken `late` microseconds ago.
    pub(crate) fn on_woken(&mut self, now: u64, late: u64) {
        if late > micros(STALL) {
            self.kept_at = Some(now);
        }
    }

    fn on_replaced(&mut self, plan: Arc<Plan>) {
        if !self.sessions.is_empty() {
            self.seen.sight(Sight::ReplacedUnderLoad);
        }
        self.replaced_at = self.now;
        self.queues.extend(plan.backends.iter().map(|backend| Arc::clone(&backend.queue)));
        let all = || plan.backends.iter().flat_map(|backend| &backend.members);
        for shadow in self.sessions.values() {
            let drains = plan.backends[route(&plan, shadow.listener).backend].drain_moved;
            let Some(address) = shadow.address.filter(|_| drains) else { continue };
            let mut same = all().filter(|member| {
                member.addresses.first().is_some_and(|at| server_of(*at) == server_of(address))
            });
            if same.any(|member| !member.addresses.contains(&address)) {
                self.moved.insert(address);
            }
        }
        for shadow in self.sessions.values_mut() {
            let members = &plan.backends[route(&plan, shadow.listener).backend].members;
            let there = |address| members.iter().any(|member| member.addresses.contains(&address));
            shadow.failed_left |= shadow.failed.is_some_and(|(address, _)| !there(address));
        }
        let before = std::mem::replace(&mut self.plan, plan);
        self.plan_before.get_or_insert(before);
    }

    pub(crate) fn on_adopted(&mut self, key: SessionKey, listener: ListenerId, client: SocketAddr) {
        let before_stop = !self.stopped || self.stopped_at == self.now;
        assert!(before_stop, "{key:?}: a session began after the stop");
        self.totals.adopted += 1;
        self.waiting[usize::from(listener.0)] -= 1;
        if key.generation() > 0 {
            self.seen.sight(Sight::PlaceReused);
        }
        if self.unlistened {
            self.seen.sight(Sight::ServedLate);
        }
        let shadow = Shadow::new(key, listener, client, self.now);
        let before = self.sessions.insert((key.index(), key.generation()), shadow);
        assert!(before.is_none(), "{key:?} is not new");
        assert!(
            self.sessions.range((key.index(), 0)..=(key.index(), u32::MAX)).count() == 1,
            "{key:?}: the place is taken"
        );
        if self.stopped {
            // It was accepted in the turn that brought the stop, before the stop.
            self.set_cause(key, CloseReason::Stopped);
        }
    }

    fn shadow(&mut self, key: SessionKey) -> &mut Shadow {
        self.sessions
            .get_mut(&(key.index(), key.generation()))
            .unwrap_or_else(|| panic!("{key:?} is not a session"))
    }

    pub(crate) fn is_session(&self, key: SessionKey) -> bool {
        self.sessions.contains_key(&(key.index(), key.generation()))
    }

    // What must have happened by the end of a turn.

    pub(crate) fn end_turn(&mut self) {
        let now = self.now;
        let drained = self.was_unlistened && self.draining_until.is_some_and(|until| until <= now);
        // Timers are a tick late at most, but for a worker that was kept from running.
        let kept = self.kept_at.is_some_and(|kept_at| now <= kept_at + micros(CATCH_UP_MAX));
        let late_max = if kept { NEVER } else { micros(TICK) };
        let waits_max = self.queues.iter().map(|queue| micros(queue.patience)).max().unwrap_or(0);
        for shadow in self.sessions.values_mut() {
            let limits = route(&self.plan, shadow.listener).limits;
            shadow.check_progress(now, self.replaced_at, (late_max, waits_max), &limits);
            assert!(
                !drained || shadow.closing.is_some(),
                "{:?} goes on after the drain",
                shadow.key
            );
            shadow.landed = [false; 6];
        }
        assert!(self.ended.is_empty(), "sessions ended without a record: {:?}", self.ended);
        self.returned.clear();
        self.plan_before = None;
        self.was_unlistened = self.unlistened;
    }

    /// A session was told of.
    pub(crate) fn on_record(&mut self, record: &SessionRecord) {
        let at = self.ended.iter().position(|shadow| shadow.client == record.client);
        let at = at.unwrap_or_else(|| panic!("{record:?} is of nobody who ended"));
        let shadow = self.ended.swap_remove(at);
        shadow.check_record(record);
        let reason = record.report.reason;
        if !record.queued.time.is_zero() && record.report.connect_time.is_some() {
            self.seen.sight(Sight::WaitedForServer);
        }
        self.seen.reasons[reason.index()] += 1;
        if reason == CloseReason::Drained {
            self.seen.sight(Sight::DrainedByGrace);
        }
        if let Some(cut) = shadow.cut.filter(|cut| reason == gone(cut.sink())) {
            let state = &shadow.flows[cut.index()];
            self.seen.sight(if state.ended {
                Sight::LingeredToEnd
            } else if state.discarded > LINGER_BYTES_MAX {
                Sight::LingeredTooMuch
            } else {
                Sight::LingeredTooLong
            });
        }
    }

    /// The records of sessions that ended were not taken.
    pub(crate) fn forget_ended(&mut self) -> usize {
        let ended = std::mem::take(&mut self.ended);
        ended.len()
    }

    /// The worker says that it is all over.
    pub(crate) fn on_over(&mut self) {
        assert!(self.sessions.is_empty(), "given up: {:?}", self.sessions);
        assert_eq!(self.waiting(), 0, "connections were left waiting");
        assert!(self.leased.is_empty(), "{:?}", self.leased);
        if !self.stopped && self.draining_until.is_some_and(|until| until > self.now) {
            self.seen.sight(Sight::DrainedEarly);
        }
    }

    /// Since when there has been room and nobody to take it, is too long ago.
    pub(crate) const fn is_asleep(&self, idle_since: Option<u64>) -> bool {
        match idle_since {
            Some(since) => self.now - since > ACCEPT_PAUSE_MAX,
            None => false,
        }
    }
}
