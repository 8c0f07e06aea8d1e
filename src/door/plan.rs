//! What the threads of the doors are told: at their start, and again at each reload. Data only.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::backend::Member;
use crate::backend::board::Board;
use crate::backend::choose::Algorithm;
use crate::gate::Quota;
use crate::gate::rules::Rules;
use crate::metrics::Traffic;
use crate::op::ListenerId;
use crate::password::Hash;

use super::destinations::Destinations;
use super::lookups::Asker;
use super::request::Host;

/// The part of the configuration that requests live by, names resolved. All threads share one.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One for each address of a door.
    pub routes: Vec<Route>,
    pub backends: Vec<Backend>,
    pub ways: Arc<Ways>,
}

/// Where web proxy doors lead, and for whom.
#[derive(Debug)]
pub struct Ways {
    /// Empty is everybody who may connect.
    pub users: BTreeMap<String, Hash>,
    pub destinations: Destinations,
    /// Where names lead.
    pub asker: Asker,
    /// Where this process listens.
    pub own: Vec<SocketAddr>,
}

/// What a listener does with who comes.
#[derive(Clone, Debug)]
pub enum Door {
    /// Forwards requests to the servers of its backend.
    Agent,
    /// Leads where it is asked to, if that is allowed: to the servers of its backend, which have these
    /// addresses, among others.
    Proxy { servers: Arc<HashMap<(Host, u16), Vec<SocketAddr>>> },
}

/// What becomes of the requests that come through one address.
#[derive(Clone, Debug)]
pub struct Route {
    /// Names the address in records.
    pub listener: ListenerId,
    /// Index into [`Plan::backends`].
    pub backend: usize,
    /// Places for agents' connections through this listener, in the whole process.
    pub quota: Arc<Quota>,
    pub traffic: Arc<Traffic>,
    pub rules: Arc<Rules>,
    /// An agent's connection on which nothing moves for so long is ended, when it is the agent's turn.
    pub client_idle: Duration,
    /// Bytes of the longest body of a request.
    pub body_max: u64,
    pub door: Door,
}

impl Route {
    /// The addresses of the backend's server that is written so.
    pub(super) fn server(&self, host: &Host, port: u16) -> Option<&[SocketAddr]> {
        let Door::Proxy { servers } = &self.door else { return None };
        servers.get(&(host.clone(), port)).map(Vec::as_slice)
    }
}

/// Servers among which requests are shared out.
#[derive(Clone, Debug)]
pub struct Backend {
    pub members: Vec<Member>,
    /// How each member is spoken with, in the same order.
    pub manners: Vec<Manner>,
    pub algorithm: Algorithm,
    /// Whether another attempt goes to another server where there is one.
    pub redispatch: bool,
    /// Attempts to connect, the first included.
    pub attempts_max: u16,
    /// For one attempt to connect, TLS included.
    pub connect: Duration,
    /// A server's connection on which nothing moves for so long is ended, when it is the server's turn.
    pub server_idle: Duration,
    /// How long a connection is kept without a request.
    pub keep_idle: Duration,
    /// What stands before the path of each request, without a slash at its end.
    pub prefix: String,
    /// Addresses of this host that connections come from; empty leaves it to the routes.
    pub sources: Vec<IpAddr>,
}

impl Backend {
    /// An address of this host that a server can be connected to from; `None` leaves it to the routes.
    pub(super) fn source_for(&self, server: SocketAddr, random: u32) -> Option<IpAddr> {
        let fits = |source: &&IpAddr| source.is_ipv4() == server.is_ipv4();
        let ours: Vec<_> = self.sources.iter().filter(fits).collect();
        let at = random as usize % ours.len().max(1);
        ours.get(at).map(|source| **source)
    }

    /// How the server with this record is spoken with, if it is still one of them.
    pub(super) fn manner(&self, board: &Arc<Board>) -> Option<&Manner> {
        let place = self.members.iter().position(|member| Arc::ptr_eq(&member.board, board))?;
        self.manners.get(place)
    }
}

/// How a server is spoken with.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The `Host` of requests.
    pub host: HeaderValue,
    /// `None` is without TLS.
    pub secure: Option<Secure>,
}

/// TLS with a server whose name is known.
#[derive(Clone)]
pub struct Secure {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl Secure {
    /// TLS by this configuration with the holder of this name.
    pub const fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self { config, name }
    }

    /// Whether connections that were made by the one may be used for the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("name", &self.name).finish_non_exhaustive()
    }
}
