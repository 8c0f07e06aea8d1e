//! The main thread's loop: the parent's orders, the control socket, reloads, the log.
//!
//! One tokio runtime on the main thread. What is controlled is behind the trait [`Relay`], so this
//! room knows neither workers nor engines, and its tests need none.
//!
//! ```text
//! Serving ──Drain, Retire──▶ Draining ──all workers ended──▶ the end
//!    │                        │ Stop, deadline                 ▲
//!    └──Stop─────────────▶ Stopping ──all workers ended────────┘
//! ```
//!
//! Nothing ends here without the parent's order: it holds the listening sockets too, and has to give
//! up its own first. Whoever asks the relay process (by the control socket, by a signal) asks the
//! parent through it.

mod agents;
pub mod client;
pub mod directory;
mod ends;
mod haproxy;
mod http;
mod link;
mod log;
mod logfile;
mod lookups;
mod names;
mod observer;
mod prober;
mod rebalance;
mod relay;
mod reload;
mod resolver;
mod snapshot;
mod socket;
mod standing;
mod status;
mod syslog;
mod tcplog;
#[cfg(test)]
mod tests;
mod text;
pub mod top;
mod upkeep;

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::config::{Config, Origin};
use crate::handover::{ClosedListener, Order, Report};
use crate::metrics::SessionRecord;

use agents::Agents;
use ends::Ends;
use haproxy::sessions;
use haproxy::stat::{self, Counted};
use http::Questions;
use lookups::Lookups;
use observer::Observer;
use prober::Prober;
use rebalance::Rebalance;
use snapshot::{Snapshot, Told};
use standing::Standings;
use tcplog::Scene;

pub use haproxy::{Change, SessionId, Show};
pub use link::Parent;
pub use log::{Level, Logger, RECORDS_MAX};
pub use names::{Addresses, Names};
pub use prober::Health;
pub use relay::{Applied, Relay, WorkerExit};
pub use resolver::{Outcome, ask};
pub use socket::{Asked, Command, ControlSocket, SocketError, parse as parse_command};
pub use status::{
    ConfigurationStatus, DoorStatus, ListenerState, ListenerStatus, NameStatus, PhaseName,
    QueueStatus, RelayStatus, ReloadStatus, RouteStatus, ServerStatus, Status, WorkerStatus,
};

/// How long after they were told to end at once workers may take, before the process ends without
/// them: they give themselves two seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What the loop is given beside the relay.
#[derive(Debug)]
pub struct Setup {
    /// Where the configuration came from: what a reload reads again.
    pub origin: Origin,
    /// The configuration in force.
    pub config: Config,
    pub names: Names,
    pub log: Logger,
    /// `None` is no control socket.
    pub socket: Option<ControlSocket>,
    /// Where statistics are served.
    pub pages: Vec<TcpListener>,
    pub parent: Parent,
    /// One ring of ended sessions a worker; [`RECORDS_MAX`] is a good size.
    pub records: Vec<rtrb::Consumer<SessionRecord>>,
    /// Listeners that an administrator has let nobody in before this process.
    pub closed: Vec<ClosedListener>,
    /// What the doors have to say about servers.
    pub remarks: mpsc::Receiver<String>,
}

/// The runtime, and the signals from now on.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    signals: link::Signals,
}

impl Control {
    /// Takes the signals over. To be called before anything that a signal must not interrupt, on
    /// the main thread, before workers start.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let signals = {
            let _entered = runtime.enter();
            link::Signals::new()?
        };
        Ok(Self { runtime, signals })
    }

    /// Looks up the names of a configuration's servers of which nothing is known yet. An error is a
    /// line for each server that for sure has no address.
    pub fn resolve(&self, config: &Config, known: Names) -> Result<Names, Vec<String>> {
        self.runtime.block_on(lookups::find(config, known))
    }

    /// Controls `relay` until each of its `workers` has ended. An error says what went wrong, and
    /// has been logged.
    pub fn run<R: Relay>(self, relay: R, workers: usize, mut setup: Setup) -> Result<(), String> {
        let Self { runtime, signals } = self;
        let ended = runtime.block_on(async {
            let (orders, reports) = setup.parent.talk().map_err(|error| error.to_string())?;
            tokio::spawn(signals.pass_on(reports.clone()));
            Loop::new(relay, workers, setup, reports).run(orders).await
        });
        // Nobody waits for a question that is under way.
        runtime.shutdown_background();
        ended
    }
}

