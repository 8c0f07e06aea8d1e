//! A client's first bytes, looked at before they go on. They are held by the ring's path, in a buffer
//! that the kernel picked, or by the direct one.

use crate::op::{Flow, SessionKey};

use super::Uring;
use super::state::Held;

impl Uring {
    pub(super) fn pull(&mut self, key: SessionKey, flow: Flow, in_sight: bool) {
        let direction = &mut self.sessions[key.index()].flows[flow.index()];
        direction.pulling = true;
        direction.state.keep_in_sight(in_sight);
        self.try_pull(key, flow);
    }

    pub(super) fn in_sight(&self, key: SessionKey) -> &[u8] {
        let direction = &self.sessions[key.index()].flows[Flow::ToBackend.index()];
        match direction.held {
            Some(Held { buffer, from, to }) => self.ring.bytes(buffer, from, to),
            None => direction.state.in_sight(),
        }
    }

    pub(super) fn skip(&mut self, key: SessionKey, bytes: u32) {
        let direction = &mut self.sessions[key.index()].flows[Flow::ToBackend.index()];
        let Some(held) = &mut direction.held else {
            return direction.state.skip(bytes, &mut self.means);
        };
        self.means.stats.bytes_discarded += u64::from(bytes);
        held.from += bytes;
        if held.from == held.to {
            self.ring.give_back(held.buffer);
            direction.held = None;
        }
    }
}
