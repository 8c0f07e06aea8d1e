//! The whole way once: servers, the relay, load, report. On epoll only, some seconds.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The window is longer than the work needs: beside other work on both processors a relay on one of
/// them may have hardly a turn in 300 ms.
const SCENARIO: &str = "\
title = \"a few exchanges\"
[work]
kind = \"saturated\"
connections = 8
request_bytes = 4096
response_bytes = 200
warmup_ms = 200
window_ms = 1500
";

/// `cargo test -p bench` builds only bench: builds the relay beside it, as `cargo build` does.
fn fanin() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "fanin", "--bin", "fanin"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo");
    assert!(status.success(), "the relay does not build");
    Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("fanin")
}

fn run(scenario: &str, text: &str, subjects: &[&str]) -> (bool, String, Value) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{scenario}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join(format!("{scenario}.toml"));
    std::fs::write(&file, text).expect("a scenario");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("run")
        .arg(&file)
        .args(["--rounds", "1", "--only"])
        .args(subjects)
        .arg("--fanin")
        .arg(fanin())
        .arg("--out")
        .arg(&folder)
        .output()
        .expect("bench");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let json = std::fs::read_to_string(folder.join(format!("{scenario}.json")));
    let json = json.map_or(Value::Null, |text| serde_json::from_str(&text).expect("JSON"));
    (output.status.success(), said, json)
}

#[test]
fn a_tiny_scenario_is_measured_and_reported() {
    let (well, said, json) = run("tiny", SCENARIO, &["direct", "fanin-epoll-auto"]);
    assert!(well, "{said}");
    let subjects = json["subjects"].as_array().expect("subjects");
    assert_eq!(subjects.len(), 2, "{said}");
    for subject in subjects {
        let outcome = &subject["rounds"][0]["outcome"];
        assert!(outcome["exchanges"].as_u64() > Some(0), "{outcome}");
        assert_eq!(outcome["failures"], 0, "{outcome}");
        assert!(outcome["latency_us"]["p50"].as_f64() > Some(0.0), "{outcome}");
    }
    let relay = &subjects[1];
    assert!(relay["figures"]["relay_cpu"]["median"].as_f64() > Some(0.0), "{relay}");
    assert!(relay["path_to_direct"]["median"].as_f64() > Some(0.0), "{relay}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-tiny");
    let chart = std::fs::read_to_string(folder.join("tiny.svg")).expect("a chart");
    assert!(chart.contains("fanin-epoll-auto") && chart.ends_with("</svg>\n"), "{chart}");
}

#[test]
fn bulk_streams_flow_both_ways() {
    let text = "title = \"streams\"\n[work]\nkind = \"bulk-both\"\nconnections = 2\n\
                warmup_ms = 50\nwindow_ms = 200\n";
    let (well, said, json) = run("streams", text, &["fanin-epoll-auto"]);
    assert!(well, "{said}");
    let outcome = &json["subjects"][0]["rounds"][0]["outcome"];
    assert!(outcome["bytes"].as_u64() > Some(0), "{outcome}");
    assert_eq!(outcome["failures"], 0, "{outcome}");
}

fn outcome<'a>(json: &'a Value, subject: &str) -> &'a Value {
    let subjects = json["subjects"].as_array().expect("subjects");
    let found = subjects.iter().find(|found| found["name"] == subject).expect("the subject");
    &found["rounds"][0]["outcome"]
}

#[test]
fn all_come_again_after_an_outage_and_the_shares_of_workers_are_told() {
    let text = "title = \"an outage\"\n[work]\nkind = \"storm\"\nconnections = 40\n\
                request_bytes = 200\nresponse_bytes = 200\nwarmup_ms = 100\nwindow_ms = 10000\n\
                [variants.two.global]\nworkers = 2\n";
    let (well, said, json) = run("outage", text, &["fanin-epoll-auto+two"]);
    assert!(well, "{said}");
    let outcome = outcome(&json, "fanin-epoll-auto+two");
    assert!(outcome["recovered_s"].as_f64() > Some(0.0), "{said}");
    assert_eq!((&outcome["sessions"], &outcome["failures"]), (&40.into(), &0.into()), "{outcome}");
    let accepted = outcome["accepted_by_worker"].as_array().expect("workers");
    let sum: u64 = accepted.iter().filter_map(Value::as_u64).sum();
    // The connections before and after, and the one that asked whether the relay listens.
    assert_eq!((accepted.len(), sum), (2, 81), "{outcome}");
}

#[test]
fn a_web_proxy_is_asked_for_tunnels_and_for_posts() {
    for kind in ["tunnel", "forward"] {
        let text = format!(
            "title = \"a proxy\"\n[work]\nkind = \"{kind}\"\nconnections = 4\n\
             request_bytes = 4096\nresponse_bytes = 200\nwarmup_ms = 100\nwindow_ms = 1000\n"
        );
        let (well, said, json) = run(kind, &text, &["fanin-proxy-epoll"]);
        assert!(well, "{said}");
        let outcome = outcome(&json, "fanin-proxy-epoll");
        assert!(outcome["exchanges"].as_u64() > Some(10), "{outcome}");
        assert_eq!(outcome["failures"], 0, "{outcome}");
    }
}

#[test]
fn packets_of_a_link_wait_for_its_round_trip() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let text = "title = \"far\"\n[work]\nkind = \"churn\"\nconnections = 2\nrequest_bytes = 200\n\
                response_bytes = 200\nwarmup_ms = 100\nwindow_ms = 1000\n\
                [link]\nround_trip_ms = 20\n";
    let (well, said, json) = run("far", text, &["direct"]);
    assert!(well, "{said}");
    let p50 = outcome(&json, "direct")["latency_us"]["p50"].as_f64();
    // One round trip for the connection and one for the exchange.
    assert!(p50 >= Some(40_000.0), "{said}");
}

#[test]
fn instructions_that_grew_are_named() {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions.toml");
    let counts =
        "compiler = \"another\"\n[counts.fanin-epoll-auto]\nexchange = 1\nconnection = 1\n";
    std::fs::write(&kept, counts).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["instructions", "--only", "fanin-epoll-auto", "--check", "--fanin"])
        .arg(fanin())
        .arg("--kept")
        .arg(&kept)
        .output()
        .expect("bench");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!output.status.success() && said.contains("one exchange takes"), "{said}");
    assert!(said.contains("one connection takes") && said.contains("another"), "{said}");
}

#[test]
fn an_unknown_key_in_a_scenario_is_named() {
    let (well, said, _) = run("wrong", &format!("{SCENARIO}speed = 3\n"), &["direct"]);
    assert!(!well && said.contains("speed"), "{said}");
}
