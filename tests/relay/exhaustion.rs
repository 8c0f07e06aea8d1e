//! Out of ports, descriptors, buffers and queue: keep the old, hold or refuse the new, recover
//! alone, count it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

use crate::support::hosts::Hosts;
use crate::support::peers;
use crate::support::relay::{BINARY, Relay};
use crate::support::witness::{self, End, Load, Witness};
use crate::support::{Folder, PATIENCE, await_passed, await_that, run_well};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

fn ping(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"ping")?;
    client.read_exact(&mut [0; 4])
}

/// Processor time that a relay takes in a while in which nothing should happen.
fn cost_of_waiting(relay: &Relay) -> f64 {
    let (busy, begun) = (relay.processor_time(), Instant::now());
    await_passed(begun, Duration::from_millis(500));
    (relay.processor_time() - busy).as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// A relay on the host `relay` with ten source ports of its own towards an echo server of `server`;
/// the kernel has ten more.
fn twenty_ports(hosts: &Hosts, engine: &str) -> Relay {
    let listener = Hosts::on(&hosts.server, || TcpListener::bind("10.83.0.2:0").unwrap());
    let server = peers::Server::on(listener, peers::echoed);
    let folder = Folder::new("twenty-ports");
    let file = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\n\
         [[listener]]\nbind = [\"127.0.0.1:3834\"]\n\
         [backend.b]\nretries = 1\nsource = {{ ports = \"11000-11009\" }}\n\
         [[backend.b.server]]\naddress = \"{}\"\n",
        server.address
    );
    hosts.start_relay(&["-c", folder.write("f.toml", &file).to_str().unwrap()])
}

/// Clients of a relay on another host, which bring their own source ports.
fn clients(hosts: &Hosts, relay: &Relay, count: u16) -> Vec<TcpStream> {
    Hosts::on(&hosts.relay, || {
        let from = |n: u16| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            setsockopt(&client, sockopt::ReuseAddr, &true).unwrap();
            let source = SockaddrIn::new(127, 0, 0, 1, 20_000 + n);
            nix::sys::socket::bind(client.as_raw_fd(), &source).unwrap();
            connect(client.as_raw_fd(), &SockaddrIn::from(v4(relay.address()))).unwrap();
            let client = TcpStream::from(client);
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client
        };
        (0..count).map(from).collect()
    })
}

fn v4(address: SocketAddr) -> std::net::SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("{address} is not IPv4"),
    }
}

#[test]
fn without_a_free_port_the_new_are_refused_the_old_go_on_and_no_server_is_blamed() {
    let Some(hosts) = Hosts::new("p") else { return };
    hosts.choose_ports_from(60_000, 60_009);
    for engine in ENGINES {
        let relay = twenty_ports(&hosts, engine);
        let before = relay.descriptors();
        let mut clients = clients(&hosts, &relay, 30);
        let mut served: Vec<_> = clients.iter_mut().map(|client| ping(client).is_ok()).collect();
        assert_eq!(served.iter().filter(|&&served| served).count(), 20, "{engine}: {served:?}");
        assert_eq!(relay.total("ended.no_port"), 10);
        assert_eq!(relay.total("connect_failures"), 0);
        assert!(cost_of_waiting(&relay) < 0.1);
        clients.retain_mut(|_| served.remove(0));
        for client in &mut clients {
            ping(client).unwrap();
        }
        drop(clients);
        relay.await_rest(before);
        // The kernel's ports are in TIME_WAIT for a minute; ours can be used at once.
        let mut clients = self::clients(&hosts, &relay, 10);
        for client in &mut clients {
            ping(client).unwrap();
        }
        drop(clients);
        relay.await_rest(before);
    }
}

#[test]
fn source_ports_that_another_program_has_are_counted_and_passed_over() {
    let Some(hosts) = Hosts::new("q") else { return };
    let _others: Vec<_> = Hosts::on(&hosts.relay, || {
        (11_000..11_006).map(|port| TcpListener::bind(("10.83.0.1", port)).unwrap()).collect()
    });
    for engine in ENGINES {
        let relay = twenty_ports(&hosts, engine);
        let before = relay.descriptors();
        // More than there are ports of ours: the kernel's choice serves the rest.
        let mut clients = clients(&hosts, &relay, 25);
        for client in &mut clients {
            ping(client).unwrap();
        }
        assert!(relay.total("port_conflicts") >= 6);
        assert_eq!((relay.total("connect_failures"), relay.total("ended.no_port")), (0, 0));
        drop(clients);
        relay.await_rest(before);
    }
}

