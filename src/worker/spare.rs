//! Connections to servers that are made before anybody asks for them, so that a session's first byte
//! leaves at once and does not wait for a round trip.
//!
//! How many there are follows from how fast they are used: more when a session comes and finds none,
//! fewer when some were never needed. A server where sessions come more rarely than a spare connection
//! may wait gets none. Nothing tells a worker how one fares: it looks when it takes one, and now and
//! then.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use crate::backend::{Choice, ServerId};
use crate::engine::Engine;
use crate::op::{SessionKey, Spare, SpareState, Time};

use super::Worker;
use super::dial::Lease;
use super::ending::Phase;
use super::plan::{SpareLimits, Target};

/// How often they are looked at: within this time one that its server has ended is ended here too.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After one that could not be made, or did not last, none is made for so long: it is for sessions to find
/// out how the server fares.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// So many are looked at in search of one that is fit, and those that still connect put behind the others:
/// some that hang must not hide the rest from every session.
const LOOKED_AT_MAX: usize = 8;
/// So many are begun at one time at the most; the others follow with the next session or look.
const MADE_AT_ONCE: usize = 32;

/// A connection without a session.
#[derive(Debug)]
struct Made {
    spare: Spare,
    address: SocketAddr,
    lease: Option<Lease>,
    at: Time,
}

/// The spare connections to one server, the oldest first, but for those that were found connecting.
#[derive(Debug)]
struct Pool {
    limits: SpareLimits,
    /// Index of its backend in the plan.
    backend: usize,
    /// Where a session last went.
    address: SocketAddr,
    made: VecDeque<Made>,
    demand: Demand,
    /// None is made before then.
    paused: Time,
}

/// A worker's spare connections.
#[derive(Debug, Default)]
pub(super) struct Spares {
    pools: HashMap<ServerId, Pool>,
    /// Of all servers together, and the most that the descriptors carry beside the sessions.
    count: u32,
    max: u32,
    /// When to look again, while there is anything to look at.
    next: Option<Time>,
}

impl Spares {
    pub(super) fn new(max: u32) -> Self {
        Self { max, ..Self::default() }
    }

    pub(super) const fn next(&self) -> Option<Time> {
        self.next
    }

    /// Of all servers together.
    pub(super) fn count(&self) -> u64 {
        self.count.into()
    }

    fn pool(&mut self, server: ServerId, new: impl FnOnce() -> Pool) -> &mut Pool {
        self.pools.entry(server).or_insert_with(new)
    }
}

/// How many spare connections the sessions of a server are worth. PURE.
#[derive(Debug)]
struct Demand {
    wanted: u16,
    /// Connected at the last look and not taken since, and the fewest of these since the window began.
    rested: u16,
    lowest: u16,
    window: Time,
    /// When a session last came.
    last: Option<Time>,
}

impl Demand {
    const fn new(now: Time) -> Self {
        Self { wanted: 0, rested: 0, lowest: 0, window: now, last: None }
    }

    /// A session has come, and has found one or not: with one more it would have. So as many are wanted
    /// as sessions come while one is made.
    fn on_session(&mut self, found: bool, limits: SpareLimits, now: Time) {
        let soon = self.last.is_some_and(|last| now.since(last) < limits.idle);
        self.last = Some(now);
        self.rested = if found { self.rested.saturating_sub(1) } else { 0 };
        self.lowest = self.lowest.min(self.rested);
        // One that nobody takes while it is fresh is a connection made for nothing.
        if !found && soon {
            self.wanted = (self.wanted + 1).min(limits.max);
        }
    }

    /// They were looked at, and so many are connected. Gives up what was not needed for as long as one
    /// lasts.
    fn on_look(&mut self, connected: usize, limits: SpareLimits, now: Time) {
        self.rested = u16::try_from(connected).unwrap_or(u16::MAX);
        if now.since(self.window) < limits.idle {
            return;
        }
        let came = self.last.is_some_and(|last| last >= self.window);
        self.wanted = if came { self.wanted.saturating_sub(self.lowest) } else { 0 };
        self.lowest = self.wanted;
        self.window = now;
    }
}

