//! What the package brings beside the binaries, judged by the programs that it is for: systemd,
//! Prometheus, keepalived, bird.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Runs a program at the root of the repository, with Debian's folders for administrators.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new(program).args(arguments).env("PATH", path).current_dir(root()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"))
}

#[track_caller]
fn run_well(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}:\n{}", text(&output));
    text(&output)
}

/// The words of a text that are names of our metrics.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("fanin_")).map(str::to_owned).collect()
}

/// The names of docs/METRICS.md, which a test of the relay compares with what it exports. A histogram
/// has three series.
fn exported() -> BTreeSet<String> {
    let document = read("docs/METRICS.md");
    let mut names = BTreeSet::new();
    for row in document.lines().filter(|line| line.starts_with("| `fanin_")) {
        let name = row.split('`').nth(1).unwrap();
        if row.contains("histogram:") {
            names.extend(["bucket", "count", "sum"].map(|series| format!("{name}_{series}")));
        } else {
            names.insert(name.to_owned());
        }
    }
    assert!(names.len() > 40, "the table was not found");
    names
}

#[test]
fn dashboard_and_alerts_use_only_metrics_that_are_exported() {
    let exported = exported();
    for file in ["grafana.json", "alerts.yml", "alerts-test.yml"] {
        let used = metrics(&read(&format!("docs/examples/{file}")));
        assert!(used.len() > 20, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&exported).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn every_metric_is_on_the_dashboard_or_said_not_to_be() {
    // What a person looks up when one of the others is odd.
    let elsewhere = [
        "fanin_agents_forgotten_total",
        "fanin_backend_queue_sessions_max",
        "fanin_build_info",
        "fanin_bytes_discarded_total",
        "fanin_connect_attempts_total",
        "fanin_listener_accepting",
        "fanin_listener_bytes_total",
        "fanin_listener_named_total",
        "fanin_listener_sessions_total",
        "fanin_sandbox_part",
        "fanin_server_check_downs_total",
        "fanin_server_sessions_total",
        "fanin_server_weight",
        "fanin_worker_accepted_total",
        "fanin_worker_info",
        "fanin_worker_turn_seconds_bucket",
    ];
    let shown = metrics(&read("docs/examples/grafana.json"));
    let missing: Vec<_> = exported()
        .into_iter()
        .filter(|name| !name.ends_with("_count") && !name.ends_with("_sum"))
        .filter(|name| !shown.contains(name) && !elsewhere.contains(&name.as_str()))
        .collect();
    let what_to_do = "put them on docs/examples/grafana.json, or into the list of this test";
    assert!(missing.is_empty(), "{what_to_do}: {missing:?}");
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("docs/examples/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut places = BTreeSet::new();
    for panel in panels {
        let place = &panel["gridPos"];
        assert!(places.insert((place["y"].as_u64(), place["x"].as_u64())), "{panel}");
        let targets = panel["targets"].as_array().map_or(0, Vec::len);
        assert!(panel["type"] == "row" || targets > 0, "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            // What Grafana puts in stands here for it; promtool says whether it is PromQL.
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "1m").replace("$job", "fanin");
            let rule = format!(
                "groups: [{{name: g, rules: [{{record: r, expr: {}}}]}}]",
                serde_json::to_string(&query).unwrap()
            );
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("query.yml");
            fs::write(&file, rule).unwrap();
            run_well("promtool", &["check", "rules", file.to_str().unwrap()]);
        }
    }
}

/// promtool compares with what each alert says of itself, so its words are looked at too.
#[test]
fn each_alert_fires_once_and_none_for_a_relay_that_is_well() {
    let names = |text: &str, mark: &str| -> BTreeSet<String> {
        let name = |line: &str| Some(line.split_once(mark)?.1.split([',', ' ']).next()?.to_owned());
        text.lines().filter_map(name).collect()
    };
    let alerts = names(&read("docs/examples/alerts.yml"), "- alert: ");
    let tests = read("docs/examples/alerts-test.yml");
    let (fired, well) = tests.split_once("# A relay that is well.").unwrap();
    assert!(alerts.len() > 15, "the alerts were not found");
    for tested in [fired, well] {
        assert_eq!(names(tested, "alertname: "), alerts);
    }
    assert!(!fired.contains("exp_alerts: []"), "an alert that is not fired");
    run_well("promtool", &["test", "rules", "docs/examples/alerts-test.yml"]);
}

/// 1.5 of 10 or less; what is left is a relay's business (Internet sockets, the host's network).
#[test]
fn the_unit_is_confined_as_systemd_judges_it() {
    let unit = "scripts/packaging/fanin.service";
    run_well("systemd-analyze", &["security", "--offline=true", "--threshold=15", unit]);
    // It is read without a complaint: the binary and the pages are not installed here.
    let output = text(&run("systemd-analyze", &["verify", unit]));
    let complaints: Vec<_> = output
        .lines()
        .filter(|line| {
            !line.contains("/usr/bin/fanin is not executable") && !line.contains("'man ")
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// What both engines and the parent do, by the names of systemd's own table.
#[test]
fn the_unit_allows_the_calls_that_the_relay_makes() {
    let unit = read("scripts/packaging/fanin.service");
    let lists = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let mut allowed = BTreeSet::new();
    for list in lists {
        let (taken, list) = list.strip_prefix('~').map_or((false, list), |rest| (true, rest));
        for call in list.split(' ').flat_map(calls) {
            if taken {
                allowed.remove(&call)
            } else {
                allowed.insert(call)
            };
        }
    }
    for call in [
        "accept4",
        "bind",
        "clone3",
        "close_range",
        "connect",
        "epoll_pwait2",
        "eventfd2",
        "execve",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "listen",
        "memfd_create",
        "pipe2",
        "prlimit64",
        "recvmsg",
        "sched_setaffinity",
        "seccomp",
        "sendmsg",
        "setsockopt",
        "signalfd4",
        "splice",
        "vmsplice",
        "landlock_restrict_self",
        "capset",
    ] {
        assert!(allowed.contains(call), "{call}");
    }
    for call in ["setuid", "mount", "ptrace", "bpf", "init_module", "keyctl", "chroot", "reboot"] {
        assert!(!allowed.contains(call), "{call}");
    }
}

/// The calls that a word of a filter stands for.
fn calls(word: &str) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let listed = run_well("systemd-analyze", &["syscall-filter", word]);
    let inner = listed.lines().skip(1).map(str::trim).filter(|line| !line.is_empty());
    inner.filter(|line| !line.starts_with('#')).flat_map(calls).collect()
}

#[test]
fn the_examples_are_understood_by_what_they_are_for() {
    // keepalived 2.2.7 ends itself in its test (a mistaken look at its parent) where scripts run as
    // somebody else than itself.
    let keepalived = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keepalived.conf");
    let example = read("docs/examples/keepalived.conf");
    fs::write(&keepalived, example.replace("script_user nobody", "script_user root")).unwrap();
    run_well("keepalived", &["--config-test", "--use-file", keepalived.to_str().unwrap()]);
    run_well("bird", &["-p", "-c", "docs/examples/bird.conf"]);
    let unit = text(&run("systemd-analyze", &["verify", "docs/examples/fanin-announce.service"]));
    let complaints: Vec<_> = unit.lines().filter(|line| line.contains("Unknown")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// What DEPLOY.md says to write into prometheus.yml, with the alerts where they lie here.
#[test]
fn prometheus_takes_the_lines_of_the_document() {
    let document = read("docs/DEPLOY.md");
    let lines =
        document.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(lines.contains("scrape_configs"), "{lines}");
    let (there, here) =
        ("/etc/prometheus/fanin-alerts.yml", root().join("docs/examples/alerts.yml"));
    assert!(lines.contains(there), "{lines}");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus.yml");
    fs::write(&file, lines.replace(there, here.to_str().unwrap())).unwrap();
    let said = run_well("promtool", &["check", "config", file.to_str().unwrap()]);
    assert!(said.contains("rules found"), "the alerts were not read: {said}");
}

#[test]
fn the_example_of_a_zone_is_one() {
    let zones =
        fs::read_dir(root().join("docs/examples")).unwrap().map(|entry| entry.unwrap().path());
    let zones: Vec<_> =
        zones.filter(|path| path.extension().is_some_and(|end| end == "zone")).collect();
    assert!(!zones.is_empty());
    for zone in zones {
        let arguments = ["example.com", zone.to_str().unwrap()];
        match Command::new("named-checkzone").args(arguments).output() {
            Err(error) => {
                eprintln!("SKIPPED: named-checkzone: {error}; apt-get install bind9-utils")
            }
            Ok(output) => {
                let said = text(&output);
                // What is out of its zone is left out with a word, and no failure.
                assert!(output.status.success() && !said.contains("ignoring"), "{said}");
            }
        }
    }
}

#[test]
fn the_example_configuration_is_valid_and_needs_no_capability() {
    let file = "scripts/packaging/fanin.toml";
    let printed = run_well(env!("CARGO_BIN_EXE_fanin"), &["check", "-c", file, "--print"]);
    let config: toml::Table = printed.parse().unwrap();
    let of_listeners = config["listener"].as_array().unwrap().iter().map(|one| &one["bind"]);
    let binds = of_listeners.chain([&config["stats"]["bind"]]);
    for bind in binds.flat_map(|bind| bind.as_array().unwrap()) {
        let address: std::net::SocketAddr = bind.as_str().unwrap().parse().unwrap();
        assert!(address.port() >= 1024, "{address} needs CAP_NET_BIND_SERVICE, the unit has none");
    }
}

/// The example says what tune-host would do.
#[test]
fn the_example_of_sysctls_is_what_tune_host_writes() {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sysctl-example");
    let _ = fs::remove_dir_all(&tree);
    let example = read("docs/examples/90-fanin.conf");
    let wanted: BTreeSet<&str> = example.lines().filter(|line| !line.starts_with('#')).collect();
    for line in &wanted {
        let key = line.split(' ').next().unwrap();
        let path = tree.join("proc/sys").join(key.replace('.', "/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Neither enough of what is raised, nor 0, which is enough of what is lowered.
        fs::write(path, if key.ends_with("migrate_req") { "0" } else { "1" }).unwrap();
    }
    let tree_name = tree.to_str().unwrap();
    run_well("scripts/tune-host", &["--agents", "5000", "--root", tree_name]);
    let written = fs::read_to_string(tree.join("etc/sysctl.d/90-fanin.conf")).unwrap();
    let written: BTreeSet<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(written, wanted);
}

/// Everything that the package is said to bring is there, and everything that lies ready is brought.
#[test]
fn the_package_brings_what_lies_ready_for_it() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets: Vec<_> =
        deb["assets"].as_array().unwrap().iter().map(|asset| asset[0].as_str().unwrap()).collect();
    for asset in assets.iter().filter(|asset| !asset.starts_with("target/")) {
        let path = root().join(asset.trim_end_matches("*.md").trim_end_matches('*'));
        assert!(path.exists(), "{asset}");
    }
    let ready: Vec<PathBuf> = fs::read_dir(root().join("scripts/packaging"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    assert!(ready.len() > 4, "{ready:?}");
    for path in ready {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        assert!(assets.contains(&name) || name.ends_with("inside"), "{name} is not in the package");
    }
    for script in ["postinst", "prerm", "postrm"] {
        let script = format!("scripts/packaging/debian/{script}");
        run_well("sh", &["-n", &script]);
    }
}
