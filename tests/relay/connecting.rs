//! Servers that refuse, are silent, come back, or are the relay itself; clients that do not wait.

use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hosts::Hosts;
use crate::support::peers::{self, Deaf};
use crate::support::relay::Relay;
use crate::support::witness::{self, Load, Witness};
use crate::support::{Folder, await_passed, await_that};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];
const SMALL: Load = Load { up: 3000, down: 5000 };

/// A file for these servers; `backend` is what stands under `[backend.b]`.
fn file(engine: &str, backend: &str, servers: &[SocketAddr]) -> String {
    let mut file = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n{backend}\n"
    );
    for (number, server) in servers.iter().enumerate() {
        file += &format!("[[backend.b.server]]\nname = \"s{number}\"\naddress = \"{server}\"\n");
    }
    file
}

fn relay(engine: &str, backend: &str, servers: &[SocketAddr]) -> Relay {
    let folder = Folder::new(&format!("connecting-{:x}", witness::key()));
    let path = folder.write("f.toml", &file(engine, backend, servers));
    Relay::start(&["-c", path.to_str().unwrap()])
}

/// What a client sees that comes while no server can be had.
fn is_reset(address: SocketAddr) -> bool {
    let error = peers::exchange(address, b"anyone?").unwrap_err();
    // The two others are what a client sees that writes or ends after the reset has come.
    matches!(error.kind(), ConnectionReset | BrokenPipe | NotConnected)
}

#[test]
fn a_thousand_agents_do_not_notice_that_one_server_of_three_refuses() {
    for engine in ENGINES {
        let witness = Witness::new(2);
        let alive = witness.addresses();
        let relay = relay(engine, "", &[alive[0], peers::nobody(), alive[1]]);
        let before = relay.descriptors();
        for _ in 0..4 {
            let tally = witness.run(relay.address(), 250, SMALL);
            assert_eq!((tally.whole, tally.cut), (250, 0));
        }
        let (one, two) = (witness.servers[0].accepted(), witness.servers[1].accepted());
        assert!(one + two == 1000 && one.abs_diff(two) < 250, "{one} and {two}");
        // Those that were on their way when it became doubtful, and one after each rest.
        let failures = relay.total("connect_failures");
        assert!((3..400).contains(&failures), "{failures}");
        relay.await_rest(before);
    }
}

#[test]
fn a_silent_server_is_given_up_when_its_time_is_over() {
    for engine in ENGINES {
        let deaf = Deaf::new();
        let relay = relay(engine, "connect = \"1s\"\nretries = 0", &[deaf.address]);
        let before = relay.descriptors();
        let times: Mutex<Vec<Duration>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..9 {
                scope.spawn(|| {
                    let begun = Instant::now();
                    assert!(is_reset(relay.address()));
                    times.lock().unwrap().push(begun.elapsed());
                });
            }
        });
        let mut times = times.into_inner().unwrap();
        times.sort();
        assert!(times[0] >= Duration::from_millis(1000), "{times:?}");
        assert!(times[4] <= Duration::from_millis(1100), "{times:?}");
        assert_eq!(relay.total("ended.connect_timeout"), 9);
        relay.await_rest(before);
    }
}

#[test]
fn a_silent_server_costs_nobody_a_session_while_there_is_another() {
    for engine in ENGINES {
        let (witness, deaf) = (Witness::new(1), Deaf::new());
        let relay = relay(engine, "connect = \"300ms\"", &[deaf.address, witness.addresses()[0]]);
        let before = relay.descriptors();
        let tally = witness.run(relay.address(), 100, SMALL);
        assert_eq!((tally.whole, tally.cut), (100, 0));
        relay.await_rest(before);
    }
}

