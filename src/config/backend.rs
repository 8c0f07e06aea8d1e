//! Backends: servers among which sessions are shared out, and how they are reached.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::backend::choose::Algorithm;
use crate::op::ProxyVersion;

use super::IDLE_DEFAULT;
use super::door::{KEEP_IDLE_DEFAULT, Tls};
use super::upkeep::Check;
use super::value::{self, Refusal};

/// How long one connect to a server may take. A SYN is repeated after 1 s and 3 s
/// (`net.ipv4.tcp_syn_retries`): two losses in a row are survived.
pub const CONNECT_DEFAULT: Duration = Duration::from_secs(5);
/// Further attempts after a failed connect, as in HAProxy.
pub const RETRIES_DEFAULT: u16 = 3;
/// How long the rest of a session may stay silent after one direction has ended.
pub const HALF_CLOSED_DEFAULT: Duration = Duration::from_secs(30);
/// How long a session may wait for a place at a server: as long as for its connect, as in HAProxy.
const QUEUE_DEFAULT: Duration = CONNECT_DEFAULT;
/// How many may wait: as many as in the kernel's queue by default.
const QUEUE_PLACES_DEFAULT: u32 = 4096;
/// How old a spare connection may become: servers of which it is known wait 5 s at the least for a
/// client's first bytes (HAProxy's `timeout http-request` in its own examples).
const SPARE_IDLE_DEFAULT: Duration = Duration::from_secs(4);
/// A server's weight when none is given.
pub const WEIGHT_DEFAULT: u16 = 1;

/// Servers among which sessions are shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub balance: Algorithm,
    pub timeouts: Timeouts,
    /// Further attempts after the first that failed, while no byte has been sent.
    pub retries: u16,
    /// Whether a further attempt goes to another server where there is one.
    pub redispatch: bool,
    pub queue: Queue,
    /// Sessions that each server is being connected for at one time, in the process; `None` is no limit.
    pub connecting_max: Option<u32>,
    /// How long a server that came back takes to grow into its share; zero has it at once.
    pub slow_start: Duration,
    /// Whether the sessions of a server are ended when checks find it down.
    pub ends_on_down: bool,
    /// Whether sessions leave an address that their server no longer has, when they are at rest.
    pub leaves_on_move: bool,
    /// Whether sessions leave a server that has more than its share, when they are at rest.
    pub rebalance: bool,
    pub source: Source,
    pub spare: Spare,
    /// What an agent door puts before the path of each request; empty is nothing.
    pub path: String,
    /// How an agent door speaks with the servers; `None` is without TLS.
    pub tls: Option<Tls>,
    /// How long an agent door keeps a connection to a server without a request.
    pub keep_idle: Duration,
    /// At least one.
    pub servers: Vec<Server>,
}

impl Backend {
    /// A backend with every default and no servers yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            balance: Algorithm::default(),
            timeouts: Timeouts::default(),
            retries: RETRIES_DEFAULT,
            redispatch: true,
            queue: Queue::default(),
            connecting_max: None,
            slow_start: Duration::ZERO,
            ends_on_down: false,
            leaves_on_move: false,
            rebalance: false,
            source: Source::default(),
            spare: Spare::default(),
            path: String::new(),
            tls: None,
            keep_idle: KEEP_IDLE_DEFAULT,
            servers: Vec::new(),
        }
    }
}

/// Where sessions wait while every server is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How long each may; zero is not at all.
    pub patience: Duration,
    /// How many may at one time, in the process.
    pub places: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { patience: QUEUE_DEFAULT, places: QUEUE_PLACES_DEFAULT }
    }
}

/// How long a session may stay in each of its waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For one connect to a server.
    pub connect: Duration,
    /// A server connection on which nothing moves for this long is ended.
    pub server_idle: Duration,
    /// After one direction has ended, a session on which nothing moves for this long is ended.
    pub half_closed: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT_DEFAULT,
            server_idle: IDLE_DEFAULT,
            half_closed: HALF_CLOSED_DEFAULT,
        }
    }
}

/// Where connections to the servers come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Addresses of this host, in turn; empty leaves the choice to the kernel's routes.
    pub addresses: Vec<IpAddr>,
    pub ports: SourcePorts,
}

/// Who chooses the source port of a connection to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePorts {
    /// We do, from a range outside `ip_local_port_range`, where the server is not on loopback and
    /// such a range is free; else the kernel.
    #[default]
    Auto,
    /// The kernel, always.
    Kernel,
    /// We do, from this range (both ends included).
    Range { first: u16, last: u16 },
}

impl fmt::Display for SourcePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Kernel => f.write_str("kernel"),
            Self::Range { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// Connections to the servers that are made before a session asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// How many each worker may have for each server; `None` is none.
    pub max: Option<u16>,
    /// How old one may become before it is used.
    pub idle: Duration,
}

impl Default for Spare {
    fn default() -> Self {
        Self { max: None, idle: SPARE_IDLE_DEFAULT }
    }
}

/// One upstream server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: ServerAddress,
    /// Share of the sessions relative to the others' weights; zero takes none.
    pub weight: u16,
    /// Used only when no server without this mark can be.
    pub backup: bool,
    /// Sessions at one time in the process; `None` is no limit.
    pub maxconn: Option<u32>,
    /// The PROXY header with which it is told whose a connection is; `None` is not at all.
    pub send_proxy: Option<ProxyVersion>,
    /// How it is checked; `None` is by the connects of sessions alone.
    pub check: Option<Check>,
}

impl Server {
    /// A server named after its address, with every default.
    pub fn new(address: ServerAddress) -> Self {
        Self {
            name: address.to_string(),
            address,
            weight: WEIGHT_DEFAULT,
            backup: false,
            maxconn: None,
            send_proxy: None,
            check: None,
        }
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    Ip(SocketAddr),
    /// To be looked up when the relay starts and again for as long as it runs: see [`Dns`].
    Name {
        host: String,
        port: u16,
    },
    /// An SRV record (RFC 2782), looked up like a name: it tells hosts and ports.
    Service {
        name: String,
    },
}

impl ServerAddress {
    /// The name or the address, without the port; of a service the domain whose it is.
    pub fn host(&self) -> Cow<'_, str> {
        match self {
            Self::Ip(address) => address.ip().to_string().into(),
            Self::Name { host, .. } => host.into(),
            Self::Service { name } => name.splitn(3, '.').last().unwrap_or_default().into(),
        }
    }

    /// The port, where it is not the record that tells it.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Name { port, .. } => Some(*port),
            Self::Service { .. } => None,
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Service { name } => name.fmt(f),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::server_address(text)
    }
}
