//! The agent doors of a relay process: their threads, and what these are told.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{Config, Mode};
use crate::confinement::Narrow;
use crate::door::users::{Hasher, Question};
use crate::door::{Command, Lane, Plan, Setup};
use crate::gate::Quota;
use crate::gate::sources::Sources;
use crate::handover::Shared;
use crate::metrics::Counters;
use crate::op::ListenerId;
use crate::sys::process;

use super::limits::{self, Host};
use super::thread::Thread;
use super::{Door, StartError};

/// Remarks that wait to be written; more are dropped.
const REMARKS_MAX: usize = 64;
/// Passwords that wait to be checked: two seconds' worth.
const QUESTIONS_MAX: usize = 64;
/// Sources whose log-ins are counted at one time: 1 MiB.
const SOURCES: usize = 1 << 17;

/// What is served by threads of their own.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) plan: Arc<Plan>,
    /// Connections of agents that the main descriptor table carries.
    places: Arc<Quota>,
    pub(super) threads: Vec<Thread<Command>>,
    remark: mpsc::Sender<String>,
    remarks: Option<mpsc::Receiver<String>>,
}

impl Doors {
    /// Doors whose threads are still to be started.
    ///
    /// # Errors
    /// When there are doors, and the host has no descriptors for them.
    pub(super) fn new(config: &Config, host: &Host, plan: Plan) -> Result<Self, StartError> {
        let places = limits::door_places(config, host);
        if places == 0 && !plan.routes.is_empty() {
            return Err(StartError::DoorDescriptors { limit: host.descriptors });
        }
        let (remark, remarks) = mpsc::channel(REMARKS_MAX);
        Ok(Self {
            plan: Arc::new(plan),
            places: Arc::new(Quota::new(places)),
            threads: Vec::new(),
            remark,
            remarks: Some(remarks),
        })
    }

    /// Starts so many threads on these sockets, by route, and narrows them; none without a socket. A
    /// socket is served by one thread at least, and may be by several.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub(super) fn serve(
        &mut self,
        threads: u16,
        process: &Arc<Quota>,
        sockets: Vec<Vec<OwnedFd>>,
        lanes: Vec<Lane>,
        narrow: Option<&Narrow>,
    ) -> Result<(), StartError> {
        if sockets.is_empty() {
            return Ok(());
        }
        let mut shares: Vec<Vec<(usize, OwnedFd)>> = (0..threads).map(|_| Vec::new()).collect();
        for (route, sockets) in sockets.into_iter().enumerate() {
            let copy = |socket: &OwnedFd| {
                socket.try_clone().map_err(|error| StartError::Host { what: "its sockets", error })
            };
            let missing = shares.len().saturating_sub(sockets.len());
            let copies: Vec<_> =
                sockets.iter().cycle().take(missing).map(copy).collect::<Result<_, _>>()?;
            for (number, socket) in sockets.into_iter().chain(copies).enumerate() {
                shares[number % usize::from(threads)].push((route, socket));
            }
        }
        let hasher = hasher(narrow.cloned())?;
        for (index, sockets) in (0..threads).zip(shares) {
            let (tell, mailbox) = mpsc::unbounded_channel();
            let (records, ended) = rtrb::RingBuffer::new(crate::control::RECORDS_MAX);
            let setup = Setup {
                plan: Arc::clone(&self.plan),
                sockets,
                process: Arc::clone(process),
                places: Arc::clone(&self.places),
                counters: Arc::new(Counters::default()),
                mailbox,
                records,
                remarks: self.remark.clone(),
                lanes: lanes.clone(),
                hasher: hasher.clone(),
                threads,
                seed: process::monotonic_micros() ^ (u64::from(index) << 32),
            };
            self.threads.push(Thread::open(index, setup, tell, ended, narrow.cloned())?);
        }
        Ok(())
    }

    /// What an operator should know; once.
    pub(super) fn take_remarks(&mut self) -> mpsc::Receiver<String> {
        self.remarks.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Goes over to another plan.
    pub(super) fn replace(&mut self, config: &Config, host: &Host, plan: Plan) {
        self.places.resize(limits::door_places(config, host));
        self.plan = Arc::new(plan);
        self.tell(|plan| Command::Replace(Arc::clone(plan)));
    }

    pub(super) fn drain(&self, grace: Duration) {
        self.tell(|_| Command::Drain { grace });
    }

    pub(super) fn stop(&self) {
        self.tell(|_| Command::Stop);
    }

    fn tell(&self, command: impl Fn(&Arc<Plan>) -> Command) {
        for thread in &self.threads {
            thread.tell(command(&self.plan));
        }
    }
}

/// The thread that checks passwords: one, so that whoever guesses keeps one processor busy at the most.
/// A password is a stranger's words too, so it has no more than the doors that pass them on.
fn hasher(narrow: Option<Narrow>) -> Result<Hasher, StartError> {
    let (questions, mut asked) = mpsc::channel::<Question>(QUESTIONS_MAX);
    let check = move || {
        let narrowed = narrow.is_none_or(|narrow| narrow.apply().is_ok());
        // Without its signals blocked it would run the handlers of the main thread.
        if narrowed && process::block_signals().is_ok() {
            while let Some(question) = asked.blocking_recv() {
                question.settle();
            }
        }
    };
    let name = "passwords".to_owned();
    let failed = |error| StartError::Thread { name: name.clone(), error };
    Builder::new().name(name.clone()).spawn(check).map_err(failed)?;
    Ok(Hasher { questions, tries: Arc::new(Sources::new(SOURCES)) })
}

/// The listeners' addresses in the order of their numbers: those that workers serve, which may have
/// several sockets of one address each, and then those of the doors.
pub(super) fn in_order(config: &Config, inherited: &[Shared], workers: u16) -> (Vec<Door>, usize) {
    let binds = config.listeners.iter().enumerate();
    let listeners = binds.flat_map(|(number, listener)| listener.bind.iter().map(move |_| number));
    let (mut worked, mut agents) = (Vec::new(), Vec::new());
    for (place, (listener, shared)) in listeners.zip(inherited).enumerate() {
        let door = |round| Door { listener, address: shared.address, place, round };
        match config.listeners[listener].mode {
            Mode::Agent | Mode::Proxy => agents.push(door(0)),
            Mode::Tcp => {
                let rounds = shared.numbers.len().div_ceil(usize::from(workers));
                worked.extend((0..rounds).map(door));
            }
        }
    }
    let count = worked.len();
    worked.append(&mut agents);
    (worked, count)
}

/// The number and the listener of each of these doors.
pub(super) fn numbered(doors: &[Door], from: usize) -> Vec<(ListenerId, usize)> {
    let numbers = (0u16..).map(ListenerId);
    numbers.zip(doors).skip(from).map(|(id, door)| (id, door.listener)).collect()
}

/// Where the process listens.
pub(super) fn own(doors: &[Door], config: &Config) -> Vec<SocketAddr> {
    doors.iter().map(|door| door.address).chain(config.stats.bind.iter().copied()).collect()
}
