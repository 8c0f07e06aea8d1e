//! The agent door, as agents and their servers meet it: HTTP in, HTTP or HTTPS out. The servers are
//! witnesses: they keep what they were asked, so that what comes twice is seen.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::peers::{self, Server};
use crate::support::relay::Relay;
use crate::support::tls::{certificates, secure};
use crate::support::{Folder, await_some, await_that, cells, cli, run, run_well, text};

/// A door for one backend with these servers, and what else is to be said of the door and the backend.
fn file(servers: &[SocketAddr], door: &str, backend: &str) -> String {
    let mut file = format!(
        "[global]\nworkers = 1\n[[listener]]\nname = \"door\"\nbind = [\"127.0.0.1:0\"]\n\
         mode = \"agent\"\n{door}\n[backend.intake]\n{backend}\n"
    );
    for (number, server) in servers.iter().enumerate() {
        file +=
            &format!("[[backend.intake.server]]\nname = \"s{number}\"\naddress = \"{server}\"\n");
    }
    file
}

fn start(folder: &Folder, file: &str) -> Relay {
    let path = folder.write("f.toml", file);
    Relay::start(&["-c", path.to_str().unwrap()])
}

/// A request as it came, head and body, and how the witness answers it.
#[derive(Clone)]
struct Witness {
    server: Server,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    /// Answers each request with this, on connections that are kept for as many requests.
    fn new(answer: impl Fn(&str) -> String + Send + Sync + 'static, most: usize) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let server = Server::new(move |mut stream| {
            for _ in 0..most {
                let Some(request) = read_request(&mut stream) else { return };
                noted.lock().unwrap().push(request.clone());
                if stream.write_all(answer(&request).as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { server, seen }
    }

    fn ok() -> Self {
        Self::new(|_| ok("taken"), usize::MAX)
    }

    fn posts(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|request| request.starts_with("POST ")).count()
    }

    fn last(&self) -> String {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The whole of a request, its chunks as they are.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let so_far = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| {
                rest.split("\r\n").next().and_then(|length| length.trim().parse::<usize>().ok())
            });
            let whole = match length {
                Some(length) => body.len() >= length,
                None if head.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
                None => true,
            };
            if whole {
                return Some(so_far);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// What a request, as it is written here, is answered with on a connection of its own.
fn ask(door: SocketAddr, request: &str) -> String {
    let mut stream = peers::connect(door);
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn post(door: SocketAddr, path: &str, body: &str) -> String {
    ask(
        door,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: door\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

/// The page's own check, to the letter but for the name and the port.
#[test]
fn the_page_s_check_of_the_forwarder_passes() {
    let witness = Witness::ok();
    let folder = Folder::new("door-page");
    let relay = start(&folder, &file(&[witness.server.address], "", ""));
    let url = format!("http://{}/status", relay.address());
    for query in ["", "?threshold=100", "?threshold=-1"] {
        let check = format!("curl -v '{url}{query}' 2>&1 | grep '200 OK'");
        let found = run_well("sh", &["-c", &check]);
        assert!(found.contains("< HTTP/1.1 200 OK"), "{found}");
    }
    assert_eq!(
        status(&ask(relay.address(), "GET /status?threshold=x HTTP/1.1\r\nHost: d\r\n\r\n")),
        "400"
    );
    assert_eq!(witness.seen.lock().unwrap().len(), 0, "it was answered here");
    assert_eq!(relay.status()["listeners"][0]["traffic"]["own_answers"], 4);
}

#[test]
fn requests_are_forwarded_with_the_prefix_their_own_host_and_what_is_meant_for_the_other_end() {
    let witness = Witness::ok();
    let folder = Folder::new("door-forward");
    let relay = start(&folder, &file(&[witness.server.address], "", "path = \"/stsAgent/\""));
    let door = relay.address();
    let answer = ask(
        door,
        "POST /intake/?api_key=k HTTP/1.1\r\nHost: proxy-node:17123\r\nContent-Length: 5\r\n\
         Connection: keep-alive, X-Between\r\nX-Between: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authorization: Basic eA==\r\nTE: trailers\r\nX-End: 2\r\n\r\nhello",
    );
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.ends_with("taken"), "{answer}");
    let seen = witness.last();
    let lower = seen.to_ascii_lowercase();
    assert!(seen.starts_with("POST /stsAgent/intake/?api_key=k HTTP/1.1\r\n"), "{seen}");
    assert!(lower.contains(&format!("host: {}\r\n", witness.server.address)), "{seen}");
    assert!(lower.contains("x-end: 2") && lower.contains("via: 1.1 fanin"), "{seen}");
    for between in ["connection", "x-between", "keep-alive", "proxy-auth", "te:", "proxy-node"] {
        assert!(!lower.contains(between), "{between} got through: {seen}");
    }
    assert!(seen.ends_with("\r\n\r\nhello"), "{seen}");
    // Chunks come as chunks, framed anew.
    let answer = ask(
        door,
        "POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n\
         3;note=1\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n",
    );
    assert_eq!(status(&answer), "200", "{answer}");
    let seen = witness.last();
    assert!(seen.contains("transfer-encoding: chunked") && !seen.contains("X-Trailer"), "{seen}");
    assert!(seen.replace("\r\n", "").contains("abc") && !seen.contains("note"), "{seen}");
    let answer = ask(door, "GET /api/v1/validate?x=1 HTTP/1.0\r\n\r\n");
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(witness.last().starts_with("GET /stsAgent/api/v1/validate?x=1 HTTP/1.1\r\n"));
    assert!(witness.last().to_ascii_lowercase().contains("via: 1.0 fanin"));
}

/// What an attacker or a broken agent writes so that two readers read it in two ways.
#[test]
fn what_could_smuggle_is_refused_or_framed_anew_and_nothing_behind_it_is_a_request() {
    let witness = Witness::ok();
    let folder = Folder::new("door-smuggle");
    let relay =
        start(&folder, &file(&[witness.server.address], "body_max = \"1KiB\"", "path = \"/p\""));
    let door = relay.address();
    let behind = "GET /smuggled HTTP/1.1\r\nHost: d\r\n\r\n";
    for (head, expected) in [
        ("POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400"),
        ("POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: +3\r\n\r\nabc", "400"),
        ("POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
        ("POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "400"),
        ("POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST /x HTTP/1.1\r\nHost: d\r\nContent-Length : 3\r\n\r\nabc", "400"),
        ("POST /x HTTP/1.1\r\nHost: d\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n", "400"),
        ("GET /x HTTP/1.1\r\n\r\n", "400"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET /../x HTTP/1.1\r\nHost: d\r\n\r\n", "400"),
        ("GET /%2e%2e/x HTTP/1.1\r\nHost: d\r\n\r\n", "400"),
        ("GET /x HTTP/2.0\r\nHost: d\r\n\r\n", "400"),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", "405"),
        ("TRACE /x HTTP/1.1\r\nHost: d\r\n\r\n", "405"),
        ("POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 1025\r\n\r\n", "413"),
    ] {
        let answer = ask(door, &format!("{head}{behind}"));
        assert_eq!(status(&answer), expected, "{head}\n{answer}");
        assert!(!answer[9..].contains("HTTP/1.1 "), "two answers to {head}\n{answer}");
    }
    let long = format!("GET /x HTTP/1.1\r\nHost: d\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(status(&ask(door, &long)), "431");
    let many = format!("GET /x HTTP/1.1\r\nHost: d\r\n{}\r\n", "X: 1\r\n".repeat(100));
    assert_eq!(status(&ask(door, &many)), "431");
    assert_eq!(witness.seen.lock().unwrap().len(), 0, "{}", witness.last());
    // Length and chunks: one of chunks, by RFC 9112 section 6.3, and the last on its connection.
    let both = "POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = ask(door, &format!("{both}{behind}"));
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(!witness.last().to_ascii_lowercase().contains("content-length"), "{}", witness.last());
    // Chunks that grow beyond the limit reach the server cut, and never again.
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let answer = ask(
        door,
        &format!(
            "POST /long HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
        ),
    );
    assert_eq!(status(&answer), "413", "{answer}");
    let seen = witness.seen.lock().unwrap().join("\n");
    assert!(!seen.contains("smuggled") && !seen.contains("/long"), "{seen}");
}

/// G7 for requests: one that may have reached a server is not sent again, whatever becomes of it.
#[test]
fn a_server_that_dies_in_mid_answer_costs_its_request_and_no_other_gets_it() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let dying = |answer: &'static str| {
        let arrived = Arc::clone(&arrived);
        Server::new(move |mut stream| {
            if read_request(&mut stream).is_some() {
                arrived.fetch_add(1, SeqCst);
                let _ = stream.write_all(answer.as_bytes());
            }
        })
    };
    let silent = dying("");
    let half = dying("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of");
    for (server, expected) in [(&silent, "502"), (&half, "200")] {
        arrived.store(0, SeqCst);
        let folder = Folder::new("door-dying");
        let relay = start(&folder, &file(&[server.address, server.address], "", "retries = 3"));
        for number in 1..=10 {
            let answer = post(relay.address(), "/intake/", "once");
            assert_eq!(status(&answer), expected, "{answer}");
            assert_eq!(arrived.load(SeqCst), number, "{answer}");
        }
        await_that("all have ended", || relay.total("ended.server_gone") == 10);
    }
}

/// Kept connections that the server ends just as posts come: either the post went elsewhere in time, or
/// it is lost and said so. It never comes twice.
#[test]
fn a_server_that_closes_its_kept_connections_as_posts_come_gets_none_twice() {
    let witness = Witness::new(|_| ok("taken"), 2);
    let folder = Folder::new("door-closing");
    let relay = start(&folder, &file(&[witness.server.address], "", ""));
    let mut taken = 0;
    for number in 0..200 {
        let body = format!("post {number}.");
        let answer = post(relay.address(), "/intake/", &body);
        match status(&answer) {
            "200" => taken += 1,
            "502" => {}
            other => panic!("{other}: {answer}"),
        }
        let seen = witness.seen.lock().unwrap();
        assert!(seen.iter().filter(|request| request.ends_with(&body)).count() <= 1, "{body}");
    }
    assert!(taken >= 190, "{taken} of 200");
    assert!(relay.status()["servers"][0]["reuses"].as_u64().unwrap() >= 50);
}

#[test]
fn with_all_servers_down_status_and_posts_are_503_and_another_takes_over_while_one_is_up() {
    let witness = Witness::ok();
    let (gone, folder) = (peers::nobody(), Folder::new("door-down"));
    let relay = start(&folder, &file(&[gone, witness.server.address], "", ""));
    for _ in 0..20 {
        assert_eq!(status(&post(relay.address(), "/intake/", "x")), "200");
    }
    assert_eq!(witness.posts(), 20);
    drop(relay);
    let check = "[backend.intake.check]\ninterval = \"100ms\"\nfall = 1\nrise = 1\n";
    let mut relay = start(&folder, &file(&[gone], "", &format!("retries = 1\n{check}")));
    relay.await_line("server intake/s0 is down");
    let answer = post(relay.address(), "/intake/", "x");
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("was not sent"), "{answer}");
    let asked = "GET /status HTTP/1.1\r\nHost: d\r\n\r\n";
    assert_eq!(status(&ask(relay.address(), asked)), "503");
    let back = Server::on(TcpListener::bind(gone).unwrap(), |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(ok("back").as_bytes());
    });
    relay.await_line("server intake/s0 is up");
    assert_eq!(status(&ask(relay.address(), asked)), "200");
    assert_eq!(status(&post(relay.address(), "/intake/", "x")), "200");
    drop(back);
}

/// S6 for the door.
#[test]
fn two_thousand_clients_with_slow_heads_leave_others_unharmed_and_are_ended_in_time() {
    let witness = Witness::ok();
    let folder = Folder::new("door-slow");
    let relay = start(&folder, &file(&[witness.server.address], "", ""));
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..2000)
        .map(|_| {
            let mut stream = peers::connect(relay.address());
            stream.write_all(b"POST /intake/ HTTP/1.1\r\nHost: d\r\nX: ").unwrap();
            stream
        })
        .collect();
    let mut worst = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        assert_eq!(status(&post(relay.address(), "/intake/", "x")), "200");
        worst = worst.max(asked.elapsed());
        // A byte now and then buys none of them time.
        slow.iter_mut().step_by(20).for_each(|stream| drop(stream.write_all(b"x")));
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    await_that("they are ended", || relay.status()["listeners"][0]["connections"] == 0);
    assert!(began.elapsed() < Duration::from_secs(25));
    // By a reset, or its echo: nobody was answered.
    assert!(slow.iter_mut().all(|stream| !matches!(stream.read(&mut [0; 1]), Ok(1..))));
}

/// Posts without a pause, of which every one must arrive once and be answered.
fn posting(door: SocketAddr, stop: Arc<AtomicUsize>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut posted = 0;
        while stop.load(SeqCst) == 0 {
            let answer = post(door, "/intake/", &format!("number {posted}."));
            assert_eq!(status(&answer), "200", "post {posted}: {answer}");
            posted += 1;
        }
        posted
    })
}

#[test]
fn reloads_renewals_and_a_drain_lose_no_request() {
    let witness = Witness::ok();
    let folder = Folder::new("door-reload");
    let servers = [witness.server.address];
    let mut relay = start(&folder, &file(&servers, "", ""));
    let stop = Arc::new(AtomicUsize::new(0));
    let posting = posting(relay.address(), Arc::clone(&stop));
    for number in 1..=5 {
        folder.write("f.toml", &file(&servers, "", &format!("retries = {number}")));
        assert!(relay.ask("reload").status.success());
    }
    folder.write("f.toml", &file(&servers, "backlog = 100", ""));
    assert!(relay.ask("reload").status.success(), "another process on the same sockets");
    relay.await_line("renewed");
    let so_far = witness.posts();
    await_that("they go on", || witness.posts() > so_far + 20);
    stop.store(1, SeqCst);
    let posted = posting.join().unwrap();
    assert_eq!(witness.posts(), posted, "each once");
    // A kept connection gets the answer to the request that it sends while the door drains.
    let mut kept = peers::connect(relay.address());
    let request = b"GET /x HTTP/1.1\r\nHost: d\r\n\r\n";
    let mut reader = BufReader::new(kept.try_clone().unwrap());
    let mut ask = || {
        kept.write_all(request).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
        reader.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
        head
    };
    assert!(!ask().contains("connection: close"));
    relay.signal("TERM");
    await_that("an answer is the last on its connection", || ask().contains("connection: close"));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    assert!(relay.await_end().success());
}

#[test]
fn a_relay_process_that_dies_loses_no_listener_of_a_door() {
    let witness = Witness::ok();
    let folder = Folder::new("door-killed");
    let mut relay = start(&folder, &file(&[witness.server.address], "", ""));
    let door = relay.address();
    relay.signal("STOP");
    let mut waiting = peers::connect(door);
    relay.signal("KILL");
    relay.await_line("restarted");
    // Taken by nobody yet, or reset with the process that had taken it: the next one is served.
    let _ = waiting.write_all(b"GET /x HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&post(door, "/intake/", "x")), "200");
}

#[test]
fn limits_of_the_listener_hold_at_a_door() {
    let witness = Witness::ok();
    let folder = Folder::new("door-limits");
    let servers = [witness.server.address];
    let reset = |relay: &Relay| peers::exchange(relay.address(), b"GET /x HTTP/1.1\r\n").is_err();
    let relay = start(&folder, &file(&servers, "deny = [\"127.0.0.1\"]", ""));
    assert!(reset(&relay));
    let relay = start(&folder, &file(&servers, "per_source = { sessions = 1 }", ""));
    let held = peers::connect(relay.address());
    await_that("it is in", || relay.status()["listeners"][0]["connections"] == 1);
    assert!(reset(&relay));
    drop(held);
    let relay = start(&folder, &file(&servers, "maxconn = 1\nclient_idle = \"300ms\"", ""));
    let mut first = peers::connect(relay.address());
    first.write_all(b"GET /x HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    first.read_exact(&mut [0; 17]).unwrap();
    // The second waits until the first, which asks for nothing more, has been ended.
    assert_eq!(status(&post(relay.address(), "/intake/", "x")), "200");
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
}

#[test]
fn servers_that_speak_tls_are_verified_by_the_authority_that_is_named() {
    let folder = Folder::new("door-tls");
    certificates(&folder);
    let server = secure(&folder);
    let tls = |ca: &str, sni: &str| {
        let ca = folder.path(ca);
        let backend = format!("tls = {{ ca = \"{}\"{sni} }}\nretries = 1", ca.display());
        file(&[server.address], "", &backend)
    };
    let asked = "GET /answer HTTP/1.1\r\nHost: d\r\n\r\n";
    for sni in ["", ", sni = \"intake.example.com\""] {
        let relay = start(&folder, &tls("ca.pem", sni));
        for _ in 0..3 {
            let answer = ask(relay.address(), asked);
            assert!(status(&answer) == "200" && answer.ends_with("safe\n"), "{answer}");
        }
        // It ends each connection after its answer, so hands are shaken anew each time: in full once.
        let server = &relay.status()["servers"][0];
        let (full, resumed) = (&server["handshakes_full"], &server["handshakes_resumed"]);
        assert_eq!((full.as_u64(), resumed.as_u64()), (Some(1), Some(2)), "{server}");
    }
    for (ca, sni, why) in [
        ("other.pem", "", "no authority that is trusted here has signed it"),
        ("ca.pem", ", sni = \"other.example.com\"", "it is for another name"),
    ] {
        let mut relay = start(&folder, &tls(ca, sni));
        let answer = ask(relay.address(), asked);
        assert_eq!(status(&answer), "502", "{answer}");
        assert!(answer.contains("was not sent"), "{answer}");
        let line = relay.await_line("server intake/s0: TLS");
        assert!(line.contains(why), "{line}");
        relay.await_line("reason=tls_failed");
    }
    let missing = run(
        crate::support::relay::BINARY,
        &["run", "-c", folder.write("m.toml", &tls("none.pem", "")).to_str().unwrap()],
    );
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("none.pem"), "{}", text(&missing.stderr));
}

/// S14: a key that agents carry in their URLs, and credentials, are in no output.
#[test]
fn a_key_is_in_no_log_and_no_statistics() {
    const CANARY: &str = "c4n4ryc4n4ryc4n4ry";
    let witness = Witness::ok();
    let folder = Folder::new("door-canary");
    let stats = "[stats]\nbind = [\"127.0.0.1:0\"]\n";
    let mut relay = start(&folder, &format!("{stats}{}", file(&[witness.server.address], "", "")));
    let line = relay.await_line("statistics on ");
    let url = line.split("statistics on ").nth(1).unwrap().trim_end_matches('/').to_owned();
    for (path, header) in [
        (format!("/intake/?api_key={CANARY}"), format!("DD-Api-Key: {CANARY}")),
        (format!("/../?api_key={CANARY}"), format!("Authorization: Basic {CANARY}")),
        (format!("/status?threshold={CANARY}"), format!("X: {CANARY}")),
    ] {
        let answer = ask(
            relay.address(),
            &format!(
                "GET {path} HTTP/1.1\r\nHost: d\r\n{header}\r\nProxy-Authorization: {CANARY}\r\n\r\n"
            ),
        );
        assert!(!answer.contains(CANARY), "{answer}");
    }
    assert!(witness.last().contains(CANARY), "the server needs it");
    relay.await_line("path=/intake/");
    relay.await_line("reason=bad_request");
    let get =
        |path: &str| run_well("curl", &["--silent", "--max-time", "10", &format!("{url}{path}")]);
    let mut outputs = vec![relay.log(), relay.status().to_string()];
    outputs.push(text(&relay.ask("status").stdout));
    outputs.push(text(&relay.ask("ends").stdout));
    outputs.extend(["/metrics", "/;csv", "/api/v1/status", "/"].map(get));
    for output in outputs {
        assert!(output.len() > 20 && !output.contains(CANARY), "{output}");
    }
}

#[test]
fn statistics_count_requests_where_they_count_sessions_and_connections_beside_them() {
    let witness = Witness::ok();
    let folder = Folder::new("door-counts");
    let stats = "[stats]\nbind = [\"127.0.0.1:0\"]\n";
    let mut relay = start(&folder, &format!("{stats}{}", file(&[witness.server.address], "", "")));
    let line = relay.await_line("statistics on ");
    let url = line.split("statistics on ").nth(1).unwrap().trim_end_matches('/').to_owned();
    for _ in 0..10 {
        assert_eq!(status(&post(relay.address(), "/intake/", "12345")), "200");
    }
    ask(relay.address(), "GET /status HTTP/1.1\r\nHost: d\r\n\r\n");
    ask(relay.address(), "GET /../ HTTP/1.1\r\nHost: d\r\n\r\n");
    await_that("all have ended", || relay.total("ended.completed") == 10);
    let csv = cli(relay.control(), "show stat");
    let cells = cells(&csv);
    for (cell, expected) in [
        ("door/FRONTEND mode", "http"),
        ("door/FRONTEND stot", "11"),
        ("door/FRONTEND req_tot", "11"),
        ("door/FRONTEND hrsp_2xx", "10"),
        ("door/FRONTEND hrsp_4xx", "1"),
        ("door/FRONTEND ereq", "1"),
        ("door/FRONTEND intercepted", "1"),
        ("door/FRONTEND bin", "50"),
        ("intake/s0 stot", "10"),
        ("intake/s0 reuse", "9"),
        ("intake/s0 connect", "1"),
        ("intake/BACKEND mode", "http"),
    ] {
        assert_eq!(cells[cell], expected, "{cell}\n{csv}");
    }
    let metrics = await_some("metrics", || {
        Some(run_well("curl", &["--silent", "--max-time", "10", &format!("{url}/metrics")]))
    });
    for line in [
        "fanin_door_answers_total{listener=\"door\",class=\"2xx\"} 10",
        "fanin_door_status_answers_total{listener=\"door\"} 1",
        "fanin_listener_sessions_total{listener=\"door\"} 11",
        "fanin_server_reuses_total{backend=\"intake\",server=\"s0\"} 9",
        "fanin_server_handshakes_total{backend=\"intake\",server=\"s0\",result=\"full\"} 0",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line}\n{metrics}");
    }
    let shown = text(&relay.ask("status").stdout);
    assert!(
        shown.lines().any(|line| line.starts_with("door ") && line.contains(" 11 ")),
        "{shown}"
    );
}