/// Threads for files.
const BLOCKING_THREADS_MAX: usize = 2;
/// How often the parent is told that the workers turn.
const PULSE_EVERY: Duration = Duration::from_secs(1);
/// How often rates are taken.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// Commands of clients that wait to be carried out.
const REQUESTS_MAX: usize = 16;

/// Why nothing more is reloaded.
const ENDING: &str = "the relay is ending";
/// What was asked of the parent.
const RELOADED: &str = "reloaded";
const UPGRADED: &str = "upgraded";
/// Why nothing more is begun.
const BUSY: &str = "busy: another reload or upgrade is under way; try again";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The relay itself ends what is left after the grace; this is when we no longer rely on it.
    Draining {
        until: Instant,
    },
    /// Workers that have not ended by then are left behind.
    Stopping {
        until: Instant,
    },
}

type Loaded = Result<(Config, Names), String>;

struct Loop<R> {
    relay: R,
    origin: Origin,
    config: Config,
    /// The same as it was read, without what administrators have changed in it since.
    written: Config,
    lookups: Lookups,
    prober: Prober,
    rebalance: Rebalance,
    loaded: SystemTime,
    last_reload: Option<ReloadStatus>,
    started: Instant,
    began: SystemTime,
    phase: Phase,
    log: Logger,
    records: Vec<rtrb::Consumer<SessionRecord>>,
    remarks: mpsc::Receiver<String>,
    ends: Ends,
    agents: Agents,
    /// Names by number, for the log.
    listeners: Vec<String>,
    workers_left: usize,
    socket: Option<ControlSocket>,
    pages: Vec<TcpListener>,
    /// Serve the control socket and the statistics.
    clients: Vec<AbortHandle>,
    observer: Observer,
    standings: Standings,
    observed: Instant,
    /// What HAProxy's statistics begin from: somebody has cleared them.
    cleared: Arc<Counted>,
    /// Backends that had no server when one of theirs last came or went.
    unserved: BTreeSet<String>,
    /// Listeners that an administrator has let nobody in.
    closed: Vec<ClosedListener>,
    /// To the workers, of those who ask for sessions.
    questions: sessions::Questions,
    parent: Parent,
    reports: mpsc::UnboundedSender<Report>,
    /// Earlier generations that let their sessions end.
    retiring: Vec<i32>,
    pulse: Instant,
    reload: Option<JoinHandle<Loaded>>,
    /// What the parent was asked for and has not answered: "reloaded" or "upgraded".
    renewing: Option<&'static str>,
    /// Who waits for the reload or the upgrade under way.
    reload_waiters: Vec<oneshot::Sender<String>>,
    /// The file may have changed since the reload under way read it.
    reload_again: bool,
    failure: Option<String>,
}

