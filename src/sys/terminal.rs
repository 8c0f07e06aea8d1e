//! The terminal that somebody types at.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// While this is there, what is typed is not shown.
#[derive(Debug)]
pub struct Hidden {
    terminal: OwnedFd,
    before: Termios,
}

impl Hidden {
    /// Hides what is typed at `terminal` from now on.
    ///
    /// # Errors
    /// ENOTTY when it is none.
    pub fn at(terminal: impl AsFd) -> Result<Self, Errno> {
        let terminal = terminal.as_fd().try_clone_to_owned().map_err(|_| Errno::last())?;
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing any more.
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
