//! One core's loop: its sessions, its timers, its turns among the servers.
//!
//! [`Worker::turn`] is the function to read first. A worker is generic over the engine so that the
//! very same code runs on epoll, on io_uring and on the simulated kernel of the tests.

pub mod admission;
mod dial;
mod ending;
mod greeting;
mod leaving;
pub mod listing;
pub mod plan;
pub mod queue;
mod ramp;
mod relay;
mod spare;
pub mod table;
#[cfg(test)]
mod tests;
pub mod timers;
mod tunnel;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError};
use std::time::Duration;

use nix::errno::Errno;

use crate::backend::Backends;
use crate::backend::board::Board;
use crate::engine::Engine;
use crate::gate::Quota;
use crate::gate::rules::Rules;
use crate::gate::sources::Ticket;
use crate::metrics::{Counters, SessionPlace, SessionRecord, Traffic, tell};
use crate::op::{AcceptedSocket, Completion, ListenerId, Op, SessionKey, Side, Slot, Time};
use crate::session::{CloseReason, Report, Session, SessionLimits, Step};

use admission::Admission;
use dial::Dialer;
use ending::Phase;
use greeting::{AtLimit, expected};
use leaving::Leaving;
use listing::Listing;
use plan::{Plan, Target};
use queue::Queues;
use ramp::Ramp;
use relay::Relay;
use spare::Spares;
use table::Table;
use timers::Timers;
pub use tunnel::Tunnel;

/// Accepted connections that wait in user space for a place; more are refused. They are those that
/// were on their way up when accepting paused.
const WAITING_MAX: usize = 1024;

/// Rounds of operations that complete at once before the sockets of all are looked at again. A round
/// is cheaper than a turn, which looks at the clock, deadlines, queues and counters too.
const ROUNDS_MAX: u32 = 8;

/// How often a worker that drains and has no session looks whether doors may still pass some.
const LOOK_AT_DOORS: Duration = Duration::from_millis(20);

/// Woken so much later than it asked to be, a worker was kept from running: stopped, starved, its
/// machine suspended. What has come meanwhile is heard and passed on before any deadline is looked
/// at, until nothing more comes or for [`CATCH_UP_MAX`].
pub const STALL: Duration = Duration::from_millis(100);
/// See [`STALL`]: deadlines must not wait for ever where work never stops coming.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// What the supervisor tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Sessions from now on follow this plan; deadlines of those that exist do too.
    Replace(Arc<Plan>),
    /// No more connections; sessions may go on for `grace`, then they are reset.
    Drain { grace: Duration },
    /// A pair of connections was passed to the engine, to be relayed.
    Join(Box<Tunnel>),
    /// Every session of a server ends, for this reason.
    Expel { server: Arc<Board>, reason: CloseReason },
    /// So many sessions of a server, of all workers, leave it when they are at rest. Each worker takes
    /// its part of them, no more than is left.
    Shed { server: Arc<Board>, sessions: u32, left: Arc<AtomicU32> },
    /// Somebody wants to know which sessions there are.
    List(Listing),
    /// A session ends, if it is there; that is answered.
    End { session: SessionPlace, answer: SyncSender<bool> },
    /// Everything ends now.
    Stop,
    /// Somebody wants to know whether it turns: it drops this.
    Pulse(Sender<()>),
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    pub index: u16,
    pub workers: u16,
    /// Sessions at one time in this worker.
    pub sessions_max: u32,
    /// Connections without a session at one time in this worker.
    pub spares_max: u32,
    pub plan: Arc<Plan>,
    /// Places in the whole process.
    pub quota: Arc<Quota>,
    pub counters: Arc<Counters>,
    pub mailbox: Receiver<Command>,
    pub records: rtrb::Producer<SessionRecord>,
    /// Anything but zero; two workers with the same one choose alike.
    pub seed: u64,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    More,
    Over,
}

