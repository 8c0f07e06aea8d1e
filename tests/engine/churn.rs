//! Many connections that come and go: D14, D18, places used again.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use fanin::session::CloseReason;
use nix::sys::socket::{MsgFlags, send};

use crate::support::dice::{Dice, seed};
use crate::support::oracle::{
    End, Got, HELLO_BYTES, Receiver, Sender, Sent, Total, judge, judge_whole,
};
use crate::support::peers::{
    Server, all, answering, client, connect, connect_small, judge_both_whole, reset_on_close,
    server, talk,
};
use crate::support::relay::{Options, Relay, Variant};

on_every_engine![
    anything_may_happen_on_many_connections_at_once,
    anything_may_happen_while_events_gather,
    connections_without_a_byte_leave_nothing_behind,
    a_place_used_again_never_hears_of_its_last_tenant,
];

/// How one end behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Sends and receives at the same time.
    Together,
    /// Sends only when it has been told the end.
    Answering,
    /// Sends a part and resets.
    Resetting,
}

/// What becomes of one connection: both ends work it out from the seed and the number alone.
#[derive(Clone, Copy, Debug)]
struct Script {
    client: Way,
    server: Way,
    /// Each end's dice, for sizes.
    dice: [Dice; 2],
    bytes: [u64; 2],
    small_buffers: bool,
}

