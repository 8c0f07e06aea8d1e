//! A worker's listeners, and the connections taken from their queues. Both engines accept by direct
//! calls: accept4(2) tells the address too, and takes no more connections than there is room for;
//! a multishot accept empties the queue, whatever becomes of the descriptors. Only the waiting
//! differs.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::op::{AcceptedSocket, Completion, ListenerId};
use crate::sys::socket;

/// Connections taken from a listener in one turn; the rest comes in the next.
const ACCEPTS_MAX: usize = 32;

/// The listeners and what has come through them.
#[derive(Debug)]
pub(super) struct Listeners {
    list: Vec<Option<Listener>>,
    /// Accepted and not adopted yet, by descriptor number.
    accepted: Vec<Option<OwnedFd>>,
    /// Connections that can still be taken: for each there must be a place, and a descriptor
    /// towards its server.
    room: u32,
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    accepting: bool,
    /// Its queue may hold connections.
    ready: bool,
}

impl Listeners {
    /// None yet; `room` connections may be held at one time.
    pub(super) const fn new(room: u32) -> Self {
        Self { list: Vec::new(), accepted: Vec::new(), room }
    }

    pub(super) fn add(&mut self, id: ListenerId, socket: OwnedFd) {
        let number = usize::from(id.0);
        if number >= self.list.len() {
            self.list.resize_with(number + 1, || None);
        }
        self.list[number] = Some(Listener { socket, accepting: false, ready: true });
    }

    pub(super) fn remove(&mut self, id: ListenerId) {
        if let Some(listener) = self.list.get_mut(usize::from(id.0)) {
            *listener = None;
        }
    }

    pub(super) fn accepting(&mut self, id: ListenerId, on: bool) {
        if let Some(Some(listener)) = self.list.get_mut(usize::from(id.0)) {
            listener.accepting = on;
        }
    }

    /// The listener's socket, if it has not been removed.
    pub(super) fn socket(&self, number: usize) -> Option<&OwnedFd> {
        self.list.get(number)?.as_ref().map(|listener| &listener.socket)
    }

    /// Somebody has come to a listener.
    pub(super) fn on_ready(&mut self, number: usize) {
        if let Some(Some(listener)) = self.list.get_mut(number) {
            listener.ready = true;
        }
    }

    /// Whether connections wait already that may be taken once the descriptors of so many have come
    /// free.
    pub(super) fn has_backlog(&self, leaving: u32) -> bool {
        let waits = |listener: &Listener| listener.accepting && listener.ready;
        self.room + leaving > 0 && self.list.iter().flatten().any(waits)
    }

    /// Takes what waits, in batches.
    pub(super) fn accept(&mut self, done: &mut Vec<Completion>) {
        for number in 0..self.list.len() {
            for _ in 0..ACCEPTS_MAX {
                if !self.accept_one(number, done) {
                    break;
                }
            }
        }
    }

    /// Whether it makes sense to go on.
    fn accept_one(&mut self, number: usize, done: &mut Vec<Completion>) -> bool {
        let Some(Some(listener)) = self.list.get_mut(number) else { return false };
        if !listener.accepting || !listener.ready || self.room == 0 {
            return false;
        }
        let id = ListenerId(u16::try_from(number).unwrap_or(u16::MAX));
        match socket::accept(listener.socket.as_fd()) {
            Ok((socket, peer)) => {
                let socket = self.keep(socket);
                done.push(Completion::Accepted { listener: id, socket, peer });
            }
            Err(Errno::EAGAIN) => listener.ready = false,
            Err(errno) if socket::is_of_one_connection(errno) => {}
            Err(errno) => {
                listener.accepting = false;
                done.push(Completion::AcceptFailed { listener: id, errno });
            }
        }
        true
    }

    fn keep(&mut self, socket: OwnedFd) -> AcceptedSocket {
        let number = usize::try_from(socket.as_raw_fd()).unwrap_or_default();
        if number >= self.accepted.len() {
            self.accepted.resize_with(number + 1, || None);
        }
        self.accepted[number] = Some(socket);
        self.room -= 1;
        AcceptedSocket::from_engine(u32::try_from(number).unwrap_or_default())
    }

    /// Hands an accepted socket out, to be adopted or closed.
    pub(super) fn take(&mut self, socket: AcceptedSocket) -> OwnedFd {
        let kept = self.accepted[socket.into_engine() as usize].take();
        kept.expect("an accepted socket is adopted or refused once")
    }

    /// Counts a connection that another thread has taken; false if there is no room for it.
    pub(super) const fn enter(&mut self) -> bool {
        let has_room = self.room > 0;
        if has_room {
            self.room -= 1;
        }
        has_room
    }

    /// The descriptors of a connection that was taken have come free.
    pub(super) const fn leave(&mut self) {
        self.room += 1;
    }
}
