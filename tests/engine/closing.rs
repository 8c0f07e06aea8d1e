//! How streams and connections end, and that the other side learns of it as it came: D8, D9, D11,
//! D12, D13.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fanin::session::{CloseReason, SessionLimits};

use crate::support::dice::Dice;
use crate::support::oracle::{End, HELLO_BYTES, Total, judge};
use crate::support::peers::{
    Server, Talk, all, client, connect, judge_both_whole, reset_on_close, server, shrink,
    small_listener,
};
use crate::support::relay::{Options, Relay, Variant};
use crate::support::{await_rest, await_that, holds_for};

on_every_engine![
    a_client_that_has_ended_gets_its_whole_answer,
    a_server_that_has_ended_hears_the_client_out,
    half_closed_and_silent_is_ended_and_nobody_else,
    a_half_closed_session_in_which_bytes_move_stays,
    a_reader_that_takes_its_time_is_not_taken_for_a_silent_one,
    a_reset_of_the_client_reaches_the_server_after_a_true_prefix,
    a_reset_of_the_server_reaches_the_client_after_a_true_prefix,
    the_last_answer_arrives_although_the_client_was_still_sending,
];

const ANSWER: u64 = 1024 * 1024;

/// D8.
fn a_client_that_has_ended_gets_its_whole_answer(variant: Variant) {
    let backend = Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        let got = receiver.receive_all();
        sender.send(ANSWER);
        (sender.finish(), got)
    });
    let relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(8, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        // Nothing but the number, a request, a request over several buffers.
        sender.send(HELLO_BYTES + [0, 300, 100_000][number as usize % 3]);
        let sent = sender.finish();
        judge_both_whole((sent, receiver.receive_all()), backend.outcome(number))
    });
    relay.finish(total);
}

/// D9.
fn a_server_that_has_ended_hears_the_client_out(variant: Variant) {
    let backend = Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send([0, 300, 100_000][number as usize % 3]);
        (sender.finish(), receiver.receive_all())
    });
    let relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(8, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        sender.send(HELLO_BYTES);
        let got = receiver.receive_all();
        sender.send(ANSWER);
        judge_both_whole((sender.finish(), got), backend.outcome(number))
    });
    relay.finish(total);
}

fn half_closed(options: &mut Options) -> Duration {
    let half_closed = Duration::from_millis(300);
    options.limits = SessionLimits { half_closed, ..options.limits };
    half_closed
}

/// Receives to the end and holds its own stream open until it is reset.
fn silent() -> Server<Talk> {
    Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send(HELLO_BYTES);
        let got = receiver.receive_all();
        if got.end == End::Whole {
            await_that("it is reset", || !still_connected(stream));
        }
        (sender.cut(), got)
    })
}

/// D11.
fn half_closed_and_silent_is_ended_and_nobody_else(variant: Variant) {
    let backend = silent();
    let mut options = Options::to(backend.address);
    let limit = half_closed(&mut options);
    let mut relay = Relay::start(variant, &options);
    let idle = connect(relay.address);
    let (mut idle_sender, mut idle_receiver) = client(&idle, 1);
    idle_sender.send(HELLO_BYTES);
    idle_receiver.receive(HELLO_BYTES);
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 2);
    sender.send(HELLO_BYTES);
    receiver.receive(HELLO_BYTES);
    let begun = Instant::now();
    let sent = sender.finish();
    let got = receiver.receive_all();
    let took = begun.elapsed();
    assert_eq!(got.end, End::Cut(ErrorKind::ConnectionReset));
    assert!(took >= limit && took < limit * 4, "{took:?}");
    assert_eq!(relay.await_ended(1)[0].report.reason, CloseReason::HalfClosed);
    let (server_sent, server_got) = backend.outcome(2);
    let mut total: Total = [judge(sent, server_got), judge(server_sent, got)].into_iter().sum();
    // The other one is as it was.
    assert_eq!(relay.counts().sessions, 1);
    let sent = idle_sender.cut();
    reset_on_close(&idle);
    drop(idle);
    let (server_sent, server_got) = backend.outcome(1);
    total += judge(sent, server_got);
    total.sent[1] += server_sent.bytes;
    relay.finish(total);
}