impl Script {
    fn new(seed: u64, number: u64) -> Self {
        let mut dice = Dice::new(seed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let ways = [
            (Way::Together, Way::Together),
            (Way::Together, Way::Answering),
            (Way::Answering, Way::Together),
            (Way::Resetting, Way::Together),
            (Way::Together, Way::Resetting),
            (Way::Resetting, Way::Resetting),
        ];
        let (client, server) = ways[dice.below(ways.len() as u64) as usize];
        Self {
            client,
            server,
            bytes: [dice.magnitude(19), dice.magnitude(19)],
            small_buffers: dice.one_in(16),
            dice: [Dice::new(dice.next()), Dice::new(dice.next())],
        }
    }

    fn resets(&self) -> bool {
        self.client == Way::Resetting || self.server == Way::Resetting
    }
}

/// Plays one end. `got` is missing of one that resets: it did not listen.
fn play(
    stream: &TcpStream,
    way: Way,
    mut dice: Dice,
    bytes: u64,
    mut sender: Sender<'_>,
    mut receiver: Receiver<'_>,
) -> (Sent, Option<Got>) {
    let most = dice.magnitude(17) as usize + 1;
    match way {
        Way::Together => {
            let send = move || {
                send_all(&mut sender, dice, bytes);
                sender.finish()
            };
            let (sent, got) = talk(send, move || receiver.receive_all_in(|| most));
            (sent, Some(got))
        }
        Way::Answering => {
            let got = receiver.receive_all_in(|| most);
            send_all(&mut sender, dice, bytes);
            (sender.finish(), Some(got))
        }
        Way::Resetting => {
            send_all(&mut sender, dice, bytes);
            reset_on_close(stream);
            (sender.cut(), None)
        }
    }
}

/// Sends in pieces of one size or another, with urgent bytes among them or without.
fn send_all(sender: &mut Sender<'_>, mut dice: Dice, bytes: u64) {
    let piece = dice.magnitude(17) as usize + 1;
    let urgent = dice.one_in(3);
    let target = sender.offset() + bytes;
    let mut last = None;
    while sender.offset() < target && last != Some(sender.offset()) {
        last = Some(sender.offset());
        let next = (target - sender.offset()).min(3 * piece as u64);
        sender.send_in(next, || dice.size(piece));
        if urgent && dice.one_in(4) {
            sender.send_one(1, |stream, bytes| {
                Ok(send(stream.as_raw_fd(), bytes, MsgFlags::MSG_OOB)?)
            });
        }
    }
}

/// Judges the streams that somebody listened to.
fn judge_heard(script: &Script, client: (Sent, Option<Got>), server: (Sent, Option<Got>)) -> Total {
    let one = |sent: Sent, got: Option<Got>| match got {
        Some(got) if script.resets() => judge(sent, got),
        Some(got) => judge_whole(sent, got),
        None => {
            let mut total = Total::default();
            total.sent[sent.flow.index()] = sent.bytes;
            total
        }
    };
    [one(client.0, server.1), one(server.0, client.1)].into_iter().sum()
}

/// D14.
fn anything_may_happen_on_many_connections_at_once(variant: Variant) {
    anything_may_happen(variant, Duration::ZERO);
}

fn anything_may_happen_while_events_gather(variant: Variant) {
    anything_may_happen(variant, Duration::from_micros(700));
}

fn anything_may_happen(variant: Variant, latency_budget: Duration) {
    const CLIENTS: u64 = 12;
    const FOR: Duration = Duration::from_millis(1200);
    let seed = seed();
    let backend = Server::new(move |number, stream| {
        let script = Script::new(seed, number);
        let (mut sender, receiver) = server(stream, number);
        sender.send(HELLO_BYTES);
        play(stream, script.server, script.dice[1], script.bytes[1], sender, receiver)
    });
    let options = Options { pipes_max: 8, latency_budget, ..Options::to(backend.address) };
    let relay = Relay::start(variant, &options);
    let begun = Instant::now();
    let total = all(CLIENTS, |first| {
        let mut total = Total::default();
        for number in (first..).step_by(CLIENTS as usize) {
            if begun.elapsed() >= FOR {
                break;
            }
            let script = Script::new(seed, number);
            let stream = if script.small_buffers {
                connect_small(relay.address, 16 * 1024)
            } else {
                connect(relay.address)
            };
            let (mut sender, mut receiver) = client(&stream, number);
            sender.send(HELLO_BYTES);
            receiver.receive_up_to(HELLO_BYTES);
            let talk =
                play(&stream, script.client, script.dice[0], script.bytes[0], sender, receiver);
            drop(stream);
            total += judge_heard(&script, talk, backend.outcome(number));
        }
        total
    });
    assert!(relay.counts().accepted > CLIENTS, "next to nothing happened");
    relay.finish(total);
}

/// D18.
fn connections_without_a_byte_leave_nothing_behind(variant: Variant) {
    const EACH: usize = 150;
    let backend = answering();
    let mut relay = Relay::start(variant, &Options::to(backend.address));
    for reset in [false, true, false] {
        all(2, |_| {
            for _ in 0..EACH {
                let stream = connect(relay.address);
                if reset {
                    reset_on_close(&stream);
                }
            }
            Total::default()
        });
    }
    // Those that were reset in the queue were never accepted on one engine, and have no address on
    // the other.
    relay.await_ended(EACH * 4);
    backend.await_idle();
    relay.await_settled();
    // A place is free a moment before the record of who had it is written.
    let begun = relay.counts().sessions_total;
    relay.await_ended(begun as usize);
    let completed = relay.ended(CloseReason::Completed);
    assert!(completed >= EACH * 4, "{completed} of {begun}");
    // And it still serves.
    let stream = connect(relay.address);
    let (mut sender, mut receiver) = client(&stream, 1);
    sender.send(HELLO_BYTES + 1000);
    let talk = (sender.finish(), receiver.receive_all());
    relay.finish(judge_both_whole(talk, backend.outcome(1)));
}

/// M3 on real sockets: each connection is cut off with bytes under way both ways, and the next one
/// has its place.
fn a_place_used_again_never_hears_of_its_last_tenant(variant: Variant) {
    const TENANTS: u64 = 40;
    let backend = Server::new(|number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        sender.send(HELLO_BYTES);
        let (sent, got) = talk(
            move || {
                sender.send(2 * 1024 * 1024);
                sender.finish()
            },
            move || receiver.receive_all(),
        );
        (sent, got)
    });
    let options = Options { sessions_max: 1, ..Options::to(backend.address) };
    let mut relay = Relay::start(variant, &options);
    let mut total = Total::default();
    for number in 0..TENANTS {
        let stream = connect(relay.address);
        let (mut sender, mut receiver) = client(&stream, number);
        sender.send(HELLO_BYTES);
        receiver.receive(Dice::new(number).magnitude(17) + HELLO_BYTES);
        sender.send(50_000);
        reset_on_close(&stream);
        total.sent[0] += sender.offset();
        drop(stream);
        let (sent, got) = backend.outcome(number);
        assert!(matches!(got.end, End::Cut(ErrorKind::ConnectionReset)), "{got:?}");
        total.sent[1] += sent.bytes;
        total.got[0] += got.bytes;
    }
    relay.await_ended(TENANTS as usize);
    relay.finish(total);
}
