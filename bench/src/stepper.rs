//! Counts the instructions of one thread of another process, by letting it do one at a time
//! (ptrace(2)). A system call is one instruction, however much the kernel does; waiting is none.

use std::fs::read_to_string;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::Error;

/// Looks for an instruction to be done, before the thread is suspected to sleep.
const LOOKS: u32 = 200;
/// Instructions of one answer to one event, beyond which it is taken to spin.
const INSTRUCTIONS_MAX: u64 = 20_000_000;

/// A thread that does nothing unless it is let.
#[derive(Debug)]
pub(crate) struct Stepper {
    thread: Pid,
    /// It was let do an instruction, and has not said that it is done.
    stepping: bool,
}

impl Stepper {
    /// Takes hold of a thread of another process, wherever it is.
    ///
    /// # Errors
    /// When that is not allowed, with the remedy.
    pub(crate) fn attach(thread: i32) -> Result<Self, Error> {
        let thread = Pid::from_raw(thread);
        let refused = format!(
            "thread {thread} cannot be traced (as root, or where sysctl kernel.yama.ptrace_scope is \
             at most 1, it can)"
        );
        ptrace::seize(thread, ptrace::Options::empty()).map_err(Error::at(refused))?;
        ptrace::interrupt(thread).map_err(Error::at(format!("thread {thread}")))?;
        wait(thread, WaitPidFlag::empty())?;
        Ok(Self { thread, stepping: false })
    }

    /// Lets it do instructions until it waits for something; how many these were.
    ///
    /// # Errors
    /// When the thread has ended or does not come to rest.
    pub(crate) fn run_until_it_sleeps(&mut self) -> Result<u64, Error> {
        let mut count = 0;
        while count < INSTRUCTIONS_MAX {
            if !self.stepping {
                ptrace::step(self.thread, None).map_err(Error::at(self.name()))?;
                self.stepping = true;
            }
            let done = (0..LOOKS).find_map(|_| match wait(self.thread, WaitPidFlag::WNOHANG) {
                Ok(WaitStatus::StillAlive) => {
                    std::thread::yield_now();
                    None
                }
                other => Some(other),
            });
            match done {
                Some(stopped) => {
                    stopped?;
                    self.stepping = false;
                    count += 1;
                }
                None if self.sleeps() => return Ok(count),
                None => {}
            }
        }
        Err(Error(format!("{} did {count} instructions and does not rest", self.name())))
    }

    /// Whether it sleeps in a system call; stopped by us, or doing something, it does not.
    fn sleeps(&self) -> bool {
        let stat = read_to_string(format!("/proc/{}/stat", self.thread)).unwrap_or_default();
        // Field 3; the name before it may hold spaces and brackets.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
    }

    fn name(&self) -> String {
        format!("thread {}", self.thread)
    }
}

impl Drop for Stepper {
    /// Lets it go on by itself. What has ended meanwhile needs no leave.
    fn drop(&mut self) {
        if !self.stepping
            || (ptrace::interrupt(self.thread).is_ok()
                && wait(self.thread, WaitPidFlag::empty()).is_ok())
        {
            let _ = ptrace::detach(self.thread, None);
        }
    }
}

fn wait(thread: Pid, flags: WaitPidFlag) -> Result<WaitStatus, Error> {
    let status = waitpid(thread, Some(flags | WaitPidFlag::__WALL))
        .map_err(Error::at(format!("thread {thread}")))?;
    match status {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
            Err(Error(format!("thread {thread} has ended: {status:?}")))
        }
        status => Ok(status),
    }
}