fn a_half_closed_session_in_which_bytes_move_stays(variant: Variant) {
    const BEATS: u64 = 10;
    let backend = Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        let got = receiver.receive_all();
        for _ in 0..BEATS {
            sender.send(1);
            holds_for(Duration::from_millis(100), "", || true);
        }
        (sender.finish(), got)
    });
    let mut options = Options::to(backend.address);
    half_closed(&mut options);
    let relay = Relay::start(variant, &options);
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    let sent = sender.finish();
    let talk = (sent, receiver.receive_all());
    assert_eq!(talk.1.bytes, BEATS);
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// The relay's socket holds so much for the reader that no push ends within the timer, and yet bytes
/// move all the time.
fn a_reader_that_takes_its_time_is_not_taken_for_a_silent_one(variant: Variant) {
    const SLOWLY: Duration = Duration::from_millis(1200);
    let backend = Server::on(small_listener(4096), |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send(HELLO_BYTES);
        let sent = sender.finish();
        let begun = Instant::now();
        let unhurried = || {
            if begun.elapsed() > SLOWLY {
                return usize::MAX;
            }
            holds_for(Duration::from_millis(20), "", || true);
            1024
        };
        (sent, receiver.receive_all_in(unhurried))
    });
    let mut options = Options::to(backend.address);
    half_closed(&mut options);
    let relay = Relay::start(variant, &options);
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES);
    let got = receiver.receive_all();
    sender.send(4 * 1024 * 1024);
    let sent = sender.finish();
    relay.finish(judge_both_whole((sent, got), backend.outcome(1)));
}

/// Where the streams of D12 are cut: somewhere in a message, a buffer, a pipe, or much later.
fn cut_at(number: u64) -> u64 {
    Dice::new(number).magnitude(21)
}

const RESETS: u64 = 24;

/// D12.
fn a_reset_of_the_client_reaches_the_server_after_a_true_prefix(variant: Variant) {
    let backend = Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send(HELLO_BYTES);
        let got = receiver.receive_all();
        (sender.cut(), got)
    });
    let mut relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(RESETS, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        sender.send(HELLO_BYTES);
        receiver.receive(HELLO_BYTES);
        sender.send(cut_at(number));
        let sent = sender.cut();
        reset_on_close(&stream);
        drop(stream);
        let (_, got) = backend.outcome(number);
        assert_eq!(got.end, End::Cut(ErrorKind::ConnectionReset), "{got:?}");
        let mut total = judge(sent, got);
        (total.sent[1], total.got[1]) = (HELLO_BYTES, HELLO_BYTES);
        total
    });
    relay.await_ended(RESETS as usize);
    assert_eq!(relay.ended(CloseReason::ClientReset), RESETS as usize);
    relay.finish(total);
}

/// D12.
fn a_reset_of_the_server_reaches_the_client_after_a_true_prefix(variant: Variant) {
    let backend = Server::new(|number, stream| {
        let (mut sender, _) = server(stream, number);
        sender.send(cut_at(number));
        reset_on_close(stream);
        sender.cut()
    });
    let mut relay = Relay::start(variant, &Options::to(backend.address));
    let total = all(RESETS, |number| {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        sender.send(HELLO_BYTES);
        let got = receiver.receive_all();
        assert_eq!(got.end, End::Cut(ErrorKind::ConnectionReset), "{got:?}");
        let mut total = judge(backend.outcome(number), got);
        (total.sent[0], total.got[0]) = (HELLO_BYTES, HELLO_BYTES);
        total
    });
    relay.await_ended(RESETS as usize);
    assert_eq!(relay.ended(CloseReason::ServerReset), RESETS as usize);
    relay.finish(total);
}

/// D13. The server has read all there was, answers and is gone; what the client sends then is
/// answered by a reset, which must not overtake the answer.
fn the_last_answer_arrives_although_the_client_was_still_sending(variant: Variant) {
    // Within the window that a connection begins with: what the server's kernel could not send yet
    // would be lost with it.
    const LAST: u64 = 60_000;
    let backend = Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        receiver.receive(1000);
        sender.send(LAST);
        sender.finish()
    });
    let options = Options { socket_bytes: Some(8 * 1024), ..Options::to(backend.address) };
    let mut relay = Relay::start(variant, &options);
    let stream = connect(relay.address);
    shrink(&stream, 8 * 1024);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES + 1000);
    let server_sent = backend.outcome(1);
    await_rest("the answer is stopped", Duration::from_millis(100), || relay.bytes());
    // Its socket is closed by now.
    for _ in 0..20 {
        sender.send(5000);
    }
    let got = receiver.receive_all();
    assert_eq!((got.bytes, got.end), (LAST, End::Whole));
    let mut total = judge(server_sent, got);
    // It goes on until it is told.
    while still_connected(&stream) {
        sender.send(10_000);
    }
    total.sent[0] = sender.offset();
    assert_eq!(relay.await_ended(1)[0].report.reason, CloseReason::ServerGone);
    relay.finish(total);
}

/// Whether the connection has not failed yet.
fn still_connected(stream: &TcpStream) -> bool {
    stream.take_error().unwrap().is_none() && stream.peer_addr().is_ok()
}
