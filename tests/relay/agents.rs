//! Simulated agents, by the program that operators use.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_some, await_that};

/// The generator, which `scripts/test` builds beside the relay.
fn loadgen() -> PathBuf {
    let path = Path::new(BINARY).with_file_name("loadgen");
    assert!(path.exists(), "{}: run `cargo build --workspace` first", path.display());
    path
}

/// A `loadgen sink` process: an upstream server that checks every body.
struct Sink {
    child: Child,
    address: SocketAddr,
}

impl Sink {
    fn start() -> Self {
        let mut child = Command::new(loadgen())
            .args(["sink", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = |line: std::io::Result<String>| {
            line.unwrap().split_whitespace().find_map(|word| word.parse().ok())
        };
        let address = lines.into_iter().find_map(address).unwrap();
        Self { child, address }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killing_one_of_three_servers_costs_agents_only_what_was_in_flight() {
    for engine in ["epoll", "io_uring"] {
        let mut sinks: Vec<_> = (0..3).map(|_| Sink::start()).collect();
        let servers: Vec<_> = sinks.iter().map(|sink| sink.address).collect();
        let relay = Relay::between(&servers, &["--engine", engine]);
        let folder = Folder::new("agents");
        let report = folder.path("report.json");
        let target = relay.address().to_string();
        let mut load = Command::new(loadgen())
            .args(["--agents", "500", "--speedup", "5", "--ramp", "1s", "--duration", "5s"])
            .args(["--target", &target, "--json", report.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let established = || relay.status()["servers"][1]["sessions_total"].as_u64().unwrap();
        await_that("the second server is in use", || established() > 200);
        let victim = &mut sinks[1].child;
        victim.kill().unwrap();
        victim.wait().unwrap();
        await_some("the load ends", || load.try_wait().unwrap());
        let report: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
        let errors = &report["errors"];
        let count = |kind: &str| errors[kind].as_u64().unwrap_or(0);
        let cut = count("io.reset") + count("io.eof_early") + count("io.broken_pipe");
        let all: u64 = errors.as_object().unwrap().values().filter_map(|n| n.as_u64()).sum();
        assert_eq!(all, cut, "{engine}: other errors than cut exchanges: {errors}");
        assert!(cut <= 20, "{engine}: {cut} exchanges were cut: {errors}");
        let answered = report["achieved"]["window"]["answered"].as_u64().unwrap();
        assert!(answered > 1000, "{engine}: {answered} answered");
    }
}

#[test]
fn the_claim_is_judged_as_it_comes_and_within_a_budget_beside_haproxy() {
    let folder = Folder::new("claim");
    let judgement = folder.path("claim.json");
    let output = Command::new(loadgen())
        .args(["claim", "--agents", "200", "--ramp", "0s", "--duration", "3s", "--peer", "haproxy"])
        .args(["--fanin", BINARY, "--json", judgement.to_str().unwrap()])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = std::fs::read_to_string(&judgement).unwrap_or_else(|error| {
        panic!("{error}: {words}{}", String::from_utf8_lossy(&output.stderr))
    });
    let judgement: serde_json::Value = serde_json::from_str(&text).unwrap();
    let runs = judgement["runs"].as_array().unwrap();
    let of = |run: &serde_json::Value| {
        (run["relay"].as_str().unwrap().to_owned(), run["within_budget"].as_bool().unwrap())
    };
    let expected = [("fanin", false), ("haproxy", false), ("fanin", true), ("haproxy", true)];
    assert_eq!(
        runs.iter().map(of).collect::<Vec<_>>(),
        expected.map(|(relay, within)| (relay.to_owned(), within))
    );
    for run in runs {
        assert!(run["rate"].as_f64().unwrap() > 20.0 && run["failed"] == 0, "{run}");
        let why: Vec<_> = run["why_not"].as_array().unwrap().iter().collect();
        assert!(why.iter().any(|why| **why == "only 200 agents were asked for"), "{why:?}");
    }
    // Too few agents to show anything.
    assert!(matches!(output.status.code(), Some(98 | 99)), "{words}");
    assert!(words.contains("converted, not measured"), "{words}");
}
