//! Where a web proxy's connections may lead: nowhere, but for what is named. PURE.
//!
//! A name that is allowed says nothing of the addresses that it leads to: each is judged when it is
//! known, and the connection is made to that very address. Whoever may write the answer of a name
//! server must not get at what only this host can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::gate::rules::AddressSet;
use crate::worker::plan::is_under;

use super::request::Host;

/// What is named.
#[derive(Debug, Default)]
pub struct Destinations {
    pub hosts: Vec<(Hosts, Option<u16>)>,
    /// Addresses that may be connected to whatever leads there; `None` is every port.
    pub networks: Vec<(AddressSet, Option<u16>)>,
}

/// Hosts that are named at once, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    Any,
    /// Those below a domain.
    Under(String),
    One(String),
}

/// How well known the host of a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may lead to addresses that are named, and to no other.
    Unnamed,
    /// It is one of those that are named at once: it may lead to public addresses.
    OneOfMany,
    /// It is named itself: it may lead to addresses of private networks, too.
    Named,
}

impl Destinations {
    /// How a host stands.
    pub fn standing(&self, host: &Host, port: u16) -> Standing {
        let fits = |named: &&(Hosts, Option<u16>)| named.1.is_none_or(|named| named == port);
        let standings = self.hosts.iter().filter(fits).map(|(hosts, _)| match (hosts, host) {
            (Hosts::Any, _) => Standing::OneOfMany,
            (Hosts::Under(domain), Host::Name(name)) if is_under(name, domain) => {
                Standing::OneOfMany
            }
            (Hosts::One(one), Host::Name(name)) if one == name => Standing::Named,
            _ => Standing::Unnamed,
        });
        standings.max_by_key(|standing| *standing as u8).unwrap_or(Standing::Unnamed)
    }

    /// Whether it is to be found out where this host is. Names that nobody has named are not looked up:
    /// what is asked of name servers gets out, too.
    pub fn is_of_interest(&self, host: &Host, standing: Standing) -> bool {
        matches!(host, Host::Address(_)) || standing != Standing::Unnamed
    }

    /// Whether a connection may be made to this address for a host of this standing.
    pub fn permit(&self, address: SocketAddr, standing: Standing) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        // A connect to an unspecified address arrives at this host itself.
        if ip.is_unspecified() {
            return false;
        }
        let named = self
            .networks
            .iter()
            .any(|(set, named)| named.is_none_or(|named| named == port) && set.contains(ip));
        named
            || match standing {
                Standing::Unnamed => false,
                Standing::OneOfMany => is_public(ip),
                Standing::Named => is_public(ip) || is_private(ip),
            }
    }
}

const fn v4(a: u8, b: u8, c: u8, prefix: u32) -> (u32, u32) {
    (Ipv4Addr::new(a, b, c, 0).to_bits(), prefix)
}

/// What is not of the public internet, by the registry of special addresses (RFC 6890, IANA).
const SPECIAL_V4: [(u32, u32); 15] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
];

/// Networks that organisations number for themselves (RFC 1918), and carriers for their customers (RFC
/// 6598).
const PRIVATE_V4: [(u32, u32); 4] =
    [v4(10, 0, 0, 8), v4(172, 16, 0, 12), v4(192, 168, 0, 16), v4(100, 64, 0, 10)];

fn within_v4(address: Ipv4Addr, networks: &[(u32, u32)]) -> bool {
    let bits = address.to_bits();
    networks.iter().any(|(network, prefix)| (bits ^ network) >> (32 - prefix) == 0)
}

/// Whether an address is one of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !within_v4(address, &SPECIAL_V4),
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            // Global unicast is 2000::/3. Of it: Teredo and other protocols' (2001::/23), examples
            // (2001:db8::/32, 3fff::/20), and IPv4 in disguise (2002::/16); NAT64 is outside.
            first & 0xe000 == 0x2000
                && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
                && first != 0x2002
                && !(first == 0x3fff && second < 0x1000)
        }
    }
}

/// Whether an address is one of a private network: not of this host alone, and not of a link.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => within_v4(address, &PRIVATE_V4),
        IpAddr::V6(address) => is_unique_local(address),
    }
}

