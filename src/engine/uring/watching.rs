//! What nobody reads from or writes to now: told of by the ring, so that room and failures are noticed.

use std::os::fd::AsFd as _;

use nix::libc::{POLLERR, POLLOUT};

use crate::op::{Completion, Flow, SessionKey, Side};
use crate::sys::ring::Answer;
use crate::sys::socket;

use super::Uring;
use super::state::{Kind, Receive};

impl Uring {
    /// The sink takes nothing now.
    pub(super) fn await_room(&mut self, key: SessionKey, flow: Flow) {
        self.watch(key, flow.sink());
        self.watch_unread(key, flow.source());
    }

    /// Sees to it that a failure of this side is noticed although nothing is being read from it.
    pub(super) fn watch_unread(&mut self, key: SessionKey, side: Side) {
        let peer = &self.sessions[key.index()].sides[side.index()];
        if !peer.polling_in && peer.receive == Receive::Idle {
            self.watch(key, side);
        }
    }

    /// Sees to it that the ring tells each time that this side becomes writable or fails. Once for
    /// the life of the socket: a single poll would be answered at once, again and again, when the
    /// peer has half-closed, since io_uring always asks for POLLRDHUP too (`IO_POLL_UNMASK`).
    fn watch(&mut self, key: SessionKey, side: Side) {
        let session = &mut self.sessions[key.index()];
        let peer = &mut session.sides[side.index()];
        if let Some(socket) = &peer.socket
            && !peer.watched
        {
            peer.watched = true;
            session.in_flight += 1;
            self.ring.poll_all(socket.as_fd(), POLLOUT, Kind::Watch.word(key, side));
        }
    }

    pub(super) fn on_watched(&mut self, key: SessionKey, side: Side, answer: Answer) {
        let session = &mut self.sessions[key.index()];
        let peer = &mut session.sides[side.index()];
        peer.watched = answer.more;
        peer.ready.writable = true;
        let Some(socket) = &peer.socket else { return };
        if session.closing.is_some() {
            return;
        }
        // A hang-up without an error is both directions' orderly end, and nothing to tell.
        let failed = |events: u32| events & u32::from(POLLERR.cast_unsigned()) != 0;
        if answer.result.is_ok_and(failed)
            && let Some(errno) = socket::take_error(socket.as_fd())
        {
            self.done.push(Completion::Broken { session: key, side, errno });
        }
        self.try_push(key, side.other().outbound());
    }
}
