//! Sets of addresses: the networks that a list names, as sorted ranges that do not touch.
//!
//! An IPv4 address counts as its mapped IPv6 form (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2), which
//! is how it looks on a listener that serves both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::value::Refusal;

/// Where the mapped IPv4 addresses begin.
const MAPPED: u128 = 0xffff_0000_0000;

/// One network in CIDR notation; the bits of the host are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn range(self) -> RangeInclusive<u128> {
        let first = number(self.address);
        let host = u32::from(self.bits() - self.prefix);
        first..=first | 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1)
    }

    /// Whether it is no organisation's, but a part of everything: larger than any that was ever given to
    /// one (/8, and /16 of IPv6).
    pub fn is_wide(self) -> bool {
        self.prefix < if self.address.is_ipv4() { 8 } else { 16 }
    }

    /// Every address of both families.
    pub const ALL: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
    ];
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == self.bits() {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = Refusal;

    /// `10.0.0.0/8`, `10.1.2.3`, `2001:db8::/32`.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let network = Self::of_host(text)?;
        let written = text.split_once('/').map_or(text, |(address, _)| address);
        match written.parse::<IpAddr>() {
            Ok(host) if host != network.address => Err(Refusal::new(
                "has bits of a host behind its prefix",
                format!("write \"{network}\", or \"{host}\" for this host alone"),
            )),
            _ => Ok(network),
        }
    }
}

impl Network {
    /// The network that a host is in: `10.1.2.3/8` is `10.0.0.0/8`.
    pub(super) fn of_host(text: &str) -> Result<Self, Refusal> {
        const EXAMPLES: &str =
            "write an address or a network, such as \"10.0.0.0/8\" or \"2001:db8::/32\"";
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (text, None),
        };
        let Ok(address) = host.parse::<IpAddr>() else {
            return Err(Refusal::new("not an address or network", EXAMPLES));
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            None => bits,
            Some(text) => match Some(text).filter(digits).and_then(|text| text.parse().ok()) {
                Some(prefix) if prefix <= bits => prefix,
                _ => {
                    let why = format!("\"/{}\" is no length of a prefix", text.escape_debug());
                    return Err(Refusal::new(why, format!("allowed: /0 to /{bits}")));
                }
            },
        };
        let mask = u128::MAX.checked_shl(u32::from(bits - prefix)).unwrap_or(0);
        let address = address_of(number(address) & mask, address.is_ipv4());
        Ok(Self { address, prefix })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => MAPPED | u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address_of(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number & 0xffff_ffff) {
        Ok(low) if v4 => IpAddr::V4(Ipv4Addr::from(low)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// A set of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Sorted, disjoint, not touching.
    ranges: Vec<RangeInclusive<u128>>,
}

impl Networks {
    /// Every address.
    pub fn everything() -> Self {
        Self { ranges: vec![0..=u128::MAX] }
    }

    /// The set as ranges: sorted, and none touches the next.
    pub fn into_ranges(self) -> Vec<RangeInclusive<u128>> {
        self.ranges
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.ranges.iter().chain(&other.ranges).cloned().collect())
    }

    /// What is not in it.
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::new();
        let mut next = Some(0);
        for range in &self.ranges {
            if let Some(first) = next
                && first < *range.start()
            {
                ranges.push(first..=range.start() - 1);
            }
            next = range.end().checked_add(1);
        }
        ranges.extend(next.map(|first| first..=u128::MAX));
        Self { ranges }
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.complement().union(&other.complement()).complement()
    }

