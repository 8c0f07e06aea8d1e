//! Every byte in its place, whatever the sizes and the speeds: D1, D2, D5, D6, D15, D16 of the
//! reliability list.

use std::time::{Duration, Instant};

use crate::support::dice::Dice;
use crate::support::oracle::{HELLO_BYTES, Receiver, Sender};
use crate::support::peers::{
    Server, all, answering, bulk, client, connect, judge_both_whole, server, shrink,
    small_listener, talk,
};
use crate::support::relay::{Options, Relay, Variant};
use crate::support::{await_that, holds_for};

on_every_engine![
    bulk_both_ways_at_once_arrives_whole,
    a_sliced_stream_arrives_whole,
    tiny_socket_buffers_only_slow_it_down,
    short_counts_keep_the_order,
    a_byte_and_its_answer_are_never_held_back,
    the_path_may_change_many_times_in_mid_stream,
    messages_that_come_evenly_gather_within_the_latency_budget,
];

/// D1.
fn bulk_both_ways_at_once_arrives_whole(variant: Variant) {
    const BYTES: u64 = 2 * 1024 * 1024;
    let backend = bulk(BYTES);
    let relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(40, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        let talk = talk(
            move || {
                sender.send(BYTES);
                sender.finish()
            },
            move || receiver.receive_all(),
        );
        judge_both_whole(talk, backend.outcome(number))
    });
    let engine = relay.counts().engine;
    assert_eq!(engine.bytes().spliced > 0, variant.splices());
    relay.finish(total);
}

/// D2: pieces of 1 to 1448 bytes both ways, each a segment of its own.
fn a_sliced_stream_arrives_whole(variant: Variant) {
    const BYTES: u64 = 256 * 1024;
    let slice = |number: u64| {
        let mut dice = Dice::new(number);
        move || {
            // Lets the other threads come between two pieces.
            std::thread::yield_now();
            dice.size(1448)
        }
    };
    let backend = Server::new(move |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        let (piece, most) = (slice(number), slice(number));
        talk(
            move || {
                sender.send_in(BYTES, piece);
                sender.finish()
            },
            move || receiver.receive_all_in(most),
        )
    });
    let relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(24, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        let piece = slice(number + 1000);
        let talk = talk(
            move || {
                sender.send_in(BYTES, piece);
                sender.finish()
            },
            move || receiver.receive_all(),
        );
        judge_both_whole(talk, backend.outcome(number))
    });
    relay.finish(total);
}

/// D5.
fn tiny_socket_buffers_only_slow_it_down(variant: Variant) {
    // Such windows carry some 60 KB/s: each round waits for a delayed acknowledgement.
    const BYTES: u64 = 48 * 1024;
    exchange_with_small_buffers(variant, 8, BYTES, |_| 4096, |_| 64 * 1024);
}

/// D16: each call moves a small and changing part of what it was given.
fn short_counts_keep_the_order(variant: Variant) {
    const BYTES: u64 = 40 * 1024;
    let bytes = |number: u64| [3000, 5000, 9000, 20_000][number as usize % 4];
    exchange_with_small_buffers(variant, 12, BYTES, bytes, |number| 1 + 700 * number as usize);
}

/// `count` connections at once, bulk both ways, through sockets with small buffers; receivers read
/// in pieces of up to `most` bytes.
fn exchange_with_small_buffers(
    variant: Variant,
    count: u64,
    bytes: u64,
    socket_bytes: impl Fn(u64) -> usize + Sync,
    most: fn(u64) -> usize,
) {
    let backend = Server::on(small_listener(4096), move |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        talk(
            move || {
                sender.send(bytes);
                sender.finish()
            },
            move || receiver.receive_all_in(|| most(number)),
        )
    });
    let options = Options { socket_bytes: Some(4096), ..Options::to(backend.address) };
    let relay = Relay::start(variant, &options);
    let total = all(count, |number| {
        let stream = connect(relay.address);
        shrink(&stream, socket_bytes(number));
        let (mut sender, mut receiver) = client(&stream, number);
        let talk = talk(
            move || {
                sender.send(bytes);
                sender.finish()
            },
            move || receiver.receive_all_in(|| most(number)),
        );
        judge_both_whole(talk, backend.outcome(number))
    });
    relay.finish(total);
}

/// D6: Nagle or MSG_MORE would show as steps of 40 or 200 ms.
fn a_byte_and_its_answer_are_never_held_back(variant: Variant) {
    const ROUNDS: usize = 2000;
    let backend = answering();
    let relay = Relay::start(variant, &Options::to(backend.address));
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    receiver.receive(HELLO_BYTES);
    let mut held = 0;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        sender.send(1);
        receiver.receive(1);
        held += usize::from(begun.elapsed() > Duration::from_millis(30));
    }
    // A busy machine may take a processor away now and then.
    assert!(held < ROUNDS / 50, "{held} of {ROUNDS} answers took over 30 ms");
    let talk = (sender.finish(), receiver.receive_all());
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// D15: bulk and small messages take turns.
fn the_path_may_change_many_times_in_mid_stream(variant: Variant) {
    let backend = answering();
    let relay = Relay::start(variant, &Options::to(backend.address));
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    receiver.receive(HELLO_BYTES);
    let path = |copied: u64, spliced: u64| {
        let bytes = relay.counts().engine.bytes_to_backend;
        (bytes.copied > copied, bytes.spliced > spliced)
    };
    for _ in 0..12 {
        for (bulk, rounds, bytes) in [(true, 2, 512 * 1024), (false, 12, 100)] {
            let before = relay.counts().engine.bytes_to_backend;
            await_that("the path that is due is taken", || {
                for _ in 0..rounds {
                    exchange(&mut sender, &mut receiver, bytes);
                }
                let (copied, spliced) = path(before.copied, before.spliced);
                match variant.splice {
                    fanin::op::SpliceMode::Auto if bulk => spliced,
                    fanin::op::SpliceMode::Auto | fanin::op::SpliceMode::Never => copied,
                    fanin::op::SpliceMode::Always => spliced,
                }
            });
        }
    }
    let bytes = relay.counts().engine.bytes();
    assert_eq!(bytes.spliced > 0, variant.splices());
    let talk = (sender.finish(), receiver.receive_all());
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// Sends so much while it receives as much.
fn exchange(sender: &mut Sender<'_>, receiver: &mut Receiver<'_>, bytes: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(bytes));
        receiver.receive(bytes);
    });
}

/// A message every so often wakes the worker each time, unless it may let them gather.
fn messages_that_come_evenly_gather_within_the_latency_budget(variant: Variant) {
    const MESSAGES: u64 = 200;
    const APART: Duration = Duration::from_millis(2);
    let sleeps = [Duration::ZERO, APART * 20].map(|latency_budget| {
        let backend = bulk(HELLO_BYTES);
        let options = Options { latency_budget, ..Options::to(backend.address) };
        let relay = Relay::start(variant, &options);
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, 1);
        sender.send(HELLO_BYTES);
        receiver.receive(HELLO_BYTES);
        let before = relay.sleeps();
        for _ in 0..MESSAGES {
            sender.send(1);
            holds_for(APART, "", || true);
        }
        let sleeps = relay.sleeps() - before;
        let sent = sender.finish();
        let talk = (sent, receiver.receive_all());
        relay.finish(judge_both_whole(talk, backend.outcome(1)));
        sleeps
    });
    let [alone, gathered] = sleeps;
    assert!(gathered * 2 < alone, "{gathered} sleeps with a latency budget, {alone} without");
}
