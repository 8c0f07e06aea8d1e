//! Who a client is: counted by its source, and known only after its PROXY header where it speaks for
//! another.

use std::net::SocketAddr;

use crate::engine::Engine;
use crate::gate::sources::{Entry, Ticket};
use crate::op::{Flow, ListenerId, Outcome, SessionKey, Slot};
use crate::session::{CloseReason, Step};

use super::Worker;

/// A source has as many sessions as it may, or comes too fast.
pub(super) struct AtLimit;

impl<E: Engine> Worker<E> {
    /// Counts a client's source.
    pub(super) fn count(
        &self,
        listener: ListenerId,
        client: SocketAddr,
    ) -> Result<Option<Ticket>, AtLimit> {
        match self.rules(listener).count(client.ip(), self.now) {
            Entry::Counted(ticket) => Ok(Some(ticket)),
            Entry::Uncounted => Ok(None),
            Entry::Refused => {
                self.counters.source_limited.add(1);
                self.traffic(listener).source_limited();
                Err(AtLimit)
            }
        }
    }

    /// Whether what has ended is the client's first bytes, and they are for us.
    pub(super) fn awaits_greeting(&mut self, key: SessionKey, slot: Slot) -> bool {
        slot == Slot::Pull(Flow::ToBackend)
            && self.sessions.of(key).is_some_and(|relay| relay.session.is_greeting())
    }

    /// The first bytes of a client that speaks for another have come.
    pub(super) fn on_greeting(&mut self, key: SessionKey, outcome: Outcome) {
        let Some(relay) = self.sessions.of(key) else { return };
        let bytes = self.engine.greeting(key);
        let (step, client) = relay.session.on_greeting(outcome, bytes, &mut self.ops);
        let is_known = matches!(step, Step::Dial { .. });
        relay.client = client.unwrap_or(relay.client);
        let (listener, client) = (relay.listener, relay.client);
        if is_known {
            match self.count(listener, client) {
                Ok(ticket) => {
                    if let Some(relay) = self.sessions.of(key) {
                        relay.ticket = ticket;
                    }
                }
                Err(AtLimit) => {
                    return self.with(key, |relay, _, _, ops| {
                        relay.session.begin_close(CloseReason::SourceLimit, ops);
                        Step::Continue
                    });
                }
            }
        }
        self.with(key, |_, _, _, _| step);
    }
}
