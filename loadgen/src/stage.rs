//! The sink and the relay that loadgen starts by itself, and their orderly end.
//!
//! Both are tethered: they end when loadgen ends, however it ends. They are in process groups of
//! their own, so that Ctrl-C at the terminal ends loadgen's load first and not their service.

use crate::cli::{Cast, Relay, Tether};
use crate::clock::{Clock, Nanos, SECOND};
use crate::exit::{Error, SYSTEM};
use crate::sink::identity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The relay has three servers, as in life.
const SINK_ADDRESSES: usize = 3;
/// How long a started process may take until it listens.
const START: Duration = Duration::from_secs(10);
/// How long an ended process may take for each of: drain, second SIGTERM, SIGKILL.
const END: Duration = Duration::from_secs(5);
/// The relay's port is looked for here: below the usual ephemeral range, so that no connection
/// takes it between our look and the relay's bind.
const RELAY_PORTS: (u16, u16) = (13_834, 23_834);

/// The processes on stage.
#[derive(Debug)]
pub(crate) struct Stage {
    sink: Process,
    relay: Process,
    /// Where the relay listens.
    pub(crate) target: SocketAddr,
    /// Where the sink listens.
    pub(crate) servers: Vec<SocketAddr>,
    /// What the relay writes to its standard error.
    pub(crate) log: PathBuf,
    keys: Option<Keys>,
}

/// A directory for the sink's certificate, gone when dropped.
#[derive(Debug)]
struct Keys(PathBuf);

impl Keys {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("loadgen-{}-tls", std::process::id())))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A directory that stays behind does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
}

impl Stage {
    /// Starts a sink with `threads` threads and such manners (options of `loadgen sink`), and the
    /// relay, and waits until both listen.
    ///
    /// # Errors
    /// When one of them cannot be found or does not come to listen; with its last words.
    pub(crate) fn start(
        cast: &Cast,
        threads: u32,
        manners: &[&str],
        speaks_tls: bool,
    ) -> Result<Self, Error> {
        let own = std::env::current_exe()
            .map_err(|error| Error::System(format!("cannot find my own program: {error}")))?;
        let keys = speaks_tls.then(Keys::new);
        let (sink, servers) = start_sink(&own, threads, manners, keys.as_ref())?;
        let target = free_port()?;
        let place = Place::new(target, &servers);
        let (program, arguments) = match &cast.relay {
            Relay::Fanin { path, arguments } => {
                let beside = || own.with_file_name("fanin");
                (found(path.clone().unwrap_or_else(beside))?, place.fanin(arguments))
            }
            Relay::Haproxy => (PathBuf::from("haproxy"), place.haproxy()?),
        };
        let log = place.log();
        let relay = start_relay(tethered(&own, &program, arguments, &cast.cpus), &log)?;
        let mut stage = Self { sink, relay, target, servers, log, keys };
        stage.await_relay()?;
        Ok(stage)
    }

