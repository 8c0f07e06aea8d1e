//! How a session comes to a server: the choice, the source port, what a failure means for whom.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use nix::errno::Errno;

use crate::backend::dice::Dice;
use crate::backend::ports::{self, Ports};
use crate::backend::{Call, Choice, ServerId, backoff};
use crate::engine::Engine;
use crate::op::{Op, Outcome, SessionKey, Slot};
use crate::session::greeting;

use super::Worker;
use super::plan::{Plan, Source, Target};

/// Source ports of ours that are tried for one attempt before the kernel is left to choose.
const PORTS_TRIED_MAX: u8 = 8;

/// Where one attempt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// From a port of ours, which is to be given back to where it came from: a place in
    /// [`Dialer::budgets`].
    Port { source: IpAddr, port: u16, budget: u32 },
    /// From this address, and a port of the kernel's choice.
    Address(IpAddr),
}

/// Names the ports of one range at one source address towards one upstream address. A reload may bring
/// another range for the same addresses; while connections from the old one last there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    upstream: SocketAddr,
    /// Unspecified where the route decides.
    source: IpAddr,
    first: u16,
    last: u16,
}

/// This worker's source ports and dice.
#[derive(Debug)]
pub(super) struct Dialer {
    worker: u16,
    workers: u16,
    /// One for each pair of addresses, since TIME_WAIT is kept for each pair. A session keeps the place of
    /// its own, which is short; places that have come free are empty until they are used again.
    budgets: Vec<Option<Ports>>,
    places: HashMap<Budget, u32>,
    /// Those of `budgets` that are empty.
    free: Vec<u32>,
    /// Of all budgets together: ports, and those in use.
    ports: u64,
    leased: u64,
    dice: Dice,
}

impl Dialer {
    pub(super) fn new(worker: u16, workers: u16, seed: u64) -> Self {
        Self {
            worker,
            workers,
            budgets: Vec::new(),
            places: HashMap::new(),
            free: Vec::new(),
            ports: 0,
            leased: 0,
            dice: Dice::new(seed),
        }
    }

    pub(super) const fn workers(&self) -> u16 {
        self.workers
    }

    /// Source ports of ours in use, and all that there are towards the addresses that were connected to.
    pub(super) const fn ports(&self) -> (u64, u64) {
        (self.leased, self.ports)
    }

    /// Where a connection to `upstream` comes from; `None` leaves it to the kernel. The addresses take
    /// turns, by chance at first and then in order `after` the one that did not do. Without
    /// `own_ports`, or with none of them left, the kernel chooses the port.
    pub(super) fn lease(
        &mut self,
        upstream: SocketAddr,
        source: &Source,
        after: Option<Lease>,
        own_ports: bool,
    ) -> Option<Lease> {
        let candidates = source.addresses_for(upstream);
        let count = candidates.clone().count();
        let place = |address| candidates.clone().position(|candidate| candidate == address);
        let first = match after.and_then(|lease| place(lease.address())) {
            Some(place) => place + 1,
            None => self.dice.roll() as usize % count,
        };
        let in_turn = candidates.cycle().skip(first).take(count);
        if own_ports && let Some(range) = self.slice(upstream, source) {
            for source in in_turn.clone() {
                let budget = self.place(Budget::new(upstream, source, &range));
                let ports = self.budgets[budget as usize].as_mut();
                if let Some(port) = ports.and_then(Ports::acquire) {
                    self.leased += 1;
                    return Some(Lease::Port { source, port, budget });
                }
            }
        }
        in_turn.filter(|address| !address.is_unspecified()).map(Lease::Address).next()
    }

    /// The place of a budget, which is new if nobody has asked for it yet.
    fn place(&mut self, budget: Budget) -> u32 {
        if let Some(place) = self.places.get(&budget) {
            return *place;
        }
        self.ports += budget.count();
        let place = self.free.pop().unwrap_or_else(|| {
            self.budgets.push(None);
            u32::try_from(self.budgets.len() - 1).expect("the configuration bounds the servers")
        });
        self.budgets[place as usize] = Some(budget.ports());
        self.places.insert(budget, place);
        place
    }