impl<R: Relay> Loop<R> {
    fn new(relay: R, workers: usize, setup: Setup, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            listeners: listener_names(&setup.config, &relay.doors()),
            relay,
            origin: setup.origin,
            written: setup.config.clone(),
            config: setup.config,
            lookups: Lookups::new(setup.names),
            prober: Prober::new(),
            rebalance: Rebalance::new(),
            loaded: SystemTime::now(),
            last_reload: None,
            started: Instant::now(),
            began: SystemTime::now(),
            phase: Phase::Serving,
            log: setup.log,
            records: setup.records,
            remarks: setup.remarks,
            ends: Ends::new(),
            agents: Agents::default(),
            workers_left: workers,
            socket: setup.socket,
            pages: setup.pages,
            clients: Vec::new(),
            observer: Observer::default(),
            standings: Standings::default(),
            observed: Instant::now(),
            cleared: Arc::default(),
            unserved: BTreeSet::new(),
            closed: setup.closed,
            questions: sessions::Questions::default(),
            parent: setup.parent,
            reports,
            retiring: Vec::new(),
            pulse: Instant::now(),
            reload: None,
            renewing: None,
            reload_waiters: Vec::new(),
            reload_again: false,
            failure: None,
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), String> {
        let (requests, mut inbox) = mpsc::channel(REQUESTS_MAX);
        if let Some(socket) = self.socket.take() {
            self.clients.push(
                tokio::spawn(socket.serve(self.config.control.level, requests.clone()))
                    .abort_handle(),
            );
        }
        let (questions, mut asked) = mpsc::channel(REQUESTS_MAX);
        for page in std::mem::take(&mut self.pages) {
            if let Ok(address) = page.local_addr() {
                self.log.info(format_args!("statistics on http://{address}/"));
            }
            let serving = tokio::spawn(http::serve(
                page,
                Questions(questions.clone()),
                self.config.stats.clone(),
            ));
            self.clients.push(serving.abort_handle());
        }
        for complaint in self.lookups.names.complaints() {
            self.log.warn(complaint);
        }
        self.remember_names();
        self.check_servers();
        let mut tick = interval(log::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.workers_left > 0 {
            tokio::select! {
                Some(order) = orders.recv() => self.on_order(order),
                Some(request) = inbox.recv() => self.on_request(request),
                Some(question) = asked.recv() => self.on_question(question),
                loaded = reload::loaded(&mut self.reload) => self.on_loaded(loaded),
                answer = self.lookups.answer() => self.on_answer(answer),
                Some(remark) = self.remarks.recv() => self.log.warn(remark),
                verdict = self.prober.verdict() => self.on_verdict(&verdict),
                _ = tick.tick() => self.on_tick(),
                () = deadline(self.phase) => self.on_deadline(),
            }
        }
        self.tell_ends();
        self.log.info("ended");
        self.failure.map_or(Ok(()), Err)
    }

    /// Writes of the sessions that have ended.
    fn tell_ends(&mut self) {
        let scene = || Scene::new(&self.relay.status(), &self.listeners);
        let (agents, ends, now) = (&mut self.agents, &mut self.ends, Instant::now());
        let standings = &mut self.standings;
        self.log.sessions(&mut self.records, &self.listeners, scene, |at, record| {
            agents.note(&record, now);
            if let Some(server) = record.server.as_ref().filter(|_| !record.queued.time.is_zero()) {
                standings.waited(server.name(), record.queued.time);
            }
            ends.note(at, record);
        });
    }

    fn on_tick(&mut self) {
        for exit in self.relay.ended() {
            self.on_exit(&exit);
        }
        self.tell_ends();
        self.answer_questions();
        if self.phase == Phase::Serving {
            self.mind_servers();
        }
        if self.observed.elapsed() >= OBSERVE_EVERY {
            self.observed += OBSERVE_EVERY;
            let relay = self.status().relay;
            self.observer.look(&relay);
            self.standings.look(&relay, stat::status);
            // Where nobody is let in any more everybody would fall silent.
            if self.phase == Phase::Serving && self.closed.is_empty() {
                self.mind_agents();
            }
        }
        if self.parent.watched && self.pulse.elapsed() >= PULSE_EVERY {
            self.pulse = Instant::now();
            if self.relay.is_turning() {
                self.report(Report::Turning);
            }
        }
    }

    /// The parent hears it before this process ends; if it does not, it is gone, and we with it.
    fn report(&self, report: Report) {
        let _ = self.reports.send(report);
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Reload => self.begin_reload(),
            Order::Drain => self.begin_drain(self.config.global.drain),
            Order::Stop => self.begin_stop("was told to end at once"),
            Order::Retire { answer } => self.retire(answer),
            Order::Refused { why } => self.on_refused(why),
            Order::Retiring { processes } => self.retiring = processes,
        }
    }

    /// Another generation serves the same listeners. What waits in their queues may be taken by
    /// either; those of listeners that are no more are this one's alone, and are emptied.
    fn retire(&mut self, answer: String) {
        self.finish_reload(Ok(answer));
        // The successor's clients come through the same socket.
        for clients in self.clients.drain(..) {
            clients.abort();
        }
        self.begin_drain(self.config.global.retire);
    }

    fn on_refused(&mut self, why: String) {
        self.finish_reload(Err(why));
        if self.failure.is_some() {
            // Without one of its workers it cannot go on; the parent starts another in its place.
            self.begin_drain(self.config.global.drain);
        }
    }

    /// Asks the parent for another generation.
    fn renew(&mut self, config: &Config, why: String) {
        self.renewing = Some(RELOADED);
        self.report(Report::Renew { config: config.render(), why });
    }

