//! The doors for those who speak HTTP: the agent door (requests forwarded one by one) and the web proxy
//! door (`proxy`).
//!
//! The agent door: HTTP forwarded request by request, for agents that were pointed at another agent.
//!
//! Threads of their own, so that neither HTTP nor TLS holds up a worker: each has a tokio runtime, its
//! share of the listening sockets, its view of the servers (`backend`, as a worker has it) and its
//! kept connections to them. hyper speaks HTTP on both sides, rustls TLS towards the servers. Nothing
//! is shared with another thread but counts and the sessions that TLS may resume. The threads use the
//! main descriptor table: what wakes a runtime from another thread is a descriptor, and has to be the
//! same one there (docs/decisions/0007-the-door-shares-the-main-table.md).
//!
//! ```text
//! accept ── place, rules ──▶ attend ── a head ──▶ answer ──┬── /status, refusals: answers
//!   (hyper's server, deadlines: wire)                      └── forward ── kept, or dial ──▶ server
//! ```
//!
//! A request is here what a session is to a worker: counted and told alike (`story`).

mod accept;
mod answers;
mod body;
pub mod destinations;
mod dial;
mod forward;
pub mod head;
mod kept;
mod lane;
mod lobby;
pub mod lookups;
mod once;
mod plan;
mod proxy;
pub mod request;
mod story;
pub mod trust;
pub mod users;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as pulses;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::backend::Backends;
use crate::backend::dice::Dice;
use crate::gate::Quota;
use crate::metrics::{Asked, CloseReason, Counters, Queued, Report, SessionRecord, Traffic};
use crate::op::ListenerId;
use crate::sys::process;

use kept::{Connection, Kept};
pub use lane::Lane;
use lobby::Lobby;
use lookups::Lookups;
pub use plan::{Backend, Door, Manner, Plan, Route, Secure, Ways};
use users::{Hasher, Logins};

/// How often kept connections are looked at that nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The same complaint about a server is made again after so long.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long after they were told to end at once connections may take.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What a thread is told while it runs.
#[derive(Debug)]
pub enum Command {
    /// Requests from now on follow this plan.
    Replace(Arc<Plan>),
    /// No more connections; those that are there may go on for `grace`, an answer at a time.
    Drain { grace: Duration },
    /// Everything ends now.
    Stop,
    /// Somebody wants to know whether it turns: it drops this.
    Pulse(pulses::Sender<()>),
}

/// What a thread is made of.
#[derive(Debug)]
pub struct Setup {
    pub plan: Arc<Plan>,
    /// Its listening sockets, each with its index into the plan's routes.
    pub sockets: Vec<(usize, OwnedFd)>,
    /// Places in the whole process, and those that the main descriptor table has.
    pub process: Arc<Quota>,
    pub places: Arc<Quota>,
    pub counters: Arc<Counters>,
    pub mailbox: mpsc::UnboundedReceiver<Command>,
    pub records: rtrb::Producer<SessionRecord>,
    /// What an operator should know, a line each.
    pub remarks: mpsc::Sender<String>,
    /// For web proxy doors: the ways to the workers, and who knows whose passwords are right.
    pub lanes: Vec<Lane>,
    pub hasher: Hasher,
    /// Threads of the doors.
    pub threads: u16,
    pub seed: u64,
}

/// Serves until told to end and everybody has gone, or is made to go.
///
/// # Errors
/// When the runtime cannot be made, or a socket cannot be waited for.
pub fn serve(setup: Setup, ready: &pulses::Sender<()>) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let Setup { sockets, mailbox, .. } = setup;
        let logins = Logins::new(setup.hasher);
        let logins = logins.map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let forwarder = Rc::new(Forwarder {
            kept: RefCell::default(),
            backends: RefCell::default(),
            plan: RefCell::new(Arc::clone(&setup.plan)),
            process: setup.process,
            places: setup.places,
            counters: setup.counters,
            records: RefCell::new(setup.records),
            remarks: setup.remarks,
            complaints: RefCell::default(),
            lanes: setup.lanes,
            lookups: Lookups::default(),
            logins,
            lobby: Lobby::default(),
            threads: setup.threads,
            dice: Cell::new(Dice::new(setup.seed)),
            phase: watch::channel(Phase::Serving).0,
            connections: Cell::new(0),
            requests: Cell::new(0),
            gone: Notify::new(),
        });
        forwarder.adopt(setup.plan);
        // Nobody waits for it any more only if the process is ending.
        let _ = ready.send(());
        forwarder.run(sockets, mailbox).await
    })
}

/// Where a thread is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Stopping,
}

/// One thread's share of the doors.
#[derive(Debug)]
struct Forwarder {
    /// Dropped before the backends whose boards it has counted on.
    kept: RefCell<Kept>,
    backends: RefCell<Backends>,
    plan: RefCell<Arc<Plan>>,
    process: Arc<Quota>,
    places: Arc<Quota>,
    counters: Arc<Counters>,
    records: RefCell<rtrb::Producer<SessionRecord>>,
    remarks: mpsc::Sender<String>,
    /// By server: what was said of it last, and when.
    complaints: RefCell<HashMap<String, (String, Instant)>>,
    lanes: Vec<Lane>,
    lookups: Lookups,
    logins: Logins,
    lobby: Lobby,
    threads: u16,
    dice: Cell<Dice>,
    phase: watch::Sender<Phase>,
    /// Agents that are connected, and requests under way.
    connections: Cell<usize>,
    requests: Cell<u64>,
    gone: Notify,
}

