//! Sessions that go on, for those who ask: which there are and how they stand. Nothing is allocated for
//! it here: whoever asks brings the room for the answer.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use crate::engine::Engine;
use crate::metrics::{SessionPlace, SessionView};
use crate::session::{CloseReason, Step};

use super::Worker;
use super::plan::Target;

/// A question for the sessions of a worker.
#[derive(Debug)]
pub struct Listing {
    /// Empty; what goes beyond its capacity is left out.
    pub room: Vec<SessionView>,
    /// Takes one answer without waiting, and wakes nobody: a worker writes to no descriptor of another
    /// thread's table.
    pub answer: SyncSender<Vec<SessionView>>,
}

impl<E: Engine> Worker<E> {
    pub(super) fn list(&mut self, listing: Listing) {
        let Listing { mut room, answer } = listing;
        for key in self.sessions.keys() {
            if room.len() == room.capacity() {
                break;
            }
            let Some(relay) = self.sessions.of(key) else { continue };
            let Target { limits, .. } = self.plan.target(relay.listener, relay.way);
            room.push(SessionView {
                place: SessionPlace { index: key.index(), generation: key.generation() },
                listener: relay.listener,
                client: relay.client,
                server: relay.server.and_then(|id| self.backends.known(id)).map(Arc::clone),
                progress: relay.session.progress(self.now, limits),
            });
        }
        // Whoever does not want it any more has gone.
        let _ = answer.try_send(room);
    }

    /// Ends a session because an administrator wants it; whether it was there.
    pub(super) fn end_session(&mut self, place: SessionPlace, answer: &SyncSender<bool>) {
        let key = self.sessions.key_at(place.index);
        let key = key.filter(|key| place.is_of(key.generation()));
        if let Some(key) = key {
            self.with(key, |relay, _, _, ops| {
                relay.session.begin_close(CloseReason::ShutDown, ops);
                Step::Continue
            });
        }
        let _ = answer.try_send(key.is_some());
    }
}
