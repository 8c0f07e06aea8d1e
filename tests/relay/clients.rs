//! Clients that people use, through either engine and any splice mode.

use std::process::{Command, Stdio};

use crate::support::relay::Relay;
use crate::support::{await_some, await_that, peers, run, run_well, text};

const GIB: u64 = 1 << 30;

fn curl_gets_what_the_server_sent(engine: &str, splice: &str) {
    let server = peers::http();
    let relay = Relay::between(&[server.address], &["--engine", engine, "--splice", splice]);
    let url = format!("http://{}/", relay.address());
    assert_eq!(run_well("curl", &["-sS", "--max-time", "10", &url]), "hello");
    let posted = "x".repeat(100_000);
    let arguments = ["-sS", "--max-time", "10", "--data-binary", &posted, &url];
    assert_eq!(run_well("curl", &arguments), "hello");
}

fn a_file_of_one_gib_arrives_with_the_same_checksum(engine: &str, splice: &str) {
    let server = peers::http();
    let relay = Relay::between(&[server.address], &["--engine", engine, "--splice", splice]);
    let sum = |address: std::net::SocketAddr| {
        let fetch = format!(
            "set -o pipefail; curl -sS --max-time 120 http://{address}/bytes/{GIB} | cksum"
        );
        run_well("bash", &["-c", &fetch])
    };
    assert_eq!(sum(relay.address()), sum(server.address));
    // What was moved is counted by path, to the byte, when the session has ended.
    await_that("the session ends", || relay.sessions() == 0);
    let bytes = &relay.status()["total"]["bytes_to_client"];
    let (copied, spliced) = (bytes["copied"].as_u64().unwrap(), bytes["spliced"].as_u64().unwrap());
    assert!(copied + spliced > GIB && copied + spliced < GIB + 4096, "{bytes}");
    let share = spliced as f64 / (copied + spliced) as f64;
    match splice {
        "always" => assert!(share > 0.99, "spliced {share}"),
        "auto" => assert!(share > 0.95, "spliced {share}"),
        _ => assert_eq!(spliced, 0),
    }
}

fn wrk_sees_no_error(engine: &str, splice: &str) {
    let server = peers::http();
    let relay = Relay::between(&[server.address], &["--engine", engine, "--splice", splice]);
    let url = format!("http://{}/", relay.address());
    let out = run_well("wrk", &["-t2", "-c50", "-d2s", &url]);
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    let requests = out.lines().find(|line| line.contains("requests in")).unwrap();
    let count: u64 = requests.split_whitespace().next().unwrap().parse().unwrap();
    assert!(count > 1000, "{out}");
}

fn iperf3_runs_in_every_direction(engine: &str, splice: &str) {
    let port = peers::nobody().port();
    let mut server = Command::new("iperf3")
        .args(["-s", "-B", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    await_that("iperf3 listens", || std::net::TcpStream::connect(address).is_ok());
    let relay = Relay::between(&[address], &["--engine", engine, "--splice", splice]);
    let (host, port) = (relay.address().ip().to_string(), relay.address().port().to_string());
    for direction in [&[][..], &["-R"], &["--bidir"]] {
        let mut arguments = vec!["-c", &host, "-p", &port, "-t", "1", "-P", "2"];
        arguments.extend(direction);
        // A server that is just ending the test before answers "busy".
        await_some("iperf3 runs", || {
            let output = run("iperf3", &arguments);
            let out = text(&output.stdout) + &text(&output.stderr);
            let busy = out.contains("busy") || out.contains("unable to");
            assert!(output.status.success() || busy, "{direction:?}: {out}");
            output.status.success().then_some(())
        });
    }
    let _ = server.kill();
    let _ = server.wait();
}

macro_rules! in_every_mode {
    ($($mode:ident: $engine:literal, $splice:literal;)*) => { $(
        mod $mode {
            #[test]
            fn curl_gets_what_the_server_sent() {
                super::curl_gets_what_the_server_sent($engine, $splice);
            }

            #[test]
            fn a_file_of_one_gib_arrives_with_the_same_checksum() {
                super::a_file_of_one_gib_arrives_with_the_same_checksum($engine, $splice);
            }

            #[test]
            fn wrk_sees_no_error() {
                super::wrk_sees_no_error($engine, $splice);
            }

            #[test]
            fn iperf3_runs_in_every_direction() {
                super::iperf3_runs_in_every_direction($engine, $splice);
            }
        }
    )* };
}

in_every_mode! {
    epoll_auto: "epoll", "auto";
    epoll_always: "epoll", "always";
    epoll_never: "epoll", "never";
    io_uring_auto: "io_uring", "auto";
    io_uring_always: "io_uring", "always";
    io_uring_never: "io_uring", "never";
}

/// Over kept connections an exchange costs the ring engine nothing but `io_uring_enter`. Twice a second one
/// poll(2) asks for those who may have been reset unheard.
#[test]
fn the_copying_ring_makes_no_other_call_for_an_exchange() {
    use std::io::{Read as _, Write as _};
    let server = peers::echo();
    let arguments = ["--engine", "io_uring", "--splice", "never", "--workers", "1"];
    let relay = Relay::between(&[server.address], &arguments);
    let mut clients: Vec<_> = (0..1000).map(|_| peers::connect(relay.address())).collect();
    let mut exchange = || {
        for client in &mut clients {
            client.write_all(b"ping").unwrap();
        }
        for client in &mut clients {
            client.read_exact(&mut [0; 4]).unwrap();
        }
    };
    exchange();
    let folder = crate::support::Folder::new("strace");
    let trace = folder.path("trace");
    let worker = &relay.workers()[0];
    let mut strace = Command::new("strace")
        .args(["-q", "-c", "-o", trace.to_str().unwrap(), "-p", &worker.id()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    await_that("strace is attached", || worker.is_traced());
    for _ in 0..5 {
        exchange();
    }
    run_well("kill", &["-INT", &strace.id().to_string()]);
    strace.wait().unwrap();
    let summary = std::fs::read_to_string(&trace).unwrap();
    let calls: Vec<_> = summary
        .lines()
        .skip_while(|line| !line.starts_with("---"))
        .skip(1)
        .take_while(|line| !line.starts_with("---"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.last() != Some(&"io_uring_enter"))
        .collect();
    let few = |columns: &Vec<&str>| {
        columns.last() == Some(&"poll") && columns[3].parse::<u32>().unwrap() < 100
    };
    assert!(summary.contains("io_uring_enter") && calls.iter().all(few), "{summary}");
}