    pub(super) fn release(&mut self, lease: Option<Lease>) {
        if let Some(Lease::Port { budget, port, .. }) = lease
            && let Some(ports) = &mut self.budgets[budget as usize]
        {
            self.leased -= 1;
            ports.release(port);
        }
    }

    pub(super) fn release_taken(&mut self, lease: Lease) {
        if let Lease::Port { budget, port, .. } = lease
            && let Some(ports) = &mut self.budgets[budget as usize]
        {
            self.leased -= 1;
            ports.release_taken(port);
        }
    }

    /// Forgets the budgets that nobody uses and `plan` does not name.
    pub(super) fn retain(&mut self, plan: &Plan) {
        let mut named = HashSet::new();
        for backend in &plan.backends {
            for &upstream in backend.members.iter().flat_map(|member| &member.addresses) {
                let Some(range) = self.slice(upstream, &backend.source) else { continue };
                let sources = backend.source.addresses_for(upstream);
                named.extend(sources.map(|source| Budget::new(upstream, source, &range)));
            }
        }
        self.places.retain(|budget, &mut place| {
            let ports = &mut self.budgets[place as usize];
            let stays = named.contains(budget) || ports.as_ref().is_some_and(|it| !it.is_idle());
            if !stays {
                *ports = None;
                self.free.push(place);
            }
            stays
        });
        self.ports = self.places.keys().map(|budget| budget.count()).sum();
    }

    /// This worker's share of the ports. None towards a server on loopback, where `tcp_tw_reuse` is on
    /// by default.
    fn slice(&self, upstream: SocketAddr, source: &Source) -> Option<RangeInclusive<u16>> {
        let range = source.ports.as_ref().filter(|_| !upstream.ip().is_loopback())?;
        ports::slice(range, self.worker, self.workers)
    }
}

impl Budget {
    const fn new(upstream: SocketAddr, source: IpAddr, range: &RangeInclusive<u16>) -> Self {
        Self { upstream, source, first: *range.start(), last: *range.end() }
    }

    const fn count(self) -> u64 {
        (self.last - self.first) as u64 + 1
    }

    const fn ports(self) -> Ports {
        Ports::new(self.first..=self.last)
    }
}

impl Lease {
    const fn address(self) -> IpAddr {
        match self {
            Self::Port { source, .. } => source,
            Self::Address(address) => address,
        }
    }

    /// What to bind.
    pub(super) const fn source(self) -> SocketAddr {
        let port = match self {
            Self::Port { port, .. } => port,
            Self::Address(_) => 0,
        };
        SocketAddr::new(self.address(), port)
    }
}

impl<E: Engine> Worker<E> {
    /// Finds a server for a session that has none, behind those who wait for one already.
    pub(super) fn dial(&mut self, key: SessionKey) {
        if self.waits(key) {
            return;
        }
        let (choice, avoid) = self.choose(key);
        self.follow(key, choice, avoid);
    }

    /// Takes a place at a server for a session, if there is one; and which server is to be avoided,
    /// because it has just failed.
    pub(super) fn choose(&mut self, key: SessionKey) -> (Option<Choice>, Option<ServerId>) {
        let lot = self.dialer.dice.roll();
        let Some(relay) = self.sessions.of(key) else { return (None, None) };
        let Target { backend: place, .. } = self.plan.target(relay.listener, relay.way);
        let backend = &self.plan.backends[place];
        // A session that has paused for it may go there again.
        let avoid = relay.failed.filter(|_| !relay.paused);
        let call = Call {
            algorithm: backend.algorithm,
            client: relay.client.ip(),
            lot,
            now: self.now.as_micros(),
        };
        let choice = match relay.failed {
            Some(server) if !backend.redispatch => self.backends.choose_again(place, server, &call),
            _ => self.backends.choose(place, avoid, &call),
        };
        (choice, avoid)
    }

