//! `fanin doctor` on the host that the tests run on, whatever that is like; `fanin plan` on paper.

use std::process::Command;

use crate::support::relay::BINARY;
use crate::support::{run, text};

#[test]
fn ten_agents_are_no_trouble_and_a_million_are_stopped_with_the_cure() {
    let few = run(BINARY, &["doctor", "--agents", "10"]);
    let said = text(&few.stdout);
    assert!(few.status.success(), "{said}");
    assert!(said.ends_with("nothing stops 10 agents on this host\n"), "{said}");

    let mut command = Command::new("prlimit");
    command.args(["--nofile=512:512", BINARY, "doctor", "--agents", "1000000", "--json"]);
    let many = command.output().unwrap();
    assert_eq!(many.status.code(), Some(1));
    let diagnosis: serde_json::Value = serde_json::from_slice(&many.stdout).unwrap();
    assert_eq!((&diagnosis["ok"], &diagnosis["agents"]), (&false.into(), &1_000_000.into()));
    let findings = diagnosis["findings"].as_array().unwrap();
    let descriptors = findings.iter().find(|one| one["topic"] == "descriptors").unwrap();
    assert_eq!(descriptors["severity"], "stops");
    assert!(descriptors["cure"].as_str().unwrap().contains("LimitNOFILE="), "{descriptors}");
}

#[test]
fn a_file_that_is_wrong_is_said_to_be() {
    let output = run(BINARY, &["doctor", "-c", "/no/such/fanin.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("/no/such/fanin.toml"));
}

#[test]
fn what_agents_take_is_told_and_a_measurement_of_others_refused() {
    let plan = run(BINARY, &["plan", "--agents", "40000", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!((&said["relays"], &said["sources_wanted"]), (&3.into(), &2.into()), "{said}");

    let file = std::env::temp_dir().join(format!("fanin-measured-{}.json", std::process::id()));
    let go = r#"{"schema":"loadgen-find-max/1","profile":"go-keepalive","trials":[
        {"verdict":"passed","relay_us_per_exchange":50.0}]}"#;
    std::fs::write(&file, go).unwrap();
    let path = file.to_str().unwrap();
    let measured = run(BINARY, &["plan", "--agents", "40000", "--measured", path]);
    let other =
        run(BINARY, &["plan", "--agents", "1", "--measured", path, "--profile", "v5-churn"]);
    std::fs::remove_file(&file).unwrap();
    let said = text(&measured.stdout);
    assert!(
        said.contains("go-keepalive") && said.contains("50 us a report (as measured)"),
        "{said}"
    );
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other.stderr).contains("leave --profile away"));
}