/// One core's share of the relay.
#[derive(Debug)]
pub struct Worker<E> {
    engine: E,
    sessions: Table<Relay>,
    timers: Timers,
    admission: Admission,
    /// Accepted, and waiting for a place.
    waiting: VecDeque<Arrival>,
    /// Some listener's clients speak for others.
    greets: bool,
    queues: Queues,
    leaving: Leaving,
    backends: Backends,
    dialer: Dialer,
    spares: Spares,
    plan: Arc<Plan>,
    phase: Phase,
    counters: Arc<Counters>,
    mailbox: Receiver<Command>,
    records: rtrb::Producer<SessionRecord>,
    now: Time,
    /// No deadline is looked at before then: see [`STALL`].
    catching_up: Option<Time>,
    // The turn's lists, kept for their memory.
    completions: Vec<Completion>,
    ops: Vec<Op>,
    due: Vec<usize>,
}

/// An accepted connection that has no session yet.
#[derive(Debug)]
struct Arrival {
    listener: ListenerId,
    socket: AcceptedSocket,
    client: SocketAddr,
    /// Where its source is counted.
    ticket: Option<Ticket>,
}

impl<E: Engine> Worker<E> {
    /// A worker that accepts from the first turn on. The engine is listening already.
    pub fn new(engine: E, setup: Setup) -> Self {
        let mut admission = Admission::new(setup.quota, setup.sessions_max);
        for route in &setup.plan.routes {
            admission.add(Arc::clone(&route.quota));
        }
        let mut worker = Self {
            engine,
            sessions: Table::new(setup.sessions_max),
            timers: Timers::new(),
            admission,
            waiting: VecDeque::new(),
            greets: false,
            queues: Queues::default(),
            leaving: Leaving::default(),
            backends: Backends::default(),
            dialer: Dialer::new(setup.index, setup.workers, setup.seed),
            spares: Spares::new(setup.spares_max),
            plan: setup.plan,
            phase: Phase::Serving,
            counters: setup.counters,
            mailbox: setup.mailbox,
            records: setup.records,
            now: Time::default(),
            catching_up: None,
            completions: Vec::new(),
            ops: Vec::new(),
            due: Vec::new(),
        };
        worker.adopt_plan();
        for listener in worker.listeners() {
            worker.engine.accepting(listener, true);
        }
        worker
    }

    /// Turns until everything is over. An error is the engine's and final.
    pub fn run(mut self) -> io::Result<()> {
        while self.turn()? == Turn::More {}
        Ok(())
    }

    /// One pass of the loop: wait, hear what came back and ask for what follows, fire what is due.
    pub fn turn(&mut self) -> io::Result<Turn> {
        let unlistening = matches!(self.phase, Phase::Unlistening { .. });
        let mut completions = std::mem::take(&mut self.completions);
        let wake = self.next_wake();
        self.now = self.engine.wait(wake, &mut completions)?;
        let silent = completions.is_empty();
        self.mind_stall(wake, silent);
        let accepted = self.carry_on(&mut completions);
        self.completions = completions;
        if self.catching_up.is_none() {
            self.expire();
            self.sweep();
        }
        self.keep_spares();
        self.advance(unlistening && accepted == 0, silent);
        self.let_in();
        self.serve_queues();
        self.submit();
        self.counters.publish(&self.engine.stats());
        self.counters.listeners_paused.set(self.admission.paused() as u64);
        self.counters.spares.set(self.spares.count());
        let (leased, all) = self.dialer.ports();
        self.counters.source_ports_used.set(leased);
        self.counters.source_ports.set(all);
        self.counters.turned(self.engine.now().since(self.now));
        let over = match self.phase {
            Phase::Serving | Phase::Unlistening { .. } => false,
            Phase::Draining { .. } => self.sessions.is_empty() && !self.engine.awaits_pairs(),
            Phase::Stopping { until } => self.sessions.is_empty() || until <= self.now,
        };
        Ok(if over { Turn::Over } else { Turn::More })
    }

