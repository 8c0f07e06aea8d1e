//! Active checks: servers that come and go while no session asks for them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::peers::{self, Server};
use crate::support::relay::Relay;
use crate::support::{Folder, await_passed, await_that, text};

fn file(servers: &[(SocketAddr, &str)]) -> String {
    let mut file = "[[listener]]\nbind = [\"127.0.0.1:0\"]\n".to_owned();
    for (number, (address, check)) in servers.iter().enumerate() {
        file += &format!(
            "[[backend.b.server]]\nname = \"s{number}\"\naddress = \"{address}\"\n{check}\n"
        );
    }
    file
}

fn start(folder: &Folder, servers: &[(SocketAddr, &str)]) -> Relay {
    let path = folder.write("f.toml", &file(servers));
    Relay::start(&["-c", path.to_str().unwrap()])
}

const FAST: &str = "check = { interval = \"100ms\", rise = 2, fall = 3 }";

/// G8: found within interval x fall, used again within interval x rise + 1 s. No session is needed for
/// either.
#[test]
fn a_server_that_goes_and_comes_back_is_found_out_by_checks_alone() {
    let there = peers::name("there");
    let gone = peers::nobody();
    let folder = Folder::new("checks-come");
    let mut relay = start(&folder, &[(there.address, FAST), (gone, FAST)]);
    let began = Instant::now();
    let line = relay.await_line("server b/s1 is down");
    assert!(line.contains("Connection refused"), "{line}");
    // Three intervals, one for the spread, and what a loaded machine adds.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let status = text(&relay.ask("status").stdout);
    assert!(status.lines().any(|line| line.contains("s1") && line.contains("down")), "{status}");
    // Nobody meets it.
    for _ in 0..10 {
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"there");
    }
    assert_eq!(relay.total("connect_failures"), 0);
    let back = Server::on(TcpListener::bind(gone).unwrap(), |mut stream| {
        let _ = stream.write_all(b"back");
    });
    relay.await_line("server b/s1 is up");
    // Each worker takes its own turns.
    await_that("sessions go there again", || {
        peers::exchange(relay.address(), b"").is_ok_and(|said| said == b"back")
    });
    drop(back);
}

/// A check may be wrong: of a port that nobody listens on, say.
#[test]
fn servers_that_are_all_down_are_still_the_last_resort() {
    let server = peers::name("here");
    let folder = Folder::new("checks-all");
    let port = peers::nobody().port();
    let check = format!("check = {{ interval = \"100ms\", fall = 1, port = {port} }}");
    let mut relay = start(&folder, &[(server.address, &check)]);
    relay.await_line("server b/s0 is down");
    for _ in 0..5 {
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"here");
    }
}

#[test]
fn a_page_is_asked_for_and_only_the_status_that_is_expected_will_do() {
    let status = Arc::new(AtomicU16::new(200));
    let said = Arc::clone(&status);
    let server = Server::new(move |mut stream| {
        let mut request = [0; 1024];
        let bytes = stream.read(&mut request).unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..bytes]).into_owned();
        let right = request.starts_with("GET /health HTTP/1.1\r\nHost: x.example\r\n");
        let code = if right { said.load(SeqCst) } else { 400 };
        let _ = stream.write_all(format!("HTTP/1.1 {code} x\r\n\r\n").as_bytes());
    });
    let folder = Folder::new("checks-http");
    let check = "check = { interval = \"100ms\", fall = 2, rise = 1, http = \"/health\", \
                 host = \"x.example\", expect = \"200-299\" }";
    let mut relay = start(&folder, &[(server.address, check)]);
    let asked = server.accepted();
    await_that("it is checked", || server.accepted() > asked + 4);
    assert!(!relay.log().contains("is down"), "{}", relay.log());
    status.store(503, SeqCst);
    let line = relay.await_line("server b/s0 is down");
    assert!(line.contains("GET /health is answered with 503"), "{line}");
    status.store(204, SeqCst);
    relay.await_line("server b/s0 is up");
}

/// C11: servers that accept and say nothing, too little, far too much, or reset.
#[test]
fn servers_that_answer_checks_with_nonsense_are_down_and_cost_nothing() {
    let mute = Server::new(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.read(&mut [0; 1024]);
    });
    let terse = Server::new(|mut stream| {
        let _ = stream.write_all(b"H");
    });
    let endless = Server::new(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    let resets = Server::new(peers::reset);
    let folder = Folder::new("checks-nonsense");
    let check = "check = { interval = \"100ms\", timeout = \"200ms\", fall = 1, http = \"/\" }";
    let servers = [&mute, &terse, &endless, &resets].map(|server| (server.address, check));
    let mut relay = start(&folder, &servers);
    for number in 0..4 {
        relay.await_line(&format!("server b/s{number} is down"));
    }
    let descriptors = relay.descriptors();
    await_passed(Instant::now(), Duration::from_secs(1));
    // Checks come and go; none stays.
    assert!(relay.descriptors() <= descriptors + 8, "{descriptors}, {}", relay.descriptors());
}

#[test]
fn a_reload_keeps_what_is_known_and_stops_checks_that_are_gone() {
    let there = peers::name("there");
    let gone = peers::nobody();
    let folder = Folder::new("checks-reload");
    let mut relay = start(&folder, &[(there.address, FAST), (gone, FAST)]);
    relay.await_line("server b/s1 is down");
    folder.write("f.toml", &(file(&[(there.address, FAST), (gone, FAST)]) + "weight = 2\n"));
    assert!(relay.ask("reload").status.success());
    for _ in 0..10 {
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"there");
    }
    assert_eq!(relay.total("connect_failures"), 0, "it is known to be down");
    folder.write("f.toml", &file(&[(there.address, ""), (gone, "")]));
    assert!(relay.ask("reload").status.success());
    let before = there.accepted();
    await_passed(Instant::now(), Duration::from_millis(500));
    assert_eq!(there.accepted(), before, "it is still checked");
    let status = text(&relay.ask("status").stdout);
    assert!(!status.contains(" down "), "who is not checked is not down: {status}");
}
