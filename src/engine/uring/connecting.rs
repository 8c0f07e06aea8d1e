//! Connects to servers, from the socket to its first byte.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;

use crate::engine::say_first;
use crate::op::{Flow, Outcome, SessionKey, Side, Slot, Spare};
use crate::sys::socket;

use super::Uring;
use super::state::{Kind, Peer};

impl Uring {
    pub(super) fn connect(
        &mut self,
        key: SessionKey,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) {
        let direction = &self.sessions[key.index()].flows[Flow::ToBackend.index()];
        let has_bytes = direction.state.is_holding() || direction.held.is_some();
        let prepared = socket::outbound(&address, source).and_then(|socket| {
            let told = if has_bytes { socket::acknowledge_with_bytes(&socket) } else { Ok(()) };
            told.map(|()| socket)
        });
        match prepared {
            Ok(socket) => {
                self.ring.connect(socket.as_fd(), address, Kind::Connect.word(key, Side::Backend));
                let session = &mut self.sessions[key.index()];
                session.sides[Side::Backend.index()] = Peer::of(socket);
                session.connecting = true;
                session.port_to_doubt = socket::port_to_doubt(&address, source);
                session.in_flight += 1;
            }
            Err(errno) => self.complete(key, Slot::Connect, Outcome::Failed(errno)),
        }
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

    pub(super) fn on_connected(&mut self, key: SessionKey, result: Result<u32, Errno>) {
        let session = &mut self.sessions[key.index()];
        session.connecting = false;
        let backend = &mut session.sides[Side::Backend.index()];
        let doubted = session.port_to_doubt;
        let met_itself = |socket: &OwnedFd| socket::has_met_itself(socket.as_fd(), doubted);
        let outcome = match result {
            // Nobody listens there.
            Ok(_) if backend.socket.as_ref().is_some_and(met_itself) => {
                Outcome::Failed(Errno::ECONNREFUSED)
            }
            Ok(_) => match (session.introduction.take(), &backend.socket) {
                (Some(bytes), Some(socket)) => match say_first(socket.as_fd(), &bytes) {
                    Ok(()) => Outcome::Done,
                    Err(errno) => Outcome::Failed(errno),
                },
                _ => Outcome::Done,
            },
            Err(Errno::ECANCELED) => Outcome::Cancelled,
            Err(errno) => Outcome::Failed(errno),
        };
        if outcome != Outcome::Done {
            backend.abandon();
        }
        self.complete(key, Slot::Connect, outcome);
    }
}
