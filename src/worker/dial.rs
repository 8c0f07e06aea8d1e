//! How a session comes to a server: the choice, the source port, what a failure means for whom.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use nix::errno::Errno;

use crate::backend::ports::{self, Ports};
use crate::backend::{Choice, backoff};
use crate::engine::Engine;
use crate::op::{Op, Outcome, SessionKey, Slot};

use super::plan::Plan;
use super::{Worker, is_ours};

/// Between two attempts at the same server: time for it to come back from a restart. Another server
/// is tried at once.
const PAUSE_BASE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Source ports of ours that are tried for one attempt before the kernel is left to choose.
const PORTS_TRIED_MAX: u8 = 8;

/// A source port in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    budget: Budget,
    port: u16,
}

/// Names the ports of one range towards one upstream address. A reload may bring another range for
/// the same address; while connections from the old one last there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    upstream: SocketAddr,
    first: u16,
    last: u16,
}

/// This worker's source ports and dice.
#[derive(Debug)]
pub(super) struct Dialer {
    worker: u16,
    workers: u16,
    /// One for each upstream address, since TIME_WAIT is kept for each pair.
    budgets: HashMap<Budget, Ports>,
    random: u64,
}

impl Dialer {
    pub(super) fn new(worker: u16, workers: u16, seed: u64) -> Self {
        Self { worker, workers, budgets: HashMap::new(), random: seed.max(1) }
    }

    pub(super) const fn workers(&self) -> u16 {
        self.workers
    }

    /// xorshift64: spreads attempts, decides nothing that must not be guessed.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random >> 32).unwrap_or_default()
    }

    /// A source port for a connection to `upstream`; `None` leaves it to the kernel: no range is
    /// ours, or the server is on loopback, where `tcp_tw_reuse` is on by default.
    fn lease(
        &mut self,
        upstream: SocketAddr,
        range: Option<&RangeInclusive<u16>>,
    ) -> Option<Lease> {
        let budget = self.budget(upstream, range)?;
        let ports = self.budgets.entry(budget).or_insert_with(|| budget.ports());
        Some(Lease { budget, port: ports.acquire()? })
    }

    pub(super) fn release(&mut self, lease: Option<Lease>) {
        if let Some(lease) = lease
            && let Some(ports) = self.budgets.get_mut(&lease.budget)
        {
            ports.release(lease.port);
        }
    }

    fn release_taken(&mut self, lease: Lease) {
        if let Some(ports) = self.budgets.get_mut(&lease.budget) {
            ports.release_taken(lease.port);
        }
    }

    /// Forgets the budgets that nobody uses and `plan` does not name.
    pub(super) fn retain(&mut self, plan: &Plan) {
        let mut named = HashSet::new();
        for backend in &plan.backends {
            let range = backend.source_ports.as_ref();
            let addresses = backend.members.iter().flat_map(|member| &member.addresses);
            named.extend(addresses.filter_map(|&address| self.budget(address, range)));
        }
        self.budgets.retain(|budget, ports| !ports.is_idle() || named.contains(budget));
    }

    fn budget(&self, upstream: SocketAddr, range: Option<&RangeInclusive<u16>>) -> Option<Budget> {
        let range = range.filter(|_| !upstream.ip().is_loopback())?;
        let (first, last) = ports::slice(range, self.worker, self.workers)?.into_inner();
        Some(Budget { upstream, first, last })
    }
}

impl Budget {
    const fn ports(self) -> Ports {
        Ports::new(self.first..=self.last)
    }
}

impl Lease {
    /// What to bind: the port on whichever address the route takes.
    fn source(self) -> SocketAddr {
        let any: IpAddr = match self.budget.upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(any, self.port)
    }
}

