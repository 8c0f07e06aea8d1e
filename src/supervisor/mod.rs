//! A relay process: starts one worker a core, tells all of them what changes, and sees them end.
//!
//! Everything here happens on the main thread: at the start, or when the control loop asks. The
//! order of the start matters: sockets are inherited and bells made in the main descriptor table,
//! then the workers split off tables of their own, and only when all have done so does anything else
//! go on.

mod doors;
mod error;
mod generation;
pub mod limits;
mod plan;
mod status;
mod thread;
mod ways;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

pub use error::StartError;

use crate::backend::board::Board;
use crate::config::{Config, EngineChoice, Listener, Origin, Overrides, Pin};
use crate::confinement::{self, Narrowing, Sandbox};
use crate::control::{
    self, Addresses, Applied, Control, ControlSocket, Level, Logger, Names, Parent, RECORDS_MAX,
    Relay, RelayStatus, WorkerExit,
};
use crate::engine::{EngineLimits, uring};
use crate::gate::Quota;
use crate::handover::{self, Administered, ClosedListener, FORMAT, Report, Shared, ToRelay};
use crate::metrics::{CloseReason, Counters, SessionPlace, SessionRecord, SessionView};
use crate::sys::{process, socket};
use crate::worker::listing::Listing;
use crate::worker::plan::Plan;
use crate::worker::{Command, Setup};

use doors::Doors;
use generation::needs_generation;
use limits::{Budget, Host};
use plan::Registry;
use thread::{EngineKind, Spawn, Thread};

/// How many workers a configuration asks for on this host.
///
/// # Errors
/// When the host's limits do not carry it.
pub fn workers(config: &Config) -> Result<u16, StartError> {
    Budget::new(config, &Host::look()?).map(|budget| budget.workers)
}

/// Runs a relay process until its parent tells it to end. That it serves, or why it does not, is
/// told to the parent.
///
/// # Errors
/// Why it did not start, or what went wrong later; both have been said already.
pub fn run(origin: Origin, left: ToRelay) -> Result<(), StartError> {
    let link = UnixStream::from(process::inherited(left.link));
    let report = |report: &Report| handover::line(report).and_then(|line| (&link).write_all(&line));
    match prepare(origin, left) {
        Ok(prepared) => {
            let ready = Report::Ready { version: env!("CARGO_PKG_VERSION").to_owned() };
            report(&ready).map_err(lost)?;
            prepared.run(link)
        }
        Err(error) => {
            let code = error.exit_code() as u8;
            report(&Report::Failed { message: error.to_string(), code }).map_err(lost)?;
            Err(error)
        }
    }
}

fn lost(error: io::Error) -> StartError {
    StartError::Host { what: "whether the parent listens", error }
}

/// A relay process that serves.
#[derive(Debug)]
struct Prepared {
    control: Control,
    supervisor: Supervisor,
    setup: control::Setup,
}

impl Prepared {
    fn run(self, link: UnixStream) -> Result<(), StartError> {
        let Self { control, supervisor, mut setup } = self;
        for line in supervisor.greeting() {
            setup.log.info(line);
        }
        let sandbox = &supervisor.sandbox;
        let level = if sandbox.on { Level::Info } else { Level::Warn };
        setup.log.event(level, format_args!("sandbox: {}", sandbox.summary()));
        for line in sandbox.warnings() {
            setup.log.warn(format_args!("sandbox: {line}"));
        }
        if let Some(file) = setup.origin.path()
            && let Err(error) = File::open(file)
        {
            let (user, file) = (&sandbox.user, file.display());
            setup.log.warn(format_args!(
                "a reload will not be able to read {file} as user {user}: {error}; have that user read it"
            ));
        }
        setup.parent.link = Some(link);
        let workers = setup.records.len();
        control.run(supervisor, workers, setup).map_err(StartError::Later)
    }
}

