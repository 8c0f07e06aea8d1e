//! Starts one worker a core, tells all of them what changes, and sees them end.
//!
//! Everything here happens on the main thread: at the start, or when the control loop asks. The
//! order of the start matters: sockets and bells are made in the main descriptor table, then the
//! workers split off tables of their own, and only when all have done so does anything else go on.

mod error;
mod instance;
mod limits;
mod plan;
mod thread;

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};

pub use error::StartError;

use crate::config::{Config, EngineChoice, Origin, Pin};
use crate::engine::{EngineLimits, uring};
use crate::metrics::Counters;
use crate::sys::{process, socket};
use crate::worker::{Command, Setup};
use crate::worker::admission::Quota;
use crate::worker::plan::Plan;

use instance::Claim;
use limits::{Budget, Host};
use plan::{Registry, Resolved};
use thread::{EngineKind, Spawn, Thread};

/// Records of ended sessions that may wait for the log in each worker's ring; 40 ms at 25,000
/// sessions a second, of which the log's tick takes 50.
const RECORDS_MAX: usize = 4096;

/// The relay as a whole.
#[derive(Debug)]
pub struct Supervisor {
    origin: Origin,
    config: Config,
    host: Host,
    budget: Budget,
    engine: (EngineKind, String),
    registry: Registry,
    plan: Arc<Plan>,
    quota: Arc<Quota>,
    threads: Vec<Thread>,
    /// This table's references to the workers' listening sockets: given up first when they end,
    /// since a socket that nobody serves would swallow connections.
    sockets: Vec<OwnedFd>,
    /// Where each [`ListenerId`] listens, and the index of its listener in the configuration.
    addresses: Vec<(usize, SocketAddr)>,
    claims: Vec<Claim>,
}

impl Supervisor {
    /// Listens and starts the workers.
    ///
    /// # Errors
    /// Whatever stops it, with the remedy; nothing is left running then.
    pub fn start(origin: Origin, config: Config, resolved: &Resolved) -> Result<Self, StartError> {
        let host = Host::look()?;
        let budget = Budget::new(&config, &host)?;
        let engine = choose_engine(config.global.engine)?;
        let mut registry = Registry::default();
        let plan = Arc::new(registry.plan(&config, resolved, &host)?);
        let quota = Arc::new(Quota::new(budget.sessions));
        let mut supervisor = Self {
            origin,
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
        let listeners = supervisor.listen()?;
        for (index, sockets) in (0..).zip(listeners) {
            let thread = supervisor.spawn(index, &sockets)?;
            supervisor.threads.push(thread);
            supervisor.sockets.extend(sockets);
        }
        Ok(supervisor)
    }

    /// Opens every worker's socket for every address: `[worker][listener]`.
    fn listen(&mut self) -> Result<Vec<Vec<OwnedFd>>, StartError> {
        let workers = usize::from(self.budget.workers);
        let mut sockets: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
        for (number, listener) in self.config.listeners.iter().enumerate() {
            for &bind in &listener.bind {
                self.claims.extend(instance::claim(bind)?);
                let mut address = bind;
                for sockets in &mut sockets {
                    let bind = |errno| StartError::Bind { address, errno };
                    let socket = socket::listening(address, listener.backlog).map_err(bind)?;
                    // Port 0: the first worker's choice is everyone's.
                    address = socket::local_address(socket.as_fd()).map_err(bind)?;
                    sockets.push(socket);
                }
                self.addresses.push((number, address));
            }
        }
        Ok(sockets)
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
            seed: process::monotonic_micros() ^ u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15),
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

    /// Reads the configuration again and has the workers live by it. No connection is touched;
    /// whatever is wrong leaves everything as it was.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn reload(&mut self, config: Config, resolved: &Resolved) -> Result<(), StartError> {
        if let Some(what) = needs_restart(&self.config, &config) {
            return Err(StartError::NeedsRestart { what });
        }
        let budget = Budget::new(&config, &self.host)?;
        // Bad source ports are found before anything that workers share has changed.
        for backend in &config.backends {
            limits::source_ports(backend.source.ports, &self.host)?;
        }
        self.plan = Arc::new(self.registry.plan(&config, resolved, &self.host)?);
        self.quota.resize(budget.sessions);
        self.budget = budget;
        self.config = config;
        for thread in &self.threads {
            thread.tell(Command::Replace(Arc::clone(&self.plan)));
        }
        Ok(())
    }

    /// No more connections; sessions may go on for the configured time.
    pub fn drain(&mut self) {
        self.sockets.clear();
        for thread in &self.threads {
            thread.tell(Command::Drain { grace: self.config.global.drain });
        }
    }

    /// Everything ends now.
    pub fn stop(&mut self) {
        self.sockets.clear();
        for thread in &self.threads {
            thread.tell(Command::Stop);
        }
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
fn choose_engine(choice: EngineChoice) -> Result<(EngineKind, String), StartError> {
    match choice {
        EngineChoice::Epoll => Ok((EngineKind::Epoll, "as configured".to_owned())),
        EngineChoice::IoUring => match uring::probe() {
            Ok(()) => Ok((EngineKind::Uring, "as configured".to_owned())),
            Err(error) => Err(StartError::Engine { reason: error.to_string() }),
        },
        EngineChoice::Auto => Ok(match uring::probe() {
            Ok(()) => (EngineKind::Uring, "this kernel has all that it needs".to_owned()),
            Err(error) => (EngineKind::Epoll, format!("io_uring cannot run here: {error}")),
        }),
    }
}