    /// The file of the authority that vouches for the sink, when it speaks TLS.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        self.keys.as_ref().map(|keys| keys.0.join(identity::AUTHORITY))
    }

    /// The relay's process.
    pub(crate) fn relay_pid(&self) -> i32 {
        self.relay.pid().as_raw()
    }

    /// How the relay or the sink ended, if one of them has.
    pub(crate) fn fallen(&mut self) -> Option<String> {
        let log = self.log.display().to_string();
        [&mut self.relay, &mut self.sink].into_iter().find_map(|process| {
            let status = process.child.try_wait().ok()??;
            Some(format!("{} ended in mid-run: {status}; see {log}", process.name))
        })
    }

    /// What the sink has seen, as it tells.
    pub(crate) fn sink_counts(&self) -> Option<serde_json::Value> {
        let address = self.servers.first()?;
        let mut stream = TcpStream::connect_timeout(address, END).ok()?;
        stream.set_read_timeout(Some(END)).ok()?;
        stream.write_all(b"GET /__counts HTTP/1.1\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Ends both, the relay first, and waits until they have ended.
    pub(crate) fn end(mut self) {
        self.relay.end();
        self.sink.end();
    }

    fn await_relay(&mut self) -> Result<(), Error> {
        let listening = within(START, || {
            if let Some(status) = self.relay.child.try_wait().ok().flatten() {
                return Some(Err(format!("the relay ended at once: {status}")));
            }
            TcpStream::connect_timeout(&self.target, END).ok().map(|_| Ok(()))
        });
        let why = match listening {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => why,
            None => format!("the relay does not listen on {} after {START:?}", self.target),
        };
        let words = std::fs::read_to_string(&self.log).unwrap_or_default();
        let words = if words.trim().is_empty() { "(nothing)" } else { words.trim_end() };
        Err(Error::System(format!("{why}\n  {}:\n{words}", self.log.display())))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sink (pid {}) on", self.sink.pid())?;
        for server in &self.servers {
            write!(f, " {server}")?;
        }
        let (pid, log) = (self.relay.pid(), self.log.display());
        write!(f, "; relay (pid {pid}) on {}, its log {log}", self.target)
    }
}

impl Process {
    fn pid(&self) -> Pid {
        // A pid is positive and fits; zero, which would mean our own group, cannot come from here.
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// SIGTERM, once more after a while, SIGKILL at last.
    fn end(&mut self) {
        for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGKILL] {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            // It may end by itself at this very moment.
            let _ = kill(self.pid(), signal);
            if within(END, || self.child.try_wait().ok().flatten()).is_some() {
                return;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Becomes the command, which ends when the parent ends.
///
/// The parent-death signal survives exec; this detour sets it without unsafe code between fork
/// and exec.
///
/// # Errors
/// When the parent has ended already or the command cannot be run.
pub(crate) fn tether(tether: &Tether) -> Result<u8, Error> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|errno| Error::System(format!("cannot be tied to the parent: {errno}")))?;
    if getppid().as_raw() != tether.parent {
        return Ok(SYSTEM);
    }
    if !tether.cpus.is_empty() {
        confine(&tether.cpus)?;
    }
    let Some((program, arguments)) = tether.command.split_first() else {
        return Ok(SYSTEM);
    };
    let error = Command::new(program).args(arguments).exec();
    Err(Error::System(format!("cannot run {}: {error}", Path::new(program).display())))
}

/// Has the calling thread, and what it starts from now on, run on these processors alone.
///
/// # Errors
/// When they are not ours to use.
pub(crate) fn confine(cpus: &[usize]) -> Result<(), Error> {
    let refuse = |errno| Error::System(format!("cannot run on processors {cpus:?} alone: {errno}"));
    let mut set = nix::sched::CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).map_err(refuse)?;
    }
    nix::sched::sched_setaffinity(Pid::from_raw(0), &set).map_err(refuse)
}

/// A command that runs `program` on the processors named, tethered to us and in a process group of
/// its own.
fn tethered(own: &Path, program: &Path, arguments: Vec<OsString>, cpus: &[usize]) -> Command {
    let mut command = Command::new(own);
    command.args(["tether", "--parent", &std::process::id().to_string()]);
    if !cpus.is_empty() {
        let list: Vec<_> = cpus.iter().map(usize::to_string).collect();
        command.args(["--cpus", &list.join(",")]);
    }
    command.arg("--").arg(program).args(arguments).stdin(Stdio::null()).process_group(0);
    command
}

fn found(fanin: PathBuf) -> Result<PathBuf, Error> {
    if fanin.is_file() {
        return Ok(fanin);
    }
    Err(Error::System(format!(
        "no relay at {}: build it (`cargo build --release`), name another with --fanin PATH, or \
         load something that listens already with --target HOST:PORT",
        fanin.display()
    )))
}

/// Where a relay is to listen, whom it relays to, and where its files go.
struct Place<'a> {
    target: SocketAddr,
    servers: &'a [SocketAddr],
}