impl<E: Engine> Worker<E> {
    /// Connects a session that goes to a server by a spare connection, if there is one that is fit, and
    /// sees to those who come after it.
    pub(super) fn attach(&mut self, key: SessionKey, choice: Choice) -> bool {
        let Some(relay) = self.sessions.of(key) else { return false };
        let Target { backend, .. } = self.plan.target(relay.listener, relay.way);
        let Some(limits) = self.plan.backends[backend].spare else { return false };
        let Choice { server, address } = choice;
        let now = self.now;
        self.spares.next.get_or_insert(now + LOOK_EVERY);
        let pool = self.spares.pool(server, || Pool {
            limits,
            backend,
            address,
            made: VecDeque::new(),
            demand: Demand::new(now),
            paused: now,
        });
        pool.address = address;
        let taken = self.take_spare(server);
        self.make_spares(server);
        let Some(Made { spare, address, lease, .. }) = taken else {
            self.counters.spares_missed.add(1);
            return false;
        };
        self.counters.spares_used.add(1);
        let Some(relay) = self.sessions.of(key) else { return false };
        let Target { limits, .. } = self.plan.target(relay.listener, relay.way);
        (relay.address, relay.lease, relay.is_spare) = (address, lease, true);
        relay.session.attach(spare, now, limits, &mut self.ops);
        true
    }

    /// The oldest that is connected and of which its server has said nothing: neither a byte, which
    /// nobody has asked for, nor that it has had enough.
    fn take_spare(&mut self, server: ServerId) -> Option<Made> {
        let mut made = self.withdraw(server);
        let mut taken = None;
        for _ in 0..made.len().min(LOOKED_AT_MAX) {
            let Some(one) = made.pop_front() else { break };
            match self.judge(&one, server) {
                SpareState::Connecting => made.push_back(one),
                SpareState::Ready => {
                    self.spares.count -= 1;
                    taken = Some(one);
                    break;
                }
                unfit => self.discard(server, one, unfit),
            }
        }
        let pool = self.spares.pools.get_mut(&server)?;
        pool.made = made;
        pool.demand.on_session(taken.is_some(), pool.limits, self.now);
        taken
    }

    /// Looks at all of them when it is time: ends those that are unfit, and makes what is missing.
    pub(super) fn keep_spares(&mut self) {
        if self.spares.next.is_none_or(|next| next > self.now) {
            return;
        }
        let servers: Vec<ServerId> = self.spares.pools.keys().copied().collect();
        for server in servers {
            let mut fit = VecDeque::new();
            let mut connected = 0;
            for one in self.withdraw(server) {
                let state = self.judge(&one, server);
                match state {
                    SpareState::Connecting | SpareState::Ready => fit.push_back(one),
                    unfit => self.discard(server, one, unfit),
                }
                connected += usize::from(state == SpareState::Ready);
            }
            let Some(pool) = self.spares.pools.get_mut(&server) else { continue };
            pool.made = fit;
            pool.demand.on_look(connected, pool.limits, self.now);
            let is_idle = pool.demand.wanted == 0
                && pool.made.is_empty()
                && pool.demand.last.is_none_or(|last| self.now.since(last) >= pool.limits.idle);
            if is_idle {
                self.spares.pools.remove(&server);
            } else {
                self.make_spares(server);
            }
        }
        self.spares.next = (!self.spares.pools.is_empty()).then(|| self.now + LOOK_EVERY);
    }

    /// Ends all of them: another plan may want others, and a worker that drains wants none.
    pub(super) fn discard_spares(&mut self) {
        let servers: Vec<ServerId> = self.spares.pools.keys().copied().collect();
        for server in servers {
            for one in self.withdraw(server) {
                self.discard(server, one, SpareState::Ended);
            }
        }
        self.spares.pools.clear();
        self.spares.next = None;
    }

    /// How one fares, for as long as sessions may be given to its server.
    fn judge(&self, one: &Made, server: ServerId) -> SpareState {
        let Some(pool) = self.spares.pools.get(&server) else { return SpareState::Ended };
        if !self.backends.is_in_service(server, one.address) {
            return SpareState::Ended;
        }
        let is_stale = self.now.since(one.at) >= pool.limits.idle;
        match self.engine.spare_state(one.spare) {
            // Nobody answers there.
            SpareState::Connecting if is_stale => SpareState::Failed,
            SpareState::Ready if is_stale => SpareState::Ended,
            state => state,
        }
    }

    fn withdraw(&mut self, server: ServerId) -> VecDeque<Made> {
        let pool = self.spares.pools.get_mut(&server);
        pool.map(|pool| std::mem::take(&mut pool.made)).unwrap_or_default()
    }

    fn discard(&mut self, server: ServerId, one: Made, state: SpareState) {
        let Made { spare, address, lease, at } = one;
        self.spares.count -= 1;
        self.counters.spares_dropped.add(1);
        self.dialer.release(lease);
        self.engine.discard_spare(spare);
        let serves = self.backends.is_in_service(server, address);
        let Some(pool) = self.spares.pools.get_mut(&server) else { return };
        // A server that ends them while they are fresh, or speaks first, would have them all the time.
        let is_early = serves && self.now.since(at) < pool.limits.idle;
        if state == SpareState::Failed || (state == SpareState::Ended && is_early) {
            pool.paused = self.now + PAUSE_AFTER_FAILURE;
        }
    }

