//! Who a client is, counted by its source, and where it goes: known only after its PROXY header where it
//! speaks for another, and after its first message of TLS where that names its server.

use std::net::SocketAddr;

use crate::engine::Engine;
use crate::gate::sources::{Entry, Ticket};
use crate::metrics::Asked;
use crate::op::{Flow, ListenerId, Outcome, SessionKey, Slot};
use crate::session::greeting::Expects;
use crate::session::{CloseReason, Step};

use super::Worker;
use super::plan::Route;

/// A source has as many sessions as it may, or comes too fast.
pub(super) struct AtLimit;

/// What the first bytes of a listener's clients are looked at for.
pub(super) fn expected(route: &Route) -> Option<Expects> {
    let expects = Expects { header: route.rules.proxies.is_some(), hello: route.names.are_read };
    (expects.header || expects.hello).then_some(expects)
}

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

    /// The first bytes of a client have come.
    pub(super) fn on_greeting(&mut self, key: SessionKey, outcome: Outcome) {
        let Some(relay) = self.sessions.of(key) else { return };
        let bytes = self.engine.greeting(key);
        let (step, said) = relay.session.on_greeting(outcome, bytes, self.now, &mut self.ops);
        relay.client = said.client.unwrap_or(relay.client);
        let route = &self.plan.routes[usize::from(relay.listener.0)];
        if let Some(name) = said.name {
            relay.way = route.names.take_way(&name);
            route.traffic.named();
            relay.asked = Some(Box::new(Asked::Host(name)));
        }
        // Who speaks for himself was counted when he came.
        let speaks_for_another = route.rules.proxies.is_some() && relay.ticket.is_none();
        let counts = matches!(step, Step::Dial { .. }) && speaks_for_another;
        let (listener, client) = (relay.listener, relay.client);
        if counts {
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
