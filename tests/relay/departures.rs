//! Sessions that wait for a server and sessions that leave one before they end by themselves.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::nameserver::{Answer, Nameserver};
use crate::support::peers::{self, Server};
use crate::support::relay::Relay;
use crate::support::{Folder, await_passed, await_that, cells, cli};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

/// Servers called a, b and so on, with what is said of their backend.
fn start(
    name: &str,
    (engine, workers): (&str, u16),
    backend: &str,
    servers: &[(SocketAddr, &str)],
) -> Relay {
    let mut file = format!(
        "[global]\nengine = \"{engine}\"\nworkers = {workers}\n[log]\nformat = \"tcplog\"\n\
         [[listener]]\nname = \"agents\"\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n{backend}\n"
    );
    for ((address, extra), name) in servers.iter().zip(["a", "b"]) {
        file +=
            &format!("[[backend.b.server]]\nname = \"{name}\"\naddress = \"{address}\"\n{extra}\n");
    }
    let folder = Folder::new(&format!("{name}-{engine}"));
    Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()])
}

/// Asks an [`peers::echo`] server something; `None` if the session has ended.
fn asks(client: &mut TcpStream) -> Option<()> {
    client.write_all(b"?").ok()?;
    client.read_exact(&mut [0]).ok()
}

/// Whether a session is ended without being asked anything.
#[track_caller]
fn await_reset(client: &mut TcpStream) {
    let error = client.read(&mut [0]).expect_err("it ends with a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

fn waiting(relay: &Relay) -> u64 {
    relay.status()["queues"][0]["waiting"].as_u64().unwrap()
}

fn sessions(relay: &Relay, server: usize) -> u64 {
    relay.status()["servers"][server]["sessions"].as_u64().unwrap()
}

#[test]
fn sessions_wait_for_a_place_each_in_its_turn_and_no_more_than_may() {
    let server = peers::echo();
    for engine in ENGINES {
        let queue = "queue = \"20s\"\nqueue_max = 2";
        let mut relay = start("queue", (engine, 1), queue, &[(server.address, "maxconn = 1")]);
        let mut first = peers::connect(relay.address());
        asks(&mut first).unwrap();
        let mut waiters = Vec::new();
        for number in 1..=2 {
            let mut client = peers::connect(relay.address());
            // What it says meanwhile is held for the server.
            client.write_all(b"?").unwrap();
            await_that("it waits", || waiting(&relay) == number);
            waiters.push(client);
        }
        // The reset may come before the connection has been looked at.
        if let Ok(mut refused) = peers::try_connect(relay.address()) {
            await_reset(&mut refused);
        }
        await_that("its end is told", || relay.total("ended.queue_full") == 1);
        assert!(relay.await_line(" sQ ").contains(" b/<NOSRV> -1/-1/"));
        let known = cells(&cli(relay.control(), "show stat"));
        assert_eq!((&known["b/BACKEND qcur"][..], &known["b/BACKEND qmax"][..]), ("2", "2"));
        drop(first);
        for mut client in waiters {
            client.read_exact(&mut [0]).unwrap();
            asks(&mut client).unwrap();
        }
        await_that("nobody waits", || waiting(&relay) == 0);
        assert_eq!(relay.total("ended.no_server"), 0);
    }
}

#[test]
fn nobody_waits_for_longer_than_it_may() {
    let server = peers::echo();
    for engine in ENGINES {
        let mut relay =
            start("patience", (engine, 2), "queue = \"300ms\"", &[(server.address, "maxconn = 1")]);
        let mut first = peers::connect(relay.address());
        asks(&mut first).unwrap();
        let began = Instant::now();
        await_reset(&mut peers::connect(relay.address()));
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        let line = relay.await_line(" sQ ");
        let waited: u64 =
            line.split(" b/<NOSRV> ").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        assert!((300..2000).contains(&waited), "{line}");
        asks(&mut first).unwrap();
    }
}

#[test]
fn a_server_that_is_found_down_gives_up_its_sessions_where_that_is_wanted() {
    let (staying, leaving) = (peers::echo(), TcpListener::bind("127.0.0.1:0").unwrap());
    let place = leaving.local_addr().unwrap();
    for engine in ENGINES {
        let gone = peers::nobody().port();
        let check =
            format!("check = {{ interval = \"100ms\", fall = 2, port = {gone} }}\nweight = 20");
        let leaving = Server::on(leaving.try_clone().unwrap(), peers::echoed);
        let well = (staying.address, "weight = 1");
        let mut relay = start("down", (engine, 2), "on_down = \"end\"", &[(place, &check), well]);
        // The check tells the truth of another port: the server itself is there.
        let mut clients: Vec<_> = (0..4).map(|_| peers::connect(relay.address())).collect();
        relay.await_line("Server b/a is DOWN");
        let ended = clients.iter_mut().filter_map(|client| asks(client).is_none().then_some(()));
        let ended = ended.count() as u64;
        await_that("their ends are told", || relay.total("ended.server_down") == ended);
        assert_eq!(sessions(&relay, 0), 0);
        drop(leaving);
    }
}

#[test]
fn an_administrator_ends_the_sessions_of_one_server() {
    let (one, other) = (peers::echo(), peers::echo());
    for engine in ENGINES {
        let relay = start("shutdown", (engine, 2), "", &[(one.address, ""), (other.address, "")]);
        let mut clients: Vec<_> = (0..8).map(|_| peers::connect(relay.address())).collect();
        clients.iter_mut().for_each(|client| asks(client).unwrap());
        let (of_a, of_b) = (sessions(&relay, 0), sessions(&relay, 1));
        assert_eq!(of_a + of_b, 8);
        assert_eq!(cli(relay.control(), "shutdown sessions server b/a"), "\n");
        await_that("they have ended", || relay.total("ended.shut_down") == of_a);
        let left = clients.iter_mut().filter_map(asks).count() as u64;
        assert_eq!(left, of_b);
    }
}

#[test]
fn sessions_leave_where_their_name_no_longer_is_when_they_are_at_rest() {
    let at = |last: u8| Answer::At(vec![IpAddr::from([127, 0, 0, last])], 1);
    let first = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let _first = Server::on(first, peers::echoed);
    for engine in ENGINES {
        let nameserver = Nameserver::new();
        nameserver.says("intake.example", at(2));
        let file = format!(
            "[global]\nengine = \"{engine}\"\n[dns]\nnameservers = [\"{}\"]\nttl_min = \"1s\"\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\non_move = \"leave\"\n\
             [[backend.b.server]]\nname = \"a\"\naddress = \"intake.example:{port}\"\n",
            nameserver.address
        );
        let folder = Folder::new(&format!("move-{engine}"));
        let mut relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let (mut resting, mut busy) =
            (peers::connect(relay.address()), peers::connect(relay.address()));
        asks(&mut resting).unwrap();
        asks(&mut busy).unwrap();
        nameserver.says("intake.example", at(3));
        relay.await_line("is at 127.0.0.3 now, was at 127.0.0.2");
        // It asks and asks, and is let alone for as long as it does.
        let begun = Instant::now();
        while relay.total("ended.rebalanced") == 0 {
            asks(&mut busy).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        await_reset(&mut resting);
        asks(&mut busy).expect("it was at work");
        await_that("the other rests and leaves", || relay.total("ended.rebalanced") == 2);
    }
}

#[test]
fn a_server_that_comes_back_grows_into_its_share_and_gets_sessions_of_the_others() {
    let (one, other) = (peers::echo(), peers::echo());
    let backend = "balance = \"leastconn\"\nrebalance = true\nslow_start = \"1s\"";
    let relay =
        start("rebalance", ("epoll", 2), backend, &[(one.address, ""), (other.address, "")]);
    assert_eq!(cli(relay.control(), "disable server b/b"), "\n");
    let mut clients: Vec<_> = (0..12).map(|_| peers::connect(relay.address())).collect();
    clients.iter_mut().for_each(|client| asks(client).unwrap());
    assert_eq!((sessions(&relay, 0), sessions(&relay, 1)), (12, 0));
    assert_eq!(cli(relay.control(), "enable server b/b"), "\n");
    let throttle = || cells(&cli(relay.control(), "show stat"))["b/b throttle"].parse::<u32>().ok();
    assert!(throttle().is_some_and(|percent| percent < 100), "{:?}", throttle());
    await_that("it has its share", || throttle().is_none());
    // Agents come back when they are sent away; so do these, without haste.
    await_that("shares are even", || {
        for client in &mut clients {
            if asks(client).is_none() {
                *client = peers::connect(relay.address());
                asks(client).unwrap();
            }
        }
        await_passed(Instant::now(), Duration::from_millis(1500));
        (5..=7).contains(&sessions(&relay, 0)) && (5..=7).contains(&sessions(&relay, 1))
    });
    assert!((5..=7).contains(&relay.total("ended.rebalanced")));
}

/// Ten times a second a server is there and not there. Whom the server's own host resets, as it closes
/// a listener over its queue, no relay can help: those are counted, and nobody else has an error.
#[test]
fn a_server_that_flaps_costs_no_client_an_error() {
    const CLIENTS: u64 = 4;
    let well = peers::echo();
    let flapping = peers::nobody();
    let check = "check = { interval = \"100ms\", rise = 1, fall = 1 }";
    for engine in ENGINES {
        let relay = start("flap", (engine, 2), "", &[(well.address, ""), (flapping, check)]);
        let until = Instant::now() + Duration::from_secs(4);
        let (answered, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| flap(flapping, until));
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while Instant::now() < until {
                        let mut client = peers::connect(relay.address());
                        let count = if asks(&mut client).is_some() { &answered } else { &failed };
                        count.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        let (answered, failed) = (answered.into_inner(), failed.into_inner());
        assert!(answered > 100 * CLIENTS, "{answered}");
        assert!(failed < answered / 50, "{failed} of {answered}");
        let resets = || relay.total("ended.server_reset") + relay.total("ended.server_gone");
        await_that("every error is a reset of the server", || resets() == failed);
        for reason in ["connect_refused", "connect_failed", "no_server", "connect_timeout"] {
            assert_eq!(relay.total(&format!("ended.{reason}")), 0, "{reason}: {}", relay.status());
        }
    }
}

/// A server that is there for 50 ms and not there for 50 ms.
fn flap(at: SocketAddr, until: Instant) {
    while Instant::now() < until {
        let listener = TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        await_passed(Instant::now(), Duration::from_millis(50));
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            std::thread::spawn(|| peers::echoed(stream));
        }
        drop(listener);
        await_passed(Instant::now(), Duration::from_millis(50));
    }
}
