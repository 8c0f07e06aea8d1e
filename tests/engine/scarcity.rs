//! Too few pipes, pages and descriptors: D19, D20, X1.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::child::{Child, Orders};
use crate::support::oracle::{HELLO_BYTES, Total};
use crate::support::peers::{
    Server, Talk, all, answering, bulk, client, connect, judge_both_whole, talk,
};
use crate::support::relay::{Options, Relay, Variant};
use crate::support::{Gate, await_that, holds_for};

on_every_engine![
    without_a_free_pipe_bulk_is_copied,
    an_ordinary_users_small_pipes_are_counted_and_not_used,
    out_of_descriptors_accepting_pauses_and_nobody_is_lost,
];

const BYTES: u64 = 1024 * 1024;

/// `count` clients of [`bulk`] at once, the first of them `from`.
fn exchange_bulk(address: SocketAddr, backend: &Server<Talk>, from: u64, count: u64) -> Total {
    all(count, |place| {
        let number = from + place;
        let stream = connect(address);
        let (mut sender, mut receiver) = client(&stream, number);
        let talk = talk(
            move || {
                sender.send(BYTES);
                sender.finish()
            },
            move || receiver.receive_all(),
        );
        judge_both_whole(talk, backend.outcome(number))
    })
}

/// D19.
fn without_a_free_pipe_bulk_is_copied(variant: Variant) {
    for pipes_max in [0, 4] {
        let backend = bulk(BYTES);
        let relay = Relay::start(variant, &Options { pipes_max, ..Options::to(backend.address) });
        let total = exchange_bulk(relay.address, &backend, 0, 40);
        let engine = relay.counts().engine;
        assert!(engine.pipes_open <= pipes_max.into(), "{} pipes", engine.pipes_open);
        assert_eq!(engine.pipes_missed > 0, variant.splices());
        assert_eq!(engine.bytes().spliced > 0, variant.splices() && pipes_max > 0);
        assert!(engine.bytes().copied > 0);
        relay.finish(total);
    }
}

/// D20. Past fs.pipe-user-pages-soft an ordinary user's pipes have two pages.
fn an_ordinary_users_small_pipes_are_counted_and_not_used(variant: Variant) {
    let backend = bulk(BYTES);
    let orders = Orders { ordinary: true, ..Orders::new(variant, backend.address) };
    let mut took = [Duration::ZERO; 2];
    for (place, hoard) in [false, true].into_iter().enumerate() {
        let mut relay = Child::start(&Orders { hoard, ..orders });
        let begun = Instant::now();
        let total = exchange_bulk(relay.address, &backend, place as u64 * 100, 16);
        took[place] = begun.elapsed();
        let counts = relay.counts();
        let count = |name: &str| counts[name].as_u64().unwrap();
        assert_eq!(count("pipes_small") > 0, hoard && variant.splices());
        let spliced = counts["bytes_to_client"]["spliced"].as_u64().unwrap();
        assert_eq!(spliced > 0, !hoard && variant.splices());
        relay.finish(total);
    }
    // No cliff: pipes of two pages would take many times as long.
    let [plenty, scarce] = took;
    assert!(scarce < plenty * 3 + Duration::from_millis(200), "{plenty:?}, then {scarce:?}");
}

/// X1. The first have all they need, the next find no descriptor: they wait until the first leave.
fn out_of_descriptors_accepting_pauses_and_nobody_is_lost(variant: Variant) {
    const FIRST: u64 = 16;
    const CLIENTS: u64 = 28;
    const WINDOW: Duration = Duration::from_millis(300);
    let backend = answering();
    let orders = Orders {
        descriptors: Some(48),
        pipes_max: 2,
        attempts_max: 1000,
        ..Orders::new(variant, backend.address)
    };
    let mut relay = Child::start(&orders);
    let address = relay.address;
    let (come, leave) = (Gate::default(), Gate::default());
    let total = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            all(CLIENTS, |number| {
                if number >= FIRST {
                    come.wait();
                }
                let stream = connect(address);
                let (mut sender, mut receiver) = client(&stream, number);
                sender.send(HELLO_BYTES);
                receiver.receive(HELLO_BYTES);
                leave.wait();
                // Those that are served are served on.
                sender.send(10_000);
                receiver.receive(10_000);
                let talk = (sender.finish(), receiver.receive_all());
                judge_both_whole(talk, backend.outcome(number))
            })
        });
        await_that("the first are served", || relay.counts()["sessions"] == FIRST);
        come.open();
        await_that("descriptors run out", || relay.counts()["accept_failures"] != 0);
        let before = relay.counts()["cpu_micros"].as_u64().unwrap();
        holds_for(WINDOW, "it waits", || true);
        let spent = relay.counts()["cpu_micros"].as_u64().unwrap() - before;
        assert!(spent < 60_000, "{spent} us of processor in {WINDOW:?}");
        leave.open();
        clients.join().unwrap()
    });
    assert_eq!(relay.counts()["sessions_total"], CLIENTS);
    relay.finish(total);
}
