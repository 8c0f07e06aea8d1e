//! Pairs of connections that were made by another thread, in another descriptor table.

use std::net::{TcpListener, TcpStream};

use crate::support::oracle::{HELLO_BYTES, Total};
use crate::support::peers::{Server, answering, bulk, client, connect, judge_both_whole, talk};
use crate::support::relay::{Options, Relay, Variant};

on_every_engine![
    pairs_that_were_made_elsewhere_are_relayed_whole,
    bulk_over_a_pair_that_was_made_elsewhere_arrives_whole,
    a_pair_whose_server_has_gone_meanwhile_ends,
];

/// A client and its server, joined by the relay: the client's own end.
fn joined<R: Send + 'static>(relay: &Relay, door: &TcpListener, backend: &Server<R>) -> TcpStream {
    let ours = connect(door.local_addr().unwrap());
    let (theirs, _) = door.accept().unwrap();
    relay.join(theirs, connect(backend.address));
    ours
}

fn pairs_that_were_made_elsewhere_are_relayed_whole(variant: Variant) {
    let backend = answering();
    let relay = Relay::start(variant, &Options::to(backend.address));
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let clients: Vec<_> = (0..16).map(|_| joined(&relay, &door, &backend)).collect();
    let mut total = Total::default();
    for (number, stream) in (0..).zip(&clients) {
        let (mut sender, mut receiver) = client(stream, number);
        sender.send(HELLO_BYTES + 5000);
        receiver.receive(HELLO_BYTES + 5000);
        let sent = sender.finish();
        let got = receiver.receive_all();
        total = [total, judge_both_whole((sent, got), backend.outcome(number))].into_iter().sum();
    }
    drop(clients);
    relay.finish(total);
}

fn bulk_over_a_pair_that_was_made_elsewhere_arrives_whole(variant: Variant) {
    const BYTES: u64 = 8 * 1024 * 1024;
    let backend = bulk(BYTES);
    let relay = Relay::start(variant, &Options::to(backend.address));
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = joined(&relay, &door, &backend);
    let (mut sender, mut receiver) = client(&stream, 0);
    let sending = move || {
        sender.send(HELLO_BYTES + BYTES);
        sender.finish()
    };
    let total = judge_both_whole(talk(sending, move || receiver.receive_all()), backend.outcome(0));
    drop(stream);
    relay.finish(total);
}

/// It has sent nothing, and closed before the worker looked: the client is told.
fn a_pair_whose_server_has_gone_meanwhile_ends(variant: Variant) {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(variant, &Options::to(gone.local_addr().unwrap()));
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = connect(door.local_addr().unwrap());
    let (theirs, _) = door.accept().unwrap();
    let server = connect(gone.local_addr().unwrap());
    drop(gone.accept().unwrap());
    relay.join(theirs, server);
    let (sender, mut receiver) = client(&ours, 0);
    let got = receiver.receive_all();
    let sent = sender.finish();
    drop(ours);
    relay.finish(Total::default());
    assert_eq!((got.bytes, sent.bytes), (0, 0));
}
