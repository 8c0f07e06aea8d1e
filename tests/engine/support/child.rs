//! A relay in a process of its own: under another limit, as another user.
//!
//! The process is this very program, told to run the one ignored test below; it obeys lines on its
//! standard input and answers with lines that begin with [`MARK`].

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};

use fanin::engine::PIPE_BYTES_USEFUL;
use fanin::op::SpliceMode;
use fanin::session::SessionLimits;
use fanin::sys::{pipe, process as this_process};
use serde_json::Value;

use super::PATIENCE;
use super::oracle::Total;
use super::relay::{EngineKind, Options, Relay, Variant};

const MARK: &str = "RELAY ";
const ORDERS: &str = "FANIN_TEST_CHILD";
/// Nobody's, so that no other program's pipes count.
const ORDINARY_USER: &str = "61834";

/// What relay the process is to run.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub variant: Variant,
    pub server: SocketAddr,
    pub attempts_max: u16,
    /// Runs without root's privileges.
    pub ordinary: bool,
    /// Takes all pages that the user's pipes may have.
    pub hoard: bool,
    /// RLIMIT_NOFILE.
    pub descriptors: Option<u32>,
    pub pipes_max: u32,
}

impl Orders {
    pub fn new(variant: Variant, server: SocketAddr) -> Self {
        Self {
            variant,
            server,
            attempts_max: 1,
            ordinary: false,
            hoard: false,
            descriptors: None,
            pipes_max: 64,
        }
    }

    fn line(&self) -> String {
        let engine = self.variant.engine == EngineKind::Uring;
        let splice = self.variant.splice as u8;
        let Self { server, attempts_max, hoard, pipes_max, .. } = self;
        format!("{engine} {splice} {server} {attempts_max} {hoard} {pipes_max}")
    }

    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let engine = if words[0] == "true" { EngineKind::Uring } else { EngineKind::Epoll };
        let splice = [SpliceMode::Auto, SpliceMode::Always, SpliceMode::Never]
            .into_iter()
            .find(|mode| (*mode as u8).to_string() == words[1])
            .unwrap();
        Self {
            attempts_max: words[3].parse().unwrap(),
            hoard: words[4] == "true",
            pipes_max: words[5].parse().unwrap(),
            ..Self::new(Variant { engine, splice }, words[2].parse().unwrap())
        }
    }
}

/// The process.
pub struct Child {
    pub address: SocketAddr,
    process: process::Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    program: PathBuf,
}

impl Child {
    #[track_caller]
    pub fn start(orders: &Orders) -> Self {
        let program = copy_of_this_program();
        let mut command = Command::new("env");
        if let Some(descriptors) = orders.descriptors {
            command.args(["prlimit", &format!("--nofile={descriptors}:{descriptors}")]);
        }
        if orders.ordinary && this_process::is_root() {
            let (user, group) =
                (format!("--reuid={ORDINARY_USER}"), format!("--regid={ORDINARY_USER}"));
            command.args(["setpriv", &user, &group, "--clear-groups"]);
        }
        command.arg(&program).args(["--ignored", "--exact", "--nocapture", "--test-threads=1"]);
        command.arg("support::child::relay_in_a_process_of_its_own");
        command.env(ORDERS, orders.line()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("scripts/test installs util-linux");
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The harness may have written the test's name before, on the same line.
                if let Some((_, answer)) = line.split_once(MARK) {
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        let orders = process.stdin.take().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut child = Self { address: any, process, orders, answers, program };
        child.address = child.answer().parse().unwrap();
        child
    }

    #[track_caller]
    fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("the relay's process answers")
    }

    #[track_caller]
    fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    /// The worker's counts, and `cpu_micros` of its thread.
    #[track_caller]
    pub fn counts(&mut self) -> Value {
        serde_json::from_str(&self.ask("counts")).unwrap()
    }

    /// As [`Relay::finish`].
    #[track_caller]
    pub fn finish(mut self, total: Total) {
        let Total { sent, got } = total;
        let order = format!("finish {} {} {} {}", sent[0], sent[1], got[0], got[1]);
        assert_eq!(self.ask(&order), "finished");
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.program);
    }
}

/// Where another user can read it: a checkout may lie in a home of mode 0700.
fn copy_of_this_program() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("fanin-engine-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
    let copy = std::env::temp_dir().join(name);
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Opens pipes until the kernel gives small ones.
fn hoard() -> Vec<pipe::Pipe> {
    let mut pipes = Vec::new();
    while pipes.len() < 4000 {
        let next = pipe::open(1 << 20).unwrap();
        let small = next.bytes < PIPE_BYTES_USEFUL;
        pipes.push(next);
        if small {
            return pipes;
        }
    }
    panic!("the kernel's limit on pages does not bind this user");
}

#[test]
#[ignore = "not a test: the process that Child::start runs"]
fn relay_in_a_process_of_its_own() {
    let orders = Orders::parse(&std::env::var(ORDERS).expect("Child::start sets it"));
    let mut options = Options { pipes_max: orders.pipes_max, ..Options::to(orders.server) };
    options.limits = SessionLimits { attempts_max: orders.attempts_max, ..options.limits };
    let hoarded = if orders.hoard { hoard() } else { Vec::new() };
    let relay = Relay::start(orders.variant, &options);
    println!("{MARK}{}", relay.address);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            None => {
                let mut counts = serde_json::to_value(relay.counts()).unwrap();
                counts["cpu_micros"] = (relay.cpu_time().as_micros() as u64).into();
                println!("{MARK}{counts}");
            }
            Some((_, numbers)) => {
                let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
                let total = Total { sent: [numbers[0], numbers[1]], got: [numbers[2], numbers[3]] };
                relay.finish(total);
                println!("{MARK}finished");
                break;
            }
        }
    }
    drop(hoarded);
}
