//! The real worker, its sessions, timers, admission and choice of servers, on a fake kernel with a
//! seed and a virtual clock.
//!
//! Each seed makes a scenario (`workload`), faults at their own rates (`faults`), and runs one or
//! two workers that share their quotas, each on a kernel of its own (`kernel`, `socket`,
//! `network`), while a shadow model (`checker`, `shadow`) watches every operation and completion.
//! At some moment all becomes calm: nothing goes wrong any more and the peers come to their end.
//! From then on every session must end, and then the workers.
//!
//! - `cargo test --test simulation` runs 256 seeds and fails unless everything occurred in them.
//! - `FANIN_SIM_SEED=7 cargo test --test simulation -- replay` tells what happened in seed 7.
//! - `FANIN_SIM_SEEDS=10000 cargo test --release --test simulation -- sweep` runs more of them.

mod checker;
mod faults;
mod kernel;
mod network;
mod run;
mod seeds;
mod shadow;
mod socket;
mod workload;

use std::fmt::Debug;
use std::num::NonZero;

use fanin::session::CloseReason;

use faults::{Fault, Seen, Sight};
use run::Run;

const SEEDS_USUALLY: u64 = 256;

#[test]
fn sweep_of_random_seeds_in_which_everything_occurs() {
    let seeds = number_from("FANIN_SIM_SEEDS").unwrap_or(SEEDS_USUALLY);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let share = |thread| move || sweep((thread..seeds).step_by(threads));
        let shares: Vec<_> = (0..).take(threads).map(|thread| scope.spawn(share(thread))).collect();
        for share in shares {
            seen.add(&share.join().expect("a seed failed: see above how to replay it"));
        }
    });
    let mut never = missing(Fault::ALL, &seen.faults);
    never.extend(missing(Sight::ALL, &seen.sights));
    // No listener here asks for a greeting: a simulated stream is counts without content. And an
    // administrator ends sessions as a server that is down does. Requests are the doors'.
    let elsewhere = [
        CloseReason::BadGreeting,
        CloseReason::GreetingTimeout,
        CloseReason::SourceLimit,
        CloseReason::BadRequest,
        CloseReason::TlsFailed,
        CloseReason::LoginFailed,
        CloseReason::DestinationDenied,
        CloseReason::ShutDown,
    ];
    let reasons = missing(&CloseReason::ALL, &seen.reasons);
    never.extend(
        reasons.into_iter().filter(|name| !elsewhere.iter().any(|one| format!("{one:?}") == *name)),
    );
    assert!(never.is_empty(), "never occurred in {seeds} seeds: {never:?}");
}

#[test]
fn replay_of_a_seed_is_the_same_to_the_letter() {
    let seed = number_from("FANIN_SIM_SEED");
    let log = Run::new(seed.unwrap_or(1)).log();
    if seed.is_some() {
        println!("{}", log.join("\n"));
    }
    assert!(log.len() > 100, "next to nothing happened");
    assert_eq!(log, Run::new(seed.unwrap_or(1)).log());
}

#[test]
fn seeds_that_once_failed_pass() {
    sweep(seeds::SEEDS.iter().map(|(seed, _)| *seed));
}

fn sweep(seeds: impl Iterator<Item = u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        seen.add(&Run::new(seed).seen());
    }
    seen
}

fn missing<T: Debug>(all: &[T], counts: &[u64]) -> Vec<String> {
    let never = all.iter().zip(counts).filter(|(_, count)| **count == 0);
    never.map(|(kind, _)| format!("{kind:?}")).collect()
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number of a seed")))
}
