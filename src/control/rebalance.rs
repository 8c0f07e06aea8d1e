//! Shares that have become uneven: a server that comes back gets new sessions only, and where agents
//! keep their connections the others carry its load for hours. What is over its share is asked to leave,
//! where the configuration wants it: see `worker/leaving.rs` for how gently.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::board::{Admin, RAMP_FULL};
use crate::config::{Backend, Config};
use crate::sys::process;

use super::names::{Addresses, Names};
use super::relay::Relay;

/// How often shares are compared. Who was told to leave and has not yet is told so again, not twice.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Compares the shares of servers.
#[derive(Debug)]
pub(super) struct Rebalance {
    next: Instant,
    known: HashMap<String, Known>,
}

/// What was last seen of a server, and asked of it.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    connect_failures: u64,
    surplus: u32,
}

/// A server as its share is judged.
#[derive(Clone, Copy, Debug)]
struct Share {
    sessions: u32,
    weight: u16,
}

impl Rebalance {
    pub(super) fn new() -> Self {
        Self { next: Instant::now() + LOOK_EVERY, known: HashMap::new() }
    }

    /// Compares the shares, if it is time.
    pub(super) fn on_tick(&mut self, config: &Config, names: &Names, relay: &impl Relay) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + LOOK_EVERY;
        if !config.backends.iter().any(|backend| backend.rebalance) {
            return;
        }
        let addresses = names.addresses(config);
        for (number, backend) in config.backends.iter().enumerate() {
            if backend.rebalance {
                self.look(number, backend, &addresses, relay);
            }
        }
    }

    fn look(
        &mut self,
        number: usize,
        backend: &Backend,
        addresses: &Addresses,
        relay: &impl Relay,
    ) {
        let servers = backend.servers.iter().enumerate();
        let shares: Vec<Option<Share>> = servers
            .map(|(place, server)| {
                let board = relay.board(number, place);
                let (weight, sessions) = (board.weight(server.weight), board.sessions());
                // One that sessions fail to connect to would send them straight back.
                let failures = board.connect_failures();
                let known = self.known.entry(board.name().to_owned()).or_default();
                let fails = std::mem::replace(&mut known.connect_failures, failures) != failures;
                let serves = !fails
                    && !board.is_down()
                    && board.admin() == Admin::Ready
                    && board.ramp(backend.slow_start, process::monotonic_micros()) == RAMP_FULL
                    && server.maxconn.is_none_or(|limit| sessions < limit)
                    && !server.backup
                    && !addresses.of(number, place).is_empty();
                (serves && weight > 0).then_some(Share { sessions, weight })
            })
            .collect();
        for (place, surplus) in surpluses(&shares).into_iter().enumerate() {
            let known = self.known.entry(relay.board(number, place).name().to_owned()).or_default();
            if surplus > 0 || known.surplus > 0 {
                relay.shed(number, place, surplus);
            }
            known.surplus = surplus;
        }
    }
}

/// How many sessions each server has over its share of the sum; those within a tenth of it have none.
/// `None` stands aside.
fn surpluses(shares: &[Option<Share>]) -> Vec<u32> {
    let there = || shares.iter().flatten();
    let sessions: u64 = there().map(|share| u64::from(share.sessions)).sum();
    let weights: u64 = there().map(|share| u64::from(share.weight)).sum();
    let surplus = |share: &Share| {
        let due = (sessions * u64::from(share.weight)).div_ceil(weights.max(1));
        let over = u64::from(share.sessions).saturating_sub(due);
        if over * 10 <= due + 10 { 0 } else { u32::try_from(over).unwrap_or(u32::MAX) }
    };
    shares.iter().map(|share| share.as_ref().map_or(0, surplus)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(sessions: u32, weight: u16) -> Option<Share> {
        Some(Share { sessions, weight })
    }

    #[test]
    fn what_is_over_its_share_by_more_than_a_tenth_is_to_leave() {
        for (shares, expected) in [
            (vec![share(1000, 1), share(0, 1)], vec![500, 0]),
            (vec![share(1000, 1), share(0, 3)], vec![750, 0]),
            (vec![share(105, 1), share(95, 1)], vec![0, 0]),
            (vec![share(1000, 1), None, share(400, 1)], vec![300, 0, 0]),
            (vec![share(1000, 1), None], vec![0, 0]),
            (vec![share(1, 1), share(0, 1)], vec![0, 0]),
            (vec![share(2, 1), share(0, 1)], vec![0, 0]),
            (vec![share(4, 1), share(0, 1)], vec![2, 0]),
            (vec![], vec![]),
        ] {
            assert_eq!(surpluses(&shares), expected, "{shares:?}");
        }
    }
}
