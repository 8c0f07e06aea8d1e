//! Resets that the ring does not tell of. A multishot receive that is woken takes the bytes and waits to be
//! woken again. Where it finds bytes and a reset behind them by one waking, such as in the moment in which
//! it begins to wait, nobody will (`io_poll_check_events()`; `tcp_inq_hint()` has it go on after a FIN, not
//! after a RST). Seen on 6.18 in one of 10 runs of the engine suite's churn, three at a time on two CPUs:
//! POLLERR, and a receive that waits for ever. So of the sides from which bytes have come it is asked a
//! little later whether they have failed, of all of them at once.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::time::Duration;

use crate::op::{SessionKey, Side, Time};
use crate::sys::socket;

use super::Uring;
use super::state::Receive;

/// So long after bytes have come it is asked, or later.
const ASK_AFTER: Duration = Duration::from_millis(250);
/// Sides that are asked for by one call, 50 ns each; the next ones follow soon.
const ASKED_AT_ONCE: usize = 1024;
const ASK_MORE_AFTER: Duration = Duration::from_millis(10);

/// The sides that may have been reset unheard, each once.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    sides: VecDeque<(SessionKey, Side)>,
    /// When to ask, while there are any.
    next: Option<Time>,
}

impl Unheard {
    pub(super) const fn next(&self) -> Option<Time> {
        self.next
    }
}

impl Uring {
    /// Bytes have come from this side, and the receive goes on.
    pub(super) fn note_bytes(&mut self, key: SessionKey, side: Side) {
        let peer = &mut self.sessions[key.index()].sides[side.index()];
        if !std::mem::replace(&mut peer.is_noted, true) {
            self.unheard.sides.push_back((key, side));
            self.unheard.next.get_or_insert(self.told + ASK_AFTER);
        }
    }

    /// Asks when it is time. What has failed is received anew, which tells.
    pub(super) fn find_unheard(&mut self) {
        if self.unheard.next.is_none_or(|next| next > self.told) {
            return;
        }
        let count = self.unheard.sides.len().min(ASKED_AT_ONCE);
        let mut asked: Vec<_> = self.unheard.sides.drain(..count).collect();
        asked.retain(|&(key, side)| {
            let session = &mut self.sessions[key.index()];
            let is_there = session.generation == key.generation();
            let peer = &mut session.sides[side.index()];
            is_there && std::mem::take(&mut peer.is_noted) && peer.receive == Receive::Armed
        });
        let socket = |&(key, side): &(SessionKey, Side)| {
            let peer = &self.sessions[key.index()].sides[side.index()];
            peer.socket.as_ref().map(|socket| socket.as_fd())
        };
        let failed = socket::have_failed(asked.iter().filter_map(socket));
        for ((key, side), failed) in asked.into_iter().zip(failed) {
            if failed {
                self.end_receive(key, side);
            }
        }
        let more = !self.unheard.sides.is_empty();
        self.unheard.next = more.then(|| self.told + ASK_MORE_AFTER);
    }
}
