//! Listeners are polled by the ring, for as long as they are there; the accepting is
//! [`Listeners`](crate::engine::listeners::Listeners)' affair.

use std::os::fd::AsFd as _;

use nix::libc::POLLIN;

use crate::op::{SessionKey, Side};
use crate::sys::ring::Answer;

use super::Uring;
use super::state::Kind;

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
}
