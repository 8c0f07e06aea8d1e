//! The relay as a process, and peers named by what they do. Everything listens on port 0.

pub mod browser;
pub mod hosts;
#[cfg(target_arch = "x86_64")]
pub mod intruder;
pub mod nameserver;
pub mod peers;
pub mod relay;
pub mod strace;
pub mod tls;
pub mod witness;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something.
#[track_caller]
pub fn await_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(POLL);
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// Waits until so much time has passed since `start`: for what must not happen meanwhile.
pub fn await_passed(start: Instant, time: Duration) {
    await_that("time passes", || start.elapsed() >= time);
}

/// A folder of the test's own, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("fanin-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a program to its end. A program that is not there fails the test: `scripts/test` installs
/// what the tests need.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"))
}

/// What a program wrote to standard output, having ended well.
#[track_caller]
pub fn run_well(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{err}", output.status);
    out
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a control socket answers to what is typed there: a line, or several.
pub fn cli(socket: &Path, typed: &str) -> String {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(format!("{typed}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

/// The cells of HAProxy's statistics as CSV, by `proxy/name column`.
pub fn cells(csv: &str) -> BTreeMap<String, String> {
    let mut lines = csv.lines().filter(|line| !line.is_empty());
    let header: Vec<&str> = lines.next().unwrap().trim_start_matches("# ").split(',').collect();
    let mut cells = BTreeMap::new();
    for line in lines {
        let row: Vec<&str> = line.split(',').collect();
        for (column, cell) in header.iter().zip(&row) {
            cells.insert(format!("{}/{} {column}", row[0], row[1]), (*cell).to_owned());
        }
    }
    cells
}