    /// Begins as many as are missing, where sessions go.
    fn make_spares(&mut self, server: ServerId) {
        let now = self.now;
        let Some(pool) = self.spares.pools.get_mut(&server) else { return };
        let address = pool.address;
        if self.phase != Phase::Serving
            || pool.paused > now
            || !self.backends.is_in_service(server, address)
        {
            return;
        }
        let source = &self.plan.backends[pool.backend].source;
        let missing = usize::from(pool.demand.wanted).saturating_sub(pool.made.len());
        for _ in 0..missing.min(MADE_AT_ONCE) {
            if self.spares.count >= self.spares.max {
                return;
            }
            let lease = self.dialer.lease(address, source, None, true);
            match (self.engine.prepare(address, lease.map(Lease::source)), lease) {
                (Ok(spare), lease) => {
                    pool.made.push_back(Made { spare, address, lease, at: now });
                    self.spares.count += 1;
                }
                // Somebody else has the port: the next look takes another.
                (
                    Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL),
                    Some(lease @ Lease::Port { .. }),
                ) => {
                    self.counters.port_conflicts.add(1);
                    return self.dialer.release_taken(lease);
                }
                (Err(_), lease) => {
                    pool.paused = now + PAUSE_AFTER_FAILURE;
                    return self.dialer.release(lease);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SpareLimits = SpareLimits { max: 8, idle: Duration::from_secs(4) };

    fn at(millis: u64) -> Time {
        Time::from_micros(1_000_000 + millis * 1000)
    }

    /// Sessions every so many milliseconds for so long, each of which finds one if there is one: a
    /// connection takes `round_trip`. Returns what is wanted then, and how many found none.
    fn run(every: u64, lasting: u64, round_trip: u64) -> (u16, usize) {
        let mut demand = Demand::new(at(0));
        let mut made: VecDeque<u64> = VecDeque::new();
        let mut missed = 0;
        let mut look = 0;
        for now in (0..lasting).step_by(usize::try_from(every).unwrap()) {
            made.retain(|since| now - since < 4000);
            let is_connected = |since: &&u64| now - **since >= round_trip;
            if now >= look {
                demand.on_look(made.iter().filter(is_connected).count(), LIMITS, at(now));
                look = now + 500;
            }
            let found = made.front().as_ref().is_some_and(is_connected);
            if found {
                made.pop_front();
            } else {
                missed += 1;
            }
            demand.on_session(found, LIMITS, at(now));
            while made.len() < usize::from(demand.wanted) {
                made.push_back(now);
            }
        }
        (demand.wanted, missed)
    }

    #[test]
    fn there_are_as_many_as_sessions_come_in_a_round_trip() {
        let (wanted, missed) = run(10, 60_000, 50);
        assert!((5..=6).contains(&wanted), "{wanted}");
        assert_eq!(missed, usize::from(wanted) + 1, "one found none without being counted");
        let (wanted, missed) = run(1000, 60_000, 50);
        assert_eq!((wanted, missed), (1, 2), "one a second");
    }

    #[test]
    fn a_server_where_sessions_are_rare_gets_none() {
        let (wanted, missed) = run(4001, 60_000, 50);
        assert_eq!((wanted, missed), (0, 15));
    }

    #[test]
    fn what_a_burst_has_raised_is_given_up_again() {
        let mut demand = Demand::new(at(0));
        for _ in 0..100 {
            demand.on_session(false, LIMITS, at(1));
        }
        assert_eq!(demand.wanted, LIMITS.max, "no more than allowed");
        // One session a second, which leaves seven.
        for second in 4..=13 {
            demand.on_look(demand.wanted.into(), LIMITS, at(second * 1000));
            demand.on_session(true, LIMITS, at(second * 1000));
        }
        assert_eq!(demand.wanted, 1);
        demand.on_look(1, LIMITS, at(17_000));
        demand.on_look(1, LIMITS, at(21_000));
        assert_eq!(demand.wanted, 0, "nobody comes any more");
    }

    /// As many as come in one round trip, and not more than that: a fleet in step.
    #[test]
    fn those_who_come_together_find_as_many_the_next_time() {
        let mut demand = Demand::new(at(0));
        for round in 0..20 {
            let now = at(round * 1000);
            let connected = demand.wanted;
            demand.on_look(connected.into(), LIMITS, now);
            for place in 0..5 {
                demand.on_session(place < connected, LIMITS, now);
            }
            assert_eq!(demand.wanted, if round == 0 { 4 } else { 5 }, "round {round}");
        }
    }
}
