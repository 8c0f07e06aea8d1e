//! The wheel, with as many timers on it as a worker has sessions.

use std::time::Duration;

use divan::{Bencher, black_box};
use fanin::op::Time;
use fanin::worker::timers::{TICK, Timers};

const SESSIONS: usize = 10_000;
const IDLE: Duration = Duration::from_secs(120);

fn armed(now: Time) -> Timers {
    let mut timers = Timers::new();
    for index in 0..SESSIONS {
        timers.set(index, now + IDLE + Duration::from_micros(index as u64 * 997));
    }
    timers
}

/// What each byte moved may ask for: nothing to do, since a deadline only moves away.
#[divan::bench]
fn not_brought_forward(bencher: Bencher<'_, '_>) {
    let now = Time::from_micros(1_000_000);
    let mut timers = armed(now);
    let mut index = 0;
    bencher.bench_local(|| {
        index = (index + 4099) % SESSIONS;
        timers.bring_forward(black_box(index), black_box(now + IDLE * 2));
    });
}

#[divan::bench]
fn set_and_cleared(bencher: Bencher<'_, '_>) {
    let now = Time::from_micros(1_000_000);
    let mut timers = armed(now);
    let mut index = 0;
    bencher.bench_local(|| {
        index = (index + 4099) % SESSIONS;
        timers.clear(black_box(index));
        timers.set(black_box(index), black_box(now + IDLE));
    });
}

/// One tick of a wheel on which some ten timers lie in each slot, all of them turns away.
#[divan::bench]
fn a_tick_that_fires_nothing(bencher: Bencher<'_, '_>) {
    let mut now = Time::from_micros(1_000_000);
    let mut timers = armed(now + Duration::from_secs(1 << 40));
    let mut due = Vec::new();
    bencher.bench_local(|| {
        now = now + TICK;
        timers.expire(black_box(now), &mut due);
        black_box(timers.next())
    });
    assert!(due.is_empty());
}

/// How long a worker with one session may sleep, which it asks each turn.
#[divan::bench]
fn next_of_one(bencher: Bencher<'_, '_>) {
    let now = Time::from_micros(1_000_000);
    let mut timers = Timers::new();
    timers.set(0, now + IDLE);
    bencher.bench_local(|| black_box(&timers).next());
}