/// Everything that can fail, in an order in which a failure costs nobody a connection: the workers
/// come last.
fn prepare(origin: Origin, left: ToRelay) -> Result<Prepared, StartError> {
    if left.format != FORMAT {
        return Err(StartError::OtherFormat);
    }
    let host = |what| move |errno: Errno| StartError::Host { what, error: errno.into() };
    process::name(c"fanin").map_err(host("its name"))?;
    // splice(2) to a socket whose peer is gone would end the process otherwise.
    process::ignore_broken_pipes().map_err(host("whether SIGPIPE is ignored"))?;
    let text = Path::new("the configuration in force");
    let config = Config::from_text(text, &left.config, &Overrides::default())?;
    let system = |error| StartError::Host { what: "how to wait for signals", error };
    // While there is one thread: the others inherit it.
    let sandbox = confinement::step_down(&config.global)?;
    // Only now: the kernel forgets it when a process gives up rights.
    process::end_with_parent(Pid::from_raw(left.parent)).map_err(host("who the parent is"))?;
    let control = Control::new().map_err(system)?;
    let names = control
        .resolve(&config, Names::recall(left.names))
        .map_err(|lines| StartError::Resolve(lines.join("\n")))?;
    let addresses = names.addresses(&config);
    let mut supervisor =
        Supervisor::listen(config.clone(), &addresses, left.sockets, &left.closed)?;
    let pages = pages(left.pages)?;
    supervisor.confine(sandbox, origin.path());
    // From here on threads are started.
    let narrow = supervisor.narrowing.as_ref().map(|narrowing| &narrowing.log);
    let log = Logger::open(config.log.clone(), narrow).map_err(system)?;
    supervisor.administer(&left.administered);
    supervisor.serve()?;
    let setup = control::Setup {
        origin,
        config,
        names,
        log,
        pages,
        socket: left.control.map(|(number, path)| ControlSocket::inherit(number, path, None)),
        parent: Parent {
            process: left.parent,
            generation: left.generation,
            watched: left.watched,
            link: None,
        },
        closed: left.closed,
        records: supervisor.take_records(),
        remarks: supervisor.agents.take_remarks(),
    };
    Ok(Prepared { control, supervisor, setup })
}

/// The relay as a whole.
#[derive(Debug)]
pub struct Supervisor {
    config: Config,
    host: Host,
    budget: Budget,
    engine: (EngineKind, Option<String>),
    registry: Registry,
    plan: Arc<Plan>,
    quota: Arc<Quota>,
    threads: Vec<Thread<Command>>,
    /// This table's references to the workers' listening sockets, by door: given up first when they
    /// end, since a socket that nobody serves would swallow connections.
    sockets: Vec<Vec<OwnedFd>>,
    /// By [`ListenerId`](crate::op::ListenerId): so many that workers serve, then those of the agent
    /// doors.
    doors: Vec<Door>,
    worked: usize,
    agents: Doors,
    sandbox: Sandbox,
    /// What threads are narrowed to.
    narrowing: Option<Narrowing>,
}

/// What a [`ListenerId`](crate::op::ListenerId) stands for in every thread.
#[derive(Clone, Debug)]
struct Door {
    /// Its listener, by its place in the configuration.
    listener: usize,
    address: SocketAddr,
    /// Its sockets, by their place in [`Supervisor::sockets`].
    place: usize,
    /// A worker that has several sockets of one address has several doors to it.
    round: usize,
}

impl Supervisor {
    /// Finds out what the host carries and listens on the sockets that were inherited; the kernel's
    /// queues hold who comes.
    ///
    /// # Errors
    /// Whatever stops it, with the remedy.
    pub fn listen(
        config: Config,
        addresses: &Addresses,
        inherited: Vec<Shared>,
        closed: &[ClosedListener],
    ) -> Result<Self, StartError> {
        let host = Host::look()?;
        let budget = Budget::new(&config, &host)?;
        let engine = choose_engine(config.global.engine)?;
        let (doors, worked) = doors::in_order(&config, &inherited, budget.workers);
        let mut registry = Registry::default();
        let listeners: Vec<usize> = doors.iter().map(|door| door.listener).collect();
        let plan = Arc::new(registry.plan(&config, addresses, &host, &listeners, worked)?);
        let own = doors::own(&doors, &config);
        let agents = registry.doors(&config, &plan, &doors::numbered(&doors, worked), own);
        let agents = Doors::new(&config, &host, agents)?;
        let sockets = listen(&config, inherited, closed)?;
        let quota = Arc::new(Quota::new(budget.sessions));
        Ok(Self {
            config,
            host,
            budget,
            engine,
            registry,
            plan,
            quota,
            threads: Vec::new(),
            sockets,
            doors,
            worked,
            agents,
            sandbox: Sandbox::default(),
            narrowing: None,
        })
    }

