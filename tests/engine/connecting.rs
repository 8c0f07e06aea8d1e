//! Servers that refuse, or never answer, and clients that do not wait for it.

use std::io::{ErrorKind, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process;
use std::time::{Duration, Instant};

use fanin::op::Flow;
use fanin::session::{CloseReason, SessionLimits};
use fanin::worker::Command;
use nix::sys::socket::{Backlog, listen};

use crate::support::await_that;
use crate::support::oracle::{End, HELLO_BYTES, Receiver, Sender, Total, judge_whole};
use crate::support::peers::{
    answering, client, connect, connect_or_reset, judge_both_whole, reset_on_close,
};
use crate::support::relay::{Options, Relay, Variant};

on_every_engine![
    a_server_that_refuses_is_told_by_a_reset_and_leaves_no_socket,
    a_server_that_never_answers_is_given_up_in_time,
    a_client_that_goes_away_cancels_the_connect,
    a_stop_cancels_the_connect,
    bytes_that_come_before_the_server_are_delivered_to_it,
    bytes_that_are_there_before_the_connect_carry_its_acknowledgement,
];

/// A port of loopback where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A listener whose queue is full: the kernel drops what comes, as a host that is down would.
struct Deaf {
    listener: TcpListener,
    /// Those in the queue.
    queue: Vec<TcpStream>,
}

impl Deaf {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&listener.as_fd(), Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        // The queue takes one more than it is told to.
        let queue = (0..3)
            .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok());
        let queue: Vec<_> = queue.collect();
        assert!(queue.len() < 3, "the queue has no end");
        Self { listener, queue }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

fn sent(bytes: u64) -> Total {
    let mut total = Total::default();
    total.sent[0] = bytes;
    total
}

/// Receives the reset that a failed connect ends with.
#[track_caller]
fn is_reset(stream: &TcpStream) {
    let (_, mut receiver) = client(stream, 1);
    let got = receiver.receive_all();
    assert_eq!((got.bytes, got.end), (0, End::Cut(ErrorKind::ConnectionReset)));
}

fn a_server_that_refuses_is_told_by_a_reset_and_leaves_no_socket(variant: Variant) {
    let mut options = Options::to(nobody());
    options.servers.push(nobody());
    options.limits = SessionLimits { attempts_max: 2, ..options.limits };
    let mut relay = Relay::start(variant, &options);
    let mut all = 0;
    for bytes in [0, 100, 100_000] {
        all += bytes;
        let Some(stream) = connect_or_reset(relay.address) else { continue };
        let (mut sender, mut receiver) = client(&stream, 1);
        let sent = sender.send(bytes).cut();
        let got = receiver.receive_all().beside(&sent);
        assert_eq!((got.bytes, got.end), (0, End::Cut(ErrorKind::ConnectionReset)));
    }
    relay.await_ended(3);
    assert_eq!(relay.ended(CloseReason::ConnectRefused), 3);
    relay.finish(sent(all));
}

fn a_server_that_never_answers_is_given_up_in_time(variant: Variant) {
    let deaf = Deaf::new();
    let mut options = Options::to(deaf.address());
    let limit = Duration::from_millis(250);
    options.limits = SessionLimits { connect: limit, ..options.limits };
    let mut relay = Relay::start(variant, &options);
    let begun = Instant::now();
    let stream = connect(relay.address);
    client(&stream, 1).0.send(1000);
    is_reset(&stream);
    let took = begun.elapsed();
    assert!(took >= limit && took < limit * 4, "{took:?}");
    assert_eq!(relay.await_ended(1)[0].report.reason, CloseReason::ConnectTimeout);
    relay.finish(sent(1000));
    assert!(!deaf.queue.is_empty());
}

fn a_client_that_goes_away_cancels_the_connect(variant: Variant) {
    let deaf = Deaf::new();
    let mut relay = Relay::start(variant, &Options::to(deaf.address()));
    for number in 1..=3 {
        let stream = connect(relay.address);
        client(&stream, 1).0.send(1000);
        await_that("it is being connected", || relay.counts().connect_attempts == number);
        reset_on_close(&stream);
        drop(stream);
        relay.await_ended(number as usize);
    }
    assert_eq!(relay.ended(CloseReason::ClientReset), 3);
    relay.finish(sent(3000));
}

fn a_stop_cancels_the_connect(variant: Variant) {
    let deaf = Deaf::new();
    let mut relay = Relay::start(variant, &Options::to(deaf.address()));
    let streams: Vec<_> = (0..5).map(|_| connect(relay.address)).collect();
    await_that("all are being connected", || relay.counts().connect_attempts == 5);
    relay.tell(Command::Stop);
    for stream in &streams {
        is_reset(stream);
    }
    relay.await_ended(5);
    assert_eq!(relay.ended(CloseReason::Stopped), 5);
}

/// C7.
fn bytes_that_come_before_the_server_are_delivered_to_it(variant: Variant) {
    let deaf = Deaf::new();
    let address = deaf.address();
    let backend = answering();
    let mut options = Options::to(address);
    options.servers.push(backend.address);
    options.limits =
        SessionLimits { connect: Duration::from_millis(250), attempts_max: 2, ..options.limits };
    let relay = Relay::start(variant, &options);
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    // More than a buffer: the rest waits in the socket.
    sender.send(HELLO_BYTES + 200_000);
    receiver.receive(HELLO_BYTES + 200_000);
    assert_eq!(relay.counts().redispatches, 1);
    let talk = (sender.finish(), receiver.receive_all());
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// Segments that a connected socket of `local` with the peer `remote` has received, as ss(8) says.
fn segments_received(local: SocketAddr, remote: SocketAddr) -> u32 {
    let filter = format!("sport = :{} and dport = :{}", local.port(), remote.port());
    let output = process::Command::new("ss").args(["-Htin", &filter]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let count = text.split_once("segs_in:").and_then(|(_, rest)| rest.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no segs_in in {text:?}"))
}

fn bytes_that_are_there_before_the_connect_carry_its_acknowledgement(variant: Variant) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let relay = Relay::start(variant, &Options::to(address));
    let mut total = Total::default();
    let mut segments = |early: bool| {
        let stream = connect(relay.address);
        let mut sender = Sender::new(&stream, 1, Flow::ToBackend);
        if early {
            sender.send(100);
        }
        let (server, remote) = listener.accept().unwrap();
        if !early {
            sender.send(100);
        }
        let mut receiver = Receiver::new(&server, 1, Flow::ToBackend, 0);
        receiver.receive(100);
        let segments = segments_received(address, remote);
        server.shutdown(Shutdown::Write).unwrap();
        total += judge_whole(sender.finish(), receiver.receive_all());
        assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0);
        segments
    };
    let late = segments(false);
    // The relay may be quicker than the client's bytes, but not each time.
    let early = (0..50).map(|_| segments(true)).min();
    assert_eq!(early, Some(late - 1));
    relay.finish(total);
}
