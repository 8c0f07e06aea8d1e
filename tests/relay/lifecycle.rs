//! Signals, reload, servers that come and go.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use crate::support::relay::Relay;
use crate::support::{Folder, await_that, peers, text};

fn file(servers: &[SocketAddr], extra: &str) -> String {
    let mut file = format!("{extra}\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n");
    for (number, server) in servers.iter().enumerate() {
        file += &format!("[[backend.main.server]]\nname = \"s{number}\"\naddress = \"{server}\"\n");
    }
    file
}

#[test]
fn sigterm_lets_sessions_end_and_accepts_no_more() {
    let server = peers::echo();
    let mut relay = Relay::between(&[server.address], &[]);
    let mut client = peers::connect(relay.address());
    client.write_all(b"before").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    relay.signal("TERM");
    relay.await_line("draining");
    await_that("new connections are refused", || {
        std::net::TcpStream::connect(relay.address()).is_err()
    });
    client.write_all(b"after").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"after");
    assert!(relay.is_running());
    drop(client);
    assert!(relay.await_end().success());
}

/// Connections that the kernel has taken and no worker yet: theirs is the handshake that was
/// answered, so they are served before the listeners end. Fewer than a server's backlog (128), which
/// drops handshakes beyond it.
#[test]
fn a_drain_serves_what_is_in_the_queue() {
    let server = peers::name("served");
    for engine in ["epoll", "io_uring"] {
        let relay = Relay::between(&[server.address], &["--engine", engine, "--workers", "1"]);
        let address = relay.address();
        relay.signal("STOP");
        let clients: Vec<_> = (0..100).map(|_| peers::connect(address)).collect();
        relay.signal("TERM");
        relay.signal("CONT");
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "served", "{engine}");
        }
    }
}

#[test]
fn a_second_sigterm_ends_at_once_with_a_reset() {
    let server = peers::echo();
    let mut relay = Relay::between(&[server.address], &[]);
    let mut client = peers::connect(relay.address());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    relay.signal("TERM");
    relay.await_line("draining");
    relay.signal("TERM");
    assert!(relay.await_end().success());
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn drain_has_a_deadline() {
    let server = peers::echo();
    let folder = Folder::new("drain");
    let path = folder.write("fanin.toml", &file(&[server.address], "[global]\ndrain = \"200ms\""));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    let mut client = peers::connect(relay.address());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    relay.signal("TERM");
    assert!(relay.await_end().success());
    assert!(relay.log().contains("drained"), "{}", relay.log());
}

#[test]
fn sighup_changes_the_servers_and_touches_no_connection() {
    let (old, new) = (peers::echo(), peers::name("new"));
    let folder = Folder::new("reload");
    let path = folder.write("fanin.toml", &file(&[old.address], ""));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    let mut client = peers::connect(relay.address());
    client.write_all(b"one").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    folder.write("fanin.toml", &file(&[new.address], ""));
    relay.signal("HUP");
    relay.await_line("reloaded");
    await_that("new sessions go to the new server", || {
        peers::exchange(relay.address(), b"").is_ok_and(|answer| answer == b"new")
    });
    client.write_all(b"two").unwrap();
    let mut answer = [0; 3];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"two");
}

#[test]
fn a_bad_file_keeps_what_ran_and_says_why() {
    let server = peers::name("still here");
    let folder = Folder::new("bad-reload");
    let path = folder.write("fanin.toml", &file(&[server.address], ""));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    folder.write("fanin.toml", &file(&[server.address], "[global]\nworkerz = 3"));
    relay.signal("HUP");
    let line = relay.await_line("not reloaded");
    assert!(line.contains("workerz"), "{line}");
    let answer = relay.ask("reload");
    assert!(!answer.status.success());
    assert!(text(&answer.stderr).contains("workerz"), "{}", text(&answer.stderr));
    assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"still here");
}

