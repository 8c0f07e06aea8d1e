//! The relay under test: the real binary.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};

use super::{await_some, await_that};

pub const BINARY: &str = env!("CARGO_BIN_EXE_fanin");

/// A running relay; killed when dropped.
pub struct Relay {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    control: PathBuf,
}

impl Relay {
    /// `fanin run` with these arguments, listening.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("run").args(arguments);
        Self::start_by(command)
    }

    /// A relay from any port of loopback to these servers.
    #[track_caller]
    pub fn between(servers: &[SocketAddr], arguments: &[&str]) -> Self {
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let mut all = vec!["--listen", "127.0.0.1:0"];
        for server in &servers {
            all.extend(["--server", server]);
        }
        all.extend(arguments);
        Self::start(&all)
    }

    /// The same by a command that has been prepared (under prlimit, as another user).
    #[track_caller]
    pub fn start_by(mut command: Command) -> Self {
        let mut relay = Self::launch(&mut command);
        await_that("the relay listens", || {
            relay.read_log();
            assert!(
                relay.child.try_wait().unwrap().is_none(),
                "it ended:\n{}",
                relay.log.join("\n")
            );
            relay.log.iter().any(|line| line.contains("listening on"))
        });
        relay
    }

    /// Starts it without waiting for anything.
    pub fn launch(command: &mut Command) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Relaxed);
        let name = format!("fanin-test-{}-{count}.sock", std::process::id());
        let control = std::env::temp_dir().join(name);
        command.arg("--control").arg(&control);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, log: Vec::new(), control }
    }

    fn read_log(&mut self) {
        self.log.extend(self.lines.try_iter());
    }

    /// Everything it has written so far.
    pub fn log(&mut self) -> String {
        self.read_log();
        self.log.join("\n")
    }

    /// Waits for a line that contains `part`, and returns it.
    #[track_caller]
    pub fn await_line(&mut self, part: &str) -> String {
        await_some(&format!("a log line with {part:?}"), || {
            self.read_log();
            self.log.iter().find(|line| line.contains(part)).cloned()
        })
    }

    /// Where it listens; the first address if there are several.
    pub fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |line: &String| {
            let rest = line.split("listening on ").nth(1)?;
            rest.split([' ', '"']).next()?.parse().ok()
        };
        self.log.iter().filter_map(address).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `fanin status --json`.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let control = self.control.to_str().unwrap();
        let out = super::run_well(BINARY, &["status", "--json", "--control", control]);
        serde_json::from_str(&out).unwrap()
    }

    /// `fanin COMMAND`, whatever it answers.
    pub fn ask(&self, command: &str) -> std::process::Output {
        super::run(BINARY, &[command, "--control", self.control.to_str().unwrap()])
    }

    /// Sessions that have not ended.
    #[track_caller]
    pub fn sessions(&self) -> u64 {
        self.status()["total"]["sessions"].as_u64().unwrap()
    }

    pub fn signal(&self, name: &str) {
        super::run_well("kill", &[&format!("-{name}"), &self.pid().to_string()]);
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn await_end(&mut self) -> ExitStatus {
        await_some("the relay ends", || self.child.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.control);
    }
}
