//! Rounds: every subject in turn, then again the other way round, so that what drifts on the
//! machine meets all alike.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::cli;
use crate::clock::within;
use crate::error::Error;
use crate::load::Outcome;
use crate::manifest::Manifest;
use crate::process::Process;
use crate::report;
use crate::scenario::Scenario;
use crate::subject::{self, Place, Role, Subject};

/// How long a started process may take until it listens.
const START: Duration = Duration::from_secs(10);
/// How long a load may take beside its warm-up and window.
const LOAD_MARGIN: Duration = Duration::from_secs(40);
/// A relay's port is looked for here: below the usual ephemeral range, so that no connection takes
/// it between our look and the relay's bind.
const RELAY_PORTS: std::ops::Range<u16> = 4_000..9_900;

/// Where the processes run.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) relay_cpu: usize,
    pub(crate) load_cpus: Vec<usize>,
    next_port: u16,
}

/// What became of one subject.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) subject: Subject,
    /// One for each round that succeeded.
    pub(crate) outcomes: Vec<(u32, Outcome)>,
    /// Rounds that did not, with the reason.
    pub(crate) failed: Vec<(u32, String)>,
}

/// Runs all scenarios; true when nothing failed.
///
/// # Errors
/// When there is nothing to measure or results cannot be written.
pub(crate) fn run(arguments: &cli::Run) -> Result<bool, Error> {
    let scenarios: Vec<_> =
        arguments.scenarios.iter().map(|path| Scenario::read(path)).collect::<Result<_, _>>()?;
    let mut stage = Stage::new(arguments)?;
    let fanin = match &arguments.fanin {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .map_err(Error::at("cannot find my own program"))?
            .with_file_name("fanin"),
    };
    let subjects = subject::all(&fanin, arguments.rival.as_deref());
    let (subjects, versions) = installed(subject::chosen(subjects, &arguments.only)?);
    if subjects.is_empty() {
        return Err(Error("nothing to measure: no subject is installed".to_owned()));
    }
    let manifest = Manifest::new(&stage, versions, arguments);
    let folder = match &arguments.out {
        Some(path) => path.clone(),
        None => PathBuf::from("bench/results").join(manifest.folder()),
    };
    let mut well = true;
    for scenario in &scenarios {
        println!("{}: {}", scenario.name, scenario.title);
        let before = Manifest::load_average();
        let measured = rounds(scenario, &subjects, arguments.rounds, &mut stage);
        well &= measured.iter().all(|measured| measured.failed.is_empty());
        report::write(scenario, &measured, &manifest.with_load(before), &folder)?;
    }
    println!("results are in {}", folder.display());
    Ok(well)
}

/// Those that can be run, and their versions; says loudly which cannot.
fn installed(subjects: Vec<Subject>) -> (Vec<Subject>, Vec<(String, String)>) {
    let mut versions = Vec::new();
    let mut kept = Vec::new();
    for subject in subjects {
        match subject.version() {
            Ok(version) => {
                versions.extend(version.map(|version| (subject.name.clone(), version)));
                kept.push(subject);
            }
            Err(error) => eprintln!("bench: SKIPPED {}: {error}", subject.name),
        }
    }
    (kept, versions)
}

fn rounds(
    scenario: &Scenario,
    subjects: &[Subject],
    rounds: u32,
    stage: &mut Stage,
) -> Vec<Measured> {
    let mut measured: Vec<_> = subjects
        .iter()
        .map(|subject| Measured {
            subject: subject.clone(),
            outcomes: Vec::new(),
            failed: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let entry = &mut measured[index];
            match stage.measure(&entry.subject, scenario) {
                Ok(outcome) => {
                    println!(
                        "  round {} {:<22} {}",
                        round + 1,
                        entry.subject.name,
                        report::line(&outcome, &scenario.work)
                    );
                    entry.outcomes.push((round, outcome));
                }
                Err(error) => {
                    eprintln!("bench: round {} {} FAILED: {error}", round + 1, entry.subject.name);
                    entry.failed.push((round, error.to_string()));
                }
            }
        }
    }
    measured
}

