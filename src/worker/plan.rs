//! What a worker is told: at its start, and again at each reload. Data only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::backend::Member;
use crate::backend::choose::Algorithm;
use crate::gate::Quota;
use crate::gate::rules::Rules;
use crate::metrics::Traffic;
use crate::op::ListenerId;
use crate::session::SessionLimits;

use super::queue::Queue;

/// The part of the configuration that sessions live by, names resolved. All workers share one.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By the number of a listener; so many have sockets of the workers' own, and the others are doors,
    /// whose threads pass on what they have let in.
    pub routes: Vec<Route>,
    pub listening: u16,
    pub backends: Vec<Backend>,
}

impl Plan {
    /// Where a session goes that came through `listener` and goes this way.
    pub fn target(&self, listener: ListenerId, way: Way) -> Target<'_> {
        self.routes[usize::from(listener.0)].target(way)
    }
}

/// What becomes of a connection that comes through one listener.
#[derive(Clone, Debug)]
pub struct Route {
    /// Index into [`Plan::backends`].
    pub backend: usize,
    pub limits: SessionLimits,
    /// Places for sessions through this listener, in the whole process.
    pub quota: Arc<Quota>,
    /// What is counted of all that comes through it.
    pub traffic: Arc<Traffic>,
    /// Who may come in; one for all addresses of a listener.
    pub rules: Arc<Rules>,
    /// Where TLS clients go by the name that they ask for.
    pub names: Names,
}

impl Route {
    /// What becomes of sessions that go this way.
    pub fn target(&self, way: Way) -> Target<'_> {
        match way.0.checked_sub(1).and_then(|named| self.names.ways.get(usize::from(named))) {
            Some(named) => Target { backend: named.backend, limits: &named.limits },
            None => Target { backend: self.backend, limits: &self.limits },
        }
    }
}

/// Which of a listener's ways a session goes: the one of its backend, or one of [`Names`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way(u16);

/// Where sessions go.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Index into [`Plan::backends`].
    pub backend: usize,
    pub limits: &'a SessionLimits,
}

/// The names that TLS clients ask for (SNI).
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// They are read, also where all go one way.
    pub are_read: bool,
    /// The first that fits is it. While a worker lives they stay in order, as sessions remember theirs by
    /// its place.
    pub ways: Vec<NamedWay>,
}

/// Where those go who ask for a name.
#[derive(Clone, Debug)]
pub struct NamedWay {
    pub hosts: Hosts,
    /// As in [`Route`].
    pub backend: usize,
    pub limits: SessionLimits,
    /// Sessions that went this way, of all workers.
    pub taken: Arc<AtomicU64>,
}

/// Hosts, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    One(String),
    /// All below a domain: `example.com` for `*.example.com`.
    Under(String),
}

/// Whether a host, such as `a.example.com`, is below a domain, such as `example.com`.
pub fn is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|host| host.len() > 1 && host.ends_with('.'))
}

impl Names {
    /// The way of a session that asks for `name`, which is in small letters; it is counted.
    pub fn take_way(&self, name: &str) -> Way {
        let is_it = |way: &NamedWay| match &way.hosts {
            Hosts::One(host) => host == name,
            Hosts::Under(domain) => is_under(name, domain),
        };
        let Some(place) = self.ways.iter().position(is_it) else { return Way::default() };
        self.ways[place].taken.fetch_add(1, Relaxed);
        Way(u16::try_from(place + 1).unwrap_or_default())
    }
}

/// Servers among which sessions are shared out.
#[derive(Clone, Debug)]
pub struct Backend {
    pub members: Vec<Member>,
    pub algorithm: Algorithm,
    /// Whether another attempt goes to another server where there is one.
    pub redispatch: bool,
    /// Where sessions wait while all servers are full.
    pub queue: Arc<Queue>,
    /// Whether sessions leave an address that their server no longer has.
    pub drain_moved: bool,
    pub source: Source,
    /// Connections made ahead; `None` is none.
    pub spare: Option<SpareLimits>,
}

/// How many connections each worker may have ready for each server of a backend, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareLimits {
    pub max: u16,
    /// Since it was begun.
    pub idle: Duration,
}

/// Where connections to the servers come from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Addresses of this host; those of a server's family take turns. Without one the route decides.
    pub addresses: Vec<IpAddr>,
    /// Ports towards servers beyond loopback; shared out among the workers. `None` leaves the choice
    /// to the kernel.
    pub ports: Option<RangeInclusive<u16>>,
}

impl Source {
    /// The addresses from which `upstream` can be connected to: the unspecified one alone where the
    /// route decides.
    pub fn addresses_for(&self, upstream: SocketAddr) -> impl Iterator<Item = IpAddr> + Clone {
        let fits = move |address: &IpAddr| address.is_ipv4() == upstream.is_ipv4();
        let ours = self.addresses.iter().copied().filter(fits);
        let any: IpAddr = match upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let none = ours.clone().next().is_none();
        ours.chain(none.then_some(any))
    }
}
