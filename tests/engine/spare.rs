//! Connections to servers that are there before a session asks for them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use fanin::backend::board::Admin;
use fanin::sys::process;
use fanin::worker::Command;
use fanin::worker::plan::SpareLimits;

use crate::support::oracle::{HELLO_BYTES, Total};
use crate::support::peers::{answering, client, connect, judge_both_whole};
use crate::support::relay::{Options, Relay, Variant};
use crate::support::{PATIENCE, await_some, await_that};

on_every_engine![
    sessions_over_spare_connections_arrive_whole,
    one_that_its_server_has_ended_is_not_used,
    one_on_which_its_server_has_spoken_is_not_used,
    one_that_nobody_uses_is_ended_in_time,
    a_server_in_maintenance_gets_none,
    a_drain_ends_them,
];

/// Used within what a test waits for anything, so that they are fresh whenever one is looked for.
const LASTING: SpareLimits = SpareLimits { max: 4, idle: PATIENCE };
const SHORT: SpareLimits = SpareLimits { max: 4, idle: Duration::from_millis(400) };

fn options(server: &TcpListener, spare: SpareLimits) -> Options {
    let options = Options::to(server.local_addr().unwrap());
    Options { spare: Some(spare), ..options }
}

fn accept(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    let (stream, _) = await_some("a connection", || server.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client says `word` and its server hears it; both end.
fn exchange(client: &TcpStream, server: &TcpStream, word: &[u8]) -> Total {
    (&mut &*client).write_all(word).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    (&mut &*server).read_to_end(&mut heard).unwrap();
    assert_eq!(heard, word);
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&mut &*client).read_to_end(&mut Vec::new()).unwrap(), 0);
    let bytes = word.len() as u64;
    Total { sent: [bytes, 0], got: [bytes, 0] }
}

/// Two sessions, one soon after the other, are what makes the relay expect a third: its connection.
fn two_sessions_and_a_spare(relay: &Relay, server: &TcpListener) -> (TcpStream, Total) {
    let first = connect(relay.address);
    let mut total = exchange(&first, &accept(server), b"first");
    let second = connect(relay.address);
    // In the order in which they were begun: the spare one, and then the session's own.
    let spare = accept(server);
    total += exchange(&second, &accept(server), b"second");
    await_that("there is one", || relay.counts().spares == 1);
    assert_eq!((relay.counts().spares_missed, relay.counts().spares_used), (2, 0));
    (spare, total)
}

/// A third session, over a connection of its own.
fn a_session_of_its_own(relay: &Relay, server: &TcpListener) {
    let dropped = relay.counts().spares_dropped;
    let third = connect(relay.address);
    // None is made for those after it: this one did not last.
    exchange(&third, &accept(server), b"third");
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "another was made");
    assert_eq!(relay.counts().spares_dropped, dropped + 1);
    assert_eq!(relay.counts().spares_used, 0);
}

fn sessions_over_spare_connections_arrive_whole(variant: Variant) {
    const SESSIONS: u64 = 40;
    let backend = answering();
    let options = Options { spare: Some(SHORT), ..Options::to(backend.address) };
    let relay = Relay::start(variant, &options);
    let mut total = Total::default();
    for number in 0..SESSIONS {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        sender.send(HELLO_BYTES + 5000);
        receiver.receive(HELLO_BYTES + 5000);
        let sent = sender.finish();
        let got = receiver.receive_all();
        total += judge_both_whole((sent, got), backend.outcome(number));
    }
    let counts = relay.counts();
    assert_eq!(counts.spares_used + counts.spares_missed, SESSIONS);
    assert!(counts.spares_used > SESSIONS / 2, "{counts:?}");
    relay.finish(total);
}

fn one_that_its_server_has_ended_is_not_used(variant: Variant) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(variant, &options(&server, LASTING));
    let (spare, _) = two_sessions_and_a_spare(&relay, &server);
    drop(spare);
    a_session_of_its_own(&relay, &server);
}

fn one_on_which_its_server_has_spoken_is_not_used(variant: Variant) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(variant, &options(&server, LASTING));
    let (mut spare, _) = two_sessions_and_a_spare(&relay, &server);
    spare.write_all(b"HTTP/1.1 408 Request Time-out\r\n\r\n").unwrap();
    a_session_of_its_own(&relay, &server);
}

fn one_that_nobody_uses_is_ended_in_time(variant: Variant) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(variant, &options(&server, SHORT));
    let (mut spare, total) = two_sessions_and_a_spare(&relay, &server);
    assert_eq!(spare.read_to_end(&mut Vec::new()).unwrap(), 0, "a FIN");
    await_that("no more are made for nobody", || relay.counts().spares == 0);
    relay.finish(total);
}

fn a_server_in_maintenance_gets_none(variant: Variant) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(variant, &options(&server, LASTING));
    let (mut spare, _) = two_sessions_and_a_spare(&relay, &server);
    relay.board.administer(Admin::Maint, process::monotonic_micros());
    assert_eq!(spare.read_to_end(&mut Vec::new()).unwrap(), 0, "a FIN");
    // The turn in which it was ended is over.
    let (pulse, heard) = mpsc::channel();
    relay.tell(Command::Pulse(pulse));
    assert!(
        heard.recv_timeout(PATIENCE).is_err_and(|error| error == RecvTimeoutError::Disconnected)
    );
    assert_eq!((relay.counts().spares_dropped, relay.counts().spares), (1, 0));
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "another was made");
}

fn a_drain_ends_them(variant: Variant) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(variant, &options(&server, LASTING));
    let (mut spare, _) = two_sessions_and_a_spare(&relay, &server);
    relay.tell(Command::Drain { grace: PATIENCE });
    assert_eq!(spare.read_to_end(&mut Vec::new()).unwrap(), 0, "a FIN");
    await_that("none is left", || relay.counts().spares == 0);
}