impl Stage {
    fn new(arguments: &cli::Run) -> Result<Self, Error> {
        let set = sched_getaffinity(Pid::from_raw(0)).map_err(Error::at("CPUs"))?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
        let relay_cpu = arguments
            .relay_cpu
            .or_else(|| allowed.first().copied())
            .ok_or_else(|| Error("no CPU".to_owned()))?;
        let mut load_cpus = arguments.load_cpus.clone();
        if load_cpus.is_empty() {
            load_cpus = allowed.iter().copied().filter(|cpu| *cpu != relay_cpu).collect();
        }
        if load_cpus.is_empty() {
            eprintln!("bench: only CPU {relay_cpu} is allowed: load and relay share it");
            load_cpus.push(relay_cpu);
        }
        let wanted = [&[relay_cpu][..], &load_cpus].concat();
        if let Some(cpu) = wanted.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(Error(format!("CPU {cpu} is not allowed; allowed are {allowed:?}")));
        }
        Ok(Self { relay_cpu, load_cpus, next_port: RELAY_PORTS.start })
    }

    /// One subject, once: servers, relay, load, and the end of all three.
    fn measure(&mut self, subject: &Subject, scenario: &Scenario) -> Result<Outcome, Error> {
        let work = &scenario.work;
        let own = std::env::current_exe().map_err(Error::at("cannot find my own program"))?;
        let json = serde_json::to_string(work).map_err(Error::at("work"))?;
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let server =
            Process::start("server", &self.load_cpus, &own, &words(&["server", "--work", &json]))?;
        let (server, line) = server.line(START)?;
        let servers: Vec<SocketAddr> =
            serde_json::from_str(&line).map_err(Error::at("the server's addresses"))?;
        let mut arguments = words(&["load", "--work", &json]);
        arguments.extend(words(&["--server", &server.pid().to_string()]));
        let scratch = Scratch::new()?;
        let (mut relay, targets) = if subject.role == Role::Direct {
            (None, servers)
        } else {
            let listens = self.free_addresses(&servers)?;
            let place = Place {
                listens: &listens,
                servers: &servers,
                directory: &scratch.0,
                buffer_bytes: work.peer_buffer_bytes,
                fanin_settings: &scenario.fanin,
            };
            let relay = self.start_relay(subject, &place)?;
            arguments.extend(words(&["--relay", &relay.pid().to_string()]));
            (Some(relay), listens)
        };
        for target in targets {
            arguments.extend(words(&["--target", &target.to_string()]));
        }
        let load = Process::start("load", &self.load_cpus, &own, &arguments)?;
        let limit = Duration::from_millis(work.warmup_ms + work.window_ms) + LOAD_MARGIN;
        let (_load, line) = load.line(limit)?;
        if let Some(relay) = &mut relay
            && relay.has_ended()
        {
            let words = relay.last_words();
            return Err(Error(format!("{} ended in mid-run; {words}", subject.name)));
        }
        serde_json::from_str(&line).map_err(Error::at("the load's outcome"))
    }

    fn start_relay(&self, subject: &Subject, place: &Place<'_>) -> Result<Process, Error> {
        let (program, arguments) = subject.command(place)?;
        let mut relay = Process::start(&subject.name, &[self.relay_cpu], program, &arguments)?;
        let listens = |address: &SocketAddr| TcpStream::connect_timeout(address, START).is_ok();
        let up = within(START, || match place.listens.iter().all(listens) {
            _ if relay.has_ended() => Some(false),
            true => Some(true),
            false => None,
        });
        if up == Some(true) {
            return Ok(relay);
        }
        let words = relay.last_words();
        Err(Error(format!("{} does not listen; {words}", subject.name)))
    }

    /// As many addresses as there are servers, all with one port that nobody has.
    fn free_addresses(&mut self, servers: &[SocketAddr]) -> Result<Vec<SocketAddr>, Error> {
        for _ in RELAY_PORTS {
            // A new one each time: the last one's connections may still be in TIME_WAIT.
            self.next_port += 1;
            if !RELAY_PORTS.contains(&self.next_port) {
                self.next_port = RELAY_PORTS.start;
            }
            let addresses: Vec<_> =
                servers.iter().map(|server| SocketAddr::new(server.ip(), self.next_port)).collect();
            if addresses.iter().all(|address| TcpListener::bind(address).is_ok()) {
                return Ok(addresses);
            }
        }
        Err(Error(format!("no free port in {RELAY_PORTS:?}")))
    }
}

/// A folder for one relay's files, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("fanin-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(Error::at(format!("{}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the temporary folder, harmless.
        let _ = std::fs::remove_dir_all::<&Path>(&self.0);
    }
}
