//! How many connections each source has, and how fast they come: one table for all workers.
//!
//! One table, since a limit that is divided among workers is not the limit: the kernel spreads one
//! source's connections by chance, and a quarter of 100 is passed by one worker long before the
//! source has 100. It has no lock: what is known of a source is one word, changed by compare and swap,
//! at the accept and at the end of a session only. Its memory is fixed, whoever comes (S20): when a
//! bucket is full the source without connections that came longest ago is forgotten; when all have
//! connections, who comes is not counted, and that is counted.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::op::Time;

use super::rules::number;

/// Sources in one bucket: a cache line.
const BUCKET: usize = 8;
/// Attempts to change a word that other workers change too, before the connection goes uncounted.
const ATTEMPTS_MAX: usize = 64;

// A word: 20 bits of the source's hash, 16 of connections, 28 of a moment in milliseconds.
const MOMENT_BITS: u32 = 28;
const SESSIONS_BITS: u32 = 16;
const MOMENT_MASK: u64 = (1 << MOMENT_BITS) - 1;
const SESSIONS_MASK: u64 = (1 << SESSIONS_BITS) - 1;

/// What each source may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Sessions at one time; at most 65,534.
    pub sessions: Option<u16>,
    pub rate: Option<SourceRate>,
    /// Addresses that agree in so many bits are one source.
    pub ipv4_prefix: u8,
    pub ipv6_prefix: u8,
}

/// So many connections in each stretch of this length: as many at once after a rest, evenly spaced
/// without one (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRate {
    pub connections: u32,
    /// At least a millisecond a connection, at most an hour.
    pub period: Duration,
}

/// A source's place in the table, while it has a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

/// What became of who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Counted; to be given back by [`Sources::leave`].
    Counted(Ticket),
    /// Let in without being counted: the table has no place.
    Uncounted,
    /// At a limit.
    Refused,
}

/// The table.
#[derive(Debug)]
pub struct Sources {
    words: Box<[AtomicU64]>,
    /// Keyed anew in each process, so that nobody can choose addresses that meet in one bucket.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    tag: u64,
    sessions: u64,
    /// The moment, of those that wrap, when the source has its whole rate again.
    restored: u64,
}

impl Word {
    const fn unpack(word: u64) -> Self {
        Self {
            tag: word >> (MOMENT_BITS + SESSIONS_BITS),
            sessions: word >> MOMENT_BITS & SESSIONS_MASK,
            restored: word & MOMENT_MASK,
        }
    }

    const fn pack(self) -> u64 {
        self.tag << (MOMENT_BITS + SESSIONS_BITS) | self.sessions << MOMENT_BITS | self.restored
    }

    /// Milliseconds from `now` until the rate is whole again; 0 if it is. A moment further off than
    /// `most` is one of three days ago that has come round.
    const fn debt(self, now: u64, most: u64) -> u64 {
        let ahead = self.restored.wrapping_sub(now) & MOMENT_MASK;
        if ahead > most { 0 } else { ahead }
    }
}

impl Sources {
    /// A table with places for about `sources` at one time; 8 bytes each, taken now and never more.
    pub fn new(sources: usize) -> Self {
        let places = sources.next_power_of_two().clamp(BUCKET, 1 << 24);
        let words = (0..places).map(|_| AtomicU64::new(0)).collect();
        Self { words, hasher: RandomState::new() }
    }

    /// Somebody comes through the listener that `salt` tells from others.
    pub fn enter(&self, salt: u64, address: IpAddr, limits: &SourceLimits, now: Time) -> Entry {
        let hash = self.hasher.hash_one((salt, prefix_of(address, limits)));
        let tag = hash >> 44;
        let now = (now.as_micros() / 1000) & MOMENT_MASK;
        for _ in 0..ATTEMPTS_MAX {
            let Some((place, found)) = self.find(hash, tag, now) else { return Entry::Uncounted };
            let before = Word::unpack(found);
            let known =
                if before.tag == tag { before } else { Word { tag, sessions: 0, restored: now } };
            let Some(after) = admit(known, limits, now) else { return Entry::Refused };
            let word = &self.words[place];
            if word.compare_exchange_weak(found, after.pack(), Relaxed, Relaxed).is_ok() {
                return u32::try_from(place)
                    .map_or(Entry::Uncounted, |place| Entry::Counted(Ticket(place)));
            }
        }
        Entry::Uncounted
    }

    /// Whether who comes now would be let in. Nothing is counted.
    pub fn would_enter(
        &self,
        salt: u64,
        address: IpAddr,
        limits: &SourceLimits,
        now: Time,
    ) -> bool {
        let hash = self.hasher.hash_one((salt, prefix_of(address, limits)));
        let tag = hash >> 44;
        let now = (now.as_micros() / 1000) & MOMENT_MASK;
        let Some((_, found)) = self.find(hash, tag, now) else { return true };
        let known = Word::unpack(found);
        known.tag != tag || admit(known, limits, now).is_some()
    }

    /// A session of a counted source has ended.
    pub fn leave(&self, ticket: Ticket) {
        let less = |word: u64| {
            let word = Word::unpack(word);
            Some(Word { sessions: word.sessions.saturating_sub(1), ..word }.pack())
        };
        // A place with sessions is never given to another source, so this is still the one.
        let _ = self.words[ticket.0 as usize].fetch_update(Relaxed, Relaxed, less);
    }

