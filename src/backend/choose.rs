//! The algorithms that pick a server, each a plain function. PURE.
//!
//! Each is told who may be chosen; none ever chooses a server of weight 0.

use std::fmt;
use std::net::IpAddr;

/// How a server is chosen (HAProxy's `balance`, configuration manual section 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// In turn, by weight; each worker takes its own turns.
    #[default]
    RoundRobin,
    /// The one with the fewest sessions for its weight, of those in the whole process.
    LeastConnections,
    /// By the client's address: always the same one, while it is there.
    Source,
    /// The first in the list that has room, so that the others may sleep.
    First,
    /// The less loaded of two drawn by lot, by weight.
    Random,
}

impl Algorithm {
    /// Every one, by the word for it.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("roundrobin", Self::RoundRobin),
        ("leastconn", Self::LeastConnections),
        ("source", Self::Source),
        ("first", Self::First),
        ("random", Self::Random),
    ];
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, algorithm)| algorithm == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

/// A server as an algorithm sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Share relative to the others; zero never has its turn.
    pub weight: u32,
    /// Credit gathered: grows by the weight each time, falls by the sum when chosen.
    pub credit: i64,
}

/// Smooth weighted round robin (nginx's, of 2012): of those that `may` be chosen, the one with the
/// most credit. Servers of weight 5, 1, 1 come as a a b a c a a, not a a a a a b c.
pub fn round_robin(turns: &mut [Turn], may: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut sum = 0;
    for index in 0..turns.len() {
        if turns[index].weight == 0 || !may(index) {
            continue;
        }
        turns[index].credit += i64::from(turns[index].weight);
        sum += i64::from(turns[index].weight);
        if best.is_none_or(|best| turns[index].credit > turns[best].credit) {
            best = Some(index);
        }
    }
    let best = best?;
    turns[best].credit -= sum;
    Some(best)
}

/// The one with the fewest sessions for its weight. Of equals the first from `start` on, which moves
/// behind it: an idle fleet does not ask the first in the list alone.
pub fn least(
    turns: &[Turn],
    may: impl Fn(usize) -> bool,
    sessions: impl Fn(usize) -> u32,
    start: &mut usize,
) -> Option<usize> {
    let count = turns.len();
    let in_order = (0..count).map(|step| (*start + step) % count);
    let candidates = in_order.filter(|&index| turns[index].weight > 0 && may(index));
    let loads = candidates.map(|index| (index, Load::of(turns, &sessions, index)));
    let (best, _) =
        loads.reduce(|best, other| if other.1.is_less(best.1) { other } else { best })?;
    *start = best + 1;
    Some(best)
}

/// The less loaded of two that are drawn by lot, each server as often as its weight: nearly as even as
/// [`least`], and workers that look at the same moment do not all run to the same one.
pub fn random(
    turns: &[Turn],
    may: impl Fn(usize) -> bool,
    sessions: impl Fn(usize) -> u32,
    lot: u32,
) -> Option<usize> {
    let weight = |index: usize| if may(index) { u64::from(turns[index].weight) } else { 0 };
    let sum: u64 = (0..turns.len()).map(weight).sum();
    // A part of the sum, from as many bits of chance as there are.
    let drawn = |lot: u64| {
        let mut left = ((lot & u64::from(u32::MAX)) * sum) >> 32;
        (0..turns.len()).find(|&index| {
            let (weight, before) = (weight(index), left);
            left = left.saturating_sub(weight);
            before < weight
        })
    };
    let (one, other) = (drawn(lot.into())?, drawn(mix(lot.into()))?);
    let load = |index| Load::of(turns, &sessions, index);
    Some(if load(other).is_less(load(one)) { other } else { one })
}

/// The first that may be chosen.
pub fn first(turns: &[Turn], may: impl Fn(usize) -> bool) -> Option<usize> {
    (0..turns.len()).find(|&index| turns[index].weight > 0 && may(index))
}

/// By the client's address and the servers' identities alone: every worker, every process and every
/// relay with the same list chooses alike, and when a server goes only its own clients move
/// (rendezvous hashing with weights; Schindelhauer and Schomaker, 2005).
pub fn source(
    turns: &[Turn],
    may: impl Fn(usize) -> bool,
    identity: impl Fn(usize) -> u64,
    client: IpAddr,
) -> Option<usize> {
    let client = match client.to_canonical() {
        IpAddr::V4(address) => mix(u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let [high, low] = [address.to_bits() >> 64, address.to_bits()]
                .map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default());
            mix(mix(high) ^ low)
        }
    };
    let score = |index: usize| {
        // 53 random bits: above 0 and below 1.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let chance = ((mix(identity(index) ^ client) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(turns[index].weight) / chance.ln()
    };
    (0..turns.len())
        .filter(|&index| turns[index].weight > 0 && may(index))
        .map(|index| (index, score(index)))
        .reduce(|best, other| if other.1 > best.1 { other } else { best })
        .map(|(index, _)| index)
}

