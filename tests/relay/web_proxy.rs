//! The web proxy door, as agents, curl and worse meet it. The servers are witnesses: what must not
//! reach anybody is seen to reach nobody.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::nameserver::{Answer, Nameserver};
use crate::support::peers::{self, Server};
use crate::support::relay::Relay;
use crate::support::tls::{certificates, secure};
use crate::support::{Folder, await_passed, await_that, run, text};

/// The secret that must stand in no output, and what `fanin passwd` makes of it.
const CANARY: &str = "canary-7d1f";

pub fn hash() -> String {
    let mut passwd = Command::new(env!("CARGO_BIN_EXE_fanin"));
    let mut passwd =
        passwd.arg("passwd").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(passwd.stdin.take().unwrap(), "{CANARY}").unwrap();
    text(&passwd.wait_with_output().unwrap().stdout).trim().to_owned()
}

/// A door that leads to these destinations, and what else there is to say of the listener and to the file.
fn file(allow: &[&str], door: &str, more: &str) -> String {
    format!(
        "[global]\nworkers = 2\n[[listener]]\nname = \"door\"\nbind = [\"127.0.0.1:0\"]\n\
         mode = \"proxy\"\n{door}\n[proxy]\nallow = {allow:?}\n{more}\n"
    )
}

fn start(folder: &Folder, file: &str) -> Relay {
    let path = folder.write("f.toml", file);
    Relay::start(&["-c", path.to_str().unwrap()])
}

fn to_all(servers: &[SocketAddr]) -> Vec<String> {
    servers.iter().map(ToString::to_string).collect()
}

/// A door to these servers.
fn door_to(folder: &Folder, servers: &[SocketAddr], door: &str, more: &str) -> Relay {
    let all = to_all(servers);
    start(folder, &file(&all.iter().map(String::as_str).collect::<Vec<_>>(), door, more))
}

/// What has been said so far up to the end of a head.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    text(&head)
}

fn connect_line(to: impl std::fmt::Display) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