    /// Hears what has completed and asks for what follows, and again for as long as that completes at
    /// once. So many connections were accepted.
    fn carry_on(&mut self, completions: &mut Vec<Completion>) -> usize {
        let mut accepted = 0;
        for round in 1.. {
            for completion in completions.drain(..) {
                accepted += usize::from(matches!(completion, Completion::Accepted { .. }));
                self.dispatch(completion);
            }
            self.submit();
            if round == ROUNDS_MAX {
                break;
            }
            self.engine.at_hand(completions);
            if completions.is_empty() {
                break;
            }
        }
        accepted
    }

    fn submit(&mut self) {
        for op in self.ops.drain(..) {
            self.engine.submit(op);
        }
    }

    /// The engine, for those who simulate one.
    pub const fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Sessions that have not finished.
    pub const fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// When the next thing happens that no completion tells of.
    fn next_wake(&self) -> Option<Time> {
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Unlistening { .. } => Some(self.now),
            // Nothing tells that the doors have nobody any more.
            Phase::Draining { until } if self.sessions.is_empty() => {
                Some(until.min(self.now + LOOK_AT_DOORS))
            }
            Phase::Draining { until } | Phase::Stopping { until } => Some(until),
        };
        let next = [
            phase,
            self.timers.next(),
            self.admission.next(),
            self.queues.next(),
            self.leaving.next(),
            self.spares.next(),
        ];
        next.into_iter().flatten().min()
    }

    /// Notices that the worker was kept from running, and when it has caught up.
    fn mind_stall(&mut self, wake: Option<Time>, silent: bool) {
        match self.catching_up {
            Some(until) if silent || until <= self.now => self.catching_up = None,
            None if !silent && wake.is_some_and(|wake| self.now.since(wake) > STALL) => {
                self.catching_up = Some(self.now + CATCH_UP_MAX);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, completion: Completion) {
        match completion {
            Completion::Ended { session, slot: Slot::Connect, outcome } => {
                self.on_connect_ended(session, outcome);
            }
            Completion::Ended { session, slot, outcome }
                if self.greets && self.awaits_greeting(session, slot) =>
            {
                self.on_greeting(session, outcome);
            }
            Completion::Ended { session, slot, outcome } => {
                self.with(session, |relay, now, limits, ops| {
                    relay.session.on_completion(slot, outcome, now, limits, ops)
                });
            }
            Completion::Broken { session, side, errno } => {
                self.with(session, |relay, now, _, ops| {
                    relay.session.on_broken(side, errno, now, ops)
                });
            }
            Completion::Accepted { listener, socket, peer } => {
                self.counters.accepted.add(1);
                self.traffic(listener).accepted();
                self.on_accepted(listener, socket, peer);
            }
            Completion::AcceptFailed { listener, errno } => {
                // EINVAL: an administrator has it listen no more, which is no failure.
                if errno != Errno::EINVAL {
                    self.counters.accept_failures.add(1);
                }
                self.admission.on_accept_failed(listener, self.now);
            }
            Completion::Woken => self.read_mail(),
        }
    }

    /// Lets a session handle an event and does what it says. A key of a session that is no more
    /// finds nothing.
    fn with(
        &mut self,
        key: SessionKey,
        event: impl FnOnce(&mut Relay, Time, &SessionLimits, &mut Vec<Op>) -> Step,
    ) {
        self.with_engine(key, |relay, _, now, limits, ops| event(relay, now, limits, ops));
    }

    /// The same for an event that has a question to the engine.
    fn with_engine(
        &mut self,
        key: SessionKey,
        event: impl FnOnce(&mut Relay, &mut E, Time, &SessionLimits, &mut Vec<Op>) -> Step,
    ) {
        let Some(relay) = self.sessions.of(key) else { return };
        let Target { limits, .. } = self.plan.target(relay.listener, relay.way);
        let step = event(relay, &mut self.engine, self.now, limits, &mut self.ops);
        match step {
            Step::Continue => {
                // While its sockets are there, and once.
                if relay.session.fails() && relay.links.is_none() {
                    let links = Side::ALL.map(|side| self.engine.link(key, side));
                    relay.links = Some(Box::new(links));
                }
                if let Some(deadline) = relay.session.deadline(limits) {
                    self.timers.bring_forward(key.index(), deadline);
                }
            }
            Step::Dial { .. } => self.dial(key),
            Step::Finished(report) => self.finish(key, &report),
        }
    }

    fn on_accepted(&mut self, listener: ListenerId, socket: AcceptedSocket, client: SocketAddr) {
        let rules = &self.plan.routes[usize::from(listener.0)].rules;
        if !rules.permit(client.ip()) {
            self.counters.denied.add(1);
            self.traffic(listener).denied();
            return self.engine.refuse(socket);
        }
        // Who speaks for others is counted as whom it speaks for.
        let ticket = match rules.proxies {
            Some(_) => None,
            None => match self.count(listener, client) {
                Ok(ticket) => ticket,
                Err(AtLimit) => return self.engine.refuse(socket),
            },
        };
        self.let_in_or_queue(Arrival { listener, socket, client, ticket });
    }

    fn let_in_or_queue(&mut self, arrival: Arrival) {
        let listener = arrival.listener;
        // One that was on its way up when its listener was given up is served if there is room, but
        // nobody waits any more, and nothing begins after a stop.
        let (welcome, listens) = match self.phase {
            Phase::Serving | Phase::Unlistening { .. } => (true, true),
            Phase::Draining { .. } => (true, false),
            Phase::Stopping { .. } => (false, false),
        };
        let others_wait = self.waiting.iter().any(|other| other.listener == listener);
        if welcome && !others_wait && self.admission.enter(listener, self.now) {
            return self.open(arrival);
        }
        if listens {
            self.engine.accepting(listener, false);
        }
        if listens && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(arrival);
        } else {
            self.refuse(arrival);
        }
    }

    /// There is no place for it, not even to wait.
    fn refuse(&mut self, arrival: Arrival) {
        self.rules(arrival.listener).discount(arrival.ticket);
        self.counters.refused.add(1);
        self.traffic(arrival.listener).refused();
        self.engine.refuse(arrival.socket);
    }

    /// The pace at which a listener begins.
    fn ramp(&self, listener: ListenerId) -> Option<Ramp> {
        self.rules(listener).ramp.map(|first| Ramp::new(first, self.dialer.workers()))
    }

    fn traffic(&self, listener: ListenerId) -> &Traffic {
        &self.plan.routes[usize::from(listener.0)].traffic
    }

    fn rules(&self, listener: ListenerId) -> &Rules {
        &self.plan.routes[usize::from(listener.0)].rules
    }

    fn open(&mut self, arrival: Arrival) {
        let Arrival { listener, socket, client, ticket } = arrival;
        let key = self.sessions.vacancy().expect("admission counts the places of the table");
        self.engine.adopt(socket, key);
        let (session, step) = match expected(&self.plan.routes[usize::from(listener.0)]) {
            Some(expects) => Session::greet(key, expects, self.now, &mut self.ops),
            None => Session::open(key, self.now, &mut self.ops),
        };
        let relay = Relay::new(session, listener, client, ticket, self.now);
        self.settle(key, relay);
        self.with(key, |_, _, _, _| step);
    }

    /// A session begins.
    fn settle(&mut self, key: SessionKey, relay: Relay) {
        let route = &self.plan.routes[usize::from(relay.listener.0)];
        route.traffic.opened(route.quota.taken());
        self.sessions.insert(key, relay);
        self.counters.sessions_total.add(1);
        self.counters.sessions.set(self.sessions.len() as u64);
    }

    /// The session is over and the engine has forgotten it.
    fn finish(&mut self, key: SessionKey, report: &Report) {
        let Some(mut relay) = self.sessions.remove(key) else { return };
        self.timers.clear(key.index());
        let queued = relay.wait.end(self.now);
        if relay.leaving {
            self.leaving.left();
        }
        self.dialer.release(relay.lease);
        self.rules(relay.listener).discount(relay.ticket);
        self.note_outage(relay.listener, relay.way, report.reason);
        if let Some(id) = relay.server {
            tell(self.backends.board(id), report);
            self.backends.release(id);
        }
        // Who wants to know why a session ended wants to know where it failed.
        let server = relay.server.or(relay.failed).and_then(|id| self.backends.known(id)).cloned();
        self.admission.leave(relay.listener);
        self.counters.sessions.set(self.sessions.len() as u64);
        self.tell_ended(SessionRecord {
            listener: relay.listener,
            client: relay.client,
            server,
            queued,
            asked: relay.asked,
            links: relay.links,
            report: *report,
        });
    }

    /// Counts what has ended, and passes its record on.
    fn tell_ended(&mut self, record: SessionRecord) {
        let SessionRecord { listener, report, .. } = &record;
        self.traffic(*listener).ended(report);
        self.counters.ended[report.reason.index()].add(1);
        if self.records.push(record).is_err() {
            self.counters.records_dropped.add(1);
        }
    }

    fn expire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(self.now, &mut due);
        for index in due.drain(..) {
            let Some(key) = self.sessions.key_at(index) else { continue };
            self.with_engine(key, |relay, engine, now, limits, ops| {
                let acknowledged = |side| engine.acknowledged(key, side);
                relay.session.on_deadline(now, limits, acknowledged, ops)
            });
        }
        self.due = due;
    }

    /// Gives places that have come free to those who wait, and listens again where there is room.
    fn let_in(&mut self) {
        let waiting = if self.admission.has_room() { self.waiting.len() } else { 0 };
        for _ in 0..waiting {
            let Some(arrival) = self.waiting.pop_front() else { break };
            if self.admission.enter(arrival.listener, self.now) {
                self.open(arrival);
            } else {
                self.waiting.push_back(arrival);
            }
        }
        if self.admission.next().is_some_and(|until| until <= self.now) {
            let waiting = &self.waiting;
            let waits = |listener| waiting.iter().any(|other| other.listener == listener);
            for listener in self.admission.resume(self.now, waits) {
                self.engine.accepting(listener, true);
            }
        }
    }

    fn read_mail(&mut self) {
        loop {
            match self.mailbox.try_recv() {
                Ok(Command::Replace(plan)) => {
                    self.plan = plan;
                    self.adopt_plan();
                    // Deadlines may have come nearer.
                    for key in self.sessions.keys() {
                        self.with(key, |_, _, _, _| Step::Continue);
                    }
                }
                Ok(Command::Drain { grace }) => self.drain(grace),
                Ok(Command::Join(tunnel)) => self.take_over(*tunnel),
                Ok(Command::Expel { server, reason }) => self.expel(&server, reason),
                Ok(Command::Shed { server, sessions, left }) => {
                    self.shed(&server, sessions, &left);
                }
                Ok(Command::List(listing)) => self.list(listing),
                Ok(Command::End { session, answer }) => self.end_session(session, &answer),
                Ok(Command::Pulse(heard)) => drop(heard),
                Ok(Command::Stop) => self.end_all(CloseReason::Stopped),
                // A supervisor that is gone cannot ask for anything better.
                Err(TryRecvError::Disconnected) => return self.end_all(CloseReason::Stopped),
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn adopt_plan(&mut self) {
        let members: Vec<_> =
            self.plan.backends.iter().map(|backend| backend.members.clone()).collect();
        self.discard_spares();
        // Sessions may be greeting still when no listener asks for it any more.
        self.greets |= self.plan.routes.iter().any(|route| expected(route).is_some());
        for listener in self.listeners() {
            let ramp = self.ramp(listener);
            self.admission.set_ramp(listener, ramp);
        }
        self.backends.replace(&members);
        self.dialer.retain(&self.plan);
        self.requeue();
        self.mark_moved();
    }

    fn listeners(&self) -> impl Iterator<Item = ListenerId> + use<E> {
        (0..self.plan.listening).map(ListenerId)
    }
}