/// A number for a name, the same everywhere (FNV-1a).
pub fn identity(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Spreads all bits over all others (the finisher of SplitMix64).
const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Sessions for each unit of weight.
#[derive(Clone, Copy)]
struct Load {
    /// With the one that is to come: an idle server of great weight is before an idle one of little.
    sessions: u64,
    weight: u64,
}

impl Load {
    fn of(turns: &[Turn], sessions: &impl Fn(usize) -> u32, index: usize) -> Self {
        Self { sessions: u64::from(sessions(index)) + 1, weight: turns[index].weight.into() }
    }

    const fn is_less(self, other: Self) -> bool {
        self.sessions * other.weight < other.sessions * self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u16]) -> Vec<Turn> {
        weights.iter().map(|&weight| Turn { weight: u32::from(weight), credit: 0 }).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        let mut turns = turns(&[1, 1, 1]);
        let order: Vec<_> = (0..6).filter_map(|_| round_robin(&mut turns, |_| true)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn weights_are_kept_and_spread_out() {
        let mut turns = turns(&[5, 1, 1]);
        let order: Vec<_> = (0..7).filter_map(|_| round_robin(&mut turns, |_| true)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn one_that_was_left_out_does_not_catch_up() {
        let mut turns = turns(&[1, 1]);
        for _ in 0..100 {
            assert_eq!(round_robin(&mut turns, |index| index == 0), Some(0));
        }
        let order: Vec<_> = (0..4).filter_map(|_| round_robin(&mut turns, |_| true)).collect();
        assert_eq!(order.iter().filter(|&&index| index == 1).count(), 2, "{order:?}");
    }

    #[test]
    fn nobody_is_chosen_where_nobody_may_be() {
        assert_eq!(round_robin(&mut turns(&[1, 1]), |_| false), None);
        assert_eq!(round_robin(&mut turns(&[0]), |_| true), None);
        assert_eq!(round_robin(&mut [], |_| true), None);
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_chosen_and_equals_take_turns() {
        let turns = turns(&[1, 1, 2, 0]);
        let mut start = 0;
        let mut sessions = [0_u32; 4];
        for _ in 0..40 {
            let index = least(&turns, |_| true, |index| sessions[index], &mut start).unwrap();
            sessions[index] += 1;
        }
        assert_eq!(sessions, [10, 10, 20, 0]);
        let idle: Vec<_> =
            (0..4).filter_map(|_| least(&turns[..2], |_| true, |_| 0, &mut start)).collect();
        assert_eq!(idle.iter().filter(|&&index| index == 0).count(), 2, "{idle:?}");
        assert_eq!(least(&turns, |index| index == 3, |_| 0, &mut start), None);
    }

    #[test]
    fn lots_are_drawn_by_weight_and_the_less_loaded_wins() {
        let turns = turns(&[1, 3]);
        let mut dice = 1_u64;
        let mut lot = || {
            dice = mix(dice.wrapping_add(0x9e37_79b9_7f4a_7c15));
            u32::try_from(dice >> 32).unwrap()
        };
        let mut sessions = [0_u32; 2];
        for _ in 0..4000 {
            let index = random(&turns, |_| true, |index| sessions[index], lot()).unwrap();
            sessions[index] += 1;
        }
        assert!(sessions[0].abs_diff(1000) < 20, "{sessions:?}");
        let busy = |index: usize| if index == 0 { 1000 } else { 0 };
        let chosen = (0..1000).filter(|_| random(&turns, |_| true, busy, lot()) == Some(0)).count();
        assert!(chosen < 120, "only where both lots are its own: {chosen}");
        assert_eq!(random(&turns, |_| false, |_| 0, lot()), None);
        // However many there are, each has its turn.
        let many = vec![Turn { weight: 256, credit: 0 }; 1000];
        let drawn: std::collections::HashSet<_> =
            (0..20_000).filter_map(|_| random(&many, |_| true, |_| 0, lot())).collect();
        assert_eq!(drawn.len(), 1000);
    }

    #[test]
    fn the_first_with_room_is_chosen() {
        assert_eq!(first(&turns(&[0, 1, 1]), |_| true), Some(1));
        assert_eq!(first(&turns(&[1, 1]), |index| index > 0), Some(1));
        assert_eq!(first(&[], |_| true), None);
    }

    #[test]
    fn a_client_keeps_its_server_and_only_those_of_one_that_goes_move() {
        let names = ["b/one", "b/two", "b/three", "b/four"].map(identity);
        let turns = turns(&[1, 1, 1, 2]);
        let clients: Vec<IpAddr> =
            (0..10_000_u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).into()).collect();
        let chosen = |may: &dyn Fn(usize) -> bool, client: IpAddr| {
            source(&turns, may, |index| names[index], client).unwrap()
        };
        let mut counts = [0_u32; 4];
        for &client in &clients {
            let before = chosen(&|_| true, client);
            counts[before] += 1;
            let after = chosen(&|index| index != 2, client);
            assert!(before == 2 || after == before, "{client} moved without need");
            assert_ne!(after, 2);
        }
        for (count, share) in counts.into_iter().zip([2000, 2000, 2000, 4000]) {
            assert!(count.abs_diff(share) < 200, "{counts:?}");
        }
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(chosen(&|_| true, v6), chosen(&|_| true, v6));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(chosen(&|_| true, mapped), chosen(&|_| true, clients[1]));
    }
}