#[test]
fn a_cut_cable_delays_sessions_and_sends_new_ones_elsewhere_until_it_is_mended() {
    let Some(hosts) = Hosts::new("c") else { return };
    for engine in ENGINES {
        let far = Hosts::on(&hosts.server, || TcpListener::bind("10.83.0.2:0").unwrap());
        let near = Hosts::on(&hosts.relay, || TcpListener::bind("127.0.0.1:0").unwrap());
        let witness = Witness::on([far, near]);
        let folder = Folder::new(&format!("cable-{engine}"));
        let servers = witness.addresses();
        let path = folder.write("f.toml", &file(engine, "connect = \"300ms\"", &servers));
        let relay = hosts.start_relay(&["-c", path.to_str().unwrap()]);
        let before = relay.descriptors();
        let seen = || witness.servers[0].accepted();
        Hosts::on(&hosts.relay, || {
            // The first turn is the far server's: this session lives through the outage.
            let stream = peers::connect(relay.address());
            await_that("it is connected", || seen() == 1);
            hosts.link("down");
            let key = witness::key();
            let conversing = thread::spawn(move || witness::converse(&stream, key, SMALL));
            let tally = witness.run_beside(relay.address(), 40, SMALL);
            assert_eq!((tally.whole, tally.cut), (40, 0));
            assert_eq!(seen(), 1, "nobody can have come to the far server");
            hosts.link("up");
            assert_eq!(conversing.join().unwrap(), Ok(witness::End::Whole));
            await_that("the far server is used again", || {
                assert_eq!(witness.run(relay.address(), 1, SMALL).cut, 0);
                seen() > 1
            });
        });
        relay.await_rest(before);
    }
}

#[test]
fn a_server_that_came_back_has_its_even_share() {
    for engine in ENGINES {
        let (first, absent) = (peers::echo(), peers::nobody());
        let relay = relay(engine, "", &[first.address, absent]);
        for _ in 0..20 {
            assert_eq!(peers::exchange(relay.address(), b"x").unwrap(), b"x");
        }
        let back = peers::Server::on(TcpListener::bind(absent).unwrap(), peers::echoed);
        await_that("it is used again", || {
            peers::exchange(relay.address(), b"x").unwrap();
            back.accepted() > 0
        });
        let before = (first.accepted(), back.accepted());
        for _ in 0..100 {
            peers::exchange(relay.address(), b"x").unwrap();
        }
        let (one, two) = (first.accepted() - before.0, back.accepted() - before.1);
        assert!(one + two == 100 && one.abs_diff(two) <= 2, "{one} and {two}");
    }
}

#[test]
fn with_all_servers_down_clients_are_reset_at_once_and_all_is_well_when_one_is_back() {
    for engine in ENGINES {
        let (one, two) = (peers::nobody(), peers::nobody());
        let relay = relay(engine, "", &[one, two]);
        let before = relay.descriptors();
        let begun = Instant::now();
        for _ in 0..200 {
            assert!(is_reset(relay.address()));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(relay.total("ended.connect_refused"), 200);
        relay.await_rest(before);
        let (busy, begun) = (relay.processor_time(), Instant::now());
        await_passed(begun, Duration::from_millis(500));
        let busy = relay.processor_time() - busy;
        assert!(busy < Duration::from_millis(50), "{busy:?} for nothing");
        let _back = peers::Server::on(TcpListener::bind(two).unwrap(), peers::echoed);
        await_that("it is used", || peers::exchange(relay.address(), b"x").is_ok());
        assert!(peers::exchange(relay.address(), b"x").is_ok(), "and stays in use");
    }
}

/// A server that listens and is gone by turns, 50 ms each, until told to stop.
fn flapping(address: SocketAddr, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let half = Duration::from_millis(50);
    thread::spawn(move || {
        while !stop.load(SeqCst) {
            let listener = TcpListener::bind(address).unwrap();
            listener.set_nonblocking(true).unwrap();
            let (begun, mut treated) = (Instant::now(), Vec::new());
            await_that("its time is over", || {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(false).unwrap();
                    treated.push(thread::spawn(|| peers::echoed(stream)));
                }
                begun.elapsed() >= half
            });
            drop(listener);
            await_passed(Instant::now(), half);
        }
    })
}