    /// The source's place in its bucket, or the one to be had for it.
    fn find(&self, hash: u64, tag: u64, now: u64) -> Option<(usize, u64)> {
        let buckets = self.words.len() / BUCKET;
        let first = usize::try_from(hash).unwrap_or_default() % buckets * BUCKET;
        let mut oldest: Option<(u64, usize, u64)> = None;
        for place in first..first + BUCKET {
            let word = self.words[place].load(Relaxed);
            let known = Word::unpack(word);
            if known.tag == tag && word != 0 {
                return Some((place, word));
            }
            let age =
                if word == 0 { u64::MAX } else { now.wrapping_sub(known.restored) & MOMENT_MASK };
            if known.sessions == 0 && oldest.is_none_or(|(other, ..)| age > other) {
                oldest = Some((age, place, word));
            }
        }
        oldest.map(|(_, place, word)| (place, word))
    }
}

/// The source's word with one connection more, or `None` if that would be too many.
fn admit(known: Word, limits: &SourceLimits, now: u64) -> Option<Word> {
    let sessions = known.sessions + 1;
    let most = limits.sessions.map_or(SESSIONS_MASK - 1, u64::from);
    if sessions > most {
        return None;
    }
    let Some(rate) = limits.rate else { return Some(Word { sessions, restored: now, ..known }) };
    let period = u64::try_from(rate.period.as_millis()).unwrap_or(MOMENT_MASK / 2);
    let debt = known.debt(now, period) + (period / u64::from(rate.connections.max(1))).max(1);
    (debt <= period).then_some(Word { sessions, restored: (now + debt) & MOMENT_MASK, ..known })
}

fn prefix_of(address: IpAddr, limits: &SourceLimits) -> u128 {
    let address = address.to_canonical();
    let host = match address {
        IpAddr::V4(_) => 32 - limits.ipv4_prefix.min(32),
        IpAddr::V6(_) => 128 - limits.ipv6_prefix.min(128),
    };
    number(address) & u128::MAX.checked_shl(host.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LIMITS: SourceLimits =
        SourceLimits { sessions: Some(2), rate: None, ipv4_prefix: 32, ipv6_prefix: 64 };

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn enter(sources: &Sources, address: &str) -> Ticket {
        match sources.enter(0, ip(address), &LIMITS, at(5)) {
            Entry::Counted(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_source_at_its_limit_is_refused_and_no_other() {
        let sources = Sources::new(64);
        let first = enter(&sources, "10.0.0.1");
        enter(&sources, "10.0.0.1");
        assert_eq!(sources.enter(0, ip("10.0.0.1"), &LIMITS, at(5)), Entry::Refused);
        assert_eq!(sources.enter(0, ip("::ffff:10.0.0.1"), &LIMITS, at(5)), Entry::Refused);
        enter(&sources, "10.0.0.2");
        assert!(matches!(sources.enter(1, ip("10.0.0.1"), &LIMITS, at(5)), Entry::Counted(_)));
        sources.leave(first);
        enter(&sources, "10.0.0.1");
    }

    #[test]
    fn addresses_of_one_prefix_are_one_source() {
        let sources = Sources::new(64);
        enter(&sources, "2001:db8::1");
        enter(&sources, "2001:db8::2");
        assert_eq!(sources.enter(0, ip("2001:db8::3"), &LIMITS, at(5)), Entry::Refused);
        enter(&sources, "2001:db8:0:1::3");
    }

    #[test]
    fn a_rate_lets_its_number_in_at_once_and_then_one_by_one() {
        let rate = SourceRate { connections: 4, period: Duration::from_millis(1000) };
        let limits = SourceLimits { sessions: None, rate: Some(rate), ..LIMITS };
        // Beginning just before the moments come round.
        let start = (1u64 << MOMENT_BITS) - 100;
        let sources = Sources::new(8);
        let enter = |millis: u64| sources.enter(0, ip("10.0.0.1"), &limits, at(start + millis));
        for _ in 0..4 {
            assert!(matches!(enter(0), Entry::Counted(_)));
        }
        for (millis, let_in) in [(0, false), (249, false), (250, true), (251, false), (501, true)] {
            assert_eq!(enter(millis) != Entry::Refused, let_in, "{millis}");
        }
        // After a rest the whole number again.
        for _ in 0..4 {
            assert!(matches!(enter(10_000), Entry::Counted(_)));
        }
        assert_eq!(enter(10_000), Entry::Refused);
    }

    #[test]
    fn a_million_sources_take_no_more_memory_and_forget_nobody_who_is_there() {
        let sources = Sources::new(1024);
        let words = sources.words.len();
        let there: Vec<_> = (0..8).map(|n| format!("192.0.2.{n}")).collect();
        for address in &there {
            enter(&sources, address);
            enter(&sources, address);
        }
        for number in 0..1_000_000u32 {
            let source = Ipv4Addr::from(0x0a00_0000 + number);
            if let Entry::Counted(ticket) =
                sources.enter(0, source.into(), &LIMITS, at(u64::from(number)))
            {
                sources.leave(ticket);
            }
        }
        assert_eq!(sources.words.len(), words);
        for address in &there {
            assert_eq!(sources.enter(0, ip(address), &LIMITS, at(5)), Entry::Refused);
        }
    }

    #[test]
    fn a_full_bucket_lets_in_uncounted() {
        let sources = Sources::new(8);
        for n in 0..8 {
            enter(&sources, &format!("10.0.0.{n}"));
        }
        assert_eq!(sources.enter(0, ip("10.0.1.1"), &LIMITS, at(5)), Entry::Uncounted);
    }

    #[test]
    fn workers_together_let_in_exactly_the_limit() {
        let limits = SourceLimits { sessions: Some(1000), ..LIMITS };
        let sources = Sources::new(64);
        let count = || {
            let entries = (0..1000).map(|_| sources.enter(0, ip("10.0.0.1"), &limits, at(5)));
            entries.filter(|entry| matches!(entry, Entry::Counted(_))).count()
        };
        let counted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(counted, 1000);
    }
}
