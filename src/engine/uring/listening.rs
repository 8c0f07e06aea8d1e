//! What the ring polls for the worker itself, for as long as it is there: listeners (accepting is
//! [`Listeners`](crate::engine::listeners::Listeners)' affair) and the bell.

use std::os::fd::AsFd as _;

use nix::libc::POLLIN;

use crate::op::{Completion, SessionKey, Side};
use crate::sys::ring::Answer;

use super::state::Kind;
use super::{NOBODY, Uring};

impl Uring {
    /// Somebody has come, or the poll must be asked for anew.
    pub(super) fn on_listener(&mut self, number: usize, answer: Answer) {
        self.listeners.on_ready(number);
        if !answer.more {
            self.poll_listener(number);
        }
    }

    pub(super) fn poll_listener(&mut self, number: usize) {
        let Some(socket) = self.listeners.socket(number) else { return };
        let key = SessionKey::new(u32::try_from(number).unwrap_or_default(), 0);
        self.ring.poll_all(socket.as_fd(), POLLIN, Kind::Listener.word(key, Side::Client));
    }

    pub(super) fn on_bell(&mut self, answer: Answer) {
        self.bell.clear();
        self.done.push(Completion::Woken);
        if !answer.more {
            let word = Kind::Bell.word(NOBODY, Side::Client);
            self.ring.poll_all(self.bell.as_fd(), POLLIN, word);
        }
    }
}