    /// What is in this and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    fn of_ranges(mut ranges: Vec<RangeInclusive<u128>>) -> Self {
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u128>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last)
                    if last.end().checked_add(1).is_none_or(|next| next >= *range.start()) =>
                {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }

    /// The fewest networks that name it. A stretch that covers all of IPv4 and nothing else is
    /// written as `0.0.0.0/0`, and what is beside it as IPv6.
    pub fn networks(&self) -> Vec<Network> {
        let v4 = Self { ranges: vec![MAPPED..=MAPPED | 0xffff_ffff] };
        let mut networks = cut(&self.intersection(&v4), true);
        // With all of IPv4 taken in, the rest is cut into fewer pieces.
        let rest = self.without(&v4);
        let whole = rest.union(&v4);
        let rest = if rest.ranges.len() > whole.ranges.len() { whole } else { rest };
        networks.extend(cut(&rest, false));
        networks
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let mut ranges: Vec<_> = networks.into_iter().map(Network::range).collect();
        // All of IPv6 has IPv4 in it, since that is mapped there; that is not what is meant.
        let mapped = MAPPED..=MAPPED | 0xffff_ffff;
        let v4: Vec<_> = ranges
            .extract_if(.., |range| *range.start() >= MAPPED && *range.end() <= *mapped.end())
            .collect();
        let v6 = Self::of_ranges(ranges).without(&Self { ranges: vec![mapped] });
        v6.union(&Self::of_ranges(v4))
    }
}

/// Cuts each range into networks: the largest that fits, again and again.
fn cut(set: &Networks, v4: bool) -> Vec<Network> {
    let mut networks = Vec::new();
    for range in &set.ranges {
        let (mut first, last) = (*range.start(), *range.end());
        loop {
            let aligned = first.trailing_zeros().min(128);
            let fits = match (last - first).checked_add(1) {
                Some(count) => 127 - count.leading_zeros(),
                None => 128,
            };
            let host = aligned.min(fits).min(if v4 { 32 } else { 128 });
            let bits = if v4 { 32 } else { 128 };
            let prefix = u8::try_from(bits - host).unwrap_or(0);
            networks.push(Network { address: address_of(first, v4), prefix });
            let step = 1u128.checked_shl(host).unwrap_or(0);
            match first.checked_add(step) {
                Some(next) if step > 0 && next <= last => first = next,
                _ => break,
            }
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> Networks {
        networks.iter().map(|text| text.parse::<Network>().unwrap()).collect()
    }

    fn names(set: &Networks) -> Vec<String> {
        set.networks().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn networks_are_read_and_written_alike() {
        for text in ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for (text, expected) in [
            ("10.0.0.1/8", "write \"10.0.0.0/8\""),
            ("10.0.0.0/33", "/0 to /32"),
            ("10.0.0.0/+8", "/0 to /32"),
            ("::/129", "/0 to /128"),
            ("localhost", "such as \"10.0.0.0/8\""),
            ("2001:db8::1/32", "write \"2001:db8::/32\""),
        ] {
            let refusal = text.parse::<Network>().unwrap_err().to_string();
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_set_is_what_its_networks_say() {
        let set = set(&["10.0.0.0/9", "10.128.0.0/9", "192.0.2.1", "::1"]);
        assert_eq!(names(&set), ["10.0.0.0/8", "192.0.2.1", "::1"]);
        assert_eq!(set.ranges.len(), 3);
    }

    #[test]
    fn one_host_taken_out_of_a_network_leaves_the_rest() {
        let rest = set(&["10.0.0.0/29"]).without(&set(&["10.0.0.5"]));
        assert_eq!(names(&rest), ["10.0.0.0/30", "10.0.0.4", "10.0.0.6/31"]);
        assert!(rest.without(&rest).is_empty());
    }

    #[test]
    fn both_families_are_told_apart() {
        let v4 = set(&["0.0.0.0/0"]);
        let v6 = set(&["::/0"]);
        assert!(v4.intersection(&v6).is_empty());
        assert_eq!(v4.union(&v6), Networks::everything());
        assert_eq!(names(&Networks::everything()), ["0.0.0.0/0", "::/0"]);
        assert_eq!(names(&v6), ["::/0"]);
        assert_eq!(names(&v4.complement()), ["::/0"]);
        assert_eq!(set(&["10.0.0.0/8"]).complement().complement(), set(&["10.0.0.0/8"]));
    }

    #[test]
    fn what_is_cut_into_networks_is_the_same_set() {
        for networks in [
            &["10.0.0.5", "10.0.0.6", "2001:db8::/33"][..],
            &["0.0.0.0/1", "255.255.255.255", "ffff::/16"],
            &[],
        ] {
            let set = set(networks);
            assert_eq!(set.networks().into_iter().collect::<Networks>(), set);
            let rest = set.complement();
            assert_eq!(rest.networks().into_iter().collect::<Networks>(), rest);
        }
    }
}