    /// Gives up what serving does not take. The threads that are started afterwards inherit that.
    fn confine(&mut self, mut sandbox: Sandbox, file: Option<&Path>) {
        let rings = self.engine.0 == EngineKind::Uring;
        self.narrowing = confinement::close(&mut sandbox, &self.config, file, rings);
        self.sandbox = sandbox;
    }

    /// Starts the workers and the agent doors on the sockets that are open.
    ///
    /// # Errors
    /// When one of them does not come up; those that have are ended when the supervisor is dropped.
    pub fn serve(&mut self) -> Result<(), StartError> {
        for index in 0..self.budget.workers {
            let thread = self.spawn(index, &self.sockets_of(index))?;
            self.threads.push(thread);
        }
        let narrowing = self.narrowing.as_ref();
        if let Some(narrowing) = narrowing {
            narrowing.ringless.apply().map_err(|error| StartError::Narrow { error })?;
        }
        // These are theirs alone: whoever holds one in this table keeps it open.
        let theirs = self.doors[self.worked..].iter();
        let sockets = theirs.map(|door| std::mem::take(&mut self.sockets[door.place])).collect();
        let threads = self.config.global.door_threads;
        let threads = threads.unwrap_or_else(|| self.budget.workers.div_ceil(2));
        let lanes = self.threads.iter_mut().filter_map(Thread::take_lane).collect();
        let narrow = narrowing.map(|narrowing| &narrowing.door);
        self.agents.serve(threads, &self.quota, sockets, lanes, narrow)
    }

