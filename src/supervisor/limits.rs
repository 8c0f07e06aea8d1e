//! What the kernel's limits carry, and what to change when they do not carry what was asked.
//!
//! Each worker has a descriptor table of its own, so RLIMIT_NOFILE counts once a worker. Tables
//! and pools are sized by the configuration: a limit only says yes or no.

use std::io;
use std::ops::RangeInclusive;

use crate::config::{Backend, Config, Listener, Mode, SourcePorts};
use crate::sys::{confine, process};

use super::StartError;

/// Descriptors of a worker that belong to no session: the standard three, the bell, a ring or an
/// epoll instance with its waker, a connection being refused, and some to spare.
const DESCRIPTORS_RESERVED: u64 = 16;
/// Descriptors of the main table that belong to no agent: runtimes, bells, the parent, statistics and
/// their readers, checks, the control socket and its clients.
const DESCRIPTORS_RESERVED_MAIN: u64 = 256;
/// A session's two sockets.
const DESCRIPTORS_A_SESSION: u64 = 2;
/// Both ends of a pipe.
const DESCRIPTORS_A_PIPE: u64 = 2;
/// Unless told otherwise, one pipe for this many descriptors: sessions come first, and a flow
/// without a pipe copies.
const DESCRIPTORS_TO_A_POOLED_PIPE: u64 = 64;
/// One spare connection at the most for this many descriptors.
const DESCRIPTORS_TO_A_SPARE: u64 = 8;
const PIPES_MIN: u64 = 4;
/// A GiB of pipes of 1 MiB in each worker; no machine has that many flows in bulk at once.
const PIPES_MAX: u64 = 1024;
/// More sessions than any descriptor table holds by default (`fs.nr_open` is 1,048,576).
const SESSIONS_MAX: u64 = 1 << 20;

/// Where source ports come from unless told otherwise: above what services register for themselves
/// and below where the kernel chooses (measured: 15,300 connections/s for 25 s, no error).
pub const SOURCE_PORTS: RangeInclusive<u16> = 10_240..=32_767;
/// A smaller range would not outlive a burst.
const SOURCE_PORTS_MIN: usize = 1024;

/// What was found on this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it is called.
    pub name: String,
    /// Descriptors in one table: RLIMIT_NOFILE.
    pub descriptors: u64,
    /// CPUs that the process may run on; at least one.
    pub processors: Vec<u16>,
    /// Pages that an ordinary user's pipes may hold; `None` where that does not bind.
    pub pipe_pages: Option<u64>,
    /// What the kernel chooses source ports from.
    pub local_ports: RangeInclusive<u16>,
    /// What it is told not to choose.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
}

impl Host {
    /// Looks at the host, and raises the soft limit on descriptors to the hard one.
    ///
    /// # Errors
    /// Where /proc is not what it should be.
    pub(super) fn look() -> Result<Self, StartError> {
        let cannot = |what| move |error: io::Error| StartError::Host { what, error };
        let descriptors = process::raise_descriptor_limit()
            .map_err(|errno| cannot("the descriptor limit")(errno.into()))?;
        let processors = process::processors_allowed()
            .map_err(|errno| cannot("which CPUs to use")(errno.into()))?;
        // See pipe(7): CAP_SYS_RESOURCE and CAP_SYS_ADMIN, which the sandbox takes from root.
        let pipe_pages = match process::pipe_pages_soft() {
            Ok(0) => None,
            Ok(_) if confine::is_unlimited() => None,
            Ok(pages) => Some(pages),
            Err(error) => return Err(cannot("the page limit of pipes")(error)),
        };
        Ok(Self {
            name: process::host_name(),
            descriptors,
            processors: processors.into_iter().filter_map(|cpu| cpu.try_into().ok()).collect(),
            pipe_pages,
            local_ports: process::local_port_range()
                .map_err(cannot("which ports the kernel chooses from"))?,
            reserved_ports: process::reserved_ports()
                .map_err(cannot("which ports are reserved"))?,
        })
    }

    /// A host that is still to be bought: so many CPUs, and a kernel as it comes.
    pub fn on_paper(processors: u16) -> Self {
        Self {
            name: String::new(),
            descriptors: u64::MAX,
            processors: (0..processors).collect(),
            pipe_pages: None,
            local_ports: 32_768..=60_999,
            reserved_ports: Vec::new(),
        }
    }

    /// One worker a CPU.
    fn workers(&self) -> u16 {
        u16::try_from(self.processors.len()).unwrap_or(u16::MAX).max(1)
    }
}

