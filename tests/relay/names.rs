//! Names of servers, looked up for as long as the relay runs, against a name server that answers what
//! it is told to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use crate::support::nameserver::{Answer, Nameserver};
use crate::support::peers::{self, Server};
use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that, run, text};

const NAME: &str = "intake.example";

/// Servers on one port of 127.0.0.2, .3 and so on. Each says its number to whoever speaks to it.
fn servers(count: u8) -> (Vec<Server>, u16) {
    let bind = |last: u8, port: u16| TcpListener::bind(SocketAddr::from(([127, 0, 0, last], port)));
    let serve = |(listener, number): (TcpListener, u8)| {
        Server::on(listener, move |mut stream: TcpStream| {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                if stream.write_all(&[number]).is_err() {
                    return;
                }
            }
        })
    };
    loop {
        let first = bind(2, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let rest: Result<Vec<_>, _> = (3..2 + count).map(|last| bind(last, port)).collect();
        if let Ok(rest) = rest {
            let all = std::iter::once(first).chain(rest).zip(2..);
            return (all.map(serve).collect(), port);
        }
    }
}

fn at(last: &[u8], ttl: u32) -> Answer {
    Answer::At(last.iter().map(|last| IpAddr::from([127, 0, 0, *last])).collect(), ttl)
}

/// Which server takes a session now.
fn who(relay: SocketAddr) -> Option<u8> {
    said(&mut peers::try_connect(relay).ok()?)
}

fn said(session: &mut TcpStream) -> Option<u8> {
    let mut number = [0];
    session.write_all(b"?").ok()?;
    session.read_exact(&mut number).ok()?;
    Some(number[0])
}

fn file(nameserver: &Nameserver, port: u16, extra: &str) -> String {
    format!(
        "[dns]\nnameservers = [\"{}\"]\ntimeout = \"200ms\"\nretries = 0\nttl_min = \"1s\"\n{extra}\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\n\
         [[backend.b.server]]\nname = \"s\"\naddress = \"{NAME}:{port}\"\n",
        nameserver.address
    )
}

fn start(folder: &Folder, nameserver: &Nameserver, port: u16, extra: &str) -> Relay {
    let path = folder.write("f.toml", &file(nameserver, port, extra));
    Relay::start(&["-c", path.to_str().unwrap()])
}

#[test]
fn a_name_that_moves_takes_new_sessions_along_and_leaves_the_old_where_they_are() {
    let (_servers, port) = servers(3);
    let nameserver = Nameserver::new();
    nameserver.says(NAME, at(&[2], 0));
    let folder = Folder::new("names-move");
    let mut relay = start(&folder, &nameserver, port, "");
    let mut old = peers::connect(relay.address());
    assert_eq!(said(&mut old), Some(2));
    // A time to live of zero is not taken to the letter.
    let before = nameserver.asked(NAME);
    nameserver.says(NAME, at(&[4, 3], 0));
    let line = relay.await_line("is at 127.0.0.3, 127.0.0.4 now, was at 127.0.0.2");
    assert!(line.contains(NAME), "{line}");
    assert!(nameserver.asked(NAME) - before < 6, "{} questions", nameserver.asked(NAME) - before);
    let mut seen: Vec<_> = (0..4).map(|_| who(relay.address())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [Some(3), Some(3), Some(4), Some(4)]);
    assert_eq!(said(&mut old), Some(2), "it stays where it is");
    let status = text(&relay.ask("status").stdout);
    assert!(status.contains("127.0.0.3 127.0.0.4"), "{status}");
}

#[test]
fn whatever_a_name_server_answers_the_last_good_addresses_stay_in_use() {
    let (_servers, port) = servers(1);
    let nameserver = Nameserver::new();
    let folder = Folder::new("names-bad");
    for bad in [Answer::NoSuchName, Answer::Empty, Answer::Failure, Answer::Silence] {
        nameserver.says(NAME, at(&[2], 1));
        let mut relay = start(&folder, &nameserver, port, "");
        nameserver.says(NAME, bad.clone());
        let line = relay.await_line("its last good addresses stay in use");
        assert!(line.contains(NAME), "{line}");
        let asked = nameserver.asked(NAME);
        await_that("it is asked for again", || nameserver.asked(NAME) > asked);
        assert_eq!(who(relay.address()), Some(2), "{bad:?}");
        nameserver.says(NAME, at(&[2], 1));
        relay.await_line("is answered for again");
    }
}

