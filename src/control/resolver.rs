//! Asking where a name leads: to the addresses of a host, or to the hosts of an SRV record. By
//! hickory-resolver, which tells the time to live; the C library's resolver does not.
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
use hickory_resolver::proto::rr::RData;
use tokio::time::{Instant, timeout};

use crate::config::{Dns, Prefer, value};
use crate::handover::Location;

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The name leads to these addresses, at least one, for so long.
    Found { addresses: Vec<Location>, ttl: Duration },
    /// There is nothing to connect to, for sure: why, and what to do.
    Absent { why: String, remedy: &'static str },
    /// Nobody knows.
    Unanswered { why: String },
}

/// What to do about a name that has no address.
const CHECK: &str = "check the name with: getent ahosts NAME, or write the IP address";

/// Asks where a name leads; never for much longer than the configuration's retries take.
pub async fn ask(dns: Dns, name: &str) -> Outcome {
    let resolver = match resolver(&dns) {
        Ok(resolver) => resolver,
        Err(error) => return Outcome::Unanswered { why: error.to_string() },
    };
    let found = async {
        match value::is_service(name) {
            true => service(&resolver, name, dns.addresses_max.into()).await,
            false => host(&resolver, name).await,
        }
    };
    match timeout(patience(&dns), found).await {
        Ok(Ok((addresses, _))) if addresses.is_empty() => {
            Outcome::Absent { why: "has no address to connect to".to_owned(), remedy: CHECK }
        }
        Ok(Ok((addresses, ttl))) => Outcome::Found { addresses, ttl },
        Ok(Err(error)) => failed(&dns, &error),
        Err(_) => Outcome::Unanswered { why: silence(&dns) },
    }
}

/// How long one look-up can take: each kind of address is asked for in its turn, and behind an SRV record
/// once more.
pub(super) fn patience(dns: &Dns) -> Duration {
    dns.timeout * (u32::from(dns.retries) + 1) * 3 + Duration::from_millis(500)
}

/// The addresses of a host, and their time to live.
async fn host(resolver: &TokioResolver, name: &str) -> Result<(Vec<Location>, Duration), NetError> {
    let found = resolver.lookup_ip(name).await?;
    let ttl = Instant::from_std(found.valid_until()).duration_since(Instant::now());
    Ok((usable(found.iter()).into_iter().map(Location::from).collect(), ttl))
}

/// The hosts of an SRV record that come first, with their ports (RFC 2782). One that carries more stands
/// there more often, as far as there is room for `most`. A host that for sure is not there is left out;
/// one that nobody answers for leaves all as it was.
async fn service(
    resolver: &TokioResolver,
    name: &str,
    most: usize,
) -> Result<(Vec<Location>, Duration), NetError> {
    let found = resolver.srv_lookup(name).await?;
    let mut ttl = Instant::from_std(found.valid_until()).duration_since(Instant::now());
    let records = found.answers().iter().filter_map(|record| match &record.data {
        // The root stands for "there is no such service".
        RData::SRV(record) if !record.target.is_root() && record.port > 0 => Some(record),
        _ => None,
    });
    let records: Vec<_> = records.collect();
    let first = records.iter().map(|record| record.priority).min();
    let mut weighted = Vec::new();
    for record in records.iter().filter(|record| Some(record.priority) == first) {
        match host(resolver, &record.target.to_ascii()).await {
            Ok((addresses, lives)) => {
                ttl = ttl.min(lives);
                let at = |found: Location| Location { port: Some(record.port), ..found };
                weighted.extend(addresses.into_iter().map(|found| (at(found), record.weight)));
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((in_proportion(&weighted, most), ttl))
}

/// Each as often as its weight relative to the others', or once if that makes more than `most`.
fn in_proportion(weighted: &[(Location, u16)], most: usize) -> Vec<Location> {
    let divisor = weighted.iter().map(|(_, weight)| *weight).fold(0, gcd).max(1);
    let times = |weight: u16| usize::from(weight / divisor).max(1);
    let sum: usize = weighted.iter().map(|(_, weight)| times(*weight)).sum();
    let of = |(at, weight): &(Location, u16)| {
        std::iter::repeat_n(*at, if sum > most { 1 } else { times(*weight) })
    };
    weighted.iter().flat_map(of).collect()
}

const fn gcd(one: u16, other: u16) -> u16 {
    if other == 0 { one } else { gcd(other, one % other) }
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

fn usable(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    // Resolvers that block a name answer 0.0.0.0, which connect(2) takes for this host.
    for address in found.filter(|address| !address.is_unspecified()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn is_absent(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return false };
    matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
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
        assert_eq!(usable(found.into_iter()), [ip("192.0.2.1"), ip("192.0.2.2")]);
    }

    #[test]
    fn hosts_of_an_srv_record_stand_as_often_as_they_weigh() {
        let at = |last: u8| Location { ip: [192, 0, 2, last].into(), port: Some(443) };
        let times = |weights: [u16; 3], most| {
            let weighted: Vec<_> = (0..).zip(weights).map(|(last, w)| (at(last), w)).collect();
            let all = in_proportion(&weighted, most);
            [0, 1, 2].map(|last| all.iter().filter(|found| **found == at(last)).count())
        };
        assert_eq!(times([10, 20, 30], 64), [1, 2, 3]);
        assert_eq!(times([0, 0, 0], 64), [1, 1, 1]);
        assert_eq!(times([0, 5, 5], 64), [1, 1, 1]);
        assert_eq!(times([1, 100, 1], 64), [1, 1, 1], "there is no room for that");
    }

    #[test]
    fn the_system_knows_localhost() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(ask(Dns::default(), "localhost"));
        let Outcome::Found { addresses, .. } = outcome else { panic!("{outcome:?}") };
        assert!(addresses.iter().all(|at| at.ip.is_loopback()), "{addresses:?}");
    }
}
