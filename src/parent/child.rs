//! A relay process as its parent sees it.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::handover::{self, Generation, Handover, Order, Report, ToRelay, VARIABLE};
use crate::sys::process;

/// The running binary, even if another file has its name by now.
pub(super) const OURSELVES: &str = "/proc/self/exe";

#[derive(Debug)]
pub(super) struct Child {
    pub(super) number: u64,
    pub(super) process: Pid,
    /// Whether this is the generation that serves.
    pub(super) serving: bool,
    link: UnixStream,
    unread: Vec<u8>,
}

impl Child {
    /// Starts a relay process from a binary, with the arguments of this process. `left` is completed
    /// with the link.
    ///
    /// # Errors
    /// When the binary cannot be executed, or for want of descriptors or memory.
    pub(super) fn start(binary: &Path, mut left: ToRelay) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        left.link = theirs.as_raw_fd();
        let number = left.generation;
        let left = Handover::Relay(left).leave()?;
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| OsString::from("fanin"));
        // In a process group of its own: what a terminal sends is for the parent to pass on.
        let child = Command::new(binary)
            .arg0(name)
            .args(arguments)
            .env(VARIABLE, left.value())
            .process_group(0)
            .spawn()?;
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        Self::new(number, process, ours)
    }

    fn new(number: u64, process: Pid, link: UnixStream) -> io::Result<Self> {
        link.set_nonblocking(true)?;
        Ok(Self { number, process, serving: false, link, unread: Vec::new() })
    }

    /// One that the parent before had started.
    pub(super) fn inherit(left: Generation) -> io::Result<Self> {
        let link = UnixStream::from(process::inherited(left.link));
        let child = Self::new(left.number, Pid::from_raw(left.process), link)?;
        Ok(Self { serving: left.serving, unread: left.unread, ..child })
    }

    /// What the next parent is told of it.
    pub(super) fn leave(&self) -> Generation {
        Generation {
            number: self.number,
            process: self.process.as_raw(),
            link: self.link.as_raw_fd(),
            unread: self.unread.clone(),
            serving: self.serving,
        }
    }

    pub(super) fn tell(&self, order: &Order) {
        // A process that is gone is noticed by its exit; one that has left 200 kB unread is not
        // turning.
        if let Ok(line) = handover::line(order) {
            let _ = (&self.link).write_all(&line);
        }
    }

    /// What it has said since this was last asked.
    pub(super) fn reports(&mut self) -> Vec<Report> {
        let mut piece = [0; 16 * 1024];
        while let Ok(bytes @ 1..) = (&self.link).read(&mut piece) {
            self.unread.extend_from_slice(&piece[..bytes]);
        }
        handover::messages(&mut self.unread)
    }

    pub(super) fn kill(&self) {
        let _ = kill(self.process, Signal::SIGKILL);
    }

    /// How it ended, once it has.
    pub(super) fn ended(&self) -> Option<Exit> {
        match waitpid(self.process, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal)),
            Ok(_) => None,
            // Somebody else has waited for it; it is gone all the same.
            Err(_) => Some(Exit::Code(1)),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(Signal),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by {signal}"),
        }
    }
}
