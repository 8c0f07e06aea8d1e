//! The parent: the process that the service manager knows. It holds the listening sockets and keeps
//! a relay process at work on them.
//!
//! A relay process is one generation of the relay. Its successor starts on the same sockets, and
//! only when that one serves does it let its own sessions end: after a reload that needs other
//! workers or listeners, after an upgrade, or because it ended unasked. One thread, one wait; nothing
//! here is on the path of a byte.
//!
//! ```text
//! started ── Ready ──▶ serving ── the next is Ready ──▶ retiring ── sessions over ──▶ ended
//!    └── Failed: the one before serves on; without one, tried again after a pause
//! ```

mod child;
mod claim;
mod doors;
mod manager;
mod renewal;
mod upgrade;

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cli::ExitCode;
use crate::config::value::WEIGHT_MAX;
use crate::config::{self, Config, Log, Note, NoteKind, Origin};
use crate::control::{ControlSocket, Logger};
use crate::handover::{Administered, ClosedListener, KnownNames, Order, Report, ToParent, Wish};
use crate::supervisor::StartError;
use crate::sys::process;

use child::{Child, Exit};
use doors::{Doors, Found};
use renewal::{Reason, Renewal};

/// A relay process that ended unasked is started again after the first of these pauses; one that
/// keeps ending, after pauses that double up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// Whoever served for so long has not failed at the start.
const STEADY: Duration = Duration::from_secs(10);
/// How long a relay process may take to serve: it looks names up first.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How much longer than told relay processes may take to end, before they are killed.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// Runs the relay until it is told to end. The result is the exit code of the relay process, where
/// it ran.
///
/// # Errors
/// Why it does not start.
pub fn start(origin: &Origin) -> Result<ExitCode, StartError> {
    let signals = signals()?;
    let (config, report) = origin.read()?;
    let mut parent = Parent::new(signals, config.clone(), origin)?;
    if let (Some(report), Some(path)) = (report, origin.path()) {
        parent.tell_migration(&report, path);
    }
    parent.found = manager::found();
    parent.renew(Reason::Start, config)?;
    parent.found.clear();
    parent.run()
}

