//! Out of places, descriptors and ports: hold or refuse the new, keep the old.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that, peers, run, text};

fn ping(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"ping")?;
    client.read_exact(&mut [0; 4])
}

#[test]
fn maxconn_holds_the_rest_in_the_queue_and_lets_them_in_one_by_one() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let arguments = ["--maxconn", "3", "--workers", "2", "--engine", engine];
        let relay = Relay::between(&[server.address], &arguments);
        let mut clients: Vec<_> = (0..10).map(|_| peers::connect(relay.address())).collect();
        for client in &mut clients {
            client.write_all(b"ping").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        }
        let mut served = 0;
        while !clients.is_empty() {
            assert!(relay.sessions() <= 3);
            clients.retain_mut(|client| match client.read_exact(&mut [0; 4]) {
                Ok(()) => {
                    served += 1;
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                    true
                }
            });
        }
        assert_eq!(served, 10);
    }
}

#[test]
fn four_workers_hold_800_sessions_under_512_descriptors() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=512:512", BINARY, "run", "--listen", "127.0.0.1:0"]);
        command.args(["--server", &server.address.to_string()]);
        command.args(["--workers", "4", "--engine", engine]);
        let relay = Relay::start_by(command);
        let mut clients: Vec<_> = (0..800).map(|_| peers::connect(relay.address())).collect();
        for client in &mut clients {
            ping(client).unwrap();
        }
        assert_eq!(relay.sessions(), 800);
        drop(clients);
        await_that("all sessions end", || relay.sessions() == 0);
    }
}

#[test]
fn what_the_descriptors_cannot_carry_is_refused_with_the_remedy() {
    let arguments = ["--nofile=512:512", BINARY, "run", "--listen", "127.0.0.1:0", "--server"];
    let more = ["127.0.0.1:9", "--maxconn", "5000", "--workers", "2"];
    let output = run("prlimit", &[&arguments[..], &more[..]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for part in ["5000", "512", "LimitNOFILE=", "ulimit -n"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn a_server_at_its_maxconn_is_passed_over() {
    let (small, large) = (peers::echo(), peers::echo());
    let folder = Folder::new("server-maxconn");
    let file = format!(
        "[global]\nworkers = 2\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
         [[backend.b.server]]\nname = \"small\"\naddress = \"{}\"\nmaxconn = 2\n\
         [[backend.b.server]]\nname = \"large\"\naddress = \"{}\"\n",
        small.address, large.address
    );
    let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
    let mut clients: Vec<_> = (0..20).map(|_| peers::connect(relay.address())).collect();
    for client in &mut clients {
        ping(client).unwrap();
    }
    assert_eq!((small.accepted(), large.accepted()), (2, 18));
}

#[test]
fn several_listeners_and_backends_live_in_one_process() {
    let (one, two) = (peers::name("one"), peers::name("two"));
    let folder = Folder::new("several");
    let file = format!(
        "[[listener]]\nname = \"a\"\nbind = [\"127.0.0.1:0\"]\nbackend = \"one\"\n\
         [[listener]]\nname = \"b\"\nbind = [\"127.0.0.1:0\", \"[::1]:0\"]\nbackend = \"two\"\n\
         [[backend.one.server]]\naddress = \"{}\"\n[[backend.two.server]]\naddress = \"{}\"\n",
        one.address, two.address
    );
    let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
    let addresses = relay.addresses();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for (address, name) in addresses.iter().zip(["one", "two", "two"]) {
        assert_eq!(text(&peers::exchange(*address, b"").unwrap()), name);
    }
}

#[test]
fn idle_and_half_closed_sessions_are_ended_by_their_timers() {
    let server = peers::Server::new(|mut stream| {
        // Reads to the end and then neither answers nor closes, until it is reset.
        let _ = stream.read_to_end(&mut Vec::new());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        while stream.write(b"").is_ok_and(|_| stream.take_error().unwrap().is_none()) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let folder = Folder::new("timers");
    let file = format!(
        "[[listener]]\nbind = [\"127.0.0.1:0\"]\nclient_idle = \"700ms\"\n\
         [backend.b]\nserver_idle = \"60s\"\nhalf_closed = \"300ms\"\n\
         [[backend.b.server]]\naddress = \"{}\"\n",
        server.address
    );
    let mut relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
    let mut silent = peers::connect(relay.address());
    let half = peers::connect(relay.address());
    half.shutdown(std::net::Shutdown::Write).unwrap();
    relay.await_line("half_closed");
    relay.await_line("client_idle");
    let error = silent.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
