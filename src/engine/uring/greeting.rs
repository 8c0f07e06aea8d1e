//! A client's first bytes, looked at before they go on: they are received by direct calls, so that what
//! comes in pieces stands in one buffer.

use crate::op::{Flow, SessionKey};

use super::Uring;

impl Uring {
    pub(super) fn pull(&mut self, key: SessionKey, flow: Flow, in_sight: bool) {
        let direction = &mut self.sessions[key.index()].flows[flow.index()];
        direction.pulling = true;
        direction.state.keep_in_sight(in_sight);
        self.try_pull(key, flow);
    }

    pub(super) fn in_sight(&self, key: SessionKey) -> &[u8] {
        self.sessions[key.index()].flows[Flow::ToBackend.index()].state.in_sight()
    }

    pub(super) fn skip(&mut self, key: SessionKey, bytes: u32) {
        let direction = &mut self.sessions[key.index()].flows[Flow::ToBackend.index()];
        direction.state.skip(bytes, &mut self.means);
    }
}
