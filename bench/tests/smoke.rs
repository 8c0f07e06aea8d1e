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

#[test]
fn an_unknown_key_in_a_scenario_is_named() {
    let (well, said, _) = run("wrong", &format!("{SCENARIO}speed = 3\n"), &["direct"]);
    assert!(!well && said.contains("speed"), "{said}");
}
