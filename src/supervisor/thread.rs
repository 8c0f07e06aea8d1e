//! One worker's thread: its descriptor table, its processor, its engine.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::engine::epoll::Epoll;
use crate::engine::uring::Uring;
use crate::engine::{Engine, EngineLimits};
use crate::metrics::{Counters, SessionRecord};
use crate::op::ListenerId;
use crate::sys::process::{self, Bell};
use crate::worker::{Command, Setup, Worker};

use super::StartError;

/// A worker makes its ring or epoll instance in microseconds.
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

/// What a thread is given besides its worker's own things.
#[derive(Debug)]
pub(super) struct Spawn {
    pub(super) kind: EngineKind,
    pub(super) limits: EngineLimits,
    /// The CPU to stay on.
    pub(super) processor: Option<u16>,
    pub(super) setup: Setup,
    pub(super) mailbox: mpsc::Sender<Command>,
}

/// A worker that runs.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) index: u16,
    pub(super) processor: Option<u16>,
    pub(super) counters: Arc<Counters>,
    /// Sessions that have ended and are not logged yet.
    pub(super) records: Option<rtrb::Consumer<SessionRecord>>,
    mailbox: mpsc::Sender<Command>,
    /// Kept here for as long as the thread may hear it: its number is the same in both tables.
    bell: Arc<Bell>,
    handle: Option<JoinHandle<io::Result<()>>>,
    /// Closed by the worker when it turns.
    pulse: Option<mpsc::Receiver<()>>,
}

impl Thread {
    /// Starts a worker on the listening sockets, which the main table keeps as well, and returns
    /// when it has its own descriptor table and listens.
    pub(super) fn spawn(
        spawn: Spawn,
        records: rtrb::Consumer<SessionRecord>,
        listeners: &[BorrowedFd<'_>],
    ) -> Result<Self, StartError> {
        let index = spawn.setup.index;
        let failed = |error: io::Error| StartError::Worker { index, error };
        let bell = Arc::new(Bell::new().map_err(|errno| failed(errno.into()))?);
        let heard = Arc::clone(&bell);
        let (processor, counters) = (spawn.processor, Arc::clone(&spawn.setup.counters));
        let mailbox = spawn.mailbox.clone();
        let numbers: Vec<RawFd> = listeners.iter().map(|socket| socket.as_raw_fd()).collect();
        let (ready, told) = mpsc::channel();
        let handle = Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || work(spawn, heard, &numbers, &ready))
            .map_err(failed)?;
        match told.recv_timeout(START_PATIENCE) {
            Ok(()) => Ok(Self {
                index,
                processor,
                counters,
                records: Some(records),
                mailbox,
                bell,
                handle: Some(handle),
                pulse: None,
            }),
            // The sender is gone without a word: the thread has ended with the reason.
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(failed(end_of(handle))),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Leaves a message and rings. A worker that has ended hears nothing.
    pub(super) fn tell(&self, command: Command) {
        if self.mailbox.send(command).is_ok() {
            self.bell.ring();
        }
    }

    /// Whether it has turned since this was last asked; an idle one is woken to do so.
    pub(super) fn has_turned(&mut self) -> bool {
        let waits = |pulse: &mpsc::Receiver<()>| pulse.try_recv() == Err(TryRecvError::Empty);
        if self.pulse.as_ref().is_some_and(waits) {
            return false;
        }
        let (heard, pulse) = mpsc::channel();
        self.pulse = Some(pulse);
        self.tell(Command::Pulse(heard));
        true
    }

    /// How the thread ended; once, when it has. Asked for, not told: a thread with a descriptor
    /// table of its own must not wake a runtime whose descriptors are in another.
    pub(super) fn reap(&mut self) -> Option<io::Result<()>> {
        let handle = self.handle.take_if(|handle| handle.is_finished())?;
        Some(handle.join().unwrap_or_else(|_| Err(io::Error::other("it panicked"))))
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
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    process::block_signals()?;
    let keep: Vec<RawFd> = listeners.iter().copied().chain([bell.as_raw_fd()]).collect();
    process::own_descriptor_table(&keep)?;
    if let Some(processor) = spawn.processor {
        process::pin_to(usize::from(processor))?;
    }
    let sockets = listeners.iter().map(|&number| process::inherited(number)).collect();
    match spawn.kind {
        EngineKind::Epoll => serve(Epoll::new(spawn.limits, bell)?, spawn.setup, sockets, ready),
        EngineKind::Uring => serve(Uring::new(spawn.limits, bell)?, spawn.setup, sockets, ready),
    }
}

fn serve<E: Engine>(
    mut engine: E,
    setup: Setup,
    sockets: Vec<OwnedFd>,
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    for (socket, number) in sockets.into_iter().zip(0..) {
        engine.listen(ListenerId(number), socket)?;
    }
    let worker = Worker::new(engine, setup);
    // Nobody waits for it any more only if the process is ending.
    let _ = ready.send(());
    worker.run()
}