#[test]
fn failed_connects_have_a_name_looked_up_long_before_its_time_to_live_is_over() {
    let (_servers, port) = servers(2);
    let nameserver = Nameserver::new();
    // Nobody listens there.
    nameserver.says(NAME, at(&[9], 86_400));
    let folder = Folder::new("names-fail");
    let relay = start(&folder, &nameserver, port, "");
    nameserver.says(NAME, at(&[3], 86_400));
    await_that("sessions go where the name is now", || who(relay.address()) == Some(3));
}

#[test]
fn a_relay_starts_while_no_name_server_answers_and_serves_when_one_does() {
    let (_servers, port) = servers(1);
    let nameserver = Nameserver::new();
    nameserver.says(NAME, Answer::Silence);
    let folder = Folder::new("names-start");
    let mut relay = start(&folder, &nameserver, port, "");
    let line = relay.await_line("its servers get no sessions until it is answered for");
    assert!(line.contains(&nameserver.address.to_string()), "{line}");
    assert_eq!(who(relay.address()), None);
    let status = text(&relay.ask("status").stdout);
    assert!(status.contains("no address yet"), "{status}");
    nameserver.says(NAME, at(&[2], 60));
    await_that("it serves", || who(relay.address()) == Some(2));
}

/// The next process starts at once although nobody answers.
#[test]
fn what_a_process_has_learnt_the_next_one_knows() {
    let (_servers, port) = servers(1);
    let nameserver = Nameserver::new();
    nameserver.says(NAME, at(&[2], 60));
    let folder = Folder::new("names-next");
    let mut relay = start(&folder, &nameserver, port, "");
    await_that("it serves", || who(relay.address()) == Some(2));
    nameserver.says(NAME, Answer::Silence);
    let first = relay.pid();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    relay.await_line("restarted");
    assert_ne!(relay.pid(), first);
    assert_eq!(who(relay.address()), Some(2));
}

#[test]
fn aliases_ipv6_alone_and_answers_too_long_for_a_datagram_are_understood() {
    let (_servers, port) = servers(2);
    let v6 = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
    let nameserver = Nameserver::new();
    let folder = Folder::new("names-kinds");
    nameserver.says(NAME, Answer::Alias("elsewhere.example", vec![[127, 0, 0, 3].into()]));
    assert_eq!(who(start(&folder, &nameserver, port, "").address()), Some(3));
    // Only the first two are used, and somebody listens at both.
    let many = (2..102).map(|last| IpAddr::from([127, 0, 0, last])).collect();
    nameserver.says(NAME, Answer::Long(many));
    let relay = start(&folder, &nameserver, port, "addresses_max = 2");
    let seen: Vec<_> = (0..4).map(|_| who(relay.address())).collect();
    assert!(seen.iter().all(|who| matches!(who, Some(2 | 3))), "{seen:?}");
    let Ok(v6) = v6 else {
        eprintln!("SKIPPED: no IPv6 here");
        return;
    };
    let _six = Server::on(v6, |mut stream| {
        let _ = stream.read(&mut [0]);
        let _ = stream.write_all(&[6]);
    });
    nameserver.says(NAME, Answer::At(vec!["::1".parse().unwrap()], 60));
    assert_eq!(who(start(&folder, &nameserver, port, "").address()), Some(6));
}