/// Numbers for people: `0, 1, 4`.
pub(super) fn list(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// How large everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub workers: u16,
    /// Sessions at one time in the process.
    pub sessions: u32,
    /// Sessions at one time in one worker: connections do not spread evenly, so this is more than
    /// the worker's share where the descriptors allow it, and a reload may raise `maxconn` to it.
    /// Costs nothing: the tables grow as sessions come.
    pub sessions_a_worker: u32,
    pub pipes_a_worker: u32,
    /// Connections without a session at one time in one worker.
    pub spares_a_worker: u32,
}

impl Budget {
    /// Works out what the configuration asks for.
    ///
    /// # Errors
    /// When the host's limits do not carry it; the message has the remedy.
    pub fn new(config: &Config, host: &Host) -> Result<Self, StartError> {
        Self::beside(spares_a_worker(config, host), config, host)
    }

    /// The same for workers that are there and stay. What they have reserved for spare connections is no
    /// session's: their tables are what they are.
    pub(super) fn again(&self, config: &Config, host: &Host) -> Result<Self, StartError> {
        Self::beside(self.spares_a_worker.into(), config, host)
    }

    fn beside(spares: u64, config: &Config, host: &Host) -> Result<Self, StartError> {
        let workers = config.global.workers.unwrap_or_else(|| host.workers());
        let carried = sessions_carried(config, host, workers, spares);
        let total = carried * u64::from(workers);
        let asked = config.global.maxconn.map_or_else(|| evenly(carried, workers), u64::from);
        if carried == 0 || asked > total {
            return Err(StartError::Descriptors {
                asked,
                workers,
                limit: host.descriptors,
                carried: total,
                needed: descriptors_needed(config, host, workers, asked),
            });
        }
        Ok(Self {
            workers,
            sessions: clamp(asked),
            sessions_a_worker: clamp(carried),
            pipes_a_worker: clamp(pipes_a_worker(config, host, workers)),
            spares_a_worker: clamp(spares),
        })
    }
}

/// As many sessions as workers that carry so many each take together before one of them is full, in 95
/// of 100 cases: the kernel deals connections out by a hash, so that a worker's share of `n` has a standard
/// deviation of `sqrt(n / workers * (1 - 1 / workers))`, and the more workers there are the further the
/// fullest is from the average. A full worker's queue holds connections that the others would have room
/// for, and a full process's does not.
fn evenly(carried: u64, workers: u16) -> u64 {
    let workers = u64::from(workers);
    let deviation = (carried * (workers - 1) / workers).isqrt();
    // So many tenths of it has one of all workers exceeded once in 20 times, of 8 and of 256.
    let tenths = 25 + u64::from(workers.ilog2().saturating_sub(3)) * 5 / 2;
    (workers * carried.saturating_sub(deviation * tenths / 10)).max(1)
}

/// Sessions for which one worker has descriptors.
fn sessions_carried(config: &Config, host: &Host, workers: u16, spares: u64) -> u64 {
    let listeners: usize = config.listeners.iter().map(|listener| listener.bind.len()).sum();
    let pipes = pipes_a_worker(config, host, workers);
    let fixed = DESCRIPTORS_RESERVED + listeners as u64 + DESCRIPTORS_A_PIPE * pipes + spares;
    let sessions = host.descriptors.saturating_sub(fixed) / DESCRIPTORS_A_SESSION;
    sessions.min(SESSIONS_MAX)
}

/// Connections of agents, each with one to a server, that the main descriptor table carries for the
/// doors.
pub(super) fn door_places(config: &Config, host: &Host) -> u32 {
    let workers = config.global.workers.unwrap_or_else(|| host.workers());
    let sockets: usize = config.listeners.iter().map(|listener| listener.bind.len()).sum();
    let fixed = DESCRIPTORS_RESERVED_MAIN + sockets as u64 * u64::from(workers);
    clamp(host.descriptors.saturating_sub(fixed) / DESCRIPTORS_A_SESSION)
}

/// The limit with which each worker would carry its share of `sessions`. The pool of pipes grows
/// with the limit, so a first guess is raised by what it still lacks until it lacks nothing.
pub fn descriptors_needed(config: &Config, host: &Host, workers: u16, sessions: u64) -> u64 {
    let share = sessions.max(1).div_ceil(u64::from(workers)).min(SESSIONS_MAX);
    let mut host = Host { descriptors: DESCRIPTORS_A_SESSION * share, ..host.clone() };
    loop {
        let carried = sessions_carried(config, &host, workers, spares_a_worker(config, &host));
        if carried >= share {
            return host.descriptors;
        }
        host.descriptors += DESCRIPTORS_A_SESSION * (share - carried);
    }
}

