//! The source-port budget towards one upstream address. PURE.
//!
//! The agent closes first, so the relay keeps TIME_WAIT towards the upstream for 60 s. When the
//! kernel chooses ports, 28,232 of them are used up by 470 connections a second, and connect(2)
//! gets slow long before. An explicitly bound port may take over a TIME_WAIT pair at once where
//! the peer speaks TCP timestamps (`tcp_twsk_unique` is asked without a candidate's address), so
//! cycling through a range of our own, the port longest free first, never runs dry. The range lies
//! outside `ip_local_port_range`: a port bound inside it would block other programs' connects.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The ports of one worker towards one upstream address.
#[derive(Debug)]
pub struct Ports {
    /// Never used so far: `next..=last`. Kept apart so that an idle relay holds no list.
    fresh: RangeInclusive<u16>,
    /// Used before; the one longest free in front.
    free: VecDeque<u16>,
    /// In somebody else's hands; tried again when nothing else is left.
    taken: VecDeque<u16>,
    /// In use by sessions.
    leased: u32,
}

impl Ports {
    /// All of a range.
    pub const fn new(range: RangeInclusive<u16>) -> Self {
        Self { fresh: range, free: VecDeque::new(), taken: VecDeque::new(), leased: 0 }
    }

    /// The port to use next.
    pub fn acquire(&mut self) -> Option<u16> {
        let fresh = self.fresh.next();
        let port = fresh.or_else(|| self.free.pop_front()).or_else(|| self.taken.pop_front())?;
        self.leased += 1;
        Some(port)
    }

    /// Its connection is closed.
    pub fn release(&mut self, port: u16) {
        self.free.push_back(port);
        self.leased -= 1;
    }

    /// The kernel says that somebody else has it (EADDRINUSE, EADDRNOTAVAIL).
    pub fn release_taken(&mut self, port: u16) {
        self.taken.push_back(port);
        self.leased -= 1;
    }

    /// Whether no session uses one of them.
    pub const fn is_idle(&self) -> bool {
        self.leased == 0
    }
}

/// The share of worker `worker` of `workers` in a range, each as large as the next to within one
/// port. `None` where there are more workers than ports.
pub fn slice(
    range: &RangeInclusive<u16>,
    worker: u16,
    workers: u16,
) -> Option<RangeInclusive<u16>> {
    let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
    let count = (last + 1).checked_sub(first)?;
    let cut = |n: u16| first + count * u32::from(n) / u32::from(workers);
    let (from, to) = (cut(worker), cut(worker + 1).checked_sub(1)?);
    (from <= to).then_some(u16::try_from(from).ok()?..=u16::try_from(to).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_longest_free_comes_first() {
        let mut ports = Ports::new(10..=12);
        let all: Vec<_> = (0..3).filter_map(|_| ports.acquire()).collect();
        assert_eq!(all, [10, 11, 12]);
        assert_eq!(ports.acquire(), None);
        ports.release(12);
        ports.release(10);
        assert_eq!((ports.acquire(), ports.acquire()), (Some(12), Some(10)));
    }

    #[test]
    fn a_taken_port_is_tried_last() {
        let mut ports = Ports::new(10..=11);
        let taken = ports.acquire().unwrap();
        ports.release_taken(taken);
        let other = ports.acquire().unwrap();
        ports.release(other);
        assert_eq!((ports.acquire(), ports.acquire()), (Some(other), Some(taken)));
    }

    #[test]
    fn slices_cover_the_range_without_overlap() {
        for workers in [1u16, 2, 3, 7, 64] {
            let all: Vec<u16> =
                (0..workers).filter_map(|w| slice(&(1000..=1999), w, workers)).flatten().collect();
            assert_eq!(all, (1000..=1999).collect::<Vec<u16>>(), "{workers} workers");
        }
        assert_eq!(slice(&(65535..=65535), 0, 1), Some(65535..=65535));
        assert_eq!(slice(&(1..=2), 0, 3), None);
    }
}
