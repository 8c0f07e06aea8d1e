//! The scripts that operators run, on a tree of their own: nothing of the host is touched.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const KEYS: [(&str, &str); 8] = [
    ("net.core.somaxconn", "4096"),
    ("net.ipv4.tcp_max_syn_backlog", "2048"),
    ("net.core.netdev_max_backlog", "1000"),
    ("net.ipv4.tcp_migrate_req", "0"),
    ("net.ipv4.tcp_slow_start_after_idle", "1"),
    ("fs.nr_open", "1048576"),
    ("fs.file-max", "9223372036854775807"),
    ("fs.pipe-user-pages-soft", "16384"),
];

/// A host as the kernel sets it up: without connection tracking.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        let host = Self { root };
        for (key, value) in KEYS {
            let path = host.path(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        host
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join("proc/sys").join(key.replace('.', "/"))
    }

    fn drop_in(&self) -> PathBuf {
        self.root.join("etc/sysctl.d/90-fanin.conf")
    }

    fn values(&self) -> Vec<String> {
        let read = |(key, _)| fs::read_to_string(self.path(key)).unwrap().trim().to_owned();
        KEYS.into_iter().map(read).collect()
    }

    fn tune(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/tune-host");
        let mut command = Command::new(script);
        command.arg("--root").arg(&self.root).args(arguments).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn defaults() -> Vec<String> {
    KEYS.into_iter().map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn tune_host_shows_what_it_would_change_and_changes_nothing() {
    let host = Host::new("tune-dry");
    let output = host.tune(&["--agents", "5000", "--dry-run"]);
    assert!(output.status.success(), "{}", text(&output));
    for expected in [
        "net.core.somaxconn: 4096 -> 8192",
        "all 5000 agents may come at once",
        "fs.nr_open = 1048576 is enough",
        "net.netfilter.nf_conntrack_max: not on this kernel",
    ] {
        assert!(text(&output).contains(expected), "{expected}: {}", text(&output));
    }
    assert_eq!(host.values(), defaults());
    assert!(!host.drop_in().exists());
}

#[test]
fn tune_host_is_taken_back_to_the_letter_even_after_two_runs() {
    let host = Host::new("tune-revert");
    for agents in ["5000", "40000"] {
        let output = host.tune(&["--agents", agents]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let kept = fs::read_to_string(host.drop_in()).unwrap();
    assert_eq!(kept.matches("net.core.somaxconn = ").count(), 1, "{kept}");
    assert!(kept.contains("net.core.somaxconn = 65535"), "{kept}");
    assert_eq!(host.values()[0], "65535");
    let again = host.tune(&["--agents", "40000"]);
    assert!(text(&again).contains("nothing to change"), "{}", text(&again));
    let reverted = host.tune(&["--revert"]);
    assert!(reverted.status.success(), "{}", text(&reverted));
    assert_eq!(host.values(), defaults());
    assert!(!host.drop_in().exists());
    assert!(text(&host.tune(&["--revert"])).contains("nothing to revert"));
}

/// docs/TUNING.md promises for 5000 agents what the script does: each key, what it was, what it becomes.
#[test]
fn tune_host_does_what_its_document_says() {
    let host = Host::new("tune-document");
    let tracked = host.path("net.netfilter.nf_conntrack_max");
    fs::create_dir_all(tracked.parent().unwrap()).unwrap();
    fs::write(tracked, "262144\n").unwrap();
    let said = text(&host.tune(&["--agents", "5000", "--dry-run"]));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TUNING.md");
    let document = fs::read_to_string(path).unwrap();
    let mut rows = 0;
    for row in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let (key, before, after) = (cells[1], cells[2], cells[3]);
        let expected = match after {
            "stays" => format!("{key} = "),
            after => format!("{key}: {before} -> {after}\n"),
        };
        assert!(said.contains(&expected), "{expected}\n{said}");
        rows += 1;
    }
    assert_eq!(rows, KEYS.len() + 1, "a row for each key, and connection tracking");
    assert_eq!(said.matches(" -> ").count() + said.matches(" is enough").count(), rows, "{said}");
}

#[test]
fn tune_host_lowers_nothing() {
    let host = Host::new("tune-high");
    fs::write(host.path("net.core.somaxconn"), "100000\n").unwrap();
    fs::write(host.path("fs.pipe-user-pages-soft"), "0\n").unwrap();
    let output = host.tune(&["--agents", "1000"]);
    assert!(output.status.success(), "{}", text(&output));
    let values = host.values();
    assert_eq!((values[0].as_str(), values[7].as_str()), ("100000", "0"));
}

#[test]
fn tune_host_refuses_what_makes_no_sense_and_says_what_is_allowed() {
    let host = Host::new("tune-usage");
    for (arguments, expected) in [
        (&["--agents", "0"][..], "1 to 1000000"),
        (&["--agents", "many"], "1 to 1000000"),
        (&["--agents", "9999999"], "at most 1000000"),
        (&["--agents"], "needs a value"),
        (&["--lower"], "unknown argument '--lower'"),
    ] {
        let output = host.tune(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(expected), "{arguments:?}: {}", text(&output));
    }
    assert_eq!(host.values(), defaults());
}
