//! A server for a session, by each algorithm: taken, connected and given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use fanin::backend::board::{Board, Room};
use fanin::backend::choose::Algorithm;
use fanin::backend::dice::Dice;
use fanin::backend::{Backends, Call, Member};

const SERVERS: [u16; 3] = [2, 16, 256];

fn backends(servers: u16) -> Backends {
    let member = |n: u16| {
        let address: SocketAddr = (Ipv4Addr::new(192, 0, 2, 1), 1000 + n).into();
        Member {
            board: Arc::new(Board::new(format!("servers/{n}"))),
            addresses: vec![address],
            weight: 1,
            backup: false,
            room: Room::default(),
            slow_start: Duration::ZERO,
            introduce: None,
        }
    };
    let mut backends = Backends::default();
    backends.replace(&[(0..servers).map(member).collect()]);
    backends
}

fn chosen(bencher: Bencher<'_, '_>, servers: u16, algorithm: Algorithm) {
    let mut backends = backends(servers);
    let mut dice = Dice::new(7);
    bencher.bench_local(|| {
        let lot = dice.roll();
        let client = IpAddr::from(Ipv4Addr::from_bits(lot));
        let call = Call { algorithm, client, lot, now: 1_000_000 };
        let choice = backends.choose(0, None, black_box(&call)).unwrap();
        backends.on_connected(choice.server, Some(Duration::from_micros(300)));
        backends.release(choice.server);
        choice
    });
}

#[divan::bench(args = SERVERS)]
fn roundrobin(bencher: Bencher<'_, '_>, servers: u16) {
    chosen(bencher, servers, Algorithm::RoundRobin);
}

#[divan::bench(args = SERVERS)]
fn leastconn(bencher: Bencher<'_, '_>, servers: u16) {
    chosen(bencher, servers, Algorithm::LeastConnections);
}

#[divan::bench(args = SERVERS)]
fn source(bencher: Bencher<'_, '_>, servers: u16) {
    chosen(bencher, servers, Algorithm::Source);
}

#[divan::bench(args = SERVERS)]
fn first(bencher: Bencher<'_, '_>, servers: u16) {
    chosen(bencher, servers, Algorithm::First);
}

#[divan::bench(args = SERVERS)]
fn random(bencher: Bencher<'_, '_>, servers: u16) {
    chosen(bencher, servers, Algorithm::Random);
}
