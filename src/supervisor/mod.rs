//! Starts one worker a core, tells all of them what changes, and sees them end.
//!
//! Everything here happens on the main thread: at the start, or when the control loop asks. The
//! order of the start matters: sockets and bells are made in the main descriptor table, then the
//! workers split off tables of their own, and only when all have done so does anything else go on.

mod error;
mod instance;
pub mod limits;
mod plan;
mod status;
mod thread;

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub use error::StartError;

use crate::config::{Config, EngineChoice, Origin, Pin};
use crate::control::{
    self, Addresses, Control, ControlSocket, Logger, RECORDS_MAX, Relay, RelayStatus, WorkerExit,
    directory,
};
use crate::engine::{EngineLimits, uring};
use crate::metrics::{Counters, SessionRecord};
use crate::sys::{process, socket};
use crate::worker::admission::Quota;
use crate::worker::plan::Plan;
use crate::worker::{Command, Setup};

use instance::Claim;
use limits::{Budget, Host};
use plan::Registry;
use thread::{EngineKind, Spawn, Thread};

/// Runs the relay until it is told to end.
///
/// # Errors
/// Why it did not start, or what went wrong later (which the log has said already).
pub fn run(origin: Origin) -> Result<(), StartError> {
    // splice(2) to a socket whose peer is gone would end the process otherwise.
    process::ignore_broken_pipes().map_err(|errno| StartError::Host {
        what: "whether SIGPIPE is ignored",
        error: errno.into(),
    })?;
    let config = origin.load()?;
    let system = |error| StartError::Host { what: "how to wait for signals", error };
    let control = Control::new().map_err(system)?;
    let addresses =
        control.resolve(&config).map_err(|lines| StartError::Resolve(lines.join("\n")))?;
    let mut supervisor = Supervisor::listen(config.clone(), &addresses)?;
    let log = Logger::stderr(config.log).map_err(system)?;
    // Nobody is served before all that can fail has succeeded.
    let socket = control_socket(&config, supervisor.port(), &log)?;
    supervisor.serve()?;
    for line in supervisor.greeting() {
        log.info(line);
    }
    let records = supervisor.take_records();
    let workers = records.len();
    let setup = control::Setup { origin, config, log, socket, records };
    control.run(supervisor, workers, setup).map_err(StartError::Later)
}

/// A socket that was asked for must be had; without the one nobody asked for the relay still runs.
fn control_socket(
    config: &Config,
    port: u16,
    log: &Logger,
) -> Result<Option<ControlSocket>, StartError> {
    if let Some(path) = &config.control.socket {
        return Ok(Some(ControlSocket::bind(path)?));
    }
    match ControlSocket::bind(&directory::socket(port)) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => {
            log.warn(format_args!("`fanin status` will not reach this relay: {error}"));
            Ok(None)
        }
    }
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
    threads: Vec<Thread>,
    /// This table's references to the workers' listening sockets: given up first when they end,
    /// since a socket that nobody serves would swallow connections. `[worker][listener]`.
    sockets: Vec<Vec<OwnedFd>>,
    /// Where each [`ListenerId`](crate::op::ListenerId) listens, and the index of its listener.
    addresses: Vec<(usize, SocketAddr)>,
    /// Held for as long as the relay listens.
    claims: Vec<Claim>,
}

impl Supervisor {
    /// Finds out what the host carries and opens the listening sockets; the kernel's queues hold who
    /// comes.
    ///
    /// # Errors
    /// Whatever stops it, with the remedy.
    pub fn listen(config: Config, addresses: &Addresses) -> Result<Self, StartError> {
        let host = Host::look()?;
        let budget = Budget::new(&config, &host)?;
        let engine = choose_engine(config.global.engine)?;
        let mut registry = Registry::default();
        let plan = Arc::new(registry.plan(&config, addresses, &host)?);
        let quota = Arc::new(Quota::new(budget.sessions));
        let mut supervisor = Self {
            config,
            host,
            budget,
            engine,
            registry,
            plan,
            quota,
            threads: Vec::new(),
            sockets: Vec::new(),
            addresses: Vec::new(),
            claims: Vec::new(),
        };
        supervisor.open_sockets()?;
        Ok(supervisor)
    }

