//! What the engine keeps of each listener and session, and the words that its requests carry.

use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::engine::readiness::{FlowState, Readiness};
use crate::op::{CloseHow, Outcome, SessionKey, Side};
use crate::sys::socket;

use super::inbox::Inbox;

/// What a request was; its low bit is the side or the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Recv = 0,
    Send = 2,
    PollIn = 4,
    Watch = 6,
    Connect = 8,
    /// A listener that is polled.
    Listener = 10,
    Bell = 12,
    /// A cancellation or a close that failed, and is no session's affair.
    Other = 14,
}

impl Kind {
    pub(super) const fn of(tag: u8) -> Self {
        match tag & !1 {
            0 => Self::Recv,
            2 => Self::Send,
            4 => Self::PollIn,
            6 => Self::Watch,
            8 => Self::Connect,
            10 => Self::Listener,
            12 => Self::Bell,
            _ => Self::Other,
        }
    }

    pub(super) const fn word(self, key: SessionKey, side: Side) -> u64 {
        key.pack(self as u8 | side as u8)
    }
}

#[derive(Debug, Default)]
pub(super) struct SessionState {
    pub(super) generation: u32,
    /// Requests that the kernel has not answered for the last time.
    pub(super) in_flight: u16,
    pub(super) connecting: bool,
    /// See [`socket::port_to_doubt`].
    pub(super) port_to_doubt: Option<NonZeroU16>,
    /// See [`Engine::introduce`](crate::engine::Engine::introduce).
    pub(super) introduction: Option<Box<[u8]>>,
    pub(super) closing: Option<[CloseHow; 2]>,
    pub(super) sides: [Peer; 2],
    pub(super) flows: [Direction; 2],
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) socket: Option<OwnedFd>,
    /// What direct calls and sends have to go by.
    pub(super) ready: Readiness,
    pub(super) receive: Receive,
    /// Received and not pulled yet.
    pub(super) inbox: Inbox,
    /// What comes after the inbox.
    pub(super) end: Option<Outcome>,
    pub(super) polling_in: bool,
    /// The ring tells each time that it becomes writable or fails.
    pub(super) watched: bool,
    /// See [`Uring::note_bytes`](super::Uring::note_bytes).
    pub(super) is_noted: bool,
    pub(super) has_stirred: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Receive {
    #[default]
    Idle,
    Armed,
    Cancelling,
}

#[derive(Debug, Default)]
pub(super) struct Direction {
    /// What the direct path holds, and which path is due.
    pub(super) state: FlowState,
    /// What the ring's path holds: a part of a buffer.
    pub(super) held: Option<Held>,
    pub(super) pulling: bool,
    pub(super) pushing: bool,
    /// The push is a send in the ring; if `pushing` is not set any more, it was cancelled.
    pub(super) sending: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) buffer: u16,
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Peer {
    pub(super) fn of(socket: OwnedFd) -> Self {
        // The direct path's first attempt costs one call at most.
        let ready = Readiness { readable: true, writable: true, ..Readiness::default() };
        Self { socket: Some(socket), ready, ..Self::default() }
    }

    /// Gives a connect up. Whoever has answered it meanwhile sees a reset, not an empty stream.
    pub(super) fn abandon(&mut self) {
        if let Some(socket) = std::mem::take(self).socket {
            socket::reset_on_close(socket.as_fd());
        }
    }

    /// What the kernel will go on to wait for until that is cancelled, beside what is received.
    pub(super) fn polls(&self) -> impl Iterator<Item = Kind> + use<> {
        let polling = self.polling_in.then_some(Kind::PollIn);
        let watching = self.watched.then_some(Kind::Watch);
        [polling, watching].into_iter().flatten()
    }
}
