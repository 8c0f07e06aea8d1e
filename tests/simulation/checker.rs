//! The shadow model: what sessions may ask for, and must, given what they were told.
//!
//! It sees each operation as it is submitted and each completion as it is delivered, and nothing
//! of the inside of a session. After each turn it looks at everybody: whoever should have done
//! something by now has done it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fanin::backend::ports;
use fanin::metrics::SessionRecord;
use fanin::op::{CloseHow, Flow, ListenerId, Op, Outcome, SessionKey, Side, Slot};
use fanin::session::{CloseReason, SessionLimits};
use fanin::worker::plan::Plan;
use nix::errno::Errno;

use crate::faults::{Seen, Sight};
use crate::shadow::{
    Dial, LINGER_BYTES_MAX, Shadow, gone, micros, reason_of_connect, reason_of_failure, route,
    slot_index,
};
use crate::workload::{Mail, SECOND};

/// As in `worker`: the shortest pause between two attempts at one server.
const PAUSE_MIN: u64 = SECOND / 8;
/// As in `worker`: source ports tried for one attempt.
const PORTS_TRIED_MAX: u32 = 8;
/// As in `worker`: how long a drain takes connections at most.
const UNLISTEN_MAX: u64 = SECOND;
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
    now: u64,
    sessions: BTreeMap<(usize, u32), Shadow>,
    /// Source ports between a connect and the end of what came of it.
    leased: HashMap<(SocketAddr, u16), SessionKey>,
    /// Those given back in this turn.
    returned: Vec<(SocketAddr, u16)>,
    /// Ended in this turn, and not told of yet.
    ended: Vec<Shadow>,
    /// By listener: brought up, and neither a session nor refused.
    waiting: Vec<u64>,
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
            plan,
            plan_before: None,
            replaced_at: 0,
            now: 0,
            sessions: BTreeMap::new(),
            leased: HashMap::new(),
            returned: Vec::new(),
            ended: Vec::new(),
            waiting: Vec::new(),
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
                self.unlisten_by.get_or_insert(until.min(self.now + UNLISTEN_MAX));
            }
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

    fn on_replaced(&mut self, plan: Arc<Plan>) {
        if !self.sessions.is_empty() {
            self.seen.sight(Sight::ReplacedUnderLoad);
        }
        self.replaced_at = self.now;
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

    // What is asked for.

    pub(crate) fn on_submit(&mut self, op: &Op) {
        match *op {
            Op::Connect { session, address, source } => self.on_connect(session, address, source),
            Op::Pull { session, flow } => {
                let shadow = self.shadow(session);
                shadow.takes_off(Slot::Pull(flow));
                let state = &shadow.flows[flow.index()];
                assert_eq!(state.held, 0, "{session:?}: a pull of {flow:?} while bytes are held");
                assert!(!state.ended, "{session:?}: a pull of {flow:?} after its end");
                assert!(flow == Flow::ToBackend || shadow.connected, "{session:?}: no backend");
            }
            Op::Push { session, flow } => {
                let shadow = self.shadow(session);
                shadow.takes_off(Slot::Push(flow));
                let state = &shadow.flows[flow.index()];
                assert!(state.held > 0, "{session:?}: a push of {flow:?} with nothing held");
                assert!(!state.cut, "{session:?}: a push of {flow:?} to nobody");
                assert!(flow == Flow::ToClient || shadow.connected, "{session:?}: no backend");
            }
            Op::Discard { session, flow } => {
                let shadow = self.shadow(session);
                assert!(!shadow.is_flying(Slot::Push(flow)), "{session:?}: pushes {flow:?}");
                let state = &mut shadow.flows[flow.index()];
                assert!(state.held > 0, "{session:?}: a discard of {flow:?} with nothing held");
                assert!(state.cut, "{session:?}: {flow:?} is thrown away");
                state.discarded += std::mem::take(&mut state.held);
            }
            Op::Shutdown { session, side } => {
                let flow = side.other().outbound();
                let shadow = self.shadow(session);
                assert!(!shadow.close_asked, "{session:?}: a shutdown after the close");
                assert!(side == Side::Client || shadow.connected, "{session:?}: no backend");
                assert!(shadow.flows[flow.index()].is_whole(), "{session:?}: a FIN too early");
                assert!(!shadow.flows[flow.index()].fin, "{session:?}: a second FIN");
                shadow.flows[flow.index()].fin = true;
            }
            Op::Cancel { session, slot } => self.on_cancel(session, slot),
            Op::Close { session, client, backend } => self.on_close(session, [client, backend]),
        }
    }

    fn on_connect(&mut self, key: SessionKey, to: SocketAddr, source: Option<SocketAddr>) {
        let now = self.now;
        let listener = self.shadow(key).listener;
        self.check_server(key, to);
        self.check_source(key, to, source);
        let plans = [self.plan_before.clone(), Some(Arc::clone(&self.plan))];
        let limits = plans.iter().flatten().map(|plan| route(plan, listener).limits.connect);
        let (least, most) = (limits.clone().min(), limits.max());
        let shadow = self.shadow(key);
        shadow.takes_off(Slot::Connect);
        shadow.source = source;
        if std::mem::take(&mut shadow.port_retry) {
            assert_eq!(shadow.address, Some(to), "{key:?}: another port, another server");
            return;
        }
        let Dial::Waiting { .. } = shadow.dial else {
            panic!("{key:?}: a connect while {:?}", shadow.dial)
        };
        let first = now + micros(least.unwrap_or_default());
        let last = now + micros(most.unwrap_or_default());
        shadow.dial = Dial::Connecting { first, last };
        shadow.address = Some(to);
        shadow.ports_tried = 0;
        shadow.attempts += 1;
        shadow.at_server = true;
        self.totals.attempts += 1;
    }

    /// The server is one that may be chosen: in the plan, and not the one that has just failed if
    /// there is another, or none but that if the plan says so.
    fn check_server(&mut self, key: SessionKey, to: SocketAddr) {
        let plans = [self.plan_before.clone(), Some(Arc::clone(&self.plan))];
        let now = self.now;
        let replaced = self.plan_before.is_some();
        let replaced_at = self.replaced_at;
        let shadow = self.shadow(key);
        if shadow.port_retry {
            return;
        }
        let listener = shadow.listener;
        let members = |plan: &Plan| plan.backends[route(plan, listener).backend].members.clone();
        let failed = shadow.failed.map(|(address, _)| address);
        let known = plans.iter().flatten().flat_map(|plan| members(plan)).any(|member| {
            let again = failed.is_some_and(|failed| member.addresses.contains(&failed));
            member.addresses.contains(&to) && (member.weight > 0 || again)
        });
        assert!(known, "{key:?}: {to} is not a server of its backend");
        let (Some(failed), Dial::Waiting { since }) = (failed, shadow.dial) else { return };
        let plan = plans[1].as_ref().expect("there is a plan");
        let members = members(plan);
        let same = members
            .iter()
            .any(|member| member.addresses.contains(&to) && member.addresses.contains(&failed));
        if same && now - since < PAUSE_MIN {
            panic!("{key:?}: tries {to} again at once");
        } else if same {
            self.seen.sight(Sight::PausedForSameServer);
        }
        let redispatch = plan.backends[route(plan, listener).backend].redispatch;
        let there = members.iter().any(|member| member.addresses.contains(&failed));
        if !redispatch && there && !replaced {
            assert!(same, "{key:?}: {failed} failed, and without redispatch {to} is tried");
        }
        let another = members.iter().any(|member| {
            !member.addresses.contains(&failed) && member.weight > 0 && member.maxconn.is_none()
        });
        if redispatch && another && replaced_at < since {
            assert!(!same, "{key:?}: {to} is tried again although there is another");
        }
    }

    /// The source port is ours to give, and in nobody's hands; none is given only when there is
    /// none left.
    fn check_source(&mut self, key: SessionKey, to: SocketAddr, source: Option<SocketAddr>) {
        let (worker, workers, plan) = (self.worker, self.workers, Arc::clone(&self.plan));
        let replaced = self.plan_before.is_some();
        let shadow = self.shadow(key);
        let ports_tried = if shadow.port_retry { shadow.ports_tried } else { 0 };
        let range = plan.backends[route(&plan, shadow.listener).backend].source_ports.clone();
        let slice = range.filter(|_| !to.ip().is_loopback());
        let slice = slice.and_then(|range| ports::slice(&range, worker, workers));
        match (source, slice) {
            (Some(source), slice) => {
                let unspecified = IpAddr::from([0, 0, 0, 0]);
                assert_eq!(source.ip(), unspecified, "{key:?}: the address is the route's");
                if !replaced {
                    let ours = slice.is_some_and(|slice| slice.contains(&source.port()));
                    assert!(ours, "{key:?}: port {} is not ours to give", source.port());
                }
                let holder = self.leased.insert((to, source.port()), key);
                assert_eq!(holder, None, "{key:?}: port {} is in use", source.port());
            }
            (None, Some(slice)) if ports_tried < PORTS_TRIED_MAX && !replaced => {
                let leased = self.leased.keys().chain(&self.returned);
                let of_it = |(address, port): &&_| *address == to && slice.contains(port);
                let used = leased.filter(of_it).count();
                assert!(used >= slice.len(), "{key:?}: only {used} of {slice:?} are in use");
                self.seen.sight(Sight::PortsExhausted);
            }
            (None, _) => {}
        }
    }

    fn on_cancel(&mut self, key: SessionKey, slot: Slot) {
        let now = self.now;
        let drained = self.was_unlistened && self.draining_until.is_some_and(|until| until <= now);
        let shadow = self.shadow(key);
        let at = slot_index(slot);
        assert!(shadow.flying[at] || shadow.landed[at], "{key:?}: nothing in {slot:?} for long");
        match (slot, shadow.dial) {
            // The time of the attempt is up; anything else ends the session.
            (Slot::Connect, Dial::Connecting { first, .. })
                if shadow.cause.is_none() && !drained && first <= now =>
            {
                shadow.dial = Dial::GivingUp;
            }
            _ => self.begin_close(key),
        }
    }

    fn on_close(&mut self, key: SessionKey, how: [CloseHow; 2]) {
        self.begin_close(key);
        let shadow = self.shadow(key);
        assert!(!shadow.close_asked, "{key:?}: a second close");
        assert!(!shadow.flying.contains(&true), "{key:?}: closed with {:?}", shadow.flying);
        shadow.close_asked = true;
        shadow.flying[slot_index(Slot::Close)] = true;
        for side in Side::ALL {
            let whole = shadow.flows[side.other().outbound().index()].is_whole();
            if how[side.index()] == CloseHow::Orderly {
                assert!(whole, "{key:?}: {side:?} would take a cut stream for a whole one");
            }
        }
        if shadow.is_complete() && shadow.cause.is_none() {
            assert_eq!(how, [CloseHow::Orderly; 2], "{key:?}: a whole session is reset");
        }
    }

    /// A session has shown that it ends: it was told why, or its time was up.
    fn begin_close(&mut self, key: SessionKey) {
        let now = self.now;
        let drained = self.draining_until.is_some_and(|until| until <= now);
        let limits = self.limits(self.shadow_ref(key));
        let unserved = self.is_unserved(key);
        let shadow = self.shadow(key);
        if shadow.closing.is_some() {
            return;
        }
        shadow.closing = Some(now);
        if shadow.cause.is_some() {
            return;
        }
        shadow.excuses = shadow.overdue(now, &limits);
        if drained {
            shadow.excuses.push(CloseReason::Drained);
        }
        if matches!(shadow.dial, Dial::Waiting { .. }) && unserved {
            shadow.excuses.push(shadow.reason_unserved());
        }
        assert!(!shadow.excuses.is_empty(), "{key:?} ends for no reason: {shadow:?}");
    }

    fn shadow_ref(&self, key: SessionKey) -> &Shadow {
        &self.sessions[&(key.index(), key.generation())]
    }

    /// Whether there may have been no server to take it.
    fn is_unserved(&self, key: SessionKey) -> bool {
        let shadow = self.shadow_ref(key);
        let plans = [self.plan_before.as_ref(), Some(&self.plan)];
        plans.into_iter().flatten().any(|plan| {
            let backend = &plan.backends[route(plan, shadow.listener).backend];
            let only = shadow.failed.filter(|_| !backend.redispatch).map(|(address, _)| address);
            !backend.members.iter().any(|member| {
                let may = only.map_or(member.weight > 0, |only| member.addresses.contains(&only));
                may && member.maxconn.is_none()
            })
        })
    }

    fn limits(&self, shadow: &Shadow) -> SessionLimits {
        route(&self.plan, shadow.listener).limits
    }

    // What comes back.

    pub(crate) fn on_ended(&mut self, key: SessionKey, slot: Slot, outcome: Outcome) {
        let now = self.now;
        let shadow = self.shadow(key);
        shadow.flying[slot_index(slot)] = false;
        shadow.landed[slot_index(slot)] = true;
        match slot {
            Slot::Connect => self.on_connect_ended(key, outcome),
            Slot::Pull(flow) => self.on_pulled(key, flow, outcome),
            Slot::Push(flow) => self.on_pushed(key, flow, outcome),
            Slot::Close => {
                let shadow = self.sessions.remove(&(key.index(), key.generation()));
                let shadow = shadow.expect("it was there a moment ago");
                self.return_port(&shadow);
                if shadow.at_server {
                    for flow in Flow::ALL {
                        self.totals.bytes[flow.index()] += shadow.flows[flow.index()].pushed;
                    }
                }
                self.totals.ended += 1;
                self.ended.push(shadow);
                return;
            }
        }
        self.shadow(key).settle(now);
    }

    fn on_connect_ended(&mut self, key: SessionKey, outcome: Outcome) {
        let now = self.now;
        let attempts_max = self.limits(self.shadow_ref(key)).attempts_max;
        let shadow = self.shadow(key);
        let gave_up = shadow.dial == Dial::GivingUp;
        let dying = shadow.cause.is_some() || shadow.closing.is_some();
        if outcome == Outcome::Done {
            self.totals.established += 1;
            let shadow = self.shadow(key);
            shadow.connected = true;
            shadow.dial = Dial::Connected;
            shadow.active = [now; 2];
            let retry_kept = shadow.attempts > 1 && shadow.flows[0].held > 0;
            if gave_up {
                self.seen.sight(Sight::GaveUpYetConnected);
            }
            if retry_kept {
                self.seen.sight(Sight::RetryKeptEarlyBytes);
            }
            return;
        }
        let conflict = matches!(outcome, Outcome::Failed(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL));
        let source = std::mem::take(&mut shadow.source);
        let address = shadow.address.expect("an attempt was made");
        if let Some(source) = source {
            self.returned.push((address, source.port()));
            self.leased.remove(&(address, source.port()));
        }
        let shadow = self.shadow(key);
        if conflict && source.is_some() && !gave_up && !dying {
            shadow.port_retry = true;
            shadow.ports_tried += 1;
            self.totals.port_conflicts += 1;
            self.seen.sight(Sight::PortConflict);
            return;
        }
        shadow.at_server = false;
        let reason = match outcome {
            Outcome::Failed(errno) if !gave_up => reason_of_connect(errno),
            _ => CloseReason::ConnectTimeout,
        };
        shadow.failed = Some((address, reason));
        shadow.dial = Dial::Waiting { since: now };
        if !dying && shadow.attempts >= attempts_max {
            shadow.cause = Some(reason);
        }
        let ours = match outcome {
            Outcome::Failed(errno) => {
                matches!(reason_of_connect(errno), CloseReason::NoPort | CloseReason::NoResources)
            }
            _ => dying,
        };
        self.totals.connect_failures += u64::from(!ours);
    }

    fn on_pulled(&mut self, key: SessionKey, flow: Flow, outcome: Outcome) {
        let now = self.now;
        let shadow = self.shadow(key);
        let connected = shadow.connected;
        let dying = shadow.is_dying();
        let state = &mut shadow.flows[flow.index()];
        match outcome {
            Outcome::Moved(bytes) => {
                state.pulled += u64::from(bytes.get());
                state.held = u64::from(bytes.get());
                shadow.active[flow.source().index()] = now;
                if !connected {
                    self.seen.sight(Sight::EarlyBytes);
                }
            }
            Outcome::EndOfStream => {
                // Nobody is told of an end that comes after the end of the session.
                state.ended = !dying;
                shadow.active[flow.source().index()] = now;
                if !connected {
                    self.seen.sight(Sight::EarlyEnd);
                }
            }
            Outcome::Failed(errno) => {
                self.seen.sight(match errno {
                    Errno::ECONNRESET => Sight::PullReset,
                    _ => Sight::PullTimedOut,
                });
                self.on_side_failed(key, flow.source(), errno);
            }
            Outcome::Cancelled => self.seen.sight(Sight::Cancelled),
            Outcome::Done => unreachable!("the kernel counts bytes"),
        }
    }

    fn on_pushed(&mut self, key: SessionKey, flow: Flow, outcome: Outcome) {
        let now = self.now;
        let shadow = self.shadow(key);
        let dying = shadow.is_dying();
        let state = &mut shadow.flows[flow.index()];
        match outcome {
            Outcome::Moved(bytes) => {
                state.pushed += u64::from(bytes.get());
                state.held -= u64::from(bytes.get());
                shadow.active[flow.sink().index()] = now;
            }
            Outcome::Failed(Errno::EPIPE) => {
                if !dying {
                    state.cut = true;
                    shadow.cut.get_or_insert(flow);
                    shadow.active[flow.sink().index()] = now;
                }
                self.seen.sight(Sight::PushBrokenPipe);
            }
            Outcome::Failed(errno) => {
                self.seen.sight(match errno {
                    Errno::ECONNRESET => Sight::PushReset,
                    _ => Sight::PushTimedOut,
                });
                self.on_side_failed(key, flow.sink(), errno);
            }
            Outcome::Cancelled => self.seen.sight(Sight::Cancelled),
            Outcome::Done | Outcome::EndOfStream => unreachable!("the kernel counts bytes"),
        }
    }

    fn on_side_failed(&mut self, key: SessionKey, side: Side, errno: Errno) {
        let shadow = self.shadow(key);
        if side == Side::Client && !shadow.connected && !shadow.is_dying() {
            self.seen.sight(Sight::GoneWhileConnecting);
        }
        self.set_cause(key, reason_of_failure(side, errno));
    }

    /// A session was told of what ends it. It may have given up finding a server a moment ago.
    fn set_cause(&mut self, key: SessionKey, cause: CloseReason) {
        let now = self.now;
        let unserved = self.is_unserved(key);
        let shadow = self.shadow(key);
        if shadow.is_dying() {
            return;
        }
        shadow.cause = Some(cause);
        if shadow.dial == (Dial::Waiting { since: now }) && unserved {
            shadow.excuses.push(shadow.reason_unserved());
        }
    }

    pub(crate) fn on_broken(&mut self, key: SessionKey, side: Side, errno: Errno) {
        self.seen.sight(match errno {
            Errno::EPIPE => Sight::BrokenPipe,
            Errno::ECONNRESET => Sight::BrokenReset,
            _ => Sight::BrokenTimedOut,
        });
        let now = self.now;
        let shadow = self.shadow(key);
        let towards = side.other().outbound();
        if errno == Errno::EPIPE && shadow.connected && !shadow.is_dying() {
            // What is held is being pushed, and the push will tell.
            let state = &mut shadow.flows[towards.index()];
            if !state.ended && state.held == 0 {
                state.cut = true;
                shadow.cut.get_or_insert(towards);
                shadow.active[side.index()] = now;
            }
            self.shadow(key).settle(now);
        } else {
            self.on_side_failed(key, side, errno);
        }
    }

    fn return_port(&mut self, shadow: &Shadow) {
        if let (Some(to), Some(source)) = (shadow.address, shadow.source) {
            self.returned.push((to, source.port()));
            self.leased.remove(&(to, source.port()));
        }
    }

    // What must have happened by the end of a turn.

    pub(crate) fn end_turn(&mut self) {
        let now = self.now;
        let drained = self.was_unlistened && self.draining_until.is_some_and(|until| until <= now);
        for shadow in self.sessions.values_mut() {
            let limits = route(&self.plan, shadow.listener).limits;
            shadow.check_progress(now, self.replaced_at, &limits);
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
