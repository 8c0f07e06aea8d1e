//! How servers are found and looked after while no session asks for them: names and checks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How a server is checked, by default as by HAProxy: `inter 2s rise 2 fall 3`.
const CHECK_INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const CHECK_RISE_DEFAULT: u16 = 2;
const CHECK_FALL_DEFAULT: u16 = 3;
/// How long a name server may take, and how often it is asked again.
const DNS_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const DNS_RETRIES_DEFAULT: u16 = 2;
/// Bounds of the time after which a name is looked up again. Load balancers in front of services move
/// within a minute (their records live for 60 s); a name server is not to be asked every second.
const TTL_MIN_DEFAULT: Duration = Duration::from_secs(5);
const TTL_MAX_DEFAULT: Duration = Duration::from_secs(300);
/// Addresses used of one name: more than anybody publishes, far less than a table to search.
const ADDRESSES_MAX_DEFAULT: u16 = 64;
/// How the names of servers are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Who alone is asked; empty is whatever /etc/hosts and /etc/resolv.conf say at the time.
    pub nameservers: Vec<SocketAddr>,
    pub prefer: Prefer,
    /// How long one question may wait for its answer.
    pub timeout: Duration,
    /// How many times an unanswered question is asked again.
    pub retries: u16,
    /// A name is not looked up more often than this, whatever its time to live.
    pub ttl_min: Duration,
    /// Nor less often than this.
    pub ttl_max: Duration,
    /// Addresses used of one name.
    pub addresses_max: u16,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            prefer: Prefer::default(),
            timeout: DNS_TIMEOUT_DEFAULT,
            retries: DNS_RETRIES_DEFAULT,
            ttl_min: TTL_MIN_DEFAULT,
            ttl_max: TTL_MAX_DEFAULT,
            addresses_max: ADDRESSES_MAX_DEFAULT,
        }
    }
}

/// Which of a name's addresses are used, where it has both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// IPv4; IPv6 if there are no others. A host without a route for IPv6 is more common than one
    /// without IPv4, and each session would learn that by an attempt that fails.
    #[default]
    Ipv4,
    /// IPv6; IPv4 if there are no others.
    Ipv6,
    Both,
}

/// How a server is checked while no session asks for it. The numbers are HAProxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// From one check to the next.
    pub interval: Duration,
    /// The same while the state may be about to change; `None` is as ever.
    pub fast_interval: Option<Duration>,
    /// The same while it is down; `None` is as ever.
    pub down_interval: Option<Duration>,
    /// How long a check may take to connect, and again to be answered.
    pub timeout: Duration,
    /// Checks in a row that bring it up.
    pub rise: u16,
    /// Checks in a row that take it down.
    pub fall: u16,
    /// The port that is checked; `None` is the one that sessions go to.
    pub port: Option<u16>,
    /// The address that is checked; `None` is each that sessions go to.
    pub address: Option<IpAddr>,
    /// What is asked; `None` is nothing, that it can be connected to is enough.
    pub http: Option<HttpCheck>,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            interval: CHECK_INTERVAL_DEFAULT,
            fast_interval: None,
            down_interval: None,
            timeout: CHECK_INTERVAL_DEFAULT,
            rise: CHECK_RISE_DEFAULT,
            fall: CHECK_FALL_DEFAULT,
            port: None,
            address: None,
            http: None,
        }
    }
}

/// A request, and the answer that is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    pub path: String,
    /// The `Host` of the request; `None` is the address.
    pub host: Option<String>,
    /// Status codes that are good, both ends included.
    pub expect: (u16, u16),
}

impl HttpCheck {
    /// Asks for a path, and expects what is neither an error of the client nor of the server.
    pub const fn new(path: String) -> Self {
        Self { path, host: None, expect: (200, 399) }
    }

    /// Whether a status code is good.
    pub fn expects(&self, status: u16) -> bool {
        (self.expect.0..=self.expect.1).contains(&status)
    }
}
