//! The relay under test as a process: its configuration, its status, and what it takes of the
//! machine.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::plan::{CLIENT_IDLE, HALF_CLOSED};

const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(50);
/// USER_HZ is 100 wherever Linux runs today.
const TICKS_A_SECOND: f64 = 100.0;

pub struct Relay {
    child: Child,
    binary: PathBuf,
    folder: PathBuf,
    engine: String,
    splice: String,
    servers: [SocketAddr; 3],
    reloads: u64,
    /// The main listener, and the one whose only server refuses now and then.
    pub addresses: [SocketAddr; 2],
}

/// What the relay has of the machine at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub seconds: f64,
    /// No session was there.
    pub quiet: bool,
    pub resident_kib: u64,
    /// Without the pipes that lie ready in the pools, which are bounded.
    pub descriptors: u64,
    pub pipes_ready: u64,
    pub threads: u64,
    pub ring_workers: u64,
    pub sessions: u64,
    pub sessions_total: u64,
    pub processor_seconds: f64,
}

impl Sample {
    /// Adds what a process has.
    fn add(&mut self, pid: u64) -> io::Result<()> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        self.resident_kib += resident_kib(&process)?;
        self.processor_seconds += processor_seconds(&process)?;
        for task in fs::read_dir(process.join("task"))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm"))?;
            self.threads += 1;
            self.ring_workers += u64::from(name.starts_with("iou-wrk"));
            // Each worker has a descriptor table of its own; the others share the main thread's.
            if name.starts_with("worker-") || task.ends_with(pid.to_string()) {
                self.descriptors += fs::read_dir(task.join("fd"))?.count() as u64;
            }
        }
        Ok(())
    }
}

impl Relay {
    /// Starts it on ports of the kernel's choice.
    pub fn start(
        binary: &Path,
        folder: &Path,
        (engine, splice): (&str, &str),
        servers: [SocketAddr; 3],
    ) -> io::Result<Self> {
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let log = fs::File::create(folder.join("fanin.log"))?;
        fs::write(folder.join("fanin.toml"), file(folder, (engine, splice), servers, 0))?;
        let child = Command::new(binary)
            .arg("run")
            .arg("-c")
            .arg(folder.join("fanin.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut relay = Self {
            child,
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            engine: engine.to_owned(),
            splice: splice.to_owned(),
            servers,
            reloads: 0,
            addresses: [unknown; 2],
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(folder.join("fanin.log"))?;
            let found: Vec<SocketAddr> = log
                .split("listening on ")
                .skip(1)
                .filter_map(|rest| rest.split([' ', '"']).next()?.parse().ok())
                .collect();
            if let [main, flaky] = found[..] {
                relay.addresses = [main, flaky];
                return Ok(relay);
            }
            if Instant::now() > deadline || relay.child.try_wait()?.is_some() {
                return Err(io::Error::other(format!("the relay did not start:\n{log}")));
            }
            thread::sleep(GLANCE);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Another file and a SIGHUP. Every fourth file is bad and must change nothing.
    pub fn reload(&mut self) -> io::Result<()> {
        self.reloads += 1;
        let engine = (self.engine.as_str(), self.splice.as_str());
        let text = file(&self.folder, engine, self.servers, self.reloads);
        fs::write(self.folder.join("fanin.toml"), text)?;
        self.signal("HUP")
    }

    pub fn signal(&self, name: &str) -> io::Result<()> {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-s", name, &pid]).status().map(drop)
    }

    /// `fanin status --json`.
    pub fn status(&self) -> io::Result<Value> {
        let socket = self.folder.join("control.sock");
        let output = Command::new(&self.binary)
            .args(["status", "--json", "--control"])
            .arg(socket)
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("fanin status: {said}")));
        }
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    }

    pub fn sample(&self) -> io::Result<Sample> {
        let status = self.status()?;
        let count = |name: &str| status["total"][name].as_u64().unwrap_or(u64::MAX);
        let mut sample = Sample {
            sessions: count("sessions"),
            sessions_total: count("sessions_total"),
            ..Sample::default()
        };
        // The parent that holds the listening sockets, and the relay process that uses them.
        for pid in [Some(self.pid().into()), status["relay_pid"].as_u64()].into_iter().flatten() {
            sample.add(pid)?;
        }
        sample.pipes_ready = count("pipes_open") - count("pipes_used");
        sample.descriptors = sample.descriptors.saturating_sub(2 * sample.pipes_ready);
        Ok(sample)
    }

    /// Waits until no session is left.
    pub fn await_no_session(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            let sessions = &status["total"]["sessions"];
            if sessions.as_u64() == Some(0) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{sessions} sessions stayed for ever")));
            }
            thread::sleep(GLANCE);
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as an operator would.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        self.signal("TERM")?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(GLANCE);
        }
        Err(io::Error::other("the relay did not end after SIGTERM"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Few pipes, so that the pool is empty now and then, and its bound is reached early.
fn file(
    folder: &Path,
    (engine, splice): (&str, &str),
    servers: [SocketAddr; 3],
    number: u64,
) -> String {
    let [steady, refusing, alone] = servers;
    let (idle, half) = (CLIENT_IDLE.as_secs(), HALF_CLOSED.as_secs());
    let socket = folder.join("control.sock");
    let weight = 1 + number % 3;
    let extra = match number % 4 {
        3 => "nonsense = true",
        _ => "",
    };
    format!(
        r#"{extra}
[global]
workers = 2
engine = "{engine}"
splice = "{splice}"
pipes = 16
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
backend = "main"
client_idle = "{idle}s"
[[listener]]
name = "flaky"
bind = ["127.0.0.1:0"]
backend = "flaky"
client_idle = "{idle}s"
[backend.main]
half_closed = "{half}s"
server_idle = "{idle}s"
[[backend.main.server]]
name = "steady"
address = "{steady}"
weight = {weight}
[[backend.main.server]]
name = "refusing"
address = "{refusing}"
[backend.flaky]
half_closed = "{half}s"
server_idle = "{idle}s"
[[backend.flaky.server]]
name = "alone"
address = "{alone}"
[control]
socket = "{}"
"#,
        socket.display()
    )
}

fn resident_kib(process: &Path) -> io::Result<u64> {
    let status = fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| io::Error::other("no VmRSS"))
}

/// Processor time that a process has used.
pub fn processor_seconds(process: &Path) -> io::Result<f64> {
    let stat = fs::read_to_string(process.join("stat"))?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |place: usize| -> f64 {
        after.split_whitespace().nth(place).and_then(|word| word.parse().ok()).unwrap_or(0.0)
    };
    Ok((ticks(11) + ticks(12)) / TICKS_A_SECOND)
}
