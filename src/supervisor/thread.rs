//! The threads of a relay process: a worker's with its descriptor table, its processor and its engine,
//! and a door's.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::confinement::Narrow;
use crate::control::WorkerExit;
use crate::door;
use crate::engine::epoll::Epoll;
use crate::engine::uring::Uring;
use crate::engine::{Engine, EngineLimits};
use crate::metrics::{Counters, SessionRecord};
use crate::op::ListenerId;
use crate::sys::passage;
use crate::sys::process::{self, Bell};
use crate::worker::{Command, Setup, Worker};

use super::StartError;

/// A thread makes its ring or epoll instance in microseconds.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Which engine a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineKind {
    Epoll,
    Uring,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoll => "epoll",
            Self::Uring => "io_uring",
        })
    }
}

/// What a worker's thread is given besides its worker's own things.
#[derive(Debug)]
pub(super) struct Spawn {
    pub(super) kind: EngineKind,
    pub(super) limits: EngineLimits,
    /// The CPU to stay on.
    pub(super) processor: Option<u16>,
    pub(super) setup: Setup,
    pub(super) mailbox: mpsc::Sender<Command>,
    /// What it may still do once it is set up.
    pub(super) narrow: Option<Narrow>,
}

/// A worker or a door's thread that runs, and hears commands `C`.
pub(super) struct Thread<C> {
    name: String,
    pub(super) index: u16,
    pub(super) processor: Option<u16>,
    pub(super) counters: Arc<Counters>,
    /// Sessions that have ended and are not logged yet.
    pub(super) records: Option<rtrb::Consumer<SessionRecord>>,
    /// Leaves a message and wakes the thread. One that has ended hears nothing.
    post: Arc<dyn Fn(C) + Send + Sync>,
    handle: Option<JoinHandle<io::Result<()>>>,
    /// Closed by the thread when it turns.
    pulse: Option<mpsc::Receiver<()>>,
    /// Where a worker is passed what doors have let in.
    passage: Option<OwnedFd>,
}

impl<C> fmt::Debug for Thread<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A command that asks for a sign of life.
pub(super) trait Pulse {
    /// It is obeyed by dropping this.
    fn pulse(heard: mpsc::Sender<()>) -> Self;
}

impl Pulse for Command {
    fn pulse(heard: mpsc::Sender<()>) -> Self {
        Self::Pulse(heard)
    }
}

impl Pulse for door::Command {
    fn pulse(heard: mpsc::Sender<()>) -> Self {
        Self::Pulse(heard)
    }
}

impl Thread<Command> {
    /// Starts a worker on the listening sockets, which the main table keeps as well, and returns
    /// when it has its own descriptor table and listens.
    pub(super) fn spawn(
        spawn: Spawn,
        records: rtrb::Consumer<SessionRecord>,
        listeners: &[BorrowedFd<'_>],
    ) -> Result<Self, StartError> {
        let index = spawn.setup.index;
        let name = format!("worker {index}");
        let failed = |error: io::Error| StartError::Thread { name: name.clone(), error };
        let bell = Arc::new(Bell::new().map_err(|errno| failed(errno.into()))?);
        let heard = Arc::clone(&bell);
        let (processor, counters) = (spawn.processor, Arc::clone(&spawn.setup.counters));
        let mailbox = spawn.mailbox.clone();
        let numbers: Vec<RawFd> = listeners.iter().map(|socket| socket.as_raw_fd()).collect();
        let (passage, far_end) = passage::open().map_err(|errno| failed(errno.into()))?;
        let number = far_end.as_raw_fd();
        let handle = start(&name, move |ready| work(spawn, heard, &numbers, number, ready))?;
        // The bell is kept for as long as the thread may hear it: its number is the same in both tables.
        let post = Arc::new(move |command| {
            if mailbox.send(command).is_ok() {
                bell.ring();
            }
        });
        let (records, handle, passage) = (Some(records), Some(handle), Some(passage));
        Ok(Self { name, index, processor, counters, records, post, handle, pulse: None, passage })
    }
}

impl Thread<Command> {
    /// The way of what doors have let in; once.
    pub(super) fn take_lane(&mut self) -> Option<door::Lane> {
        let passage = self.passage.take()?;
        Some(door::Lane::new(Arc::clone(&self.counters), passage, Arc::clone(&self.post)))
    }
}

impl Thread<door::Command> {
    /// Starts a door's thread in this descriptor table, and returns when it serves.
    pub(super) fn open(
        index: u16,
        setup: door::Setup,
        mailbox: tokio::sync::mpsc::UnboundedSender<door::Command>,
        records: rtrb::Consumer<SessionRecord>,
        narrow: Option<Narrow>,
    ) -> Result<Self, StartError> {
        let name = format!("door {index}");
        let counters = Arc::clone(&setup.counters);
        let handle = start(&name, move |ready| {
            process::block_signals()?;
            if let Some(narrow) = narrow {
                narrow.apply()?;
            }
            door::serve(setup, ready)
        })?;
        let post = Arc::new(move |command| drop(mailbox.send(command)));
        let (records, handle) = (Some(records), Some(handle));
        let (processor, pulse, passage) = (None, None, None);
        Ok(Self { name, index, processor, counters, records, post, handle, pulse, passage })
    }
}

impl<C: Pulse> Thread<C> {
    /// Leaves a message.
    pub(super) fn tell(&self, command: C) {
        (self.post)(command);
    }

