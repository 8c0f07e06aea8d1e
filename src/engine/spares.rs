//! Connections to servers that no session has asked for yet. Nothing waits for them, neither ring nor
//! epoll: they are looked at when somebody asks.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::op::{Spare, SpareState};
use crate::sys::socket::{self, Standing};

use super::say_first;

/// The spare connections of one engine.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// By descriptor number.
    made: Vec<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    socket: OwnedFd,
    /// See [`socket::port_to_doubt`].
    port_to_doubt: Option<NonZeroU16>,
}

impl Spares {
    /// Begins one.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2).
    pub(super) fn prepare(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<Spare, Errno> {
        let socket = socket::outbound(&address, source)?;
        match socket::connect(socket.as_fd(), &address) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let number = usize::try_from(socket.as_raw_fd()).unwrap_or_default();
        if number >= self.made.len() {
            self.made.resize_with(number + 1, || None);
        }
        let port_to_doubt = socket::port_to_doubt(&address, source);
        self.made[number] = Some(Made { socket, port_to_doubt });
        Ok(Spare::from_engine(u32::try_from(number).unwrap_or_default()))
    }

    pub(super) fn state(&self, spare: Spare) -> SpareState {
        let Some(made) = &self.made[spare.into_engine() as usize] else {
            return SpareState::Failed;
        };
        let socket = made.socket.as_fd();
        match socket::standing(socket) {
            Standing::Connecting => SpareState::Connecting,
            // Nobody listens there.
            Standing::Quiet if socket::has_met_itself(socket, made.port_to_doubt) => {
                SpareState::Failed
            }
            Standing::Quiet => SpareState::Ready,
            Standing::Stirred => SpareState::Ended,
            Standing::Failed => SpareState::Failed,
        }
    }

    /// Hands one out, once its server has been told what it is to know first.
    ///
    /// # Errors
    /// Those of send(2): the connection has failed meanwhile, and is gone.
    pub(super) fn take(
        &mut self,
        spare: Spare,
        introduction: Option<&[u8]>,
    ) -> Result<OwnedFd, Errno> {
        let made = self.made[spare.into_engine() as usize].take();
        let socket = made.expect("a spare connection is taken or discarded once").socket;
        if let Some(bytes) = introduction
            && let Err(errno) = say_first(socket.as_fd(), bytes)
        {
            socket::reset_on_close(socket.as_fd());
            return Err(errno);
        }
        Ok(socket)
    }

    /// close(2): a FIN, as its server would expect of one who has nothing to ask.
    pub(super) fn discard(&mut self, spare: Spare) {
        self.made[spare.into_engine() as usize] = None;
    }
}