/// A tunnel.
#[track_caller]
fn tunnel(door: SocketAddr, to: SocketAddr) -> TcpStream {
    let mut stream = peers::connect(door);
    stream.write_all(connect_line(to).as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert_eq!(head, "HTTP/1.1 200 Connection established\r\n\r\n");
    stream
}

/// What is said through a tunnel is heard through it.
#[track_caller]
fn ping(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
}

/// The end of a tunnel comes back through it.
#[track_caller]
fn end(stream: &mut TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// The status that a request gets on a connection of its own, and all that comes.
fn ask(door: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = peers::connect(door);
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = text(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn sessions(relay: &Relay) -> u64 {
    relay.status()["listeners"][0]["connections"].as_u64().unwrap()
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_ends_as_its_ends_do() {
    let server = peers::echo();
    let folder = Folder::new("proxy-tunnel");
    let mut relay = door_to(&folder, &[server.address], "", "");
    let mut stream = tunnel(relay.address(), server.address);
    for round in 0..3u8 {
        let sent = vec![round; 100_000];
        let mut writer = stream.try_clone().unwrap();
        let (writing, sent) = (std::thread::spawn(move || writer.write_all(&sent)), 100_000);
        let mut got = vec![0; sent];
        stream.read_exact(&mut got).unwrap();
        writing.join().unwrap().unwrap();
        assert!(got.iter().all(|&byte| byte == round));
    }
    // The end of the one direction passes, and the other is whole.
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last");
    let line = relay.await_line("method=CONNECT");
    for part in
        ["status=200", "reason=completed", "bytes_to_backend=300004", "bytes_to_client=300004"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(line.contains(&format!("path={}", server.address)), "{line}");
    await_that("its place is free", || sessions(&relay) == 0);
}

#[test]
fn a_server_that_resets_resets_the_tunnel() {
    let server = Server::new(|mut stream| {
        let _ = stream.read(&mut [0; 4]);
        peers::reset(stream);
    });
    let folder = Folder::new("proxy-reset");
    let mut relay = door_to(&folder, &[server.address], "", "");
    let mut stream = tunnel(relay.address(), server.address);
    stream.write_all(b"ping").unwrap();
    assert!(stream.read(&mut [0; 4]).is_err(), "a cut stream is no end");
    relay.await_line("reason=server_reset");
}

/// Bytes that come with the head reach the server once there is a tunnel, and nobody if there is none
/// (S8).
#[test]
fn what_comes_with_the_head_is_the_tunnels_or_nobodys() {
    let server = peers::echo();
    let folder = Folder::new("proxy-early");
    let relay = door_to(&folder, &[server.address], "", "");
    let mut stream = peers::connect(relay.address());
    stream.write_all(format!("{}early\r\n\r\n", connect_line(server.address)).as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut early = [0; 9];
    stream.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early\r\n\r\n");
    let accepted = server.accepted();
    // Destinations, and then a head, that are refused.
    let elsewhere = peers::echo();
    let refused = format!("{}{}", connect_line(elsewhere.address), connect_line(server.address));
    assert_eq!(ask(relay.address(), refused.as_bytes()).0, 403);
    let refused = format!("CONNECT x HTTP/1.1\r\n\r\n{}", connect_line(server.address));
    let (status, answer) = ask(relay.address(), refused.as_bytes());
    assert_eq!((status, answer.matches("HTTP/1.1").count()), (400, 1), "one answer: {answer}");
    assert_eq!((server.accepted(), elsewhere.accepted()), (accepted, 0));
}

#[test]
fn a_head_may_come_byte_by_byte_and_in_every_two_pieces() {
    let server = peers::echo();
    let folder = Folder::new("proxy-pieces");
    let relay = door_to(&folder, &[server.address], "", "");
    let whole = format!("{}hello", connect_line(server.address));
    let pieces: Vec<Vec<&str>> = (1..whole.len())
        .map(|cut| vec![&whole[..cut], &whole[cut..]])
        .chain([whole.split_inclusive(|_| true).collect()])
        .collect();
    for pieces in pieces {
        let mut stream = peers::connect(relay.address());
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).unwrap();
        }
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
    }
}

/// A server that keeps what it was asked, and says ok.
pub fn witness() -> (Server, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let server = Server::new(move |mut stream| {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            bytes.extend_from_slice(&piece[..read]);
            let so_far = text(&bytes);
            let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
            let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
            let length =
                head.to_ascii_lowercase().split("content-length: ").nth(1).and_then(|rest| {
                    rest.split("\r\n").next().and_then(|length| length.parse::<usize>().ok())
                });
            if (chunked && !body.ends_with("0\r\n\r\n")) || length.is_some_and(|it| body.len() < it)
            {
                continue;
            }
            noted.lock().unwrap().push(so_far);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken");
            bytes.clear();
        }
    });
    (server, seen)
}

#[test]
fn a_request_to_a_url_is_forwarded_once_and_without_what_is_the_proxys() {
    let (server, seen) = witness();
    let folder = Folder::new("proxy-plain");
    let mut relay = door_to(&folder, &[server.address], "", "");
    let to = server.address;
    let behind = format!("GET http://{to}/behind HTTP/1.1\r\nHost: {to}\r\n\r\n");
    for body in
        ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
    {
        let request = format!(
            "POST http://{to}/intake?api_key=k HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic YTpi\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Mine: 2\r\n{body}{behind}"
        );
        let (status, answer) = ask(relay.address(), request.as_bytes());
        assert_eq!((status, answer.matches("HTTP/1.1").count()), (200, 1), "{answer}");
        assert!(answer.ends_with("taken"), "{answer}");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let [request] = seen.as_slice() else { panic!("{seen:?}") };
        let request = request.to_ascii_lowercase();
        assert!(request.starts_with("post /intake?api_key=k http/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {to}\r\n")) && request.contains("x-mine: 2"));
        for hidden in ["proxy-", "x-hop", "other", "basic"] {
            assert!(!request.contains(hidden), "{hidden}: {request}");
        }
    }
    let line = relay.await_line("method=POST");
    assert!(
        line.contains(&format!("path=http://{to}/intake ")) && !line.contains("api_key"),
        "{line}"
    );
}

#[test]
fn curl_is_served_in_both_forms_and_told_what_it_lacks() {
    let (server, _) = witness();
    let folder = Folder::new("proxy-curl");
    let users = format!("users = {{ agents = \"{}\" }}", hash());
    let mut relay = door_to(&folder, &[server.address], "", &users);
    let url = format!("http://{}/x", server.address);
    let curl = |who: &str, more: &[&str]| {
        let proxy = format!("http://{who}{}", relay.address());
        let format = "%{http_code} %{http_connect}";
        let mut arguments =
            vec!["-sS", "-m", "20", "-o", "/dev/null", "-w", format, "--proxy", &proxy];
        arguments.extend(more);
        arguments.push(&url);
        text(&run("curl", &arguments).stdout)
    };
    let right = format!("agents:{CANARY}@");
    assert_eq!(curl(&right, &[]), "200 000");
    assert_eq!(curl(&right, &["--proxytunnel"]), "200 200");
    assert_eq!(curl(&right, &["--proxy-anyauth"]), "200 000");
    let old = format!("{right}{}", relay.address());
    assert_eq!(curl(&right, &["--proxytunnel", "--proxy1.0", &old]), "200 200");
    for who in ["", "agents:wrong@", &format!("other:{CANARY}@"), "agents:@"] {
        assert_eq!(curl(who, &[]), "407 000", "{who}");
        assert_eq!(curl(who, &["--proxytunnel"]), "000 407", "{who}");
    }
    relay.await_line("reason=login_failed");
    assert!(!relay.log().contains(CANARY));
}

/// The secret stands nowhere: not in logs, answers, status, metrics or the command line's output (S14).
#[test]
fn the_canary_is_seen_nowhere() {
    let (server, _) = witness();
    let folder = Folder::new("proxy-canary");
    let users = format!("users = {{ agents = \"{}\" }}\n[stats]\nbind = [\"127.0.0.1:0\"]", hash());
    let mut relay = door_to(&folder, &[server.address], "", &users);
    let page = relay.await_line("statistics on").split("http://").nth(1).unwrap().to_owned();
    let encoded = |user: &str| {
        let said = format!("printf %s '{user}:{CANARY}' | base64 -w0");
        text(&run("sh", &["-c", &said]).stdout)
    };
    let mut seen = String::new();
    for user in ["agents", "nobody"] {
        let secret = encoded(user);
        for head in [
            format!(
                "CONNECT {} HTTP/1.1\r\nProxy-Authorization: Basic {secret}\r\n\r\n",
                peers::nobody()
            ),
            format!("CONNECT 127.1:1 HTTP/1.1\r\nProxy-Authorization: Basic {secret}\r\n\r\n"),
            format!("CONNECT x:1 HTTP/1.1\r\nProxy-Authorization: Basic {secret}=\r\n\r\n"),
            format!(
                "GET http://u:{CANARY}@x/ HTTP/1.1\r\nProxy-Authorization: Basic {secret}\r\n\r\n"
            ),
            format!("GET http://{}/{CANARY} HTTP/1.1\r\nHost: x\r\n\r\n", peers::nobody()),
            format!(
                "GET http://{}/?{CANARY} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {secret}\r\n\r\n",
                server.address
            ),
        ] {
            seen += &ask(relay.address(), head.as_bytes()).1;
        }
        seen += &secret.replace(&secret, "");
    }
    for path in ["", "metrics", ";csv", ";json"] {
        seen += &text(&run("curl", &["-sS", &format!("http://{}{path}", page.trim())]).stdout);
    }
    for command in ["status", "ends"] {
        seen += &text(&relay.ask(command).stdout);
    }
    seen += &text(&relay.ask_with(&["ends", "--json"]).stdout);
    seen += &relay.log();
    for secret in [CANARY, &encoded("agents"), &encoded("nobody"), "argon2id"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
    assert!(seen.contains("login_failed") && seen.len() > 10_000, "something was looked at");
}

/// Addresses that only this host, its network or its links can reach, in ways in which some resolver or other
/// reads them.
#[rustfmt::skip]
const SPELLINGS: [&str; 60] = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "2130706433",
    "017700000001", "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1", "0177.0.0.1", "0177.0.0.01",
    "127.0.0.1.", "127.0.0.01", "127.0.0.0x1", "127.0.0.1%00", "%31%32%37.0.0.1", "127。0。0。1",
    "①②⑦.0.0.1", "0", "0.0.0.0", "0.0", "00000000", "localhost",
    "localhost.", "LOCALHOST", "LocalHost.localdomain", "10.0.0.1", "10.1", "172.16.0.1",
    "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe",
    "169.254.43518", "198.18.0.1", "192.0.2.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]",
    "[fc00::1]", "[fd12::1]", "[ff02::1]", "[2001:db8::1]", "user@127.0.0.1", "example.com@127.0.0.1",
];

/// None of [`SPELLINGS`] reaches the witness, whose port is allowed for every public host (S9).
#[test]
fn no_spelling_of_an_address_that_is_not_public_leads_anywhere() {
    let server = peers::echo();
    let port = server.address.port();
    let nameserver = Nameserver::new();
    let inside = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"];
    let names: Vec<String> =
        (0..inside.len()).map(|number| format!("n{number}.example.com")).collect();
    for (name, address) in names.iter().zip(inside) {
        nameserver.says(name, Answer::At(vec![address.parse().unwrap()], 60));
    }
    let folder = Folder::new("proxy-spellings");
    let allow = [format!("*:{port}"), format!("n0.example.com:{port}")];
    let allow: Vec<_> = allow.iter().map(String::as_str).collect();
    let dns = format!("[dns]\nnameservers = [\"{}\"]\nprefer = \"both\"", nameserver.address);
    let relay = start(&folder, &file(&allow, "", &dns));

    for host in SPELLINGS.iter().copied().chain(names.iter().map(String::as_str)) {
        let authority = format!("{host}:{port}");
        for request in [
            connect_line(&authority),
            format!("GET http://{authority}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        ] {
            let (status, answer) = ask(relay.address(), request.as_bytes());
            assert!(matches!(status, 400 | 403 | 502 | 504), "{host}: {answer}");
        }
    }
    assert_eq!(server.accepted(), 0);
}

/// A name server that says one thing when it is asked and another a moment later gets nobody further
/// (S10): what is judged is what is connected to.
#[test]
fn a_name_that_leads_elsewhere_from_moment_to_moment_reaches_what_is_allowed_alone() {
    let [allowed, forbidden] = peers::on_one_port(["127.0.0.2", "127.0.0.1"]);
    let port = allowed.local_addr().unwrap().port();
    let greet = |mut stream: TcpStream| drop(stream.write_all(b"allowed"));
    let (allowed, forbidden) = (Server::on(allowed, greet), Server::on(forbidden, |_| ()));
    let nameserver = Nameserver::new();
    let folder = Folder::new("proxy-rebinding");
    let allow = [format!("*.example.com:{port}"), format!("127.0.0.2:{port}")];
    let allow: Vec<_> = allow.iter().map(String::as_str).collect();
    let dns = format!("[dns]\nnameservers = [\"{}\"]\nttl_min = \"1s\"", nameserver.address);
    let relay = start(&folder, &file(&allow, "", &dns));
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let mut seen = [0, 0];
    for round in 0..60 {
        let name = format!("n{round}.example.com");
        let both =
            [vec![ip("127.0.0.1"), ip("127.0.0.2")], vec![ip("127.0.0.1")], vec![ip("127.0.0.2")]];
        nameserver.says(&name, Answer::At(both[round % 3].clone(), 0));
        let mut stream = peers::connect(relay.address());
        stream.write_all(connect_line(format!("{name}:{port}")).as_bytes()).unwrap();
        // Says the other thing before the connection can have been made.
        nameserver.says(&name, Answer::At(both[(round + 1) % 3].clone(), 0));
        let head = read_head(&mut stream);
        seen[usize::from(head.starts_with("HTTP/1.1 200 "))] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    await_that("all have been accepted", || allowed.accepted() == seen[1]);
    assert_eq!(forbidden.accepted(), 0);
}

/// The servers of the door's backend are destinations as they are written, wherever they are.
#[test]
fn the_servers_of_the_backend_are_allowed_as_they_are_written() {
    let server = peers::echo();
    let port = server.address.port();
    let nameserver = Nameserver::new();
    nameserver.says("intake.example.com", Answer::At(vec!["127.0.0.1".parse().unwrap()], 60));
    let folder = Folder::new("proxy-backend");
    let more = format!(
        "[dns]\nnameservers = [\"{}\"]\n[backend.intake]\n[[backend.intake.server]]\n\
         address = \"Intake.example.com:{port}\"",
        nameserver.address
    );
    let relay = start(&folder, &file(&[], "", &more));
    let mut stream = peers::connect(relay.address());
    stream.write_all(connect_line(format!("intake.EXAMPLE.com:{port}")).as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    ping(&mut stream);
    for other in [format!("127.0.0.1:{port}"), "intake.example.com:1".to_owned()] {
        assert_eq!(ask(relay.address(), connect_line(&other).as_bytes()).0, 403, "{other}");
    }
}

#[test]
fn destinations_that_cannot_be_reached_are_told_apart() {
    let nobody = peers::nobody();
    let deaf = peers::Deaf::new();
    let nameserver = Nameserver::new();
    nameserver.says("absent.example.com", Answer::NoSuchName);
    nameserver.says("failing.example.com", Answer::Failure);
    let folder = Folder::new("proxy-unreachable");
    let allow = [nobody.to_string(), deaf.address.to_string(), "*.example.com:443".to_owned()];
    let allow: Vec<_> = allow.iter().map(String::as_str).collect();
    let more = format!(
        "[dns]\nnameservers = [\"{}\"]\nretries = 0\ntimeout = \"500ms\"\n\
         [backend.direct]\nconnect = \"300ms\"\nretries = 1",
        nameserver.address
    );
    let mut relay = start(&folder, &file(&allow, "", &more));
    for (to, expected) in [
        (nobody.to_string(), 502),
        (deaf.address.to_string(), 504),
        ("absent.example.com:443".to_owned(), 502),
        ("failing.example.com:443".to_owned(), 504),
        (relay.address().to_string(), 403),
    ] {
        let (status, answer) = ask(relay.address(), connect_line(&to).as_bytes());
        assert_eq!(status, expected, "{to}: {answer}");
    }
    let plain = format!("GET http://{nobody}/ HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(ask(relay.address(), plain.as_bytes()).0, 502);
    assert!(relay.await_line("method=GET").contains("attempts=2"));
    // Who has not been named is not even asked for.
    assert_eq!(ask(relay.address(), connect_line("other.example.org:443").as_bytes()).0, 403);
    assert_eq!(nameserver.asked("other.example.org"), 0);
    let line = relay.await_line("reason=connect_timeout");
    assert!(line.contains("status=504") && line.contains("method=CONNECT"), "{line}");
    assert!(line.contains("attempts=2"), "{line}");
    relay.await_line("reason=connect_refused");
}

/// Heads that never end take no tunnel its life or its speed, and are ended when their time is up,
/// however many bytes come meanwhile (S6).
#[test]
fn slow_heads_leave_tunnels_alone_and_are_ended() {
    const SLOW: usize = 3000;
    let server = peers::echo();
    let folder = Folder::new("proxy-slow");
    let relay = door_to(&folder, &[server.address], "", "");
    let mut stream = tunnel(relay.address(), server.address);
    let began = Instant::now();
    let mut slow: Vec<_> =
        (0..SLOW).filter_map(|_| peers::try_connect(relay.address()).ok()).collect();
    for stream in &mut slow {
        let _ = stream.write_all(b"CONNECT ");
    }
    let mut worst = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(9) {
        let asked = Instant::now();
        ping(&mut stream);
        worst = worst.max(asked.elapsed());
        slow.iter_mut().step_by(30).for_each(|stream| drop(stream.write_all(b"x")));
    }
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    await_that("they are ended", || sessions(&relay) == 1);
    assert!(began.elapsed() < Duration::from_secs(30));
    let late =
        slow.iter_mut().map(read_head).filter(|head| head.starts_with("HTTP/1.1 408 ")).count();
    assert!(late > SLOW / 2, "{late} were told");
    ping(&mut stream);
}

/// A thousand log-ins a second that fail cost those who are known nothing (S13).
#[test]
fn guessing_passwords_is_slow_and_disturbs_nobody() {
    let server = peers::echo();
    let folder = Folder::new("proxy-guessing");
    let users = format!("users = {{ agents = \"{}\" }}", hash());
    let relay = door_to(&folder, &[server.address], "", &users);
    let encoded = |said: &str| {
        let encode = format!("printf %s '{said}' | base64 -w0");
        text(&run("sh", &["-c", &encode]).stdout)
    };
    let head = |said: &str| {
        let to = server.address;
        format!("CONNECT {to} HTTP/1.1\r\nProxy-Authorization: Basic {}\r\n\r\n", encoded(said))
    };
    let right = head(&format!("agents:{CANARY}"));
    let known = |door: SocketAddr| {
        let mut stream = peers::connect(door);
        stream.write_all(right.as_bytes()).unwrap();
        read_head(&mut stream)
    };
    // The doors' threads learn it one by one.
    for _ in 0..8 {
        assert!(known(relay.address()).starts_with("HTTP/1.1 200 "));
    }
    let guesses: Vec<String> = (0..30).map(|guess| head(&format!("agents:{guess}"))).collect();
    let mut statuses = std::collections::BTreeMap::new();
    for guess in &guesses {
        *statuses.entry(ask(relay.address(), guess.as_bytes()).0).or_insert(0) += 1;
    }
    assert!(statuses[&407] >= 10 && statuses[&429] >= 5 && statuses.len() == 2, "{statuses:?}");
    let asked = Instant::now();
    assert!(known(relay.address()).starts_with("HTTP/1.1 200 "));
    assert!(asked.elapsed() < Duration::from_secs(1));
}

#[test]
fn reloads_apply_to_who_comes_and_a_drain_lets_tunnels_end() {
    let (one, other) = (peers::echo(), peers::echo());
    let folder = Folder::new("proxy-reload");
    let mut relay = door_to(&folder, &[one.address], "", "");
    let mut before = tunnel(relay.address(), one.address);
    assert_eq!(ask(relay.address(), connect_line(other.address).as_bytes()).0, 403);
    folder.write("f.toml", &file(&[&other.address.to_string()], "", ""));
    assert!(relay.ask("reload").status.success());
    let mut after = tunnel(relay.address(), other.address);
    assert_eq!(ask(relay.address(), connect_line(one.address).as_bytes()).0, 403);
    folder.write("f.toml", &file(&["nonsense"], "", ""));
    assert!(!relay.ask("reload").status.success(), "what is wrong changes nothing");
    let door = relay.address();
    relay.signal("TERM");
    await_that("nobody is let in any more", || peers::try_connect(door).is_err());
    for stream in [&mut before, &mut after] {
        ping(stream);
        end(stream);
    }
    assert!(relay.await_end().success());
}

/// Whoever has been let in before a drain is served, although no worker had a session any more.
#[test]
fn a_client_that_is_in_its_head_when_a_drain_begins_gets_its_tunnel() {
    let server = peers::echo();
    let folder = Folder::new("proxy-drain");
    let mut relay = door_to(&folder, &[server.address], "", "");
    let door = relay.address();
    let head = connect_line(server.address);
    let mut stream = peers::connect(door);
    stream.write_all(&head.as_bytes()[..10]).unwrap();
    await_that("it is in", || sessions(&relay) == 1);
    relay.signal("TERM");
    await_that("nobody is let in any more", || peers::try_connect(door).is_err());
    stream.write_all(&head.as_bytes()[10..]).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    ping(&mut stream);
    end(&mut stream);
    assert!(relay.await_end().success());
}

#[test]
fn places_and_sources_are_counted_from_the_head_to_the_end_of_the_tunnel() {
    let server = peers::echo();
    let folder = Folder::new("proxy-places");
    let relay = door_to(&folder, &[server.address], "per_source = { sessions = 3 }", "");
    let tunnels: Vec<_> = (0..3).map(|_| tunnel(relay.address(), server.address)).collect();
    assert!(
        peers::exchange(relay.address(), b"CONNECT x:1 HTTP/1.1\r\n").is_err(),
        "a fourth is reset"
    );
    drop(tunnels);
    await_that("they are over", || sessions(&relay) == 0);
    for _ in 0..20 {
        let mut stream = tunnel(relay.address(), server.address);
        end(&mut stream);
        drop(stream);
        await_that("it is over", || sessions(&relay) == 0);
    }
}

/// Whoever says nothing leaves places to those who do, and to the other listeners: a small relay has fewer
/// places than the bound of a thread.
#[test]
fn those_who_say_nothing_do_not_take_every_place() {
    let server = peers::echo();
    let folder = Folder::new("proxy-crowd");
    let relay = door_to(&folder, &[server.address], "maxconn = 40", "");
    let _idle: Vec<_> = (0..60).map(|_| peers::connect(relay.address())).collect();
    let began = Instant::now();
    let mut stream = tunnel(relay.address(), server.address);
    ping(&mut stream);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Who has gone does not keep a place for as long as his destination is silent.
#[test]
fn a_client_that_resets_while_it_is_dialled_for_leaves_its_place() {
    let deaf = peers::Deaf::new();
    let folder = Folder::new("proxy-gone");
    let to = deaf.address.to_string();
    let mut relay = start(&folder, &file(&[&to], "", "[backend.b]\nconnect = \"1m\""));
    let mut stream = peers::connect(relay.address());
    stream.write_all(connect_line(&to).as_bytes()).unwrap();
    await_that("it is being dialled for", || relay.total("connect_attempts") > 0);
    peers::reset(stream);
    await_that("its place is free", || sessions(&relay) == 0);
    relay.await_line("reason=client_reset");
}

#[test]
fn a_silent_tunnel_is_ended_by_the_limits_of_its_door() {
    let server = peers::echo();
    let folder = Folder::new("proxy-idle");
    let mut relay = door_to(&folder, &[server.address], "client_idle = \"300ms\"", "");
    let mut stream = tunnel(relay.address(), server.address);
    let began = Instant::now();
    assert!(stream.read(&mut [0]).is_err(), "it is cut, not ended");
    assert!(began.elapsed() < Duration::from_secs(20));
    relay.await_line("reason=client_idle");
    await_passed(began, Duration::from_millis(200));
}

/// openssl speaks TLS through a tunnel, and checks the certificate as without one.
#[test]
fn openssl_checks_the_certificate_through_a_tunnel() {
    let folder = Folder::new("proxy-openssl");
    certificates(&folder);
    let server = secure(&folder);
    let users = format!("users = {{ agents = \"{}\" }}", hash());
    let relay = door_to(&folder, &[server.address], "", &users);
    let ask = |ca: &str| {
        let script = format!(
            "printf 'GET /answer HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -ign_eof \
             -verify_return_error -CAfile {} -proxy {} -proxy_user agents -proxy_pass pass:{CANARY} \
             -connect {} 2>&1",
            folder.path(ca).display(),
            relay.address(),
            server.address
        );
        text(&run("sh", &["-c", &script]).stdout)
    };
    let said = ask("ca.pem");
    assert!(said.contains("HTTP/1.1 200 OK") && said.contains("safe"), "{said}");
    let said = ask("other.pem");
    assert!(said.contains("verify error") && !said.contains("safe"), "{said}");
}

/// Python's requests and Datadog's own client, as people use them, with verification on.
#[test]
fn python_clients_report_through_a_tunnel_and_verify_the_certificate() {
    let python = concat!(env!("CARGO_TARGET_TMPDIR"), "/../python/bin/python");
    assert!(Path::new(python).exists(), "scripts/test makes {python}, with requests and datadog");
    let folder = Folder::new("proxy-python");
    certificates(&folder);
    let intake = folder.write("intake.py", INTAKE);
    let mut server = Command::new(python);
    let server = server.arg(intake).current_dir(folder.path("")).stdout(Stdio::piped());
    let mut server = Ended(server.spawn().unwrap());
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let intake = format!("127.0.0.1:{}", port.trim());
    let users = format!("users = {{ agents = \"{}\" }}", hash());
    let mut relay = start(&folder, &file(&[&intake], "", &users));
    let script = folder.write("client.py", CLIENT);
    let ask = |ca: &str, user: &str| {
        let mut client = Command::new(python);
        let client = client.arg(&script).arg(&intake).env("REQUESTS_CA_BUNDLE", folder.path(ca));
        let proxy = format!("http://{user}:{CANARY}@{}", relay.address());
        text(&client.env("HTTPS_PROXY", proxy).output().unwrap().stdout)
    };
    assert_eq!(ask("ca.pem", "agents"), "requests 202\ndatadog {'status': 'ok'}\n");
    assert_eq!(ask("other.pem", "agents"), "requests SSLError\ndatadog ClientError\n");
    assert_eq!(ask("ca.pem", "nobody"), "requests ProxyError\ndatadog ProxyError\n");
    let line = relay.await_line("reason=completed");
    assert!(line.contains("method=CONNECT"), "{line}");
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An intake over TLS that accepts what is posted, as Datadog's does.
const INTAKE: &str = r#"
import http.server, ssl
class Intake(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        body = b'{"status": "ok"}'
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Intake)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("cert.pem", "key.pem")
server.socket = tls.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

const CLIENT: &str = r#"
import logging, sys
logging.disable(logging.CRITICAL)
import datadog, requests
base = "https://" + sys.argv[1]
def tell(name, ask):
    try:
        print(name, ask())
    except Exception as error:
        print(name, type(error).__name__)
tell("requests", lambda: requests.post(base + "/intake/", data=b"{}", timeout=10).status_code)
datadog.initialize(api_key="k", app_key="a", api_host=base, mute=False)
tell("datadog", lambda: datadog.api.Metric.send(metric="fanin.test", points=1))
"#;