impl Forwarder {
    async fn run(
        self: Rc<Self>,
        sockets: Vec<(usize, OwnedFd)>,
        mut mailbox: mpsc::UnboundedReceiver<Command>,
    ) -> io::Result<()> {
        let mut listening = tokio::task::JoinSet::new();
        for (route, socket) in sockets {
            listening.spawn_local(accept::listen(Rc::clone(&self), route, socket));
        }
        let sweeping = Rc::clone(&self);
        let sweeper = spawn_local(async move { sweeping.sweep().await });
        let mut until: Option<Instant> = None;
        loop {
            let patience = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                command = mailbox.recv() => self.on_command(command, &mut until),
                Some(ended) = listening.join_next() => ended.map_err(io::Error::other)??,
                () = self.gone.notified() => {}
                () = sleep_until(patience), if until.is_some() => {
                    if *self.phase.borrow() == Phase::Stopping {
                        break;
                    }
                    self.stop(&mut until);
                }
            }
            let ending = *self.phase.borrow() != Phase::Serving;
            if ending && listening.is_empty() && self.connections.get() == 0 {
                break;
            }
        }
        sweeper.abort();
        Ok(())
    }

    fn on_command(&self, command: Option<Command>, until: &mut Option<Instant>) {
        match command {
            Some(Command::Replace(plan)) => self.adopt(plan),
            Some(Command::Drain { grace }) if *self.phase.borrow() != Phase::Stopping => {
                let end = Instant::now() + grace;
                *until = Some(until.map_or(end, |before| before.min(end)));
                self.phase.send_replace(Phase::Draining);
            }
            Some(Command::Drain { .. }) => {}
            Some(Command::Pulse(heard)) => drop(heard),
            // A supervisor that is gone cannot ask for anything better.
            Some(Command::Stop) | None => self.stop(until),
        }
    }

    fn stop(&self, until: &mut Option<Instant>) {
        if *self.phase.borrow() != Phase::Stopping {
            self.phase.send_replace(Phase::Stopping);
            *until = Some(Instant::now() + STOP_PATIENCE);
        }
    }

    async fn sweep(&self) {
        let mut tick = interval(SWEEP_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let plan = self.plan();
            self.kept.borrow_mut().sweep(&plan);
        }
    }

    fn adopt(&self, plan: Arc<Plan>) {
        let members: Vec<_> = plan.backends.iter().map(|backend| backend.members.clone()).collect();
        self.backends.borrow_mut().replace(&members);
        self.kept.borrow_mut().sweep(&plan);
        self.logins.retain(&plan.ways.users);
        *self.plan.borrow_mut() = plan;
    }

    /// The plan that is in force now.
    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.borrow())
    }

    /// Keeps a connection for the next request.
    fn keep(&self, connection: Connection) {
        if !self.is_ending() {
            self.kept.borrow_mut().put(connection, &self.plan());
        }
    }

    fn is_ending(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Whether a request that came through this route now would find a server.
    fn is_up(&self, route: usize) -> bool {
        let backend = self.plan().routes[route].backend;
        !self.is_ending() && self.backends.borrow().is_up(backend, process::monotonic_micros())
    }

    fn roll(&self) -> u32 {
        let mut dice = self.dice.get();
        let roll = dice.roll();
        self.dice.set(dice);
        roll
    }

    /// Places in the lobby of this thread: a half of those that the process, the doors and the listener
    /// have, so that those who say nothing leave the other half to those who do.
    fn lobby_places(&self, route: usize) -> usize {
        let limits =
            [self.process.limit(), self.places.limit(), self.plan().routes[route].quota.limit()];
        limits.into_iter().min().unwrap_or_default() as usize / 2 / usize::from(self.threads.max(1))
    }

    fn listener(&self, route: usize) -> ListenerId {
        self.plan().routes[route].listener
    }

    fn traffic(&self, route: usize) -> Arc<Traffic> {
        Arc::clone(&self.plan().routes[route].traffic)
    }

    fn came(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    fn went(&self) {
        self.connections.set(self.connections.get() - 1);
        self.gone.notify_one();
    }

    fn opened(&self, route: usize) {
        self.requests.set(self.requests.get() + 1);
        self.counters.sessions.set(self.requests.get());
        self.counters.sessions_total.add(1);
        let plan = self.plan();
        let Route { traffic, quota, .. } = &plan.routes[route];
        traffic.opened(quota.taken());
    }

    fn ended(&self, route: usize, record: SessionRecord) {
        self.requests.set(self.requests.get() - 1);
        self.counters.sessions.set(self.requests.get());
        self.counters.ended[record.report.reason.index()].add(1);
        self.counters.delivered(record.report.bytes);
        self.traffic(route).ended(&record.report);
        if self.records.borrow_mut().push(record).is_err() {
            self.counters.records_dropped.add(1);
        }
    }

    /// Somebody has been turned away before anything began for him.
    fn turned_away(
        &self,
        route: usize,
        client: SocketAddr,
        reason: CloseReason,
        asked: Option<Box<Asked>>,
        attempts: u16,
        total_time: Duration,
    ) {
        self.opened(route);
        let report = Report::unserved(reason, attempts, total_time);
        let listener = self.listener(route);
        let queued = Queued::default();
        let (server, links) = (None, None);
        self.ended(route, SessionRecord { listener, client, server, queued, asked, links, report });
    }

    /// Says what is wrong with a server, but not over and over.
    fn complain(&self, server: String, why: String) {
        let mut complaints = self.complaints.borrow_mut();
        let said = complaints
            .get(&server)
            .is_some_and(|(before, at)| *before == why && at.elapsed() < COMPLAIN_EVERY);
        if !said {
            // Where they come faster than they are written, the next will do.
            let _ = self.remarks.try_send(format!("server {server}: {why}"));
            complaints.insert(server, (why, Instant::now()));
        }
    }
}
