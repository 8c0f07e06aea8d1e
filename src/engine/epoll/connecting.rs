//! Connects to servers, from the socket to its first byte.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use nix::errno::Errno;

use crate::engine::readiness::Readiness;
use crate::engine::say_first;
use crate::op::{Flow, Outcome, SessionKey, Side, Slot, Spare};
use crate::sys::socket;

use super::{Epoll, Peer, register};

impl Epoll {
    pub(super) fn connect(
        &mut self,
        key: SessionKey,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) {
        let begun = self.begin_connect(key, address, source);
        match begun {
            Ok(()) => {
                let session = self.session(key);
                session.connecting = true;
                session.port_to_doubt = socket::port_to_doubt(&address, source);
            }
            Err(errno) => self.complete(key, Slot::Connect, Outcome::Failed(errno)),
        }
    }

    fn begin_connect(
        &mut self,
        key: SessionKey,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<(), Errno> {
        let socket = socket::outbound(&address, source)?;
        if self.session(key).flows[Flow::ToBackend.index()].state.is_holding() {
            socket::acknowledge_with_bytes(&socket)?;
        }
        match socket::connect(socket.as_fd(), &address) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let registered = register(self.poll.registry(), &socket, key, Side::Backend);
        // Nothing can be there to read before it is connected, and then it is signalled.
        let mut peer = Peer { socket: Some(socket), ready: Readiness::default(), signalled: true };
        if registered.is_err() {
            peer.abandon();
        }
        self.session(key).sides[Side::Backend.index()] = peer;
        registered
    }

    pub(super) fn attach(&mut self, key: SessionKey, spare: Spare) {
        let session = &mut self.sessions[key.index()];
        let introduction = session.introduction.take();
        let outcome = match self.spares.take(spare, introduction.as_deref()) {
            Ok(socket) => {
                session.sides[Side::Backend.index()] = Peer::of(socket);
                Outcome::Done
            }
            Err(errno) => Outcome::Failed(errno),
        };
        self.complete(key, Slot::Connect, outcome);
    }

    /// The backend's socket was signalled while it was being connected: it is, or that failed.
    /// tcp_poll() reports nothing at all of a socket in SYN_SENT, so there is no third.
    pub(super) fn finish_connect(&mut self, key: SessionKey, failed: bool) {
        let session = &mut self.sessions[key.index()];
        let backend = &mut session.sides[Side::Backend.index()];
        let Some(socket) = &backend.socket else { return };
        let mut error = if failed { socket::take_error(socket.as_fd()) } else { None };
        if error.is_none() && socket::has_met_itself(socket.as_fd(), session.port_to_doubt) {
            // Nobody listens there.
            error = Some(Errno::ECONNREFUSED);
        }
        if error.is_none()
            && let Some(bytes) = session.introduction.take()
        {
            error = say_first(socket.as_fd(), &bytes).err();
        }
        session.connecting = false;
        let outcome = match error {
            None => {
                backend.ready.writable = true;
                Outcome::Done
            }
            Some(errno) => {
                backend.abandon();
                Outcome::Failed(errno)
            }
        };
        self.complete(key, Slot::Connect, outcome);
    }
}
