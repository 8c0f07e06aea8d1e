//! Connected pairs that other threads pass to this one.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;

use crate::sys::{passage, socket};

use super::listeners::Listeners;

/// The passage's end, and what came through it before it was asked for: several threads pass, and
/// tell of it in another order.
#[derive(Debug, Default)]
pub(super) struct Passed {
    passage: Option<OwnedFd>,
    early: Vec<(u64, [OwnedFd; 2])>,
}

impl Passed {
    pub(super) fn open(&mut self, passage: OwnedFd) {
        self.passage = Some(passage);
    }

    /// The pair that was passed under this number. One for which there was no descriptor is gone.
    fn take(&mut self, number: u64) -> Option<[OwnedFd; 2]> {
        if let Some(place) = self.early.iter().position(|(other, _)| *other == number) {
            return Some(self.early.swap_remove(place).1);
        }
        let passage = self.passage.as_ref()?;
        loop {
            match passage::take(passage.as_fd()) {
                Ok(Some((other, pair))) if other == number => return Some(pair),
                Ok(Some(early)) => self.early.push(early),
                // One is gone for want of descriptors; which one is not known.
                Err(Errno::EMFILE) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The same, if there is room for it among what came through the listeners; else it stays, to be
    /// refused.
    pub(super) fn enter(&mut self, number: u64, listeners: &mut Listeners) -> Option<[OwnedFd; 2]> {
        if !listeners.enter() {
            return None;
        }
        let pair = self.take(number);
        if pair.is_none() {
            listeners.leave();
        }
        pair
    }

    /// Whether pairs may still come.
    pub(super) fn is_open(&self) -> bool {
        let open = |passage: &OwnedFd| passage::is_open(passage.as_fd());
        !self.early.is_empty() || self.passage.as_ref().is_some_and(open)
    }

    /// Ends the pair that was passed under this number, so that both its peers see it.
    pub(super) fn refuse(&mut self, number: u64) {
        for socket in self.take(number).iter().flatten() {
            socket::reset_on_close(socket.as_fd());
        }
    }
}