/// Goes on in the place of another binary, which left this.
///
/// # Errors
/// When what it left cannot be used.
pub fn resume(origin: &Origin, left: ToParent) -> Result<ExitCode, StartError> {
    let signals = signals()?;
    let parent = Parent::inherit(signals, origin, left)?;
    parent.log.info(format_args!(
        "upgraded: fanin {} is in charge, process {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    ));
    parent.run()
}

#[derive(Debug)]
struct Parent {
    signals: SignalFd,
    log: Logger,
    /// Where the first configuration came from.
    origin: Origin,
    /// The configuration in force.
    config: Config,
    /// What the relay processes have learnt of its names.
    names: KnownNames,
    /// What administrators want of servers: the next relay process keeps it so.
    administered: Vec<Administered>,
    doors: Doors,
    /// The listeners that an administrator wants nobody to be let in by.
    closed: Vec<ClosedListener>,
    /// Where statistics are served.
    pages: Doors,
    found: Found,
    control: Option<ControlSocket>,
    children: Vec<Child>,
    /// The generation that is starting.
    renewal: Option<Renewal>,
    /// The binary that takes the place of this process at the end of the turn.
    successor: Option<PathBuf>,
    /// A reload was asked for meanwhile.
    reload_again: bool,
    generations: u64,
    /// When the relay process that serves began to, in microseconds.
    serving_since: u64,
    /// When to start one again, and the pause after that.
    restart: Option<u64>,
    pause: Duration,
    /// When to kill what is left, once told to end.
    ending: Option<u64>,
    /// The service manager starts another process once this one has ended.
    followed: bool,
    /// How it will have ended.
    outcome: Option<ExitCode>,
}

impl Parent {
    fn new(signals: SignalFd, config: Config, origin: &Origin) -> Result<Self, StartError> {
        let host = |what| move |error| StartError::Host { what, error };
        Ok(Self {
            signals,
            log: open_log(&config).map_err(host("how to write the log"))?,
            origin: origin.clone(),
            config,
            names: Vec::new(),
            administered: Vec::new(),
            doors: Doors::default(),
            closed: Vec::new(),
            pages: Doors::default(),
            found: Vec::new(),
            control: None,
            children: Vec::new(),
            renewal: None,
            successor: None,
            reload_again: false,
            generations: 0,
            serving_since: 0,
            restart: None,
            pause: PAUSE_FIRST,
            ending: None,
            followed: false,
            outcome: None,
        })
    }

    /// What a file of HAProxy's has that a person should look at.
    fn tell_migration(&self, report: &config::Report, path: &Path) {
        let file = path.display();
        for Note { line, said, text, .. } in report.of(NoteKind::Danger) {
            self.log.warn(format_args!("{file}:{line}: {said}: {text}"));
        }
        self.log.info(format_args!(
            "{file} is read as HAProxy's format: {}; `fanin import {file}` says what and why",
            report.summary()
        ));
    }

    fn run(mut self) -> Result<ExitCode, StartError> {
        let failed = |error: io::Error| StartError::Host { what: "what to wait for", error };
        loop {
            self.wait().map_err(|errno| failed(errno.into()))?;
            // In this order: what a relay process said before it ended, or before somebody saw it
            // serve and sent a signal, comes first.
            self.hear_children();
            self.hear_signals();
            self.bury();
            self.mind_time();
            if let Some(binary) = self.successor.take() {
                self.hand_over(&binary);
            }
            if self.children.is_empty() && (self.ending.is_some() || self.outcome.is_some()) {
                return Ok(self.outcome.unwrap_or(ExitCode::Success));
            }
        }
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut polled: Vec<_> = self.children.iter().map(|child| child.as_fd()).collect();
        polled.push(self.signals.as_fd());
        let mut polled: Vec<_> =
            polled.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let now = process::monotonic_micros();
        let starting = self.renewal.as_ref().map(|renewal| renewal.deadline);
        let next = [self.restart, self.ending, starting].into_iter().flatten().min();
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            let millis = next.saturating_sub(now).div_ceil(1000);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn hear_children(&mut self) {
        let mut heard = Vec::new();
        for child in &mut self.children {
            let number = child.number;
            heard.extend(child.reports().into_iter().map(|report| (number, report)));
        }
        for (number, report) in heard {
            self.on_report(number, report);
        }
    }

    fn on_report(&mut self, number: u64, report: Report) {
        match report {
            Report::Ready { version } => self.on_ready(number, &version),
            Report::Failed { message, code } => self.on_failed(number, message, code),
            Report::Applied { config } => {
                match self.believe(&config) {
                    Ok(config) => self.adopt(config),
                    Err(why) => self.log.warn(format_args!("after a restart: {why}")),
                }
                manager::ready(&self.describe());
            }
            Report::Names { names } => self.names = names,
            Report::Administered { servers } if self.is_serving(number) => {
                self.administered = self.known(servers);
            }
            Report::Closed { listeners } if self.is_serving(number) => self.close(listeners),
            // Of one that lets its sessions end: the one that serves knows better.
            Report::Administered { .. } | Report::Closed { .. } => {}
            Report::Kept => manager::ready(&self.describe()),
            Report::Renew { config, why } => self.on_renew(number, &config, why),
            Report::Upgrade { binary } => self.upgrade(Some(number), binary),
            Report::End { at_once } => self.end(at_once),
            Report::Signalled { wish } => self.grant(wish),
            Report::Turning if self.is_serving(number) => {
                manager::feed_watchdog();
            }
            Report::Turning => {}
        }
    }

    fn is_serving(&self, number: u64) -> bool {
        self.serving().is_some_and(|child| child.number == number)
    }

    /// Those of these servers that there are, with weights that there may be: a process that is taken over
    /// may say anything.
    fn known(&self, mut servers: Vec<Administered>) -> Vec<Administered> {
        servers.retain(|Administered { backend, server, .. }| {
            let of = self.config.backends.iter().find(|of| of.name == *backend);
            of.is_some_and(|of| of.servers.iter().any(|known| known.name == *server))
        });
        servers.truncate(self.config.backends.iter().map(|of| of.servers.len()).sum());
        for server in &mut servers {
            server.weight = server.weight.map(|weight| weight.min(WEIGHT_MAX));
        }
        servers
    }

    /// By these listeners nobody is to be let in, and by the others everybody.
    fn close(&mut self, mut closed: Vec<ClosedListener>) {
        closed.retain(|one| self.config.listeners.iter().any(|known| known.name == one.name));
        closed.dedup();
        let before = std::mem::replace(&mut self.closed, closed);
        for listener in &self.config.listeners {
            let is_in = |list: &[ClosedListener]| list.iter().any(|one| one.name == listener.name);
            let switched = match (is_in(&before), is_in(&self.closed)) {
                (false, true) => listener.bind.iter().try_for_each(|&at| self.doors.close(at)),
                (true, false) => {
                    listener.bind.iter().try_for_each(|&at| self.doors.open(at, listener.backlog))
                }
                _ => Ok(()),
            };
            if let Err(errno) = switched {
                let name = &listener.name;
                self.log.error(format_args!("listener {name} cannot be switched: {errno}"));
            }
        }
    }

    /// A relay process that was to start may have had closed doors listen.
    fn close_again(&mut self) {
        let closed = std::mem::take(&mut self.closed);
        self.close(closed);
    }

    /// A configuration that a relay process speaks of, if it is the one in force or what can be read
    /// where the first one came from: a process that is taken over must not choose what the next one
    /// may do, or where this one writes.
    ///
    /// # Errors
    /// What else it is.
    fn believe(&self, config: &str) -> Result<Config, String> {
        if config == self.config.render() {
            return Ok(self.config.clone());
        }
        let read = self.origin.load().map_err(|error| error.summary())?;
        match read.render() == config {
            true => Ok(read),
            false => Err("the configuration file has changed again meanwhile; reload again".into()),
        }
    }

    /// Takes note of the configuration that is in force now.
    fn adopt(&mut self, config: Config) {
        if (&config.log, &config.global.user) != (&self.config.log, &self.config.global.user)
            && let Ok(log) = open_log(&config)
        {
            self.log = log;
        }
        if config.control.mode != self.config.control.mode
            && let Some(Err(error)) =
                self.control.as_ref().map(|socket| socket.open_to(config.control.mode))
        {
            self.log
                .warn(format_args!("[control] mode is not what the configuration says: {error}"));
        }
        self.config = config;
    }

    fn hear_signals(&mut self) {
        while let Ok(Some(heard)) = self.signals.read_signal() {
            let number = i32::try_from(heard.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGTERM) => self.grant(Wish::Terminate),
                // Another process is to follow (RestartKillSignal= of the unit): what the service
                // manager keeps waits for that one.
                Ok(Signal::SIGQUIT) => {
                    self.followed = true;
                    self.grant(Wish::Terminate);
                }
                Ok(Signal::SIGINT) => self.grant(Wish::Interrupt),
                Ok(Signal::SIGHUP) => self.grant(Wish::Reload),
                Ok(Signal::SIGUSR2) => self.upgrade(None, None),
                // USR1 is what scripts of logrotate send; log files are made anew without it.
                _ => {}
            }
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Terminate => self.end(self.ending.is_some()),
            Wish::Interrupt => self.end(true),
            Wish::Reload => self.reload(),
        }
    }

    /// Has the generation that serves read the configuration again.
    fn reload(&mut self) {
        if self.renewal.is_some() {
            self.reload_again = true;
        } else if let Some(child) = self.serving() {
            manager::reloading();
            child.tell(&Order::Reload);
        }
    }

    /// Lets all sessions end, or ends them.
    fn end(&mut self, at_once: bool) {
        if self.ending.is_none() {
            manager::stopping();
        }
        // First ours: a socket that nobody serves swallows connections. The relay process empties
        // its queues before it closes the last references.
        if self.followed {
            // Whoever follows finds them as they were at its start.
            self.close(Vec::new());
        } else {
            manager::let_go(self.doors.sockets().map(|(address, _)| address));
        }
        self.doors = Doors::default();
        self.restart = None;
        if let Some(renewal) = self.renewal.take() {
            self.children
                .iter()
                .filter(|child| child.number == renewal.number)
                .for_each(Child::kill);
        }
        let order = if at_once { Order::Stop } else { Order::Drain };
        self.children.iter().for_each(|child| child.tell(&order));
        let grace = if at_once { Duration::ZERO } else { self.config.global.drain };
        self.ending = Some(later(grace + END_PATIENCE));
    }

    /// Takes note of the processes that have ended.
    fn bury(&mut self) {
        let mut at = 0;
        while at < self.children.len() {
            let Some(exit) = self.children[at].ended() else {
                at += 1;
                continue;
            };
            // What it said last.
            let reports = self.children[at].reports();
            let number = self.children[at].number;
            reports.into_iter().for_each(|report| self.on_report(number, report));
            let child = self.children.remove(at);
            self.on_exit(&child, exit);
        }
    }

    fn on_exit(&mut self, child: &Child, exit: Exit) {
        let Child { process, number, .. } = child;
        if self.renewal.as_ref().is_some_and(|renewal| renewal.number == *number) {
            return self.on_start_failed(exit);
        }
        if self.ending.is_some() {
            if child.serving {
                self.outcome = Some(code_of(exit));
            }
            return;
        }
        if !child.serving {
            self.log.info(format_args!("relay process {process} has retired ({exit})"));
            return self.tell_retiring();
        }
        let served = process::monotonic_micros().saturating_sub(self.serving_since);
        if u128::from(served) >= STEADY.as_micros() {
            self.pause = PAUSE_FIRST;
        }
        let pause = self.pause;
        self.log.error(format_args!(
            "relay process {process} ended unasked ({exit}); its listeners stay, another is started \
             in {} ms",
            pause.as_millis()
        ));
        self.restart_after(pause);
    }

    /// Starts a relay process again after a pause, unless one is starting already.
    fn restart_after(&mut self, pause: Duration) {
        manager::status("the relay process ended; another is being started");
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        if self.renewal.is_none() {
            self.restart = Some(later(pause));
        }
    }

    fn mind_time(&mut self) {
        let now = process::monotonic_micros();
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.restart) {
            self.restart = None;
            let config = self.config.clone();
            if let Err(error) = self.renew(Reason::Restart, config) {
                self.log.error(format_args!("the relay process cannot be started: {error}"));
                self.restart_after(self.pause);
            }
        }
        if let Some(renewal) = self.renewal.as_mut().filter(|renewal| renewal.deadline <= now) {
            renewal.deadline = u64::MAX;
            let number = renewal.number;
            self.children.iter().filter(|child| child.number == number).for_each(Child::kill);
        }
        if due(self.ending) {
            self.ending = Some(u64::MAX);
            self.log.error("relay processes did not end in time and are killed");
            self.children.iter().for_each(Child::kill);
        }
    }

    fn serving(&self) -> Option<&Child> {
        self.children.iter().find(|child| child.serving)
    }

    /// Tells the generation that serves about those before it.
    fn tell_retiring(&self) {
        let serving = self.serving().map(|child| child.number);
        let retiring = self.children.iter().filter(|child| Some(child.number) < serving);
        let processes = retiring.map(|child| child.process.as_raw()).collect();
        if let Some(child) = self.serving() {
            child.tell(&Order::Retiring { processes });
        }
    }

    /// A line for the service manager.
    fn describe(&self) -> String {
        let retiring = self.children.len().saturating_sub(1);
        let addresses = self.doors.shared().len();
        format!(
            "generation {} serves {addresses} addresses, {retiring} before it let sessions end",
            self.generations
        )
    }
}

/// Where the parent writes. A file in a folder that another user may write to is for that user alone:
/// what root would write there, that user could lead elsewhere.
fn open_log(config: &Config) -> io::Result<Logger> {
    let file = config.log.file.clone().filter(|_| config.global.user.is_none());
    Logger::open(Log { file, ..config.log.clone() }, None)
}

/// Blocks the signals that are heard here and everything else that would end the parent in the
/// middle of something; the mask outlives execve(2), so that none is lost at an upgrade.
fn signals() -> Result<SignalFd, StartError> {
    use Signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    let heard: SigSet =
        [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2].into_iter().collect();
    heard
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|errno| StartError::Host { what: "how to wait for signals", error: errno.into() })
}

fn later(after: Duration) -> u64 {
    process::monotonic_micros() + u64::try_from(after.as_micros()).unwrap_or(u64::MAX / 2)
}

fn code_of(exit: Exit) -> ExitCode {
    match exit {
        Exit::Code(0) => ExitCode::Success,
        _ => ExitCode::Runtime,
    }
}
