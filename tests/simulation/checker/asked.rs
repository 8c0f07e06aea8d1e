//! What sessions ask for: each operation, as it is submitted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fanin::backend::board::Room;
use fanin::backend::{Member, ports};
use fanin::op::{CloseHow, Flow, Op, SessionKey, Side, Slot};
use fanin::session::{CloseReason, SessionLimits};
use fanin::worker::plan::Plan;

use super::{Checker, PAUSE_MIN, PORTS_TRIED_MAX};
use crate::faults::Sight;
use crate::shadow::{Dial, Shadow, micros, route, slot_index};
use crate::workload::server_of;

impl Checker {
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
            Op::Attach { .. } => unreachable!("no backend of the simulation has spare connections"),
            Op::Greet { .. } | Op::Skip { .. } => {
                unreachable!("no listener of the simulation asks for a greeting")
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
        let Dial::Waiting { since } = shadow.dial else {
            panic!("{key:?}: a connect while {:?}", shadow.dial)
        };
        shadow.waited += now - since;
        let first = now + micros(least.unwrap_or_default());
        let last = now + micros(most.unwrap_or_default());
        shadow.dial = Dial::Connecting { first, last };
        shadow.address = Some(to);
        shadow.ports_tried = 0;
        shadow.addresses_tried = 0;
        shadow.attempts += 1;
        let retry = shadow.attempts > 1;
        let failed = shadow.failed.map(|(address, _)| server_of(address));
        let left = shadow.failed_left;
        self.totals.retries += u64::from(retry);
        let elsewhere = failed.is_some_and(|failed| failed != server_of(to));
        let perhaps = failed.is_some() && !elsewhere && left;
        self.totals.redispatches += u64::from(elsewhere);
        self.totals.redispatches_perhaps += u64::from(perhaps);
        let shadow = self.shadow(key);
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
        let left = shadow.failed_left;
        let known = plans.iter().flatten().flat_map(|plan| members(plan)).any(|member| {
            let again = failed.is_some_and(|failed| member.addresses.contains(&failed));
            member.addresses.contains(&to) && (member.weight > 0 || again)
        });
        assert!(known, "{key:?}: {to} is not a server of its backend");
        let (Some(failed), Dial::Waiting { since }) = (failed, shadow.dial) else { return };
        if left {
            return;
        }
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
            !member.addresses.contains(&failed)
                && member.weight > 0
                && member.room == Room::default()
        });
        if redispatch && another && replaced_at < since {
            assert!(!same, "{key:?}: {to} is tried again although there is another");
        }
    }

    /// The source address is one of the configured, the port is ours to give and in nobody's hands;
    /// the kernel is left to choose only when there is none left at any address.
    fn check_source(&mut self, key: SessionKey, to: SocketAddr, source: Option<SocketAddr>) {
        let (worker, workers, plan) = (self.worker, self.workers, Arc::clone(&self.plan));
        let replaced = self.plan_before.is_some();
        let shadow = self.shadow(key);
        let last_resort = shadow.port_retry
            && (shadow.ports_tried >= PORTS_TRIED_MAX || shadow.addresses_tried > 0);
        let configured = &plan.backends[route(&plan, shadow.listener).backend].source;
        let slice = configured.ports.clone().filter(|_| !to.ip().is_loopback());
        let slice = slice.and_then(|range| ports::slice(&range, worker, workers));
        let addresses: Vec<IpAddr> = match configured.addresses_for(to).collect::<Vec<_>>() {
            none if none.is_empty() => vec![IpAddr::from([0, 0, 0, 0])],
            some => some,
        };
        if let Some(source) = source {
            assert!(addresses.contains(&source.ip()), "{key:?}: from {source}, of {addresses:?}");
        } else {
            assert!(addresses[0].is_unspecified(), "{key:?}: from none of {addresses:?}");
        }
        match (source.filter(|source| source.port() > 0), slice) {
            (Some(source), slice) => {
                if !replaced {
                    let ours = slice.is_some_and(|slice| slice.contains(&source.port()));
                    assert!(ours, "{key:?}: port {} is not ours to give", source.port());
                    assert!(!last_resort, "{key:?}: port {} after all", source.port());
                }
                let holder = self.leased.insert((to, source), key);
                assert_eq!(holder, None, "{key:?}: {source} is in use");
            }
            (None, Some(slice)) if !last_resort && !replaced => {
                let leased = self.leased.keys().chain(&self.returned);
                let of_it = |(address, from): &&(SocketAddr, SocketAddr)| {
                    *address == to && slice.contains(&from.port())
                };
                let used = leased.filter(of_it).count();
                let all = slice.len() * addresses.len();
                assert!(used >= all, "{key:?}: only {used} of {all} are in use");
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
    pub(super) fn begin_close(&mut self, key: SessionKey) {
        let now = self.now;
        let drained = self.draining_until.is_some_and(|until| until <= now);
        let limits = self.limits(self.shadow_ref(key));
        let unserved = self.excuses_of_the_unserved(key);
        let leaves = self.is_to_leave(self.shadow_ref(key));
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
        if matches!(shadow.dial, Dial::Waiting { .. }) {
            shadow.excuses.extend(unserved);
        }
        if leaves && shadow.rests(now) {
            shadow.excuses.push(CloseReason::Rebalanced);
        }
        assert!(!shadow.excuses.is_empty(), "{key:?} ends for no reason: {shadow:?}");
        shadow.check_truly_overdue(now, &limits);
    }

    pub(super) fn shadow_ref(&self, key: SessionKey) -> &Shadow {
        &self.sessions[&(key.index(), key.generation())]
    }

    /// Why it may end that no server has taken it: there was none, or all were full.
    pub(super) fn excuses_of_the_unserved(&self, key: SessionKey) -> Vec<CloseReason> {
        let shadow = self.shadow_ref(key);
        let mut excuses = Vec::new();
        let plans = [self.plan_before.as_ref(), Some(&self.plan)];
        for plan in plans.into_iter().flatten() {
            let backend = &plan.backends[route(plan, shadow.listener).backend];
            let only = shadow.failed.filter(|_| !backend.redispatch).map(|(address, _)| address);
            let may = |member: &&Member| {
                only.map_or(member.weight > 0, |only| member.addresses.contains(&only))
            };
            let waits = !backend.queue.patience.is_zero();
            let mut candidates = backend.members.iter().filter(may);
            let nobody = !backend.members.iter().any(|member| member.weight > 0);
            if candidates.all(|member| member.room != Room::default()) && (nobody || !waits) {
                excuses.push(shadow.reason_unserved());
            }
        }
        // Who waits goes by the rules of the queue in which it began to.
        let Dial::Waiting { since } = shadow.dial else { return excuses };
        for queue in self.queues.iter().filter(|queue| !queue.patience.is_zero()) {
            if since + micros(queue.patience) <= self.now + shadow.waited {
                excuses.push(CloseReason::QueueTimeout);
            }
            if queue.places.limit() <= queue.most() {
                excuses.push(CloseReason::QueueFull);
            }
        }
        excuses
    }

    /// Whether it may have been told to leave its server.
    fn is_to_leave(&self, shadow: &Shadow) -> bool {
        let shed = |(board, sessions): &(usize, u32)| *sessions > 0 && shadow.is_at(*board);
        let moved = shadow.address.is_some_and(|address| self.moved.contains(&address));
        moved || self.shed.iter().any(shed)
    }

    pub(super) fn limits(&self, shadow: &Shadow) -> SessionLimits {
        route(&self.plan, shadow.listener).limits
    }
}