/// RFC 2782: the hosts of the first priority, by weight, each at its port; the record is followed as a
/// name is.
#[test]
fn the_hosts_and_ports_of_an_srv_record_are_followed() {
    const SERVICE: &str = "_intake._tcp.example";
    let (_servers, port) = servers(4);
    let nameserver = Nameserver::new();
    for (host, last) in [("two.example", 2), ("three.example", 3), ("four.example", 4)] {
        nameserver.says(host, at(&[last], 1));
    }
    let records = vec![
        (10, 30, port, "two.example"),
        (10, 10, port, "three.example"),
        (20, 10, port, "four.example"),
        (10, 10, port, "nobody.example"),
    ];
    nameserver.says(SERVICE, Answer::Services(records, 1));
    let folder = Folder::new("names-srv");
    let file = file(&nameserver, port, "").replace(&format!("{NAME}:{port}"), SERVICE);
    let file = file.replace("[[listener]]", "[global]\nworkers = 1\n[[listener]]");
    let mut relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
    let mut seen: Vec<_> = (0..8).map(|_| who(relay.address()).unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, [2, 2, 2, 2, 2, 2, 3, 3]);
    // An answer that lacks a part changes nothing.
    nameserver.says("three.example", Answer::Silence);
    nameserver.says("two.example", at(&[5], 1));
    relay.await_line("its last good addresses stay in use");
    assert!(matches!(who(relay.address()), Some(2 | 3)));
    nameserver.says(SERVICE, Answer::Services(vec![(0, 0, port, "four.example")], 1));
    let line = relay.await_line(&format!("is at 127.0.0.4:{port} now, was at 127.0.0.2:{port}"));
    assert!(line.contains(SERVICE), "{line}");
    assert_eq!([(); 3].map(|()| who(relay.address())), [Some(4); 3]);
    nameserver.says(SERVICE, Answer::Services(vec![(0, 0, port, "")], 1));
    relay.await_line("has no address to connect to");
    assert_eq!(who(relay.address()), Some(4), "the last good answer is kept");
}

#[test]
fn a_name_that_does_not_exist_is_refused_at_the_start_and_at_a_reload() {
    let (_servers, port) = servers(1);
    let nameserver = Nameserver::new();
    let folder = Folder::new("names-none");
    let path = folder.write("f.toml", &file(&nameserver, port, ""));
    let control = folder.path("c.sock");
    let arguments = ["run", "-c", path.to_str().unwrap(), "--control", control.to_str().unwrap()];
    let output = run(BINARY, &arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("server b/s: intake.example:"), "{said}");
    assert!(said.contains("does not exist") && said.contains("getent ahosts"), "{said}");

    nameserver.says(NAME, at(&[2], 60));
    let mut relay = start(&folder, &nameserver, port, "");
    let more = "[[backend.b.server]]\naddress = \"nowhere.example:443\"\n";
    folder.write("f.toml", &(file(&nameserver, port, "") + more));
    let output = relay.ask("reload");
    assert!(!output.status.success());
    let line = relay.await_line("not reloaded");
    assert!(line.contains("nowhere.example") && line.contains("does not exist"), "{line}");
    assert_eq!(who(relay.address()), Some(2));
}

#[test]
fn a_name_that_comes_to_stand_for_the_relay_itself_is_not_followed() {
    let nameserver = Nameserver::new();
    let (_servers, port) = servers(1);
    nameserver.says(NAME, at(&[2], 1));
    let folder = Folder::new("names-loop");
    // The same port, which is free on another address of loopback.
    let listens = format!("127.0.0.77:{port}");
    let text = file(&nameserver, port, "").replace("127.0.0.1:0", &listens);
    let path = folder.write("f.toml", &text);
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    nameserver.says(NAME, at(&[77], 1));
    let line = relay.await_line("is the relay itself");
    assert!(line.contains(&listens), "{line}");
    assert_eq!(who(relay.address()), Some(2));
}

/// `Command` as a user types it.
#[test]
fn a_configuration_with_names_is_checked_without_the_network() {
    let nameserver = Nameserver::new();
    let folder = Folder::new("names-check");
    let path = folder.write("f.toml", &file(&nameserver, 443, ""));
    let output = Command::new(BINARY).args(["check", "-c"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(nameserver.asked(NAME), 0);
}
