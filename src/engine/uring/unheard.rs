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

/// How often it is looked from which sides bytes have come and no others since: those are asked for. A side
/// from which bytes keep coming costs nothing, and one that was reset waits for two looks at the most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Sides that are looked at in one turn; the next ones follow soon.
const LOOKED_AT_ONCE: usize = 1024;
const LOOK_ON_AFTER: Duration = Duration::from_millis(10);

/// The sides that may have been reset unheard, each once.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    sides: VecDeque<(SessionKey, Side)>,
    /// How many of them this look has still before it.
    ahead: usize,
    /// When to look, while there are any.
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
        peer.has_stirred = true;
        if !std::mem::replace(&mut peer.is_noted, true) {
            self.unheard.sides.push_back((key, side));
            self.unheard.next.get_or_insert(self.told + LOOK_EVERY);
        }
    }

    /// Asks when it is time. What has failed is received anew, which tells.
    pub(super) fn find_unheard(&mut self) {
        if self.unheard.next.is_none_or(|next| next > self.told) {
            return;
        }
        let Unheard { sides, ahead, .. } = &mut self.unheard;
        if *ahead == 0 {
            *ahead = sides.len();
        }
        let mut asked = Vec::new();
        for _ in 0..(*ahead).min(LOOKED_AT_ONCE) {
            *ahead -= 1;
            let Some((key, side)) = sides.pop_front() else { break };
            let session = &mut self.sessions[key.index()];
            let peer = &mut session.sides[side.index()];
            if session.generation != key.generation() {
                continue;
            }
            if std::mem::take(&mut peer.has_stirred) {
                sides.push_back((key, side));
                continue;
            }
            peer.is_noted = false;
            if peer.receive == Receive::Armed {
                asked.push((key, side));
            }
        }
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
        let Unheard { sides, ahead, next } = &mut self.unheard;
        let pause = if *ahead > 0 { LOOK_ON_AFTER } else { LOOK_EVERY };
        *next = (!sides.is_empty()).then(|| self.told + pause);
    }
}