/// Spare connections of one worker: as many as are allowed for, and no more than a part of its
/// descriptors, which are for sessions.
fn spares_a_worker(config: &Config, host: &Host) -> u64 {
    let allowed = |backend: &Backend| {
        u64::from(backend.spare.max.unwrap_or_default()) * backend.servers.len() as u64
    };
    let allowed: u64 = relayed(config).map(allowed).sum();
    allowed.min(host.descriptors / DESCRIPTORS_TO_A_SPARE)
}

/// The backends that workers connect sessions to: doors connect by themselves.
fn relayed(config: &Config) -> impl Iterator<Item = &Backend> {
    let tcp = |it: &&Listener| it.mode == Mode::Tcp;
    let is_relayed =
        move |index: usize| config.listeners.iter().filter(tcp).any(|it| it.leads_to(index));
    let backends = config.backends.iter().enumerate();
    backends.filter(move |(index, _)| is_relayed(*index)).map(|(_, backend)| backend)
}

/// The most spare connections to one server that are wanted.
pub(super) fn spares_a_server(config: &Config) -> u16 {
    relayed(config).filter_map(|backend| backend.spare.max).max().unwrap_or_default()
}

fn pipes_a_worker(config: &Config, host: &Host, workers: u16) -> u64 {
    if let Some(pipes) = config.global.pipes {
        return u64::from(pipes).div_ceil(u64::from(workers));
    }
    let by_descriptors = (host.descriptors / DESCRIPTORS_TO_A_POOLED_PIPE).max(PIPES_MIN);
    let by_pages = host.pipe_pages.map_or(u64::MAX, |pages| {
        pages * 4096 / u64::from(config.global.pipe_bytes) / u64::from(workers)
    });
    by_descriptors.min(by_pages).min(PIPES_MAX)
}

/// The ports that connections to servers come from; `None` leaves the choice to the kernel.
///
/// # Errors
/// When a configured range overlaps the kernel's own.
pub fn source_ports(
    ports: SourcePorts,
    host: &Host,
) -> Result<Option<RangeInclusive<u16>>, StartError> {
    match ports {
        SourcePorts::Kernel => Ok(None),
        SourcePorts::Auto => Ok(free_range(host)),
        SourcePorts::Range { first, last } => {
            if last >= *host.local_ports.start() && first <= *host.local_ports.end() {
                return Err(StartError::SourcePorts {
                    first,
                    last,
                    local: host.local_ports.clone(),
                });
            }
            Ok(Some(first..=last))
        }
    }
}

/// The longest stretch of [`SOURCE_PORTS`] that neither the kernel chooses from nor an
/// administrator has set aside.
fn free_range(host: &Host) -> Option<RangeInclusive<u16>> {
    let mut barred: Vec<_> = host.reserved_ports.clone();
    barred.push(host.local_ports.clone());
    barred.sort_by_key(|range| *range.start());
    let (first, last) = (u32::from(*SOURCE_PORTS.start()), u32::from(*SOURCE_PORTS.end()));
    let mut best = 0..0;
    let mut from = first;
    let end = u32::from(u16::MAX) + 1;
    for (start, stop) in barred
        .iter()
        .map(|range| (u32::from(*range.start()), u32::from(*range.end()) + 1))
        .chain([(end, end)])
    {
        let gap = from..start.min(last + 1);
        if gap.len() > best.len() {
            best = gap;
        }
        from = from.max(stop);
    }
    if best.len() < SOURCE_PORTS_MIN {
        return None;
    }
    Some(u16::try_from(best.start).ok()?..=u16::try_from(best.end - 1).ok()?)
}