    fn on_request(&mut self, request: socket::Request) {
        let answer = match request.command {
            Command::Status => self.status().render(),
            Command::StatusJson => {
                serde_json::to_string(&Told::new(&self.status(), &self.log.recent()))
                    .unwrap_or_else(|error| format!("{}{error}", socket::REFUSAL))
            }
            Command::Show(show) => show.answer(&self.snapshot()),
            Command::Agents { json } => self.answer_agents(json),
            Command::Ends(question) => self.ends.answer(&question, &self.listeners),
            Command::Change(change) => self.change(&change),
            Command::Sessions(only) => return self.ask_sessions(only, request.answer),
            Command::EndSession(id) => return self.end_session(id, request.answer),
            Command::Drain if self.phase == Phase::Serving => {
                self.report(Report::End { at_once: false });
                "draining".to_owned()
            }
            Command::Drain => format!("{}already ending", socket::REFUSAL),
            Command::Reload if self.renewing.is_none() => {
                self.reload_waiters.push(request.answer);
                self.begin_reload();
                return;
            }
            Command::Upgrade(binary) if self.is_idle() => {
                self.reload_waiters.push(request.answer);
                self.renewing = Some(UPGRADED);
                self.report(Report::Upgrade { binary });
                return;
            }
            Command::Reload | Command::Upgrade(_) => format!("{}{BUSY}", socket::REFUSAL),
        };
        // A client that has gone does not want its answer.
        let _ = request.answer.send(answer);
    }

    /// The statistics ask. One who has gone does not want the answer.
    fn on_question(&mut self, question: http::Question) {
        match question {
            http::Question::Snapshot(answer) => drop(answer.send(Arc::new(self.snapshot()))),
            http::Question::Change(http::Order { who, changes, answer }) => {
                self.log.info(format_args!("{who} changes servers on the page of the statistics"));
                let answers = changes.iter().map(|change| self.change(change)).collect();
                drop(answer.send(answers));
            }
        }
    }

    /// Whether neither a reload nor an upgrade is under way.
    fn is_idle(&self) -> bool {
        self.renewing.is_none() && self.reload.is_none()
    }

    /// Told again, it takes the shorter grace.
    fn begin_drain(&mut self, grace: Duration) {
        let mut until = Instant::now() + grace + STOP_PATIENCE;
        match self.phase {
            Phase::Serving => {}
            Phase::Draining { until: before } => until = until.min(before),
            Phase::Stopping { .. } => return,
        }
        self.prober.end();
        self.log.info(format_args!(
            "draining: accepting no more; sessions may go on for {} s",
            grace.as_secs_f32()
        ));
        self.phase = Phase::Draining { until };
        self.relay.drain(grace);
    }

    fn begin_stop(&mut self, why: &str) {
        if !matches!(self.phase, Phase::Stopping { .. }) {
            self.log.warn(format_args!("{why}: ending all sessions"));
            self.phase = Phase::Stopping { until: Instant::now() + STOP_PATIENCE };
            self.relay.stop();
        }
    }

    fn on_deadline(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) {
            self.begin_stop("draining took too long");
            return;
        }
        let left = std::mem::take(&mut self.workers_left);
        self.fail(format!("{left} workers did not end in time and are left behind"));
    }

    /// The first failure is the process's.
    fn fail(&mut self, failure: String) {
        self.log.error(&failure);
        self.failure.get_or_insert(failure);
    }

    fn on_exit(&mut self, exit: &WorkerExit) {
        self.workers_left -= 1;
        let unasked = self.phase == Phase::Serving;
        match &exit.result {
            Err(error) => self.fail(format!("{} cannot go on: {error}", exit.name)),
            Ok(()) if unasked => self.fail(format!("{} ended unasked", exit.name)),
            Ok(()) => {}
        }
        // Connections wait in its share of the queues meanwhile.
        if unasked && self.workers_left > 0 && self.renewing.is_none() {
            let config = self.written.clone();
            self.renew(&config, format!("{} has ended", exit.name));
        }
    }
}

/// By [`ListenerId`](crate::op::ListenerId).
fn listener_names(config: &Config, doors: &[usize]) -> Vec<String> {
    doors.iter().map(|&door| config.listeners[door].name.clone()).collect()
}

async fn deadline(phase: Phase) {
    match phase {
        Phase::Serving => pending().await,
        Phase::Draining { until } | Phase::Stopping { until } => sleep_until(until).await,
    }
}
