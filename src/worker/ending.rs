//! How a worker comes to its end: no more connections, no more sessions, nothing.

use std::time::Duration;

use crate::engine::Engine;
use crate::op::Time;
use crate::session::{CloseReason, Step};

use super::Worker;

/// When sessions have been told to end and nothing comes back for this long, the worker gives up on
/// them: a kernel that does not complete a cancelled operation is a bug, and no reason to hang. It
/// counts from the last completion, so that a process that was stopped for a while loses nothing.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long connections are still taken after a drain has begun: long enough to empty any queue,
/// and an end to it where they never stop coming.
pub(super) const UNLISTEN_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// Emptying the listeners' queues one last time, until they are or `enough` has passed; the
    /// sessions may go on until `until`.
    Unlistening {
        enough: Time,
        until: Time,
    },
    /// Sessions may go on until then.
    Draining {
        until: Time,
    },
    /// Every session has been told to end; if nothing comes back by then the rest is given up.
    Stopping {
        until: Time,
    },
}

impl<E: Engine> Worker<E> {
    /// Sessions may go on for `grace`, if they have not been given less already.
    pub(super) fn drain(&mut self, grace: Duration) {
        let latest = self.now + grace;
        self.discard_spares();
        match &mut self.phase {
            Phase::Serving => {
                let enough = self.now + grace.min(UNLISTEN_MAX);
                self.phase = Phase::Unlistening { enough, until: latest };
            }
            Phase::Unlistening { until, .. } | Phase::Draining { until } => {
                *until = latest.min(*until);
            }
            Phase::Stopping { .. } => {}
        }
    }

    /// Moves from one phase of the end to the next. `emptied`: the listeners were looked at since the
    /// drain began, and nobody was there. `silent`: nothing came back in this turn.
    pub(super) fn advance(&mut self, emptied: bool, silent: bool) {
        match self.phase {
            Phase::Unlistening { enough, until } if emptied || enough <= self.now => {
                self.unlisten();
                self.phase = Phase::Draining { until };
            }
            Phase::Draining { until } if until <= self.now => self.end_all(CloseReason::Drained),
            Phase::Stopping { .. } if !silent => {
                self.phase = Phase::Stopping { until: self.now + STOP_PATIENCE };
            }
            _ => {}
        }
    }

    fn unlisten(&mut self) {
        for listener in self.listeners() {
            self.admission.end(listener);
            self.engine.unlisten(listener);
        }
        for arrival in std::mem::take(&mut self.waiting) {
            self.refuse(arrival);
        }
    }

    pub(super) fn end_all(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        self.unlisten();
        self.discard_spares();
        for key in self.sessions.keys() {
            self.with(key, |relay, _, _, ops| {
                relay.session.begin_close(reason, ops);
                Step::Continue
            });
        }
        self.phase = Phase::Stopping { until: self.now + STOP_PATIENCE };
    }
}