/// Another number of workers needs another relay process, on the same sockets: nobody notices, and
/// who talks through the old one goes on.
#[test]
fn what_a_process_cannot_change_starts_another_on_the_same_sockets() {
    let server = peers::echo();
    let folder = Folder::new("generation");
    let path = folder.write("fanin.toml", &file(&[server.address], "[global]\nworkers = 2"));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    let (parent, first) = (relay.parent(), relay.pid());
    let mut client = peers::connect(relay.address());
    client.write_all(b"one").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    folder.write("fanin.toml", &file(&[server.address], "[global]\nworkers = 1"));
    relay.signal("HUP");
    relay.await_line("renewed");
    await_that("both run", || relay.generations().len() == 2);
    assert_eq!(peers::exchange(relay.address(), b"new").unwrap(), b"new");
    client.write_all(b"two").unwrap();
    let mut answer = [0; 3];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"two");
    drop(client);
    await_that("the old one has retired", || !relay.generations().contains(&first));
    assert_eq!(relay.status()["pid"], parent);
}

/// The parent holds the sockets: what waits in their queues is served by the next relay process.
#[test]
fn a_relay_process_that_is_killed_is_started_again_on_the_same_sockets() {
    let server = peers::echo();
    let mut relay = Relay::between(&[server.address], &["--workers", "1"]);
    let first = relay.pid();
    relay.signal("STOP");
    let waiting = peers::connect(relay.address());
    relay.signal("KILL");
    relay.await_line("restarted");
    assert_ne!(relay.pid(), first);
    drop(waiting);
    assert_eq!(peers::exchange(relay.address(), b"again").unwrap(), b"again");
}

#[test]
fn an_upgrade_keeps_the_process_id_and_the_sessions() {
    let server = peers::echo();
    let mut relay = Relay::between(&[server.address], &["--workers", "1"]);
    let mut client = peers::connect(relay.address());
    client.write_all(b"one").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    let refused = relay.ask_with(&["upgrade", "--binary", "/bin/false"]);
    assert!(!refused.status.success(), "{}", text(&refused.stdout));
    assert!(relay.ask("upgrade").status.success());
    relay.await_line("is in charge");
    assert_eq!(peers::exchange(relay.address(), b"new").unwrap(), b"new");
    client.write_all(b"two").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    assert_eq!(relay.status()["pid"], relay.parent());
}

#[test]
fn a_server_that_refuses_costs_nobody_anything() {
    let alive = [peers::echo(), peers::echo()];
    let servers = [peers::nobody(), alive[0].address, alive[1].address];
    let relay = Relay::between(&servers, &["--workers", "1"]);
    for number in 0..100 {
        let sent = format!("exchange {number}");
        assert_eq!(peers::exchange(relay.address(), sent.as_bytes()).unwrap(), sent.as_bytes());
    }
    let (one, two) = (alive[0].accepted(), alive[1].accepted());
    assert!(one + two == 100 && one.abs_diff(two) < 40, "{one} and {two}");
    let status = relay.status();
    assert!(status["servers"][0]["connect_failures"].as_u64().unwrap() >= 3, "{status}");
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let address = peers::nobody();
    let relay = Relay::between(&[address], &["--workers", "1"]);
    let refused = peers::exchange(relay.address(), b"anyone?");
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let listener = TcpListener::bind(address).unwrap();
    let _server = peers::Server::on(listener, |mut stream| {
        let _ = stream.write_all(b"back");
    });
    await_that("the server is used", || {
        peers::exchange(relay.address(), b"").is_ok_and(|answer| answer == b"back")
    });
}

#[test]
fn each_ended_session_has_a_line_in_either_format() {
    let server = peers::echo();
    for (format, reason) in [("text", "reason=completed"), ("json", "\"reason\":\"completed\"")] {
        let mut relay = Relay::between(&[server.address], &["--log-format", format]);
        peers::exchange(relay.address(), b"twelve bytes").unwrap();
        let line = relay.await_line(reason);
        assert!(line.contains("12"), "{line}");
        assert!(line.contains(&server.address.to_string()), "{line}");
    }
}

#[test]
fn status_shows_an_operator_what_runs() {
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &["--workers", "2", "--engine", "epoll"]);
    peers::exchange(relay.address(), b"hello").unwrap();
    await_that("the session ends", || relay.sessions() == 0);
    let shown = text(&relay.ask("status").stdout);
    for part in ["epoll", &server.address.to_string(), &relay.address().to_string(), "completed"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}
