//! Asking for the addresses of a name. By hickory-resolver, which tells the time to live; the C
//! library's resolver does not.
//!
//! Without name servers of our own, what the system says holds: /etc/hosts, then the name servers of
//! /etc/resolv.conf, both read anew for each question, so that a change needs no reload. A system
//! without that file asks 127.0.0.1, as the C library does (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use tokio::time::{Instant, timeout};

use crate::config::{Dns, Prefer};

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The name has these addresses, at least one, for so long.
    Found { addresses: Vec<IpAddr>, ttl: Duration },
    /// There is nothing to connect to, for sure: why, and what to do.
    Absent { why: String, remedy: &'static str },
    /// Nobody knows.
    Unanswered { why: String },
}

/// What to do about a name that has no address.
const CHECK: &str = "check the name with: getent ahosts NAME, or write the IP address";

/// Asks for the addresses of a host; never for longer than [`patience`].
pub(super) async fn ask(dns: Dns, host: &str) -> Outcome {
    let resolver = match resolver(&dns) {
        Ok(resolver) => resolver,
        Err(error) => return Outcome::Unanswered { why: error.to_string() },
    };
    match timeout(patience(&dns), resolver.lookup_ip(host)).await {
        Ok(Ok(found)) => {
            let ttl = Instant::from_std(found.valid_until()).duration_since(Instant::now());
            usable(found.iter(), ttl)
        }
        Ok(Err(error)) => failed(&dns, &error),
        Err(_) => Outcome::Unanswered { why: silence(&dns) },
    }
}

/// How long one look-up can take: each kind of address is asked for in its turn.
pub(super) fn patience(dns: &Dns) -> Duration {
    dns.timeout * (u32::from(dns.retries) + 1) * 2 + Duration::from_millis(500)
}

fn resolver(dns: &Dns) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if dns.nameservers.is_empty() {
        TokioResolver::builder_tokio().unwrap_or_else(|_| {
            let here = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
            let config = ResolverConfig::from_name_servers(vec![here]);
            TokioResolver::builder_with_config(config, provider)
        })
    } else {
        let servers = dns.nameservers.iter().copied().map(nameserver).collect();
        let config = ResolverConfig::from_name_servers(servers);
        let mut builder = TokioResolver::builder_with_config(config, provider);
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder
    };
    let options = builder.options_mut();
    options.ip_strategy = match dns.prefer {
        Prefer::Ipv4 => LookupIpStrategy::Ipv4thenIpv6,
        Prefer::Ipv6 => LookupIpStrategy::Ipv6thenIpv4,
        Prefer::Both => LookupIpStrategy::Ipv4AndIpv6,
    };
    options.timeout = dns.timeout;
    options.attempts = dns.retries.into();
    // What is asked is to be known anew.
    options.cache_size = 0;
    builder.build()
}

fn nameserver(address: SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

fn usable(found: impl Iterator<Item = IpAddr>, ttl: Duration) -> Outcome {
    let mut addresses: Vec<IpAddr> = Vec::new();
    // Resolvers that block a name answer 0.0.0.0, which connect(2) takes for this host.
    for address in found.filter(|address| !address.is_unspecified()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Outcome::Absent { why: "has no address to connect to".to_owned(), remedy: CHECK };
    }
    Outcome::Found { addresses, ttl }
}

/// Only "there is no such name" and "it has no addresses" are answers; SERVFAIL, REFUSED, silence and
/// whatever cannot be read say nothing of the name.
fn failed(dns: &Dns, error: &NetError) -> Outcome {
    let absent = |why: &str| Outcome::Absent { why: why.to_owned(), remedy: CHECK };
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => absent("does not exist (NXDOMAIN)"),
            ResponseCode::NoError => absent("has no address"),
            code => Outcome::Unanswered { why: format!("the name server says {code}") },
        },
        NetError::Timeout => Outcome::Unanswered { why: silence(dns) },
        error => Outcome::Unanswered { why: error.to_string() },
    }
}

fn silence(dns: &Dns) -> String {
    let asked: Vec<String> = dns.nameservers.iter().map(ToString::to_string).collect();
    let asked = match asked.as_slice() {
        [] => "the name servers of /etc/resolv.conf".to_owned(),
        some => some.join(", "),
    };
    format!("no answer from {asked}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_once_and_those_that_cannot_be_connected_to_not_at_all() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = ["192.0.2.1", "0.0.0.0", "192.0.2.2", "192.0.2.1", "::"].map(ip);
        let ttl = Duration::from_secs(60);
        let addresses = vec![ip("192.0.2.1"), ip("192.0.2.2")];
        assert_eq!(usable(found.into_iter(), ttl), Outcome::Found { addresses, ttl });
        let blocked = usable([ip("0.0.0.0")].into_iter(), ttl);
        assert!(matches!(blocked, Outcome::Absent { .. }), "{blocked:?}");
    }

    #[test]
    fn the_system_knows_localhost() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(ask(Dns::default(), "localhost"));
        let Outcome::Found { addresses, .. } = outcome else { panic!("{outcome:?}") };
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