    /// Starts the workers on the sockets that are open.
    ///
    /// # Errors
    /// When one of them does not come up; those that have are ended when the supervisor is dropped.
    pub fn serve(&mut self) -> Result<(), StartError> {
        for (index, sockets) in (0..).zip(&self.sockets) {
            let thread = self.spawn(index, sockets)?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Opens every worker's socket for every address.
    fn open_sockets(&mut self) -> Result<(), StartError> {
        self.sockets.resize_with(usize::from(self.budget.workers), Vec::new);
        for (number, listener) in self.config.listeners.iter().enumerate() {
            for &bind in &listener.bind {
                self.claims.extend(instance::claim(bind)?);
                let mut address = bind;
                for sockets in &mut self.sockets {
                    let bind = |errno| StartError::Bind { address, errno };
                    let socket = socket::listening(address, listener.backlog).map_err(bind)?;
                    // Port 0: the first worker's choice is everyone's.
                    address = socket::local_address(socket.as_fd()).map_err(bind)?;
                    sockets.push(socket);
                }
                self.addresses.push((number, address));
            }
        }
        Ok(())
    }

    fn spawn(&self, index: u16, sockets: &[OwnedFd]) -> Result<Thread, StartError> {
        let (mailbox, mail) = mpsc::channel();
        let (records, ended) = rtrb::RingBuffer::new(RECORDS_MAX);
        let setup = Setup {
            index,
            workers: self.budget.workers,
            sessions_max: self.budget.sessions_a_worker,
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
            splice: self.config.global.splice,
        };
        let processor = self.processor(index)?;
        let spawn = Spawn { kind: self.engine.0, limits, processor, setup, mailbox };
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

    /// What was decided at the start, for the log: a line each.
    pub fn greeting(&self) -> Vec<String> {
        let Budget { workers, sessions, pipes_a_worker, .. } = self.budget;
        let (kind, why) = &self.engine;
        let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        let mut lines = vec![format!(
            "{workers} workers on {kind}{why}, up to {sessions} sessions, {pipes_a_worker} pipes a worker"
        )];
        for (number, address) in &self.addresses {
            let listener = &self.config.listeners[*number];
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
        self.threads.iter_mut().filter_map(|thread| thread.records.take()).collect()
    }

    /// The port that people know the relay by.
    pub fn port(&self) -> u16 {
        self.addresses.first().map_or(0, |(_, address)| address.port())
    }

    fn reload(&mut self, config: &Config, addresses: &Addresses) -> Result<String, StartError> {
        if let Some(what) = needs_restart(&self.config, config) {
            return Err(StartError::NeedsRestart { what });
        }
        let budget = Budget::new(config, &self.host)?;
        let plan = Arc::new(self.registry.plan(config, addresses, &self.host)?);
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
        Ok(summary)
    }

    fn tell(&self, command: impl Fn(&Arc<Plan>) -> Command) {
        for thread in &self.threads {
            thread.tell(command(&self.plan));
        }
    }

    /// Gives up this table's listeners, so that the workers' are the last.
    fn unlisten(&mut self) {
        self.sockets.clear();
        self.claims.clear();
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

    fn apply(&mut self, config: &Config, addresses: &Addresses) -> Result<String, String> {
        self.reload(config, addresses).map_err(|error| error.to_string())
    }

    fn drain(&mut self, grace: Duration) {
        self.unlisten();
        self.tell(|_| Command::Drain { grace });
    }

    fn stop(&mut self) {
        self.unlisten();
        self.tell(|_| Command::Stop);
    }

    fn ended(&mut self) -> Vec<WorkerExit> {
        let reap = |thread: &mut Thread| {
            let result = thread.reap()?;
            Some(WorkerExit { index: thread.index, result })
        };
        self.threads.iter_mut().filter_map(reap).collect()
    }
}

/// What differs between two configurations that a reload cannot change.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    let binds = |config: &Config| -> Vec<_> {
        config.listeners.iter().map(|listener| (listener.bind.clone(), listener.backlog)).collect()
    };
    let (was, is) = (&old.global, &new.global);
    [
        (binds(old) != binds(new), "the listeners' addresses and backlogs ([[listener]] bind)"),
        (was.workers != is.workers, "the number of workers ([global] workers)"),
        (was.engine != is.engine, "the engine ([global] engine)"),
        (was.splice != is.splice, "the splice mode ([global] splice)"),
        (was.pin != is.pin, "the pinning of workers ([global] pin)"),
        (was.pipe_bytes != is.pipe_bytes, "the size of pipes ([global] pipe_size)"),
        (was.pipes != is.pipes, "the number of pipes ([global] pipes)"),
        (old.control != new.control, "the control socket ([control] socket)"),
        (old.log.format != new.log.format, "the log's format ([log] format)"),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
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
