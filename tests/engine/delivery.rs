//! Every byte in its place, whatever the sizes and speeds (D1, D2, D5, D6, D15, D16).

use std::thread;

use crate::support::oracle::Total;
use crate::support::peers::{Server, Talk, client, connect, judge_both_whole, server, talk};
use crate::support::relay::{Options, Relay, Variant};

on_every_engine![bulk_both_ways_at_once_arrives_whole];

/// Runs clients `0..count`, each on a thread of its own, and adds up what they came to.
fn all(count: u64, one: impl Fn(u64) -> Total + Sync) -> Total {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|number| {
                let one = &one;
                let small = thread::Builder::new().stack_size(128 * 1024);
                small.spawn_scoped(scope, move || one(number)).unwrap()
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

/// Sends `bytes` and the end, and receives to the end, both at the same time.
fn bulk(bytes: u64) -> Server<Talk> {
    Server::new(move |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        talk(
            move || {
                sender.send(bytes);
                sender.finish()
            },
            move || receiver.to_the_end(),
        )
    })
}

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
            move || receiver.to_the_end(),
        );
        judge_both_whole(talk, backend.outcome(number))
    });
    let engine = relay.counts().engine;
    assert_eq!(engine.bytes().spliced > 0, variant.splices());
    relay.finish(total);
}
