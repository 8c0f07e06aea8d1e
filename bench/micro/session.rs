//! A session's events, as an engine would bring them.

use std::num::NonZeroU32;
use std::time::Duration;

use divan::{Bencher, black_box};
use fanin::op::{Flow, Op, Outcome, SessionKey, Slot, Time};
use fanin::session::{Session, SessionLimits, Step};

const KEY: SessionKey = SessionKey::new(7, 3);
const LIMITS: SessionLimits = SessionLimits {
    connect: Duration::from_secs(5),
    client_idle: Duration::from_secs(120),
    server_idle: Duration::from_secs(120),
    half_closed: Duration::from_secs(30),
    attempts_max: 3,
};

fn moved(bytes: u32) -> Outcome {
    Outcome::Moved(NonZeroU32::new(bytes).unwrap())
}

/// One event; what it asks for is looked at and forgotten, as a worker does.
fn event(session: &mut Session, slot: Slot, outcome: Outcome, now: Time, ops: &mut Vec<Op>) {
    let step = session.on_completion(black_box(slot), black_box(outcome), now, &LIMITS, ops);
    assert!(matches!(black_box(step), Step::Continue));
    black_box(&*ops);
    ops.clear();
}

fn exchange(session: &mut Session, now: Time, ops: &mut Vec<Op>) {
    for (flow, bytes) in [(Flow::ToBackend, 4096), (Flow::ToClient, 200)] {
        event(session, Slot::Pull(flow), moved(bytes), now, ops);
        event(session, Slot::Push(flow), moved(bytes), now, ops);
    }
}

/// Four completions: a request and its answer, over a session that is kept.
#[divan::bench]
fn one_exchange(bencher: Bencher<'_, '_>) {
    let mut ops = Vec::new();
    let mut now = Time::from_micros(1_000_000);
    let mut session = Session::joined(KEY, now, 1, now, &mut ops);
    ops.clear();
    bencher.bench_local(|| {
        now = now + Duration::from_micros(10);
        exchange(&mut session, now, &mut ops);
    });
}

/// From the accept to the report: dialled, connected, one exchange, the client closes first.
#[divan::bench]
fn one_connection_with_one_exchange(bencher: Bencher<'_, '_>) {
    let mut ops = Vec::new();
    let address = "192.0.2.1:443".parse().unwrap();
    let now = Time::from_micros(1_000_000);
    bencher.bench_local(|| {
        let (mut session, step) = Session::open(black_box(KEY), now, &mut ops);
        assert!(matches!(step, Step::Dial { .. }));
        session.dial(black_box(address), None, now, &LIMITS, &mut ops);
        event(&mut session, Slot::Connect, Outcome::Done, now, &mut ops);
        exchange(&mut session, now, &mut ops);
        for flow in Flow::ALL {
            event(&mut session, Slot::Pull(flow), Outcome::EndOfStream, now, &mut ops);
        }
        let end = session.on_completion(Slot::Close, Outcome::Done, now, &LIMITS, &mut ops);
        assert!(matches!(black_box(end), Step::Finished(_)));
    });
}
