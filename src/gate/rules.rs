//! Who may come in at a listener, by the address that they come from. PURE.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::op::Time;

use super::sources::{Entry, SourceLimits, Sources, Ticket};

/// A set of addresses: ranges of their numbers, sorted, none touching the next. An IPv4 address
/// counts as its mapped IPv6 form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet(Box<[RangeInclusive<u128>]>);

impl AddressSet {
    /// # Panics
    /// If the ranges are not sorted and apart.
    pub fn new(ranges: Vec<RangeInclusive<u128>>) -> Self {
        assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        Self(ranges.into())
    }

    /// Whether an address is in the set: by halving, so that long lists cost little.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = number(address);
        let after = self.0.partition_point(|range| *range.start() <= number);
        after > 0 && number <= *self.0[after - 1].end()
    }
}

/// The number of an address: IPv4 as mapped into IPv6 (RFC 4291 section 2.5.5.2), which is how it
/// looks on a listener that serves both.
pub(super) const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// What a listener asks of those who come.
#[derive(Debug, Default)]
pub struct Rules {
    /// Who may connect; `None` is everybody.
    pub permitted: Option<AddressSet>,
    /// Who alone may connect because it speaks for others, by a PROXY header that it must begin with;
    /// `None` is nobody, and everybody speaks for itself.
    pub proxies: Option<AddressSet>,
    pub limits: Option<SourceLimits>,
    /// All workers' table, once any listener has had limits; sessions may still be counted in it when
    /// there are none any more.
    pub sources: Option<Arc<Sources>>,
    /// Tells the listener's sources from those of others.
    pub salt: u64,
    /// Connections a second that are let in at first after a start or an outage, in the process.
    pub ramp: Option<u32>,
}

impl Rules {
    /// Whether who comes from here may connect at all.
    pub fn permit(&self, address: IpAddr) -> bool {
        let among = |set: &Option<AddressSet>| {
            set.as_ref().is_none_or(|permitted| permitted.contains(address))
        };
        among(&self.permitted) && among(&self.proxies)
    }

    /// Counts who comes, if sources have limits here.
    pub fn count(&self, address: IpAddr, now: Time) -> Entry {
        match (&self.limits, &self.sources) {
            (Some(limits), Some(sources)) => sources.enter(self.salt, address, limits, now),
            _ => Entry::Uncounted,
        }
    }

    /// A session has ended that was counted.
    pub fn discount(&self, ticket: Option<Ticket>) {
        if let (Some(ticket), Some(sources)) = (ticket, &self.sources) {
            sources.leave(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_range_are_in_it_and_their_neighbours_are_not() {
        let number = |text: &str| number(text.parse().unwrap());
        let set = AddressSet::new(vec![
            number("10.0.0.4")..=number("10.0.0.7"),
            number("192.0.2.1")..=number("192.0.2.1"),
            number("2001:db8::")..=number("2001:db8::ffff"),
        ]);
        for (address, inside) in [
            ("10.0.0.3", false),
            ("10.0.0.4", true),
            ("10.0.0.7", true),
            ("10.0.0.8", false),
            ("::ffff:10.0.0.5", true),
            ("192.0.2.1", true),
            ("::", false),
            ("2001:db8::ffff", true),
            ("2001:db8::1:0", false),
            ("ffff::", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!AddressSet::new(Vec::new()).contains("::1".parse().unwrap()));
    }
}
