//! Sessions that a door has begun: both connections are made, and are relayed here from now on.

use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::Engine;
use crate::gate::sources::Ticket;
use crate::metrics::{Asked, Queued, SessionRecord};
use crate::op::{ListenerId, Time};
use crate::session::{CloseReason, Report, Session, Step};

use super::ending::Phase;
use super::{Relay, Worker};

/// What a worker is told of a pair of connections that was passed to its engine. The places that it
/// holds in the process and in its listener, and its ticket, become the session's.
#[derive(Debug)]
pub struct Tunnel {
    /// Under which it was passed.
    pub number: u64,
    pub listener: ListenerId,
    pub client: SocketAddr,
    /// Where its server is.
    pub address: SocketAddr,
    pub ticket: Option<Ticket>,
    /// When the client came.
    pub opened: Time,
    /// Attempts to connect its server.
    pub attempts: u16,
    pub asked: Box<Asked>,
}

impl<E: Engine> Worker<E> {
    /// Goes on with what a door has begun, if there is a place for it and nothing is ending.
    pub(super) fn take_over(&mut self, tunnel: Tunnel) {
        let Tunnel { number, listener, client, address, ticket, opened, attempts, asked } = tunnel;
        let key = match self.phase {
            Phase::Stopping { .. } => None,
            _ => self.sessions.vacancy(),
        };
        let Some(key) = key.filter(|&key| self.engine.adopt_pair(number, key)) else {
            self.engine.refuse_pair(number);
            self.admission.give_back(listener);
            self.rules(listener).discount(ticket);
            return self.lose(listener, client, asked, attempts, self.now.since(opened));
        };
        self.admission.enter_held();
        let session = Session::joined(key, opened, attempts, self.now, &mut self.ops);
        let relay = Relay::new(session, listener, client, ticket, self.now);
        let relay = Relay { address, asked: Some(asked), ..relay };
        self.settle(key, relay);
        self.with(key, |_, _, _, _| Step::Continue);
    }

    /// A tunnel that its client was told of, and that there is no place for: it ends as a session does.
    fn lose(
        &mut self,
        listener: ListenerId,
        client: SocketAddr,
        asked: Box<Asked>,
        attempts: u16,
        total_time: Duration,
    ) {
        let report = Report::unserved(CloseReason::NoResources, attempts, total_time);
        let route = &self.plan.routes[usize::from(listener.0)];
        route.traffic.opened(route.quota.taken());
        self.counters.sessions_total.add(1);
        let (server, queued, links, asked) = (None, Queued::default(), None, Some(asked));
        self.tell_ended(SessionRecord { listener, client, server, queued, asked, links, report });
    }
}
