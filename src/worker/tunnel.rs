//! Sessions that a door has begun: both connections are made, and are relayed here from now on.

use std::net::SocketAddr;

use crate::engine::Engine;
use crate::gate::sources::Ticket;
use crate::metrics::RequestLine;
use crate::op::{ListenerId, Time};
use crate::session::{Session, Step};

use super::ending::Phase;
use super::queue::Wait;
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
    pub request: Box<RequestLine>,
}

impl<E: Engine> Worker<E> {
    /// Goes on with what a door has begun, if there is a place for it and nothing is ending.
    pub(super) fn take_over(&mut self, tunnel: Tunnel) {
        let Tunnel { number, listener, client, address, ticket, opened, attempts, request } =
            tunnel;
        let key = match self.phase {
            Phase::Stopping { .. } => None,
            _ if !self.admission.has_place() => None,
            _ => self.sessions.vacancy(),
        };
        let Some(key) = key.filter(|&key| self.engine.adopt_pair(number, key)) else {
            self.engine.refuse_pair(number);
            self.admission.give_back(listener);
            self.rules(listener).discount(ticket);
            self.counters.refused.add(1);
            return self.traffic(listener).refused();
        };
        self.admission.enter_held();
        let session = Session::joined(key, opened, attempts, self.now, &mut self.ops);
        let relay = Relay {
            session,
            listener,
            client,
            server: None,
            address,
            failed: None,
            paused: false,
            lease: None,
            ticket,
            wait: Wait::default(),
            request: Some(request),
            links: None,
            leaving: false,
            dialled: self.now,
            ports_tried: 0,
            addresses_tried: 0,
        };
        self.settle(key, relay);
        self.with(key, |_, _, _, _| Step::Continue);
    }
}