impl<E: Engine> Worker<E> {
    /// Finds a server for a session that has none.
    pub(super) fn dial(&mut self, key: SessionKey) {
        let random = self.dialer.random();
        let Some(relay) = self.sessions.of(key) else { return };
        let route = &self.plan.routes[usize::from(relay.listener.0)];
        let backend = &self.plan.backends[route.backend];
        // Who has just failed is avoided; a session that has paused for it may go there again.
        let avoid = relay.failed.filter(|_| !std::mem::take(&mut relay.paused));
        let micros = self.now.as_micros();
        let choice = match relay.failed {
            Some(server) if !backend.redispatch => {
                self.backends.choose_again(route.backend, server, micros)
            }
            _ => self.backends.choose(route.backend, avoid, micros),
        };
        match choice {
            None => relay.session.abandon(&mut self.ops),
            Some(choice) if avoid == Some(choice.server) => {
                self.backends.release(choice.server);
                let attempts = u32::from(relay.session.attempts());
                let pause = backoff::delay(attempts, PAUSE_BASE, PAUSE_MAX, random);
                relay.session.pause(self.now + pause);
                relay.paused = true;
                self.timers.bring_forward(key.index(), self.now + pause);
            }
            Some(choice) => {
                if let Some(left) = relay.failed.filter(|server| *server != choice.server) {
                    self.counters.redispatches.add(1);
                    self.backends.board(left).left();
                }
                self.connect(key, choice);
            }
        }
    }

    fn connect(&mut self, key: SessionKey, choice: Choice) {
        let Some(relay) = self.sessions.of(key) else { return };
        let route = &self.plan.routes[usize::from(relay.listener.0)];
        let range = self.plan.backends[route.backend].source_ports.as_ref();
        relay.server = Some(choice.server);
        relay.address = choice.address;
        relay.ports_tried = 0;
        relay.dialled = self.now;
        relay.lease = self.dialer.lease(choice.address, range);
        let source = relay.lease.map(Lease::source);
        relay.session.dial(choice.address, source, self.now, &route.limits, &mut self.ops);
        self.counters.connect_attempts.add(1);
        if relay.session.attempts() > 1 {
            self.counters.retries.add(1);
            self.backends.board(choice.server).retried();
        }
        if let Some(deadline) = relay.session.deadline(&route.limits) {
            self.timers.bring_forward(key.index(), deadline);
        }
    }

    pub(super) fn on_connect_ended(&mut self, key: SessionKey, outcome: Outcome) {
        if let Outcome::Failed(errno) = outcome
            && self.try_another_port(key, errno)
        {
            return;
        }
        self.settle_attempt(key, outcome);
        self.with(key, |relay, now, limits, ops| {
            relay.session.on_completion(Slot::Connect, outcome, now, limits, ops)
        });
    }

    /// A source port of ours that somebody else has is not the session's affair: the attempt goes
    /// on from another, and at last from one of the kernel's choice.
    fn try_another_port(&mut self, key: SessionKey, errno: Errno) -> bool {
        let Some(relay) = self.sessions.of(key) else { return false };
        let conflict = matches!(errno, Errno::EADDRINUSE | Errno::EADDRNOTAVAIL);
        if !conflict || !relay.session.is_connecting() {
            return false;
        }
        let Some(lease) = relay.lease.take() else { return false };
        self.counters.port_conflicts.add(1);
        self.dialer.release_taken(lease);
        relay.ports_tried += 1;
        if relay.ports_tried < PORTS_TRIED_MAX {
            let route = &self.plan.routes[usize::from(relay.listener.0)];
            let range = self.plan.backends[route.backend].source_ports.as_ref();
            relay.lease = self.dialer.lease(relay.address, range);
        }
        let source = relay.lease.map(Lease::source);
        self.ops.push(Op::Connect { session: key, address: relay.address, source });
        true
    }

    /// Says what an attempt that is over means for the server, and gives back what it took.
    fn settle_attempt(&mut self, key: SessionKey, outcome: Outcome) {
        let random = self.dialer.random();
        let Some(relay) = self.sessions.of(key) else { return };
        let Some(server) = relay.server else { return };
        if outcome == Outcome::Done {
            let listener = relay.listener;
            self.backends.on_connected(server, self.now.since(relay.dialled));
            if self.admission.is_out(listener) {
                let ramp = self.ramp(listener);
                self.admission.note_connected(listener, ramp);
            }
            return;
        }
        let ours = match outcome {
            Outcome::Failed(errno) => is_ours(errno),
            // Cancelled because the session ends, or because its time was up.
            _ => relay.session.is_closing(),
        };
        relay.server = None;
        relay.failed = Some(server);
        self.dialer.release(relay.lease.take());
        if ours {
            self.backends.release(server);
        } else {
            self.counters.connect_failures.add(1);
            self.backends.on_connect_failed(server, self.now.as_micros(), random);
        }
    }
}