fn clamp(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::dice::Dice;
    use crate::config::Overrides;

    fn host(descriptors: u64) -> Host {
        Host {
            name: "relay-1".to_owned(),
            descriptors,
            processors: vec![0, 1],
            pipe_pages: None,
            local_ports: 32_768..=60_999,
            reserved_ports: Vec::new(),
        }
    }

    fn config(text: &str) -> Config {
        let text = format!(
            "{text}\n[[listener]]\nbind = [\"127.0.0.1:3834\"]\n\
             [[backend.b.server]]\naddress = \"192.0.2.1:443\"\n"
        );
        Config::from_text("test.toml".as_ref(), &text, &Overrides::default()).unwrap()
    }

    #[test]
    fn four_workers_under_512_descriptors_have_room_for_800_uneven_sessions() {
        let budget = Budget::new(&config("[global]\nworkers = 4"), &host(512)).unwrap();
        // 200 each on average, with a standard deviation of 12: three of them upwards.
        assert!(budget.sessions_a_worker >= 236, "{budget:?}");
        assert!(budget.sessions >= 800);
    }

    #[test]
    fn what_the_descriptors_do_not_carry_is_refused_with_the_number_that_would() {
        let config = config("[global]\nworkers = 2\nmaxconn = 60000");
        let Err(StartError::Descriptors { needed, carried, .. }) =
            Budget::new(&config, &host(20_000))
        else {
            panic!("60,000 sessions fit into 2 x 20,000 descriptors");
        };
        assert!(carried < 20_000 && needed > 60_000);
        let budget = Budget::new(&config, &host(needed)).unwrap();
        assert_eq!(budget.sessions, 60_000);
    }

    /// Of 1000 fleets that fill the relay, dealt out by chance, no more than a few fill a worker first.
    #[test]
    fn the_default_maxconn_is_reached_before_any_worker_is_full() {
        assert_eq!(evenly(9700, 1), 9700);
        for (carried, workers) in [(236, 4u16), (9700, 2), (9700, 8), (600, 64)] {
            let mut dice = Dice::new(7);
            let all = evenly(carried, workers);
            assert!(all * 100 > carried * u64::from(workers) * 85, "{all}");
            let overfull = (0..1000).filter(|_| {
                let mut shares = vec![0u64; workers.into()];
                for _ in 0..all {
                    shares[dice.roll() as usize % usize::from(workers)] += 1;
                }
                shares.iter().any(|&share| share > carried)
            });
            let overfull = overfull.count();
            assert!(overfull < 50, "{overfull} of 1000 with {workers} workers of {carried}");
        }
    }

    /// A worker's table and what it reserves are made once, and outlast the wish for spare connections.
    #[test]
    fn sessions_never_get_the_descriptors_of_spare_connections_while_workers_stay() {
        let spare = "[backend.b]\nspare = { max = 512 }";
        let with = Budget::new(&config(spare), &host(20_000)).unwrap();
        assert_eq!(with.spares_a_worker, 512);
        let without = config("[global]\nmaxconn = 19000");
        assert!(with.again(&without, &host(20_000)).is_err(), "19,000 are too many beside 2 x 512");
        assert!(Budget::new(&without, &host(20_000)).is_ok());
        let again = with.again(&config(""), &host(20_000)).unwrap();
        assert_eq!(again, with);
    }

    #[test]
    fn doors_reserve_no_spare_connections() {
        let door = "[backend.b]\nspare = { max = 512 }";
        let mut config = config(door);
        config.listeners[0].mode = Mode::Agent;
        assert_eq!(Budget::new(&config, &host(20_000)).unwrap().spares_a_worker, 0);
    }

    /// A worker's table is made once, and a reload may raise `maxconn`.
    #[test]
    fn a_small_maxconn_does_not_make_small_tables() {
        let small = Budget::new(&config("[global]\nmaxconn = 10"), &host(20_000)).unwrap();
        let large = Budget::new(&config("[global]\nmaxconn = 10000"), &host(20_000)).unwrap();
        assert_eq!((small.sessions, large.sessions), (10, 10_000));
        assert_eq!(small.sessions_a_worker, large.sessions_a_worker);
    }

    #[test]
    fn an_ordinary_user_has_no_more_pipes_than_pages() {
        let host = Host { pipe_pages: Some(16_384), ..host(20_000) };
        let budget = Budget::new(&config("[global]\nworkers = 2"), &host).unwrap();
        assert_eq!(budget.pipes_a_worker, 32, "64 MiB in pipes of 1 MiB for two workers");
    }

    #[test]
    fn source_ports_keep_off_what_is_not_ours() {
        assert_eq!(free_range(&host(0)), Some(10_240..=32_767));
        let reserved = Host { reserved_ports: vec![12_000..=12_000, 30_000..=30_010], ..host(0) };
        assert_eq!(free_range(&reserved), Some(12_001..=29_999));
        let wide = Host { local_ports: 1024..=65_535, ..host(0) };
        assert_eq!(free_range(&wide), None);
        let inside = SourcePorts::Range { first: 32_000, last: 40_000 };
        assert!(source_ports(inside, &host(0)).is_err());
    }
}
