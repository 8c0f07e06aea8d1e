//! Where a subject is measured: which CPUs, which addresses, and the processes of one round.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::clock::within;
use crate::error::Error;
use crate::link::{FAR, Link};
use crate::load::Outcome;
use crate::process::Process;
use crate::scenario::Scenario;
use crate::subject::{Place, Role, Subject};

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

impl Stage {
    /// The relay on one CPU, the first that we may use unless it is said; the ends on the others.
    ///
    /// # Errors
    /// When a CPU is asked for that we may not use.
    pub(crate) fn new(relay_cpu: Option<usize>, mut load_cpus: Vec<usize>) -> Result<Self, Error> {
        let set = sched_getaffinity(Pid::from_raw(0)).map_err(Error::at("CPUs"))?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
        let relay_cpu = relay_cpu
            .or_else(|| allowed.first().copied())
            .ok_or_else(|| Error("no CPU".to_owned()))?;
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
        // Elsewhere than another bench that runs now: relays that listen with SO_REUSEPORT at one
        // port would share its connections, and neither would say so.
        let ports = u32::from(RELAY_PORTS.end - RELAY_PORTS.start);
        let from = u16::try_from(std::process::id().wrapping_mul(131) % ports).unwrap_or(0);
        Ok(Self { relay_cpu, load_cpus, next_port: RELAY_PORTS.start + from })
    }

    /// Goes to the relay's CPU: who takes turns with the relay wakes it without crossing processors.
    ///
    /// # Errors
    /// When we may not.
    pub(crate) fn join_relay(&self) -> Result<(), Error> {
        let mut cpus = CpuSet::new();
        cpus.set(self.relay_cpu)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus))
            .map_err(Error::at(format!("CPU {}", self.relay_cpu)))
    }

    /// One subject, once: servers, relay, load, and the end of all three.
    ///
    /// # Errors
    /// When one of them fails, with its last words.
    pub(crate) fn measure(
        &mut self,
        subject: &Subject,
        scenario: &Scenario,
    ) -> Result<Outcome, Error> {
        let work = &scenario.work;
        // A new one each time: nobody finds what another has left in TIME_WAIT.
        let link = scenario.link.as_ref().map(|link| Link::new(link, &self.load_cpus));
        let link = link.transpose()?;
        let own = std::env::current_exe().map_err(Error::at("cannot find my own program"))?;
        let json = serde_json::to_string(work).map_err(Error::at("work"))?;
        let (server, servers) = self.start_server(&own, &json, link.as_ref())?;
        let mut arguments = words(&["load", "--work", &json]);
        arguments.extend(words(&["--server", &server.pid().to_string()]));
        let scratch = Scratch::new()?;
        let (mut relay, targets) = if subject.role == Role::Direct {
            (None, servers.clone())
        } else {
            let listens = self.free_addresses(work.addresses.into())?;
            let place = Place {
                listens: &listens,
                servers: &servers,
                directory: &scratch.0,
                buffer_bytes: work.peer_buffer_bytes,
            };
            let relay = self.start_relay(subject, &place)?;
            arguments.extend(words(&["--relay", &relay.pid().to_string()]));
            (Some(relay), listens)
        };
        for target in targets {
            arguments.extend(words(&["--target", &target.to_string()]));
        }
        for server in servers {
            arguments.extend(words(&["--destination", &server.to_string()]));
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
        let outcome: Outcome =
            serde_json::from_str(&line).map_err(Error::at("the load's outcome"))?;
        Ok(Outcome { accepted_by_worker: subject.accepted_by_worker(&scratch.0), ..outcome })
    }

    /// The far end and its addresses: at the end of the link one, so that one upstream address is what is
    /// measured.
    fn start_server(
        &self,
        own: &Path,
        json: &str,
        link: Option<&Link>,
    ) -> Result<(Process, Vec<SocketAddr>), Error> {
        let mut arguments = words(&["server", "--work", json]);
        let server = match link {
            None => Process::start("server", &self.load_cpus, own, &arguments)?,
            Some(link) => {
                arguments.extend(words(&["--at", &FAR.to_string()]));
                link.at_far_end(|| Process::start("server", &self.load_cpus, own, &arguments))?
            }
        };
        let (server, line) = server.line(START)?;
        let addresses = serde_json::from_str(&line);
        Ok((server, addresses.map_err(Error::at("the server's addresses"))?))
    }

    /// Starts a relay and waits until it listens.
    ///
    /// # Errors
    /// When it does not, with its last words.
    pub(crate) fn start_relay(
        &self,
        subject: &Subject,
        place: &Place<'_>,
    ) -> Result<Process, Error> {
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

    /// So many addresses, 127.0.0.1 and following, all with one port that nobody has.
    ///
    /// # Errors
    /// When there is no such port.
    pub(crate) fn free_addresses(&mut self, count: usize) -> Result<Vec<SocketAddr>, Error> {
        for _ in RELAY_PORTS {
            // A new one each time: the last one's connections may still be in TIME_WAIT.
            self.next_port += 1;
            if !RELAY_PORTS.contains(&self.next_port) {
                self.next_port = RELAY_PORTS.start;
            }
            let addresses: Vec<SocketAddr> = (1..=255)
                .take(count)
                .map(|n| (Ipv4Addr::new(127, 0, 0, n), self.next_port).into())
                .collect();
            if addresses.iter().all(|address| TcpListener::bind(address).is_ok()) {
                return Ok(addresses);
            }
        }
        Err(Error(format!("no free port in {RELAY_PORTS:?}")))
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A folder for one relay's files, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// # Errors
    /// When the folder for temporary files takes none.
    pub(crate) fn new() -> Result<Self, Error> {
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