#[test]
fn a_flapping_server_is_left_alone_and_no_client_is_refused_for_it() {
    for engine in ENGINES {
        let (steady, unsteady) = (peers::echo(), peers::nobody());
        let relay = relay(engine, "", &[steady.address, unsteady]);
        let before = relay.descriptors();
        let stop = Arc::new(AtomicBool::new(false));
        let flapping = flapping(unsteady, Arc::clone(&stop));
        let (begun, done, resets) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while begun.elapsed() < Duration::from_secs(2) {
                        match peers::exchange(relay.address(), b"ping") {
                            Ok(answer) => assert_eq!(answer, b"ping"),
                            Err(_) => drop(resets.fetch_add(1, SeqCst)),
                        }
                        done.fetch_add(1, SeqCst);
                    }
                });
            }
        });
        stop.store(true, SeqCst);
        flapping.join().unwrap();
        relay.await_rest(before);
        // The kernel resets what stands in the queue of a listener that closes; nothing else is.
        let (done, resets) = (done.into_inner(), resets.into_inner());
        assert_eq!(relay.total("ended.server_reset"), resets);
        assert_eq!(relay.total("ended.completed"), done - resets);
        // Three failures in a row and it rests for half a second at least: not twenty times 2 s.
        let failures = relay.total("connect_failures");
        assert!(done > 100 && failures <= 40, "{failures} failures in {done} sessions");
    }
}

#[test]
fn a_client_that_leaves_while_its_server_is_dialled_leaves_nothing_behind() {
    for engine in ENGINES {
        let deaf = Deaf::new();
        let relay = relay(engine, "connect = \"60s\"\nretries = 0", &[deaf.address]);
        let before = relay.descriptors();
        let clients: Vec<TcpStream> = (0..60).map(|_| peers::connect(relay.address())).collect();
        for client in clients.iter().step_by(2) {
            (&*client).write_all(b"said before anybody listened").unwrap();
        }
        await_that("all are being dialled", || relay.total("connect_attempts") == 60);
        clients.into_iter().for_each(peers::reset);
        relay.await_rest(before);
        assert_eq!(relay.total("ended.client_reset"), 60);
        assert_eq!(relay.total("connect_failures"), 0, "it is not the server's fault");
    }
}

#[test]
fn what_a_client_says_early_waits_within_bounds_and_is_delivered_once() {
    for engine in ENGINES {
        let deaf = Deaf::new();
        let relay = relay(engine, "connect = \"15s\"", &[deaf.address]);
        let before = relay.descriptors();
        let load = Load { up: 40_000_000, down: 1000 };
        let client = peers::connect(relay.address());
        let key = witness::key();
        let conversing = thread::spawn(move || witness::converse(&client, key, load));
        // Held are what one flow may hold: a buffer, and with a ring what one receive brings.
        await_that("early bytes are held", || relay.total("buffers_used") > 0);
        let begun = Instant::now();
        await_that("nothing more is taken", || {
            let held = relay.total("buffers_used");
            assert!(held <= 128, "{held} buffers for one session");
            begun.elapsed() > Duration::from_millis(300)
        });
        let witness = Witness::new(0);
        let server = deaf.hear(witness.treat());
        assert_eq!(conversing.join().unwrap(), Ok(witness::End::Whole));
        witness.settle();
        assert_eq!(server.accepted(), 1);
        relay.await_rest(before);
        let paths = ["bytes_to_backend.copied", "bytes_to_backend.spliced"];
        assert_eq!(paths.map(|path| relay.total(path)).iter().sum::<u64>(), 40_000_024);
    }
}

#[test]
fn a_connection_to_itself_is_a_refused_one() {
    let Some(hosts) = Hosts::new("s") else { return };
    hosts.choose_ports_from(50_000, 50_001);
    // On loopback the kernel chooses the source port; towards another address the relay does.
    let own = ["127.0.0.1:50000", "10.83.0.1:11005"];
    for (engine, own) in ENGINES.into_iter().flat_map(|engine| own.map(|own| (engine, own))) {
        let folder = Folder::new("itself");
        let backend = "retries = 0\nsource = { ports = \"11005-11005\" }";
        let file = file(engine, backend, &[own.parse().unwrap()]);
        let path = folder.write("f.toml", &file.replace("127.0.0.1:0", "127.0.0.1:3834"));
        let relay = hosts.start_relay(&["-c", path.to_str().unwrap()]);
        let before = relay.descriptors();
        for _ in 0..10 {
            // Were it connected to itself, the client would hear its own words.
            assert!(Hosts::on(&hosts.relay, || is_reset(relay.address())));
        }
        assert_eq!(relay.total("ended.connect_refused"), 10, "{engine} {own}");
        relay.await_rest(before);
    }
}
