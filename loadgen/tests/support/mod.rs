//! Processes for the tests: a sink, a run of loadgen, and their end.

#![expect(clippy::disallowed_methods, reason = "deadlines of tests are in real time")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The loadgen that is being tested.
pub(crate) fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

/// A path of our own, not yet in use.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{}-{number}-{name}", std::process::id()))
}

/// A Python that has PyPI's `hdrhistogram`; `scripts/test` makes it.
pub(crate) fn python() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../python/bin/python");
    assert!(path.exists(), "no {}: run scripts/test once, which makes it", path.display());
    path
}

/// An executable shell script.
pub(crate) fn script(body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = scratch("script");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a scratch file");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permissions");
    path
}

/// Asks until the answer is yes; no after `time`.
pub(crate) fn within(time: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    while !ask() {
        if Instant::now() > end {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    true
}

/// A sink of our own, killed at the end.
pub(crate) struct Sink {
    child: Child,
    /// It would be told by SIGPIPE if we closed this.
    _words: BufReader<ChildStdout>,
    pub(crate) address: String,
}

impl Sink {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = loadgen()
            .args(["sink", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a sink");
        let mut words = BufReader::new(child.stdout.take().expect("its words"));
        let mut line = String::new();
        words.read_line(&mut line).expect("where it listens");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        Self { child, _words: words, address }
    }

    /// What it has seen.
    pub(crate) fn counts(&self) -> Value {
        let mut stream = TcpStream::connect(&self.address).expect("the sink accepts");
        let request = b"GET /__counts HTTP/1.1\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("the sink reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the sink answers");
        let (_, body) = text.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Killed already in some tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A finished run.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) report: Value,
}

/// A run under way.
pub(crate) struct Running {
    /// Gone once finished or killed.
    child: Option<Child>,
    json: PathBuf,
}

impl Running {
    /// Loads a target.
    pub(crate) fn start(args: &[&str], target: &str) -> Self {
        Self::start_stage(&[args, &["--target", target]].concat())
    }

    /// Loads whatever the arguments say.
    pub(crate) fn start_stage(args: &[&str]) -> Self {
        let json = scratch("report.json");
        // Tests share their machine with compilers and each other: a late generator is no failure
        // of what they test, unless they test just that.
        let bound: &[&str] = match args.contains(&"--max-send-lag") {
            true => &[],
            false => &["--max-send-lag", "1m"],
        };
        let child = loadgen()
            .args(bound)
            .arg("--json")
            .arg(&json)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("loadgen runs");
        Self { child: Some(child), json }
    }

    /// The first line on its standard error.
    pub(crate) fn first_line(&mut self) -> String {
        let child = self.child.as_mut().expect("it runs");
        let stderr = child.stderr.as_mut().expect("its words");
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        line
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("it ended");
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-INT", &pid]).status().expect("kill");
        assert!(status.success());
    }

    pub(crate) fn finish(mut self) -> Run {
        let child = self.child.take().expect("it runs");
        let output = child.wait_with_output().expect("loadgen ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let json = std::fs::read_to_string(&self.json).unwrap_or_default();
        let run = Run {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            report: serde_json::from_str(&json).unwrap_or_default(),
        };
        assert_eq!(run.report["schema"], "loadgen-report/1", "{}{}", run.stdout, run.stderr);
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A test failed half-way; it may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The addresses in the line that tells what has been started.
pub(crate) fn addresses(stderr: &str) -> Vec<String> {
    let line = stderr.lines().find(|line| line.starts_with("started: ")).expect("such a line");
    let words = line.split([' ', ';', ',']).filter(|word| word.starts_with("127.0.0.1:"));
    words.map(str::to_owned).collect()
}

/// Loads a target and waits for the report.
pub(crate) fn load(args: &[&str], target: &str) -> Run {
    Running::start(args, target).finish()
}
