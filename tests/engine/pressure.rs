//! Readers that do not read: D3, D4, D10, and what they may cost their neighbours.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use fanin::op::SpliceMode;
use fanin::session::CloseReason;

use crate::support::oracle::{End, HELLO_BYTES, Sender, Total, judge};
use crate::support::peers::{
    Server, Talk, answer, client, connect, judge_both_whole, reset_on_close, server, shrink,
    small_listener,
};
use crate::support::relay::{EngineKind, Options, Relay, Variant};
use crate::support::{Gate, await_rest, await_that, holds_for};

on_every_engine![
    a_stopped_reader_fills_a_pipe_with_fragments_and_loses_nothing,
    a_slow_reader_stops_its_sender_and_no_neighbour,
    an_end_behind_held_bytes_comes_after_the_last_of_them,
    a_client_that_has_ended_and_reads_slowly_costs_no_processor,
    a_reset_is_passed_on_although_the_reader_has_stopped,
];

/// How long nothing must move for it to be at rest.
const REST: Duration = Duration::from_millis(150);
/// More than any socket holds.
const MUCH: u64 = 24 * 1024 * 1024;
/// Of the sockets on both ends, so that not all of it is in their buffers.
const SOCKET_BYTES: usize = 32 * 1024;
/// Of the sockets between relay and client, where the relay is to hold most of an answer.
const TINY: usize = 16 * 1024;

/// Reads nothing before the gate opens, then all of it, and ends.
fn stopped(gate: &Gate) -> Server<Talk> {
    let gate = gate.clone();
    Server::on(small_listener(SOCKET_BYTES), move |number, stream| read_late(number, stream, &gate))
}

fn read_late(number: u64, stream: &TcpStream, gate: &Gate) -> Talk {
    let (mut sender, mut receiver) = server(stream, number);
    sender.send(HELLO_BYTES);
    gate.wait();
    let got = receiver.to_the_end();
    (sender.finish(), got)
}

fn options(backend: &Server<Talk>) -> Options {
    Options { socket_bytes: Some(SOCKET_BYTES), ..Options::to(backend.address) }
}

/// Whether the relay holds bytes in its own keeping.
fn holds_bytes(relay: &Relay) -> bool {
    let engine = relay.counts().engine;
    engine.pipes_used + engine.buffers_used > 0
}

/// Sends pieces of `piece` bytes until the connection has taken none for a while.
fn send_until_it_blocks(stream: &TcpStream, sender: &mut Sender<'_>, piece: usize) {
    stream.set_nonblocking(true).unwrap();
    await_rest("the sender is stopped", REST, || {
        while sender.offset() < MUCH
            && sender.send_one(piece, |mut s, bytes| write(&mut s, bytes)) > 0
        {}
        sender.offset()
    });
    stream.set_nonblocking(false).unwrap();
    assert!(sender.offset() < MUCH, "nothing stops the sender");
}

fn write(stream: &mut &TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    std::io::Write::write(stream, bytes)
}