    /// A worker's socket for each door. An address may have more sockets than there are workers, as
    /// none is closed when a reload lowers their number, or fewer, if they came from outside: a
    /// socket is served by one worker at least, and may be by several.
    fn sockets_of(&self, worker: u16) -> Vec<BorrowedFd<'_>> {
        let workers = usize::from(self.budget.workers);
        let socket = |door: &Door| {
            let sockets = &self.sockets[door.place];
            sockets[(usize::from(worker) + door.round * workers) % sockets.len()].as_fd()
        };
        self.doors[..self.worked].iter().map(socket).collect()
    }

    fn spawn(&self, index: u16, sockets: &[BorrowedFd<'_>]) -> Result<Thread<Command>, StartError> {
        let (mailbox, mail) = mpsc::channel();
        let (records, ended) = rtrb::RingBuffer::new(RECORDS_MAX);
        let setup = Setup {
            index,
            workers: self.budget.workers,
            sessions_max: self.budget.sessions_a_worker,
            spares_max: self.budget.spares_a_worker,
            plan: Arc::clone(&self.plan),
            quota: Arc::clone(&self.quota),
            counters: Arc::new(Counters::default()),
            mailbox: mail,
            records,
            seed: process::monotonic_micros()
                ^ u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let limits = EngineLimits {
            sessions_max: self.budget.sessions_a_worker,
            pipes_max: self.budget.pipes_a_worker,
            pipe_bytes: self.config.global.pipe_bytes,
            latency_budget: self.config.global.latency_budget,
            splice: self.config.global.splice,
        };
        let processor = self.processor(index)?;
        let narrow = self.narrowing.as_ref().map(|narrowing| narrowing.worker.clone());
        let spawn = Spawn { kind: self.engine.0, limits, processor, setup, mailbox, narrow };
        Thread::spawn(spawn, ended, sockets)
    }

    /// The CPU that a worker stays on, if it stays on one.
    fn processor(&self, index: u16) -> Result<Option<u16>, StartError> {
        let allowed = &self.host.processors;
        let list = match &self.config.global.pin {
            Pin::Off => return Ok(None),
            Pin::Auto => allowed,
            Pin::List(list) => list,
        };
        let processor = list[usize::from(index) % list.len()];
        if !allowed.contains(&processor) {
            return Err(StartError::Pin { processor, allowed: limits::list(allowed) });
        }
        Ok(Some(processor))
    }

    /// What an administrator wanted of servers in an earlier process stays so.
    fn administer(&self, servers: &[Administered]) {
        for Administered { backend, server, admin, weight } in servers {
            let named = self.config.backends.iter().position(|of| of.name == *backend);
            let Some(backend) = named else { continue };
            let servers = &self.config.backends[backend].servers;
            if let Some(place) = servers.iter().position(|of| of.name == *server) {
                let board = self.board(backend, place);
                board.administer(*admin, process::monotonic_micros());
                board.reweigh(*weight);
            }
        }
    }

    /// What was decided at the start, for the log: a line each.
    pub fn greeting(&self) -> Vec<String> {
        let Budget { workers, sessions, pipes_a_worker, .. } = self.budget;
        let (kind, why) = &self.engine;
        let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        let mut lines = vec![format!(
            "{workers} workers on {kind}{why}, up to {sessions} sessions, {pipes_a_worker} pipes a worker"
        )];
        for door in self.doors.iter().filter(|door| door.round == 0) {
            let (listener, address) = (&self.config.listeners[door.listener], door.address);
            let backend = self.config.backend_of(listener);
            lines.push(format!(
                "listening on {address} (listener {}, backend {}, {} servers)",
                listener.name,
                backend.name,
                backend.servers.len()
            ));
        }
        lines
    }

    /// The workers' rings of ended sessions, to be emptied by the log.
    pub fn take_records(&mut self) -> Vec<rtrb::Consumer<SessionRecord>> {
        let workers = self.threads.iter_mut().filter_map(|thread| thread.records.take());
        let doors = self.agents.threads.iter_mut().filter_map(|thread| thread.records.take());
        workers.chain(doors).collect()
    }

    fn reload(&mut self, config: &Config, addresses: &Addresses) -> Result<Applied, StartError> {
        if let Some(what) = needs_generation(&self.config, config) {
            return Ok(Applied::Needs(what));
        }
        let budget = self.budget.again(config, &self.host)?;
        let (listeners, worked) = (self.doors(), self.worked);
        let plan = self.registry.plan(config, addresses, &self.host, &listeners, worked)?;
        let plan = Arc::new(plan);
        let doors = doors::numbered(&self.doors, self.worked);
        let own = doors::own(&self.doors, config);
        let agents = self.registry.doors(config, &plan, &doors, own);
        self.agents.replace(config, &self.host, agents);
        self.quota.resize(budget.sessions);
        let summary = format!(
            "{} servers in {} backends, up to {} sessions",
            config.backends.iter().map(|backend| backend.servers.len()).sum::<usize>(),
            config.backends.len(),
            budget.sessions,
        );
        self.budget = budget;
        self.config = config.clone();
        self.plan = plan;
        self.tell(|plan| Command::Replace(Arc::clone(plan)));
        Ok(Applied::Now(summary))
    }

    fn tell(&self, command: impl Fn(&Arc<Plan>) -> Command) {
        for thread in &self.threads {
            thread.tell(command(&self.plan));
        }
    }

    /// Gives up this table's listeners, so that the workers' are the last.
    fn unlisten(&mut self) {
        self.sockets.clear();
    }
}

impl Drop for Supervisor {
    /// A worker whose mailbox is gone ends; the bell has it look.
    fn drop(&mut self) {
        self.tell(|_| Command::Stop);
    }
}

impl Relay for Supervisor {
    fn status(&self) -> RelayStatus {
        self.describe()
    }

    fn apply(&mut self, config: &Config, addresses: &Addresses) -> Result<Applied, String> {
        self.reload(config, addresses).map_err(|error| error.to_string())
    }

    fn doors(&self) -> Vec<usize> {
        self.doors.iter().map(|door| door.listener).collect()
    }

    fn board(&self, backend: usize, server: usize) -> &Arc<Board> {
        &self.plan.backends[backend].members[server].board
    }

    fn expel(&self, backend: usize, server: usize, reason: CloseReason) {
        let server = self.board(backend, server);
        self.tell(|_| Command::Expel { server: Arc::clone(server), reason });
    }

    fn shed(&self, backend: usize, server: usize, sessions: u32) {
        let server = self.board(backend, server);
        let left = Arc::new(AtomicU32::new(sessions));
        self.tell(|_| Command::Shed {
            server: Arc::clone(server),
            sessions,
            left: Arc::clone(&left),
        });
    }

    fn list(&self) -> Vec<(u16, mpsc::Receiver<Vec<SessionView>>)> {
        let ask = |thread: &Thread<Command>| {
            let (answer, answered) = mpsc::sync_channel(1);
            // Sessions that begin meanwhile find room too, most likely.
            let sessions = thread.counters.read().sessions;
            let room =
                Vec::with_capacity(usize::try_from(sessions + sessions / 8 + 64).unwrap_or(64));
            thread.tell(Command::List(Listing { room, answer }));
            (thread.index, answered)
        };
        self.threads.iter().map(ask).collect()
    }

    fn end_session(&self, worker: u16, session: SessionPlace) -> Option<mpsc::Receiver<bool>> {
        let (answer, answered) = mpsc::sync_channel(1);
        let thread = self.threads.iter().find(|thread| thread.index == worker)?;
        thread.tell(Command::End { session, answer });
        Some(answered)
    }

    fn forget_highest(&self) {
        for backend in &self.plan.backends {
            backend.members.iter().for_each(|member| member.board.forget_highest());
            backend.queue.forget_most();
        }
        let worked = self.plan.routes.iter().map(|route| (&route.quota, &route.traffic));
        let agents = self.agents.plan.routes.iter().map(|route| (&route.quota, &route.traffic));
        worked.chain(agents).for_each(|(quota, traffic)| traffic.forget_highest(quota.taken()));
    }

    fn is_turning(&mut self) -> bool {
        // Every one is asked, whatever the others answer.
        let still =
            self.threads.iter_mut().filter_map(|thread| (!thread.has_turned()).then_some(()));
        let doors = self.agents.threads.iter_mut();
        let doors = doors.filter_map(|thread| (!thread.has_turned()).then_some(()));
        still.chain(doors).count() == 0
    }

    fn drain(&mut self, grace: Duration) {
        self.unlisten();
        self.tell(|_| Command::Drain { grace });
        self.agents.drain(grace);
    }

    fn stop(&mut self) {
        self.unlisten();
        self.tell(|_| Command::Stop);
        self.agents.stop();
    }

    fn ended(&mut self) -> Vec<WorkerExit> {
        let workers = self.threads.iter_mut().filter_map(Thread::reap);
        workers.chain(self.agents.threads.iter_mut().filter_map(Thread::reap)).collect()
    }
}

/// Listens on what was inherited: only now does the kernel lead clients to what is new in it.
fn listen(
    config: &Config,
    inherited: Vec<Shared>,
    closed: &[ClosedListener],
) -> Result<Vec<Vec<OwnedFd>>, StartError> {
    let listeners = config.listeners.iter();
    let listeners = listeners.flat_map(|listener| listener.bind.iter().map(move |_| listener));
    let open = |(shared, listener): (Shared, &Listener)| {
        let is_closed = closed.iter().any(|one| one.name == listener.name);
        let listen = |number| {
            let socket = process::inherited(number);
            if !is_closed {
                socket::listen(&socket, listener.backlog)
                    .map_err(|errno| StartError::Bind { address: shared.address, errno })?;
            }
            Ok(socket)
        };
        shared.numbers.into_iter().map(listen).collect()
    };
    inherited.into_iter().zip(listeners).map(open).collect()
}

/// The sockets of the statistics: a page waits for nobody, so that few wait for it.
fn pages(inherited: Vec<Shared>) -> Result<Vec<TcpListener>, StartError> {
    const BACKLOG: u32 = 128;
    let mut pages = Vec::new();
    for shared in inherited {
        for number in shared.numbers {
            let socket = process::inherited(number);
            socket::listen(&socket, BACKLOG)
                .map_err(|errno| StartError::Bind { address: shared.address, errno })?;
            pages.push(TcpListener::from(socket));
        }
    }
    Ok(pages)
}

/// The engine to run, and why that one.
fn choose_engine(choice: EngineChoice) -> Result<(EngineKind, Option<String>), StartError> {
    match choice {
        EngineChoice::Epoll => Ok((EngineKind::Epoll, None)),
        EngineChoice::IoUring => match uring::probe() {
            Ok(()) => Ok((EngineKind::Uring, None)),
            Err(error) => Err(StartError::Engine { reason: error.to_string() }),
        },
        EngineChoice::Auto => Ok(match uring::probe() {
            Ok(()) => (EngineKind::Uring, None),
            Err(error) => (EngineKind::Epoll, Some(format!("io_uring cannot run here: {error}"))),
        }),
    }
}
