//! The end of a session: what it holds is thrown away, and its sockets are closed once the kernel
//! has let go of them.

use std::os::fd::AsFd as _;

use crate::op::{CloseHow, Flow, Outcome, SessionKey, Side, Slot};
use crate::sys::socket;

use super::Uring;
use super::state::{Held, Kind, Receive, SessionState};

impl Uring {
    pub(super) fn discard(&mut self, key: SessionKey, flow: Flow) {
        let direction = &mut self.sessions[key.index()].flows[flow.index()];
        assert!(!direction.sending, "discarded while a send is in flight");
        direction.state.discard(&mut self.means);
        if let Some(Held { buffer, from, to }) = direction.held.take() {
            self.means.stats.bytes_discarded += u64::from(to - from);
            self.ring.give_back(buffer);
        }
    }

    pub(super) fn begin_close(&mut self, key: SessionKey, how: [CloseHow; 2]) {
        for flow in Flow::ALL {
            self.discard(key, flow);
            let direction = &self.sessions[key.index()].flows[flow.index()];
            assert!(!direction.pulling && !direction.pushing, "closed with an operation in flight");
        }
        self.sessions[key.index()].closing = Some(how);
        for side in Side::ALL {
            if self.sessions[key.index()].sides[side.index()].receive == Receive::Armed {
                self.end_receive(key, side);
            }
            // Each by its word, which the kernel finds in its table at once. To cancel by descriptor
            // it looks at every request there is, of all sessions (`io_poll_file_find()`).
            for kind in self.sessions[key.index()].sides[side.index()].polls() {
                self.ring.cancel(kind.word(key, side), Kind::Other.word(key, side));
            }
        }
        self.finish_close(key);
    }

    /// Closes the sockets once the kernel has let go of them.
    pub(super) fn finish_close(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key.index()];
        let Some(how) = session.closing else { return };
        for peer in &mut session.sides {
            while let Some((buffer, bytes)) = peer.inbox.pop(&mut self.links) {
                self.means.stats.bytes_discarded += u64::from(bytes.get());
                self.ring.give_back(buffer);
            }
        }
        if session.in_flight > 0 {
            return;
        }
        let generation = session.generation.wrapping_add(1);
        let ended =
            std::mem::replace(session, SessionState { generation, ..SessionState::default() });
        for (peer, how) in ended.sides.into_iter().zip(how) {
            let Some(socket) = peer.socket else { continue };
            if how == CloseHow::Reset {
                socket::reset_on_close(socket.as_fd());
            }
            self.ring.close(socket, Kind::Other.word(key, Side::Client));
        }
        self.leaving += 1;
        self.complete(key, Slot::Close, Outcome::Done);
    }
}
