//! Urgent bytes: delivered in their place in the stream, at no cost (D7).
//!
//! splice(2) stops in front of one and says EAGAIN for as long as it stands there.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};

use crate::support::dice::Dice;
use crate::support::oracle::{HELLO_BYTES, Sender, Sent};
use crate::support::peers::{Server, Talk, all, client, connect, judge_both_whole, server, talk};
use crate::support::relay::{Options, Relay, Variant};
use crate::support::{Gate, await_rest, await_that, holds_for};

on_every_engine![
    urgent_bytes_in_mid_stream_arrive_in_line_both_ways,
    urgent_bytes_that_piled_up_arrive_in_line,
    an_urgent_byte_at_the_end_arrives_before_it,
];

const REST: Duration = Duration::from_millis(150);

fn urgent(sender: &mut Sender<'_>) {
    let out_of_band =
        |stream: &TcpStream, bytes: &[u8]| Ok(send(stream.as_raw_fd(), bytes, MsgFlags::MSG_OOB)?);
    assert_eq!(sender.send_one(1, out_of_band), 1);
}

/// Messages of many sizes with urgent bytes among them.
fn mixed(mut sender: Sender<'_>, seed: u64) -> Sent {
    let mut dice = Dice::new(seed);
    for _ in 0..200 {
        sender.send(dice.magnitude(15));
        if dice.one_in(3) {
            urgent(&mut sender);
        }
    }
    sender.finish()
}

fn urgent_bytes_in_mid_stream_arrive_in_line_both_ways(variant: Variant) {
    let backend = Server::new(|number, stream| {
        let (sender, mut receiver) = server(stream, number);
        talk(move || mixed(sender, number + 100), move || receiver.receive_all())
    });
    let relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(8, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        sender.send(HELLO_BYTES);
        let talk = talk(move || mixed(sender, number), move || receiver.receive_all());
        judge_both_whole(talk, backend.outcome(number))
    });
    relay.finish(total);
}

/// Receives nothing before the gate opens.
fn stopped(gate: &Gate) -> Server<Talk> {
    let gate = gate.clone();
    Server::new(move |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send(HELLO_BYTES);
        gate.wait();
        let got = receiver.receive_all();
        (sender.finish(), got)
    })
}

/// All of it stands in one socket before any of it can go on; and nobody spins meanwhile.
fn urgent_bytes_that_piled_up_arrive_in_line(variant: Variant) {
    let gate = Gate::default();
    let backend = stopped(&gate);
    let relay = Relay::start(variant, &Options::to(backend.address));
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    receiver.receive(HELLO_BYTES);
    // A pipe full, so that the urgent byte waits in front of an empty one.
    fill(&stream, &mut sender, &relay);
    for bytes in [3000, 1, 70_000] {
        sender.send(bytes);
        urgent(&mut sender);
    }
    sender.send(5000);
    let spent = relay.cpu_time();
    holds_for(REST * 2, "nothing moves", || true);
    let spent = relay.cpu_time() - spent;
    assert!(spent < REST / 2, "{spent:?} of processor in {:?}", REST * 2);
    gate.open();
    await_all(&relay, sender.offset());
    let talk = (sender.finish(), receiver.receive_all());
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// Sends until the relay takes no more for the server.
fn fill(stream: &TcpStream, sender: &mut Sender<'_>, relay: &Relay) {
    stream.set_nonblocking(true).unwrap();
    await_rest("the relay is full", REST, || {
        for _ in 0..64 {
            let behind = sender.offset().saturating_sub(relay.bytes());
            if behind > 1024 * 1024 {
                break;
            }
            sender.send_one(16 * 1024, |mut s, bytes| std::io::Write::write(&mut s, bytes));
        }
        sender.offset()
    });
    stream.set_nonblocking(false).unwrap();
}

/// Nothing may be left standing until the end of the stream drives it out.
fn await_all(relay: &Relay, bytes: u64) {
    await_that("all of it has gone on", || relay.counts().engine.bytes_to_backend.total() == bytes);
}

fn an_urgent_byte_at_the_end_arrives_before_it(variant: Variant) {
    for before in [0, 10, 100_000] {
        let gate = Gate::default();
        gate.open();
        let backend = stopped(&gate);
        let relay = Relay::start(variant, &Options::to(backend.address));
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, 1);
        sender.send(HELLO_BYTES);
        receiver.receive(HELLO_BYTES);
        sender.send(before);
        urgent(&mut sender);
        await_all(&relay, sender.offset());
        urgent(&mut sender);
        let talk = (sender.finish(), receiver.receive_all());
        relay.finish(judge_both_whole(talk, backend.outcome(1)));
    }
}