/// So many connections begun at once, before any is waited for.
fn storm(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let address = SockaddrIn::from(v4(address));
    let begun: Vec<OwnedFd> = (0..count)
        .map(|_| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            // EINPROGRESS; an error shows when it is used.
            let _ = connect(client.as_raw_fd(), &address);
            client
        })
        .collect();
    let established = |client: OwnedFd| {
        let mut polled = [PollFd::new(client.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PollTimeout::from(20_000u16)).unwrap();
        let client = TcpStream::from(client);
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    begun.into_iter().map(established).collect()
}

#[test]
fn of_three_thousand_at_once_none_is_lost_though_the_queue_holds_128() {
    let server = peers::echo();
    for engine in ENGINES {
        let folder = Folder::new(&format!("storm-{engine}"));
        let file = format!(
            "[global]\nworkers = 2\nengine = \"{engine}\"\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\nbacklog = 128\n\
             [[backend.b.server]]\naddress = \"{}\"\n",
            server.address
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let before = relay.descriptors();
        let mut clients = storm(relay.address(), 3000);
        for client in &mut clients {
            ping(client).unwrap();
        }
        drop(clients);
        relay.await_rest(before);
        assert_eq!(relay.total("ended.completed"), 3000);
    }
}

#[test]
fn more_clients_than_descriptors_wait_in_the_queue_at_no_cost() {
    let server = peers::echo();
    for engine in ENGINES {
        let mut command = std::process::Command::new("prlimit");
        command.args(["--nofile=200:200", BINARY, "run", "--listen", "127.0.0.1:0"]);
        command.args(["--server", &server.address.to_string()]);
        command.args(["--workers", "1", "--engine", engine]);
        let relay = Relay::start_by(command);
        let before = relay.descriptors();
        let mut clients: Vec<_> = (0..500).map(|_| peers::connect(relay.address())).collect();
        await_that("it is full", || relay.status()["listeners"][0]["state"] == "paused");
        assert!((60..100).contains(&relay.sessions()), "{}", relay.sessions());
        assert!(cost_of_waiting(&relay) < 0.1);
        // Each is served in its turn, as those before it leave.
        for mut client in clients.drain(..) {
            ping(&mut client).unwrap();
        }
        relay.await_rest(before);
        assert_eq!((relay.total("sessions_total"), relay.total("refused")), (500, 0));
    }
}

#[test]
fn when_descriptors_run_out_accepting_pauses_sessions_go_on_and_all_recovers() {
    let server = peers::echo();
    for engine in ENGINES {
        let relay = Relay::between(&[server.address], &["--workers", "1", "--engine", engine]);
        let before = relay.descriptors();
        let mut old: Vec<_> = (0..20).map(|_| peers::connect(relay.address())).collect();
        old.iter_mut().for_each(|client| ping(client).unwrap());
        let limit = |nofile: u64| {
            let nofile = format!("--nofile={nofile}:20000");
            run_well("prlimit", &[&nofile, "--pid", &relay.pid().to_string()]);
        };
        // Taken away from under it: what the start reckoned with is no longer there.
        limit(40);
        let mut new: Vec<_> = (0..50).map(|_| peers::connect(relay.address())).collect();
        await_that("accepting pauses", || relay.total("accept_failures") > 0);
        let cost = cost_of_waiting(&relay);
        assert!(cost < 0.1, "{engine}: {cost} of a processor for nothing");
        old.iter_mut().for_each(|client| ping(client).unwrap());
        assert_eq!(relay.sessions(), 20);
        limit(1000);
        new.iter_mut().for_each(|client| ping(client).unwrap());
        assert_eq!(relay.sessions(), 70);
        assert_eq!(relay.total("connect_failures"), 0, "no server is to blame");
        drop((old, new));
        relay.await_rest(before);
    }
}

/// A client that takes hardly anything before its reader runs.
fn reluctant(address: SocketAddr) -> TcpStream {
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let client = client.unwrap();
    setsockopt(&client, sockopt::RcvBuf, &4096).unwrap();
    connect(client.as_raw_fd(), &SockaddrIn::from(v4(address))).unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn readers_that_hold_every_buffer_of_the_ring_do_not_starve_the_others() {
    let Some(hosts) = Hosts::new("x") else { return };
    // A host of its own, whose sockets hold little: else the streams fit into the kernel's buffers,
    // all of which together are TCP's memory on this machine.
    hosts.socket_buffers_of_at_most(256 * 1024);
    Hosts::on(&hosts.relay, || starve(&hosts));
}

fn starve(hosts: &Hosts) {
    let witness = Witness::new(1);
    let server = witness.addresses()[0].to_string();
    let relay = hosts.start_relay(&[
        "--listen",
        "127.0.0.1:0",
        "--server",
        &server,
        "--engine",
        "io_uring",
        "--splice",
        "never",
        "--workers",
        "1",
    ]);
    let before = relay.descriptors();
    let load = Load { up: 0, down: 1_000_000 };
    let stalled: Vec<_> = (0..300)
        .map(|_| {
            let (client, key) = (reluctant(relay.address()), witness::key());
            witness::begin(&client, key, load).unwrap();
            (client, key)
        })
        .collect();
    await_that("the ring's buffers are held", || relay.total("buffers_used") > 900);
    // Small ones, and bulk both ways.
    for (sessions, load) in [(20, Load { up: 500, down: 500 }), (2, Load { up: 5_000_000, ..load })]
    {
        let begun = Instant::now();
        assert_eq!(witness.run_beside(relay.address(), sessions, load).cut, 0);
        assert!(begun.elapsed() < Duration::from_secs(10), "{load:?}: {:?}", begun.elapsed());
    }
    assert!(relay.total("buffers_used") > 900, "they were still held");
    // Never again, had one of them been closed.
    await_that("the others have ended", || relay.sessions() == 300);
    // Those that read again have lost nothing.
    for (client, key) in &stalled[..30] {
        assert_eq!(witness::finish(client, *key, load), Ok(End::Whole));
    }
    drop(stalled);
    relay.await_rest(before);
}