    /// Goes where [`Self::choose`] says.
    pub(super) fn follow(
        &mut self,
        key: SessionKey,
        choice: Option<Choice>,
        avoid: Option<ServerId>,
    ) {
        let random = self.dialer.dice.roll();
        let Some(relay) = self.sessions.of(key) else { return };
        let Target { backend, .. } = self.plan.target(relay.listener, relay.way);
        let may_wait = !self.plan.backends[backend].queue.patience.is_zero();
        match choice {
            None if may_wait && self.backends.takes_sessions(backend) => self.enqueue(key),
            None => relay.session.abandon(&mut self.ops),
            Some(choice) if avoid == Some(choice.server) => {
                self.backends.release_unconnected(choice.server);
                let attempts = u32::from(relay.session.attempts());
                let pause = backoff::again(attempts, random);
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
        relay.server = Some(choice.server);
        relay.paused = false;
        relay.ports_tried = 0;
        relay.addresses_tried = 0;
        relay.dialled = self.now;
        relay.is_spare = false;
        let introduction = self.backends.introduction(choice.server).map(|version| {
            // Without the address that the client has reached, its own stands for it.
            let reached = self.engine.destination(key).unwrap_or(relay.client);
            greeting::header(version, relay.client, reached)
        });
        self.engine.introduce(key, introduction);
        if !self.attach(key, choice) {
            self.begin_connect(key, choice.address);
        }
        let Some(relay) = self.sessions.of(key) else { return };
        let Target { limits, .. } = self.plan.target(relay.listener, relay.way);
        self.counters.connect_attempts.add(1);
        if relay.session.attempts() > 1 {
            self.counters.retries.add(1);
            self.backends.board(choice.server).retried();
        }
        if let Some(deadline) = relay.session.deadline(limits) {
            self.timers.bring_forward(key.index(), deadline);
        }
    }

    fn begin_connect(&mut self, key: SessionKey, address: SocketAddr) {
        let Some(relay) = self.sessions.of(key) else { return };
        let Target { backend, limits } = self.plan.target(relay.listener, relay.way);
        let source = &self.plan.backends[backend].source;
        relay.address = address;
        relay.lease = self.dialer.lease(address, source, None, true);
        let source = relay.lease.map(Lease::source);
        relay.session.dial(address, source, self.now, limits, &mut self.ops);
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

    /// A source port that somebody else has, or an address that has none left or is not here, is not
    /// the session's affair: the attempt goes on from another, and at last from a port of the kernel's
    /// choice, at each address once.
    fn try_another_port(&mut self, key: SessionKey, errno: Errno) -> bool {
        let Some(relay) = self.sessions.of(key) else { return false };
        let conflict = matches!(errno, Errno::EADDRINUSE | Errno::EADDRNOTAVAIL);
        if !conflict || !relay.session.is_connecting() {
            return false;
        }
        let Some(lease) = relay.lease.take() else { return false };
        self.counters.port_conflicts.add(1);
        self.dialer.release_taken(lease);
        let Target { backend, .. } = self.plan.target(relay.listener, relay.way);
        let source = &self.plan.backends[backend].source;
        if let Lease::Address(_) = lease {
            relay.addresses_tried += 1;
            if usize::from(relay.addresses_tried) >= source.addresses_for(relay.address).count() {
                return false;
            }
        } else {
            relay.ports_tried += 1;
        }
        let own_ports = relay.ports_tried < PORTS_TRIED_MAX && relay.addresses_tried == 0;
        relay.lease = self.dialer.lease(relay.address, source, Some(lease), own_ports);
        let source = relay.lease.map(Lease::source);
        self.ops.push(Op::Connect { session: key, address: relay.address, source });
        true
    }

    /// Says what an attempt that is over means for the server, and gives back what it took.
    fn settle_attempt(&mut self, key: SessionKey, outcome: Outcome) {
        let random = self.dialer.dice.roll();
        let Some(relay) = self.sessions.of(key) else { return };
        let Some(server) = relay.server else { return };
        if outcome == Outcome::Done {
            let (listener, way) = (relay.listener, relay.way);
            let took = (!relay.is_spare).then(|| self.now.since(relay.dialled));
            self.backends.on_connected(server, took);
            if self.admission.is_out(listener) {
                let ramp = self.ramp(listener);
                self.admission.note_connected(listener, way, ramp);
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
            self.backends.release_unconnected(server);
        } else {
            self.counters.connect_failures.add(1);
            self.backends.on_connect_failed(server, self.now.as_micros(), random);
        }
    }
}

/// What is wanting on our side, and says nothing about the server.
const fn is_ours(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::ENOBUFS
            | Errno::ENOSPC
            | Errno::EADDRNOTAVAIL
            | Errno::EADDRINUSE
    )
}
