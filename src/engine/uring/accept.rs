//! Connections coming in: one multishot accept a listener.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::op::{AcceptedSocket, Completion, ListenerId, SessionKey, Side};
use crate::sys::ring::Answer;
use crate::sys::socket;

use super::Uring;
use super::state::Kind;

impl Uring {
    pub(super) fn arm_accept(&mut self, number: usize) {
        let Some(Some(listener)) = self.listeners.get_mut(number) else { return };
        if listener.accepting && !listener.armed {
            listener.armed = true;
            let key = SessionKey::new(u32::try_from(number).unwrap_or_default(), 0);
            self.ring.accept_all(listener.socket.as_fd(), Kind::Accept.word(key, Side::Client));
        }
    }

    pub(super) fn on_accept(&mut self, number: usize, answer: Answer) {
        let id = ListenerId(u16::try_from(number).unwrap_or(u16::MAX));
        match answer.result {
            Ok(fd) => self.on_accepted(id, fd),
            Err(errno) if errno == Errno::ECANCELED || socket::is_of_one_connection(errno) => {}
            Err(errno) => {
                if let Some(Some(listener)) = self.listeners.get_mut(number) {
                    listener.accepting = false;
                }
                self.done.push(Completion::AcceptFailed { listener: id, errno });
            }
        }
        if answer.more {
            return;
        }
        if let Some(slot) = self.listeners.get_mut(number)
            && let Some(listener) = slot
        {
            listener.armed = false;
            if listener.ending {
                *slot = None;
            }
        }
        self.arm_accept(number);
    }

    pub(super) fn on_accepted(&mut self, listener: ListenerId, fd: u32) {
        let Ok(socket) = socket::adopt(fd.cast_signed()) else { return };
        let Ok(peer) = socket::peer_address(socket.as_fd()) else {
            // A client that is gone already has no address any more.
            return socket::reset_on_close(socket.as_fd());
        };
        let number = usize::try_from(socket.as_raw_fd()).unwrap_or_default();
        if number >= self.accepted.len() {
            self.accepted.resize_with(number + 1, || None);
        }
        self.accepted[number] = Some(socket);
        let socket = AcceptedSocket::from_engine(fd);
        self.done.push(Completion::Accepted { listener, socket, peer });
    }

    pub(super) fn taken(&mut self, socket: AcceptedSocket) -> OwnedFd {
        let kept = self.accepted[socket.into_engine() as usize].take();
        kept.expect("an accepted socket is adopted or refused once")
    }
}