/// D3.
fn a_stopped_reader_fills_a_pipe_with_fragments_and_loses_nothing(variant: Variant) {
    let gate = Gate::default();
    let backend = stopped(&gate);
    let relay = Relay::start(variant, &options(&backend));
    let stream = connect(relay.address);
    shrink(&stream, SOCKET_BYTES);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    receiver.receive(HELLO_BYTES);
    send_until_it_blocks(&stream, &mut sender, 1448);
    let engine = relay.counts().engine;
    match variant.splice {
        SpliceMode::Always => assert_eq!((engine.pipes_used, engine.buffers_used), (1, 0)),
        SpliceMode::Never => assert!(engine.pipes_used == 0 && engine.buffers_used > 0),
        SpliceMode::Auto => assert!(engine.pipes_used + engine.buffers_used > 0),
    }
    gate.open();
    sender.send_in(300_000, || 1448);
    let talk = (sender.finish(), receiver.to_the_end());
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// D4. There are so many that they could hold all of a ring's buffers.
fn a_slow_reader_stops_its_sender_and_no_neighbour(variant: Variant) {
    const STOPPED: u64 = 40;
    /// Most of it is the relay's socket towards the server, which the kernel enlarges.
    const HELD_MAX: u64 = 6 * 1024 * 1024;
    let gate = Gate::default();
    let shut = gate.clone();
    let backend = Server::on(small_listener(SOCKET_BYTES), move |number, stream| {
        if number < STOPPED { read_late(number, stream, &shut) } else { answer(number, stream) }
    });
    let relay = Relay::start(variant, &options(&backend));
    let streams: Vec<_> = (0..STOPPED)
        .map(|_| {
            let stream = connect(relay.address);
            shrink(&stream, SOCKET_BYTES);
            stream
        })
        .collect();
    let mut ends: Vec<_> = (0..).zip(&streams).map(|(n, stream)| client(stream, n)).collect();
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    await_rest("all senders are stopped", REST, || {
        for (sender, _) in &mut ends {
            while sender.offset() < MUCH
                && sender.send_one(64 * 1024, |mut s, bytes| write(&mut s, bytes)) > 0
            {}
        }
        ends.iter().map(|(sender, _)| sender.offset()).sum()
    });
    for (sender, _) in &ends {
        assert!(sender.offset() < HELD_MAX, "{} bytes were taken", sender.offset());
    }
    check_what_is_held(variant, &relay, STOPPED);
    let mut total = neighbours(&relay, &backend, STOPPED);
    let spent = relay.cpu_time();
    holds_for(REST, "they are stopped", || holds_bytes(&relay));
    assert!(relay.cpu_time() - spent < REST / 2, "waiting costs a processor");
    gate.open();
    for stream in &streams {
        stream.set_nonblocking(false).unwrap();
    }
    total += thread::scope(|scope| {
        let ends: Vec<_> = (0..)
            .zip(ends)
            .map(|(number, (mut sender, mut receiver))| {
                let backend = &backend;
                scope.spawn(move || {
                    sender.send(100_000);
                    let talk = (sender.finish(), receiver.to_the_end());
                    judge_both_whole(talk, backend.outcome(number))
                })
            })
            .collect();
        ends.into_iter().map(|end| end.join().unwrap()).sum()
    });
    relay.finish(total);
}

fn check_what_is_held(variant: Variant, relay: &Relay, sessions: u64) {
    let engine = relay.counts().engine;
    assert!(engine.pipes_used <= sessions, "{} pipes", engine.pipes_used);
    match variant.engine {
        EngineKind::Epoll => assert!(engine.pipes_used + engine.buffers_used <= sessions),
        // The ring's own buffers, all of them, and one a session beside them.
        EngineKind::Uring => assert!(engine.buffers_used <= 1024 + sessions),
    }
}

/// Sessions that go on as if nothing were the matter.
fn neighbours(relay: &Relay, backend: &Server<Talk>, from: u64) -> Total {
    let mut total = Total::default();
    for number in from..from + 4 {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        let begun = std::time::Instant::now();
        sender.send(HELLO_BYTES);
        receiver.receive(HELLO_BYTES);
        for bytes in [1, 100, 10_000, 100_000] {
            sender.send(bytes);
            receiver.receive(bytes);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let talk = (sender.finish(), receiver.to_the_end());
        total += judge_both_whole(talk, backend.outcome(number));
    }
    total
}

/// Sends so much at once, and ends.
fn sending(bytes: u64) -> Server<Talk> {
    Server::new(move |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send(bytes);
        let sent = sender.finish();
        (sent, receiver.to_the_end())
    })
}

/// D10.
fn an_end_behind_held_bytes_comes_after_the_last_of_them(variant: Variant) {
    for bytes in [150_000, 400_000] {
        let backend = sending(bytes);
        let options = Options { socket_bytes: Some(TINY), ..Options::to(backend.address) };
        let relay = Relay::start(variant, &options);
        let stream = connect(relay.address);
        shrink(&stream, TINY);
        let (mut sender, mut receiver) = client(&stream, 1);
        sender.send(HELLO_BYTES);
        await_that("the relay holds some", || holds_bytes(&relay));
        await_rest("the rest is stopped", REST, || relay.bytes());
        assert!(holds_bytes(&relay));
        let got = receiver.to_the_end();
        let talk = (sender.finish(), got);
        relay.finish(judge_both_whole(talk, backend.outcome(1)));
    }
}

/// The same after the client has said its last: for the kernel such a socket is always ready in one
/// way or another.
fn a_client_that_has_ended_and_reads_slowly_costs_no_processor(variant: Variant) {
    let backend = sending(150_000);
    let options = Options { socket_bytes: Some(TINY), ..Options::to(backend.address) };
    let relay = Relay::start(variant, &options);
    let stream = connect(relay.address);
    shrink(&stream, TINY);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    let sent = sender.finish();
    await_that("the relay holds some", || holds_bytes(&relay));
    await_rest("the rest is stopped", REST, || relay.bytes());
    let spent = relay.cpu_time();
    holds_for(REST * 2, "the relay holds some", || holds_bytes(&relay));
    let spent = relay.cpu_time() - spent;
    assert!(spent < REST / 2, "{spent:?} of processor in {:?}", REST * 2);
    let got = receiver.to_the_end();
    relay.finish(judge_both_whole((sent, got), backend.outcome(1)));
}

/// D12, with the receiver stopped: nobody pulls from the one who resets.
fn a_reset_is_passed_on_although_the_reader_has_stopped(variant: Variant) {
    the_server_resets(variant, false);
    the_server_resets(variant, true);
    the_client_resets(variant);
}

fn the_server_resets(variant: Variant, client_has_ended: bool) {
    let gate = Gate::default();
    let resetting = gate.clone();
    let backend = Server::new(move |number, stream| {
        let (mut sender, _) = server(stream, number);
        sender.send(150_000);
        resetting.wait();
        reset_on_close(stream);
        sender.cut()
    });
    let options = Options { socket_bytes: Some(TINY), ..Options::to(backend.address) };
    let mut relay = Relay::start(variant, &options);
    let stream = connect(relay.address);
    shrink(&stream, TINY);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    if client_has_ended {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    await_that("the relay holds some", || holds_bytes(&relay));
    await_rest("the rest is stopped", REST, || relay.bytes());
    gate.open();
    let mut total = Total::default();
    total.sent[0] = sender.offset();
    let sent = backend.outcome(1);
    let ended = relay.await_ended(1)[0].report;
    assert_eq!(ended.reason, CloseReason::ServerReset);
    let got = receiver.to_the_end();
    assert_eq!(got.end, End::Cut(std::io::ErrorKind::ConnectionReset));
    total += judge(sent, got);
    relay.finish(total);
}

fn the_client_resets(variant: Variant) {
    let gate = Gate::default();
    let backend = stopped(&gate);
    let mut relay = Relay::start(variant, &options(&backend));
    let stream = connect(relay.address);
    shrink(&stream, SOCKET_BYTES);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    receiver.receive(HELLO_BYTES);
    send_until_it_blocks(&stream, &mut sender, 64 * 1024);
    let mut total = Total::default();
    total.sent[1] = HELLO_BYTES;
    let sent = sender.cut();
    reset_on_close(&stream);
    drop(stream);
    let ended = relay.await_ended(1)[0].report;
    assert_eq!(ended.reason, CloseReason::ClientReset);
    gate.open();
    let (_, got) = backend.outcome(1);
    assert_eq!(got.end, End::Cut(std::io::ErrorKind::ConnectionReset));
    total += judge(sent, got);
    relay.finish(total);
}
