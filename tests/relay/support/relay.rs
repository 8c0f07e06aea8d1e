//! The relay under test: the real binary.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{await_some, await_that};

pub const BINARY: &str = env!("CARGO_BIN_EXE_fanin");

/// A running relay; killed when dropped.
pub struct Relay {
    child: Child,
    /// In a lock, so that a test's threads may share the relay.
    lines: Mutex<Receiver<String>>,
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
        let mut relay = Self::launch_unread(command);
        relay.read_the_log();
        relay
    }

    /// Starts it with a log that nobody reads, through the smallest pipe there is.
    #[track_caller]
    pub fn start_unread(mut command: Command) -> Self {
        let relay = Self::launch_unread(&mut command);
        let pipe = relay.child.stderr.as_ref().unwrap();
        nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        await_that("the relay answers", || relay.ask("status").status.success());
        relay
    }

    fn launch_unread(command: &mut Command) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Relaxed);
        let name = format!("fanin-test-{}-{count}.sock", std::process::id());
        let control = std::env::temp_dir().join(name);
        command.arg("--control").arg(&control);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        Self { child, lines: Mutex::new(channel().1), log: Vec::new(), control }
    }

    /// Reads what it writes from now on.
    pub fn read_the_log(&mut self) {
        let (sender, lines) = channel();
        self.lines = Mutex::new(lines);
        let stderr = BufReader::new(self.child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }

    fn read_log(&mut self) {
        self.log.extend(self.lines.get_mut().unwrap().try_iter());
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

    /// The process that does the work: the newest child of the one that was started.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        *self.generations().last().expect("a relay process")
    }

    /// The process that was started, which holds the listening sockets.
    pub fn parent(&self) -> u32 {
        self.child.id()
    }

    /// All its relay processes, the oldest first.
    pub fn generations(&self) -> Vec<u32> {
        let main = self.child.id();
        let list = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"));
        list.unwrap_or_default().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
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
        self.ask_with(&[command])
    }

    /// The same with arguments.
    pub fn ask_with(&self, arguments: &[&str]) -> std::process::Output {
        let control = ["--control", self.control.to_str().unwrap()];
        super::run(BINARY, &[arguments, &control].concat())
    }

    /// Sessions that have not ended.
    #[track_caller]
    pub fn sessions(&self) -> u64 {
        self.status()["total"]["sessions"].as_u64().unwrap()
    }

    /// One of the sums over all workers, as `fanin status --json` names it: `ended.no_port`.
    #[track_caller]
    pub fn total(&self, name: &str) -> u64 {
        let status = self.status();
        let value = name.split('.').fold(&status["total"], |value, part| &value[part]);
        value.as_u64().unwrap_or_else(|| panic!("{name} is not in {status}"))
    }

    /// The threads of its workers.
    pub fn workers(&self) -> Vec<Task> {
        let worker = |task: &Task| task.name().is_some_and(|name| name.starts_with("worker-"));
        Task::of(self.pid()).into_iter().filter(worker).collect()
    }

    /// Descriptors of sessions in its workers' tables: all but what they began with, and the pipes
    /// in their pools.
    #[track_caller]
    pub fn descriptors(&self) -> u64 {
        let open: u64 = self.workers().iter().map(Task::descriptors).sum();
        // A pipe may be opened between the two looks.
        open.saturating_sub(2 * self.total("pipes_open"))
    }

    /// Waits until nothing of any session is left, and the workers have as many descriptors as
    /// before.
    #[track_caller]
    pub fn await_rest(&self, before: u64) {
        await_that("nothing of a session is left", || {
            let total = &self.status()["total"];
            let held = ["sessions", "pipes_used", "buffers_used"].map(|name| total[name].as_u64());
            let descriptors = self.descriptors();
            let rests = held == [Some(0); 3] && descriptors == before;
            if !rests {
                // Shown when the test fails.
                println!("sessions, pipes, buffers: {held:?}, descriptors: {descriptors}");
            }
            rests
        });
        let names: Vec<_> = Task::of(self.pid()).iter().filter_map(Task::name).collect();
        assert!(!names.iter().any(|name| name.starts_with("iou-wrk")), "{names:?}");
    }

    /// Processor time that all its threads have taken.
    pub fn processor_time(&self) -> Duration {
        Task::of(self.pid()).iter().map(Task::processor_time).sum()
    }

    /// Sends what is meant for the service to its main process, and what stops the work to the
    /// process that does it.
    pub fn signal(&self, name: &str) {
        let works = matches!(name, "STOP" | "CONT" | "KILL" | "ABRT");
        let process = if works { self.pid() } else { self.parent() };
        super::run_well("kill", &[&format!("-{name}"), &process.to_string()]);
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

/// A thread of the relay, by its folder in /proc.
#[derive(Clone)]
pub struct Task(PathBuf);

impl Task {
    fn of(pid: u32) -> Vec<Self> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.map(|task| Self(task.unwrap().path())).collect()
    }

    /// The kernel's number.
    pub fn id(&self) -> String {
        self.0.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// `None` if it has ended meanwhile.
    fn name(&self) -> Option<String> {
        Some(std::fs::read_to_string(self.0.join("comm")).ok()?.trim().to_owned())
    }

    /// How many its table holds.
    fn descriptors(&self) -> u64 {
        std::fs::read_dir(self.0.join("fd")).unwrap().count() as u64
    }

    /// Whether somebody traces it.
    pub fn is_traced(&self) -> bool {
        let status = std::fs::read_to_string(self.0.join("status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    }

    /// Whether it waits in a call that can be interrupted.
    pub fn is_asleep(&self) -> bool {
        let status = std::fs::read_to_string(self.0.join("status")).unwrap();
        status.contains("State:\tS")
    }

    fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(self.0.join("schedstat")).unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or_default())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.read_log();
            let last = self.log.iter().rev().filter(|line| !line.contains(" session "));
            println!("the relay said last: {:#?}", last.take(5).collect::<Vec<_>>());
        }
        let workers = children(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The relay process dies with its parent, but not in the same moment: what it still listens on
        // would take connections that are meant for the next one at the same address.
        let deadline = Instant::now() + super::PATIENCE;
        while workers.iter().any(|&process| lives(process)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = std::fs::remove_file(&self.control);
    }
}

/// The processes that a process has started.
fn children(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    lists.iter().flat_map(|list| list.split(' ')).filter_map(|word| word.parse().ok()).collect()
}

/// Whether a process has not ended; one that nobody has waited for yet has.
fn lives(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ") && !status.contains("State:\tX")
}