/// fc00::/7 (RFC 4193).
const fn is_unique_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xfe00 == 0xfc00
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    fn set(text: &str) -> AddressSet {
        let IpAddr::V4(ip) = text.parse().unwrap() else { unreachable!() };
        let number = ip.to_ipv6_mapped().to_bits();
        AddressSet::new(vec![number..=number])
    }

    fn destinations() -> Destinations {
        Destinations {
            hosts: vec![
                (Hosts::One("intake.example.com".into()), Some(443)),
                (Hosts::Under("example.org".into()), None),
                (Hosts::Any, Some(8443)),
            ],
            networks: vec![(set("127.0.0.1"), Some(9000))],
        }
    }

    #[test]
    fn a_host_stands_as_well_as_the_best_that_names_it() {
        let all = destinations();
        for (host, port, expected) in [
            ("intake.example.com", 443, Standing::Named),
            ("intake.example.com", 80, Standing::Unnamed),
            ("xintake.example.com", 443, Standing::Unnamed),
            ("a.example.org", 1, Standing::OneOfMany),
            ("a.b.example.org", 65535, Standing::OneOfMany),
            ("example.org", 443, Standing::Unnamed),
            (".example.org", 443, Standing::Unnamed),
            ("xexample.org", 443, Standing::Unnamed),
            ("anything", 8443, Standing::OneOfMany),
        ] {
            assert_eq!(all.standing(&name(host), port), expected, "{host}:{port}");
        }
        let literal = Host::Address("8.8.8.8".parse().unwrap());
        assert_eq!(all.standing(&literal, 8443), Standing::OneOfMany);
        assert_eq!(all.standing(&literal, 443), Standing::Unnamed);
        assert!(all.is_of_interest(&literal, Standing::Unnamed));
        assert!(!all.is_of_interest(&name("x"), Standing::Unnamed));
    }

    #[test]
    fn what_only_this_host_can_reach_has_to_be_named_as_an_address() {
        let all = destinations();
        for text in [
            "127.0.0.1:443",
            "127.255.255.255:443",
            "0.0.0.0:443",
            "169.254.169.254:443",
            "224.0.0.1:443",
            "255.255.255.255:443",
            "192.0.2.7:443",
            "198.18.0.1:443",
            "[::1]:443",
            "[::]:443",
            "[fe80::1]:443",
            "[ff02::1]:443",
            "[::ffff:127.0.0.1]:443",
            "[64:ff9b::7f00:1]:443",
            "[2002:7f00:1::]:443",
            "[2001:0:1::1]:443",
            "[2001:db8::1]:443",
        ] {
            for standing in [Standing::Unnamed, Standing::OneOfMany, Standing::Named] {
                assert!(!all.permit(address(text), standing), "{text} {standing:?}");
            }
        }
        for standing in [Standing::Unnamed, Standing::OneOfMany, Standing::Named] {
            assert!(all.permit(address("127.0.0.1:9000"), standing));
            assert!(all.permit(address("[::ffff:127.0.0.1]:9000"), standing));
            assert!(!all.permit(address("127.0.0.2:9000"), standing));
        }
    }

    #[test]
    fn private_networks_are_for_hosts_that_are_named_and_public_ones_for_all() {
        let all = destinations();
        for text in
            ["10.0.0.1:1", "172.31.255.255:1", "192.168.0.1:1", "100.64.0.1:1", "[fd00::1]:1"]
        {
            assert!(all.permit(address(text), Standing::Named), "{text}");
            assert!(!all.permit(address(text), Standing::OneOfMany), "{text}");
        }
        for text in
            ["8.8.8.8:1", "172.32.0.1:1", "100.128.0.1:1", "[2a00:1450::1]:1", "[2001:4860::1]:1"]
        {
            assert!(all.permit(address(text), Standing::Named), "{text}");
            assert!(all.permit(address(text), Standing::OneOfMany), "{text}");
            assert!(!all.permit(address(text), Standing::Unnamed), "{text}");
        }
    }
}
