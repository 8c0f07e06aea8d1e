//! When a session has waited for too long, and what for. PURE.

use crate::op::{Flow, Side, Time};

use super::close::CloseReason;
use super::flow::Stage;
use super::{Phase, Session, SessionLimits, gone};

impl Session {
    /// When [`Session::on_deadline`] wants to be called, at the earliest. It moves later with each
    /// byte; an owner may set its timer lazily and ask again when it fires.
    pub fn deadline(&self, limits: &SessionLimits) -> Option<Time> {
        match self.phase {
            Phase::Greeting { until, .. }
            | Phase::Waiting { until }
            | Phase::Connecting { until } => Some(until),
            Phase::GivingUp | Phase::Closing { .. } => None,
            Phase::Relaying => {
                let [client, backend] = self.idle_deadlines(limits);
                let half_closed = self.is_half_closed().then(|| self.active + limits.half_closed);
                [client, backend, half_closed, self.linger_until].into_iter().flatten().min()
            }
        }
    }

    /// When each side has been idle for too long. A source that we do not read from, because its sink
    /// takes nothing, is not idle.
    fn idle_deadlines(&self, limits: &SessionLimits) -> [Option<Time>; 2] {
        Side::ALL.map(|side| {
            let limit = match side {
                Side::Client => limits.client_idle,
                Side::Backend => limits.server_idle,
            };
            let held_up = self.flows[side.outbound().index()].is_pushing();
            let is_sink = self.flows[side.other().outbound().index()].is_pushing();
            (!held_up || is_sink).then(|| self.active + limit)
        })
    }

    pub(super) fn is_due(&self, now: Time, limits: &SessionLimits) -> bool {
        self.deadline(limits).is_some_and(|deadline| deadline <= now)
    }

    /// Bytes may leave a sink's socket although no push ends: the kernel says that there is room again
    /// only when a good part of the queue has gone (`tcp_stream_memory_free()`), for which a slow
    /// reader takes its time. A sink that has acknowledged more since the last look, or was never
    /// looked at, is one to which bytes move. So one that takes nothing more is ended by the second
    /// look, within twice the limit.
    pub(super) fn look_at_sinks(&mut self, now: Time, mut acknowledged: impl FnMut(Side) -> u32) {
        for flow in Flow::ALL {
            let sink = flow.sink();
            if !self.flows[flow.index()].is_pushing() {
                continue;
            }
            let bytes = Some(acknowledged(sink));
            if std::mem::replace(&mut self.acknowledged[sink.index()], bytes) != bytes {
                self.active = now;
            }
        }
    }

    fn is_half_closed(&self) -> bool {
        self.flows.iter().any(|flow| flow.is_cut() || flow.stage() != Stage::Open)
    }

    /// Which of the waits of a relaying session has gone on for too long.
    pub(super) fn overdue(&self, now: Time, limits: &SessionLimits) -> CloseReason {
        if self.linger_until.is_some_and(|until| until <= now) {
            return self.cut.map_or(CloseReason::HalfClosed, |cut| gone(cut.sink()));
        }
        if self.is_half_closed() && self.active + limits.half_closed <= now {
            return CloseReason::HalfClosed;
        }
        match self.idle_deadlines(limits) {
            [Some(client), Some(backend)] if client <= backend => CloseReason::ClientIdle,
            [Some(_), None] => CloseReason::ClientIdle,
            _ => CloseReason::ServerIdle,
        }
    }
}