impl<'a> Place<'a> {
    fn new(target: SocketAddr, servers: &'a [SocketAddr]) -> Self {
        Self { target, servers }
    }

    fn log(&self) -> PathBuf {
        std::env::temp_dir().join(format!("loadgen-{}-relay.log", std::process::id()))
    }

    fn fanin(&self, further: &[String]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            vec!["run".into(), "--listen".into(), self.target.to_string().into()];
        for server in self.servers {
            arguments.extend(["--server".into(), server.to_string().into()]);
        }
        arguments.extend(further.iter().map(OsString::from));
        arguments
    }

    fn haproxy(&self) -> Result<Vec<OsString>, Error> {
        let mut text =
            include_str!("../peers/haproxy-page.cfg").replace("@listen@", &self.target.to_string());
        for (number, server) in self.servers.iter().enumerate() {
            text.push_str(&format!("    server mothership{number} {server}\n"));
        }
        let path = self.log().with_extension("cfg");
        std::fs::write(&path, text)
            .map_err(|error| Error::System(format!("cannot write {}: {error}", path.display())))?;
        Ok(vec!["-db".into(), "-f".into(), path.into()])
    }
}

fn start_sink(
    own: &Path,
    threads: u32,
    manners: &[&str],
    keys: Option<&Keys>,
) -> Result<(Process, Vec<SocketAddr>), Error> {
    let mut arguments = vec!["sink".into(), "--threads".into(), threads.to_string().into()];
    arguments.extend(manners.iter().map(OsString::from));
    if let Some(Keys(folder)) = keys {
        arguments.extend(["--tls".into(), folder.into()]);
    }
    for _ in 0..SINK_ADDRESSES {
        arguments.extend(["--listen".into(), "127.0.0.1:0".into()]);
    }
    let child = tethered(own, own, arguments, &[]).stdout(Stdio::piped()).spawn();
    let child = child.map_err(|error| Error::System(format!("cannot start the sink: {error}")))?;
    let mut sink = Process { name: "the sink", child };
    // The sink tells where it listens, or ends and with it this stream.
    let lines = sink.child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let lines = lines.into_iter().flatten().take(SINK_ADDRESSES);
    let address = |line: String| line.rsplit_once(' ')?.1.parse::<SocketAddr>().ok();
    let addresses: Vec<_> = lines.filter_map(|line| address(line.ok()?)).collect();
    if addresses.len() != SINK_ADDRESSES {
        return Err(Error::System("the sink did not come to listen; its words are above".into()));
    }
    Ok((sink, addresses))
}

fn start_relay(mut command: Command, log: &Path) -> Result<Process, Error> {
    let file = std::fs::File::create(log)
        .map_err(|error| Error::System(format!("cannot write {}: {error}", log.display())))?;
    let copy = file.try_clone();
    let copy = copy.map_err(|error| Error::System(format!("{}: {error}", log.display())))?;
    let child = command.stdout(Stdio::from(copy)).stderr(Stdio::from(file)).spawn();
    let child = child.map_err(|error| Error::System(format!("cannot start the relay: {error}")))?;
    Ok(Process { name: "the relay", child })
}

fn free_port() -> Result<SocketAddr, Error> {
    let (first, last) = RELAY_PORTS;
    let span = u32::from(last - first);
    let start = std::process::id() % span;
    let ports = (0..span).filter_map(|n| u16::try_from((start + n) % span).ok());
    let free = ports.map(|n| SocketAddr::from(([127, 0, 0, 1], first + n)));
    free.into_iter()
        .find(|address| TcpListener::bind(address).is_ok())
        .ok_or_else(|| Error::System(format!("no free port from {first} to {last} on 127.0.0.1")))
}

/// Asks until there is an answer; nothing after `time`.
fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_millis(10);
    let clock = Clock::starting_in(Duration::ZERO);
    let end = Nanos::try_from(time.as_nanos()).unwrap_or(60 * SECOND);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if clock.now() >= end {
            return None;
        }
        std::thread::park_timeout(PAUSE);
    }
}