    /// Whether it has turned since this was last asked; an idle one is woken to do so.
    pub(super) fn has_turned(&mut self) -> bool {
        let waits = |pulse: &mpsc::Receiver<()>| pulse.try_recv() == Err(TryRecvError::Empty);
        if self.pulse.as_ref().is_some_and(waits) {
            return false;
        }
        let (heard, pulse) = mpsc::channel();
        self.pulse = Some(pulse);
        self.tell(C::pulse(heard));
        true
    }

    /// How the thread ended; once, when it has. Asked for, not told: a thread with a descriptor
    /// table of its own must not wake a runtime whose descriptors are in another.
    pub(super) fn reap(&mut self) -> Option<WorkerExit> {
        let handle = self.handle.take_if(|handle| handle.is_finished())?;
        let result = handle.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        Some(WorkerExit { name: self.name.clone(), result })
    }
}

/// Starts a thread, and returns when it says that it is ready.
fn start(
    name: &str,
    body: impl FnOnce(&mpsc::Sender<()>) -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>, StartError> {
    let failed = |error: io::Error| StartError::Thread { name: name.to_owned(), error };
    let (ready, told) = mpsc::channel();
    let handle =
        Builder::new().name(name.replace(' ', "-")).spawn(move || body(&ready)).map_err(failed)?;
    match told.recv_timeout(START_PATIENCE) {
        Ok(()) => Ok(handle),
        // The sender is gone without a word: the thread has ended with the reason.
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(failed(end_of(handle))),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

fn end_of(handle: JoinHandle<io::Result<()>>) -> io::Error {
    match handle.join() {
        Ok(Err(error)) => error,
        _ => io::Error::other("it ended before it was ready"),
    }
}

/// The life of a worker's thread. A signal handler that ran here would take a number of the main
/// table for one of this thread's, so signals are blocked first.
fn work(
    spawn: Spawn,
    bell: Arc<Bell>,
    listeners: &[RawFd],
    passage: RawFd,
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    process::block_signals()?;
    let keep: Vec<RawFd> = listeners.iter().copied().chain([passage, bell.as_raw_fd()]).collect();
    process::own_descriptor_table(&keep)?;
    if let Some(processor) = spawn.processor {
        process::pin_to(usize::from(processor))?;
    }
    let sockets = listeners.iter().map(|&number| process::inherited(number)).collect();
    let passage = process::inherited(passage);
    match spawn.kind {
        EngineKind::Epoll => serve(Epoll::new(spawn.limits, bell)?, spawn, sockets, passage, ready),
        EngineKind::Uring => serve(Uring::new(spawn.limits, bell)?, spawn, sockets, passage, ready),
    }
}

fn serve<E: Engine>(
    mut engine: E,
    spawn: Spawn,
    sockets: Vec<OwnedFd>,
    passage: OwnedFd,
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    for (socket, number) in sockets.into_iter().zip(0..) {
        engine.listen(ListenerId(number), socket)?;
    }
    engine.receive(passage);
    let worker = Worker::new(engine, spawn.setup);
    if let Some(narrow) = spawn.narrow {
        narrow.apply()?;
    }
    // Nobody waits for it any more only if the process is ending.
    let _ = ready.send(());
    worker.run()
}
