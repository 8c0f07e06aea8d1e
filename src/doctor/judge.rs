//! The judgement: a configuration, a number of agents, a snapshot of a host. PURE.
//!
//! The numbers of an agent: one of version 5 opens 0.29 connections a second and keeps none, one
//! written in Go keeps one or two; a host must carry either kind. docs/TUNING.md has the reasons for
//! the limits, and `scripts/tune-host` sets the same ones.

use crate::config::{Config, EngineChoice, SourcePorts};
use crate::supervisor::StartError;
use crate::supervisor::limits::{Budget, Host as Limits, source_ports};

use super::{Diagnosis, Finding, Host, Severity};

/// How many agents are asked about when nobody says: what the page about proxies promises of one.
pub const AGENTS_DEFAULT: u32 = 1000;

/// Connections a second of a hundred agents of version 5.
const CONNECTS_OF_HUNDRED: u64 = 29;
/// Seconds that a closed connection keeps its ports (`TCP_TIMEWAIT_LEN`).
pub(super) const TIME_WAIT: u64 = 60;
/// Tracked connections of one agent: 0.29 a second, on both sides, 120 s in TIME_WAIT
/// (`nf_conntrack_tcp_timeout_time_wait`), and two that it keeps.
pub(super) const TRACKED_AN_AGENT: u64 = 72;
/// Kernel memory of one session: two sockets, with a segment or two in their queues.
pub(super) const BYTES_A_SESSION: u64 = 16 * 1024;
/// Clocks that are read without a system call (vdso(7)).
const QUICK_CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen"];

/// What stops `agents` agents on `host` under `config`, what warns, and what is fine.
pub fn judge<'a>(config: &'a Config, agents: u32, host: &'a Host) -> Diagnosis {
    let workers = config
        .global
        .workers
        .unwrap_or_else(|| host.processors.try_into().unwrap_or(u16::MAX))
        .max(1);
    let case = Case { config, host, agents: agents.into(), workers: workers.into() };
    let judgements: [fn(&Case<'a>) -> Option<Finding>; 15] = [
        Case::descriptors,
        Case::files,
        Case::maxconn,
        Case::queue,
        Case::handshakes,
        Case::ports,
        Case::listening,
        Case::pipes,
        Case::tcp_memory,
        Case::memory,
        Case::tracking,
        Case::ring,
        Case::clock,
        Case::cards,
        Case::migration,
    ];
    let mut findings: Vec<_> = judgements.into_iter().filter_map(|judge| judge(&case)).collect();
    findings.sort_by_key(|finding| finding.severity);
    let ok = findings.iter().all(|finding| finding.severity != Severity::Stops);
    Diagnosis { agents, workers, ok, findings }
}

struct Case<'a> {
    config: &'a Config,
    host: &'a Host,
    agents: u64,
    workers: u64,
}

fn finding(
    topic: &'static str,
    bad: Option<Severity>,
    found: String,
    needed: String,
    cure: String,
) -> Finding {
    let severity = bad.unwrap_or(Severity::Fine);
    Finding { severity, topic, found, needed, cure: bad.map(|_| cure) }
}

/// A sysctl that must be at least so much.
fn sysctl(
    topic: &'static str,
    name: &str,
    is: u64,
    wants: u64,
    bad: Severity,
    why: &str,
) -> Finding {
    finding(
        topic,
        (is < wants).then_some(bad),
        format!("{name} = {is}"),
        format!("{wants}: {why}"),
        format!("sysctl -w {name}={wants}"),
    )
}

/// The queue of each worker that holds its share when all agents come at once (listen(2): 65,535 at most).
pub(super) fn queue_for(agents: u64, workers: u64) -> u64 {
    agents.div_ceil(workers).min(65_535)
}

/// 64 pages a pipe, a pipe for every second agent, as scripts/tune-host has it.
pub(super) fn pages_of_pipes(agents: u64) -> u64 {
    (agents / 2).clamp(16, 8192) * 64
}

impl Case<'_> {
    /// What the relay itself would say at its start, asked for a session an agent.
    fn descriptors(&self) -> Option<Finding> {
        let (_, hard) = self.host.descriptors?;
        let limits = self.limits(hard);
        let mut config = self.config.clone();
        config.global.workers = u16::try_from(self.workers).ok();
        config.global.maxconn = u32::try_from(self.agents).ok();
        let found = format!("RLIMIT_NOFILE = {hard}, for each of {} workers", self.workers);
        let Err(StartError::Descriptors { needed, .. }) = Budget::new(&config, &limits) else {
            return Some(finding("descriptors", None, found, String::new(), String::new()));
        };
        let mut cure = format!(
            "systemctl edit fanin   # [Service] LimitNOFILE={needed}\nulimit -n {needed}   # in the shell that starts it"
        );
        if self.host.descriptors_max.is_some_and(|most| most < needed) {
            cure = format!("sysctl -w fs.nr_open={needed}\n{cure}");
        }
        let needed = format!("{needed}: two a session, and the pipes");
        Some(finding("descriptors", Some(Severity::Stops), found, needed, cure))
    }

    fn limits(&self, descriptors: u64) -> Limits {
        Limits {
            name: String::new(),
            descriptors,
            processors: (0..u16::try_from(self.host.processors).unwrap_or(u16::MAX)).collect(),
            pipe_pages: self.host.pipe_pages.filter(|_| self.counts_pipes()),
            local_ports: self.host.local_ports.clone().unwrap_or(32_768..=60_999),
            reserved_ports: self.host.reserved_ports.clone(),
        }
    }

    /// Whether the pages of pipes are limited: root is free of that by its capabilities, which the
    /// sandbox takes from it.
    fn counts_pipes(&self) -> bool {
        let free = self.host.is_root && !self.config.global.sandbox;
        !free && self.host.pipe_pages.is_some_and(|pages| pages > 0)
    }

    fn files(&self) -> Option<Finding> {
        let wants = self.host.files_open.unwrap_or(0) + 4 * self.agents;
        let why = "open files of all processes, four an agent and those that are open";
        Some(sysctl("files", "fs.file-max", self.host.files_max?, wants, Severity::Stops, why))
    }

    /// A limit that somebody has set lower than what is asked for.
    fn maxconn(&self) -> Option<Finding> {
        let lowest = self
            .config
            .listeners
            .iter()
            .filter_map(|listener| listener.maxconn)
            .chain(self.config.global.maxconn)
            .min()?;
        Some(finding(
            "maxconn",
            (u64::from(lowest) < self.agents).then_some(Severity::Warns),
            format!("maxconn = {lowest} in the configuration"),
            format!(
                "{}: agents that keep a connection each; more than maxconn wait in the queue",
                self.agents
            ),
            format!("set maxconn = {} (or \"auto\"), then: fanin reload", self.agents),
        ))
    }

    fn queue(&self) -> Option<Finding> {
        let most = self.host.queue_max?;
        let wants = queue_for(self.agents, self.workers);
        let why =
            "after an outage all agents come at once, and the queue of each worker holds its share";
        let mut queue = sysctl("queue", "net.core.somaxconn", most, wants, Severity::Warns, why);
        let backlog =
            self.config.listeners.iter().map(|listener| u64::from(listener.backlog)).min()?;
        if most >= wants && backlog < wants {
            queue.severity = Severity::Warns;
            queue.found = format!("backlog = {backlog} in the configuration");
            queue.cure =
                Some(format!("set backlog = {wants} in the [[listener]], then restart fanin"));
        }
        if let Some(lost) = self.host.overflows.filter(|&lost| lost > 0) {
            queue.found +=
                &format!("; {lost} connections have met a full queue since this host started");
        }
        Some(queue)
    }

    fn handshakes(&self) -> Option<Finding> {
        let wants = queue_for(self.agents, self.workers);
        let why = "handshakes under way when all agents come at once";
        let name = "net.ipv4.tcp_max_syn_backlog";
        Some(sysctl("handshakes", name, self.host.handshakes_max?, wants, Severity::Warns, why))
    }

    /// Ports towards the servers: those in use, and those in TIME_WAIT.
    fn ports(&self) -> Option<Finding> {
        let connects = (self.agents * CONNECTS_OF_HUNDRED).div_ceil(100);
        let upstreams: u64 =
            self.config.backends.iter().map(|backend| backend.servers.len() as u64).sum();
        let local = self.host.local_ports.clone()?;
        let mode = self.config.backends.first()?.source.ports;
        let own = match source_ports(mode, &self.limits(u64::MAX)) {
            Ok(range) => range,
            Err(error) => {
                let cure = "write source = { ports = \"auto\" } in the backend".to_owned();
                return Some(finding(
                    "ports",
                    Some(Severity::Stops),
                    error.to_string(),
                    "a range of our own".to_owned(),
                    cure,
                ));
            }
        };
        // Our own ports are used again at once while TCP timestamps tell the connections apart.
        let again = match &own {
            Some(_) => self.host.timestamps != Some(0),
            None => self.host.reuse == Some(1) && self.host.timestamps != Some(0),
        };
        let sources = self.config.backends.first()?.source.addresses.len().max(1) as u64;
        let count = own.as_ref().unwrap_or(&local).len() as u64 * upstreams.max(1) * sources;
        let whose = if own.is_some() { "of our own" } else { "of the kernel's choice" };
        let found = format!(
            "{count} source ports {whose} at {sources} addresses towards {upstreams} servers, {}",
            if again { "used again at once" } else { "each kept for 60 s in TIME_WAIT" }
        );
        let kept = if again { self.agents } else { self.agents.max(connects * TIME_WAIT) };
        let needed =
            format!("{kept}: {} kept connections, or {connects} new ones a second", self.agents);
        let cure = match (own.is_some(), self.host.timestamps, mode) {
            (_, Some(0), _) => "sysctl -w net.ipv4.tcp_timestamps=1",
            (false, _, SourcePorts::Kernel) => {
                "write source = { ports = \"auto\" } in the backend, then: fanin reload"
            }
            (false, ..) => {
                "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"   # leaves a range for fanin"
            }
            (true, ..) => {
                "write source = { addresses = [\"ADDRESS\", \"ANOTHER\"] } in the backend, with addresses of this host, or use a second relay"
            }
        };
        Some(finding(
            "ports",
            (kept > count).then_some(Severity::Stops),
            found,
            needed,
            cure.to_owned(),
        ))
    }

    /// The ports to listen on.
    fn listening(&self) -> Option<Finding> {
        let ports = || {
            self.config
                .listeners
                .iter()
                .flat_map(|listener| &listener.bind)
                .map(std::net::SocketAddr::port)
        };
        let taken: Vec<_> = ports().filter(|port| self.host.ports_taken.contains(port)).collect();
        let barred = self.host.first_free_port.filter(|_| !self.host.is_root);
        let low =
            barred.and_then(|first| ports().find(|&port| port > 0 && u64::from(port) < first));
        if let Some(port) = taken.first() {
            return Some(finding(
                "listening",
                Some(Severity::Warns),
                format!("port {port} is taken"),
                "a free port; all is well if that is fanin itself".to_owned(),
                format!("ss -ltnp 'sport = :{port}'   # who has it"),
            ));
        }
        let found = match low {
            Some(port) => format!("port {port} needs a permission that this user lacks"),
            None => format!("{} ports are free", ports().count()),
        };
        let cure = "systemctl edit fanin   # [Service] AmbientCapabilities=CAP_NET_BIND_SERVICE"
            .to_owned();
        Some(finding(
            "listening",
            low.map(|_| Severity::Warns),
            found,
            "the permission CAP_NET_BIND_SERVICE".to_owned(),
            cure,
        ))
    }

    fn pipes(&self) -> Option<Finding> {
        let pages = self.host.pipe_pages?;
        let wants = pages_of_pipes(self.agents);
        if !self.counts_pipes() {
            let found = "the limit on pages of pipes does not bind".to_owned();
            return Some(finding("pipes", None, found, String::new(), String::new()));
        }
        let why =
            "pages for the pipes that bulk goes through; past it pipes are tiny, and fanin copies";
        Some(sysctl("pipes", "fs.pipe-user-pages-soft", pages, wants, Severity::Warns, why))
    }

    fn tcp_memory(&self) -> Option<Finding> {
        let [low, pressure, high] = self.host.tcp_pages?;
        let wants = (self.agents * BYTES_A_SESSION).div_ceil(4096);
        let bad = match wants {
            wants if wants > high => Some(Severity::Stops),
            wants if wants > pressure => Some(Severity::Warns),
            _ => None,
        };
        let cure = format!(
            "sysctl -w net.ipv4.tcp_mem=\"{} {} {}\"",
            low.max(wants),
            pressure.max(wants * 3 / 2),
            high.max(wants * 2)
        );
        let found = format!("net.ipv4.tcp_mem = {low} {pressure} {high} pages");
        Some(finding(
            "tcp_mem",
            bad,
            found,
            format!("{wants} pages in use: 16 KiB a session"),
            cure,
        ))
    }

    fn memory(&self) -> Option<Finding> {
        let available = self.host.memory?;
        let wants = self.agents * (BYTES_A_SESSION + 512) + self.workers * (32 << 20);
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Some(finding(
            "memory",
            (available < wants).then_some(Severity::Stops),
            format!("{} MiB available", mib(available)),
            format!("{} MiB: 16.5 KiB a session, 32 MiB a worker", mib(wants)),
            "ps --sort=-rss -eo rss,pid,comm | head   # who has the memory; or use a second relay"
                .to_owned(),
        ))
    }

    fn tracking(&self) -> Option<Finding> {
        let Some((now, most)) = self.host.tracked.filter(|(now, _)| *now > 0) else {
            let found = "connections are not tracked".to_owned();
            return Some(finding("tracking", None, found, String::new(), String::new()));
        };
        let wants = 65_536 + TRACKED_AN_AGENT * self.agents;
        let mut tracking = sysctl(
            "tracking",
            "net.netfilter.nf_conntrack_max",
            most,
            wants,
            Severity::Stops,
            "72 tracked connections an agent, most of them in TIME_WAIT; better: no tracking for the relay's ports",
        );
        tracking.found += &format!(", {now} are tracked");
        Some(tracking)
    }

    fn ring(&self) -> Option<Finding> {
        let choice = self.config.global.engine;
        if choice == EngineChoice::Epoll {
            return None;
        }
        let Some(why) = &self.host.ring_unfit else {
            return Some(finding(
                "io_uring",
                None,
                "io_uring can run here".to_owned(),
                String::new(),
                String::new(),
            ));
        };
        let (bad, needed) = match choice {
            EngineChoice::IoUring => {
                (Severity::Stops, "the engine that the configuration asks for")
            }
            _ => (Severity::Warns, "io_uring; without it epoll serves"),
        };
        let cure =
            "sysctl -w kernel.io_uring_disabled=0   # or write engine = \"epoll\"".to_owned();
        Some(finding("io_uring", Some(bad), why.clone(), needed.to_owned(), cure))
    }

    fn clock(&self) -> Option<Finding> {
        let clock = self.host.clock.as_ref()?;
        let quick = QUICK_CLOCKS.contains(&clock.as_str());
        Some(finding(
            "clock",
            (!quick).then_some(Severity::Warns),
            format!("the clock is {clock}"),
            "one that is read without a system call, such as tsc: a worker reads it each turn"
                .to_owned(),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"
                .to_owned(),
        ))
    }

    /// One queue's interrupts keep one CPU busy, while the others wait.
    fn cards(&self) -> Option<Finding> {
        let narrow =
            |card: &&super::Card| (card.receive_queues as u64) < self.workers && !card.is_spread;
        let Some(card) = self.host.cards.iter().find(narrow).filter(|_| self.workers > 1) else {
            let found = format!(
                "{} network cards spread their packets over the CPUs",
                self.host.cards.len()
            );
            return Some(finding("interrupts", None, found, String::new(), String::new()));
        };
        let mask = u64::MAX
            .checked_shl(self.host.processors.try_into().unwrap_or(64))
            .map_or(u64::MAX, |mask| !mask);
        Some(finding(
            "interrupts",
            Some(Severity::Warns),
            format!(
                "{} has {} receive queue(s) for {} workers, and no RPS",
                card.name, card.receive_queues, self.workers
            ),
            "a queue a worker, or packets spread over the CPUs".to_owned(),
            format!(
                "ethtool -L {0} combined {1}\nfor q in /sys/class/net/{0}/queues/rx-*; do echo {mask:x} > $q/rps_cpus; done   # where the card has no more queues",
                card.name, self.workers
            ),
        ))
    }

    fn migration(&self) -> Option<Finding> {
        let why = "a listener that closes gives its queue to those that stay";
        Some(sysctl(
            "migration",
            "net.ipv4.tcp_migrate_req",
            self.host.migrate?,
            1,
            Severity::Warns,
            why,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;
    use crate::doctor::Card;

    /// A host with everything that 5000 agents need.
    fn healthy() -> Host {
        Host {
            is_root: false,
            processors: 4,
            descriptors: Some((1024, 1 << 20)),
            descriptors_max: Some(1 << 20),
            files_max: Some(u64::MAX),
            files_open: Some(1000),
            queue_max: Some(4096),
            handshakes_max: Some(4096),
            local_ports: Some(32_768..=60_999),
            reserved_ports: Vec::new(),
            timestamps: Some(1),
            reuse: Some(2),
            migrate: Some(1),
            first_free_port: Some(1024),
            pipe_pages: Some(200_000),
            tcp_pages: Some([100_000, 200_000, 300_000]),
            memory: Some(4 << 30),
            tracked: Some((0, 262_144)),
            clock: Some("tsc".to_owned()),
            ring_unfit: None,
            ports_taken: [22].into(),
            overflows: Some(0),
            cards: vec![Card { name: "eth0".to_owned(), receive_queues: 4, is_spread: false }],
        }
    }

    fn config(lines: &str) -> Config {
        let text = format!(
            "{lines}\n[[listener]]\nbind = [\":3834\"]\n[backend.b]\n\
             [[backend.b.server]]\naddress = \"192.0.2.1:443\"\n"
        );
        Config::from_text(Path::new("t.toml"), &text, &Overrides::default()).unwrap()
    }

    #[track_caller]
    fn one(agents: u32, lines: &str, host: &Host, topic: &str) -> Finding {
        let diagnosis = judge(&config(lines), agents, host);
        diagnosis.findings.into_iter().find(|finding| finding.topic == topic).expect(topic)
    }

    #[test]
    fn nothing_stops_five_thousand_agents_on_a_host_that_is_ready() {
        let diagnosis = judge(&config(""), 5000, &healthy());
        let wrong: Vec<_> =
            diagnosis.findings.iter().filter(|one| one.severity != Severity::Fine).collect();
        assert!(diagnosis.ok && wrong.is_empty(), "{wrong:#?}");
        assert!(diagnosis.findings.iter().all(|one| one.cure.is_none()));
        assert!(diagnosis.text().ends_with("nothing stops 5000 agents on this host\n"));
    }

    /// What is wrong with a host, and what the finding about it must hold.
    type Illness = (fn(&mut Host), &'static str, Severity, &'static [&'static str]);

    const ILL: [Illness; 16] = [
        (
            |h| h.descriptors = Some((256, 1024)),
            "descriptors",
            Severity::Stops,
            &["LimitNOFILE=", "ulimit -n"],
        ),
        (
            |h| (h.descriptors, h.descriptors_max) = (Some((256, 1024)), Some(1024)),
            "descriptors",
            Severity::Stops,
            &["sysctl -w fs.nr_open="],
        ),
        (|h| h.files_max = Some(2000), "files", Severity::Stops, &["sysctl -w fs.file-max=21000"]),
        (|h| h.queue_max = Some(128), "queue", Severity::Warns, &["net.core.somaxconn=1250"]),
        (
            |h| h.handshakes_max = Some(128),
            "handshakes",
            Severity::Warns,
            &["tcp_max_syn_backlog=1250"],
        ),
        (|h| h.timestamps = Some(0), "ports", Severity::Stops, &["87000", "tcp_timestamps=1"]),
        (
            |h| h.local_ports = Some(1024..=65_535),
            "ports",
            Severity::Stops,
            &["ip_local_port_range"],
        ),
        (|h| h.ports_taken.extend([3834]), "listening", Severity::Warns, &["sport = :3834"]),
        (
            |h| h.pipe_pages = Some(16_384),
            "pipes",
            Severity::Warns,
            &["fs.pipe-user-pages-soft=160000"],
        ),
        (
            |h| h.tcp_pages = Some([1, 2, 3]),
            "tcp_mem",
            Severity::Stops,
            &["tcp_mem=\"20000 30000 40000\""],
        ),
        (
            |h| h.memory = Some(100 << 20),
            "memory",
            Severity::Stops,
            &["100 MiB available", "ps --sort"],
        ),
        (
            |h| h.tracked = Some((9, 262_144)),
            "tracking",
            Severity::Stops,
            &["nf_conntrack_max=425536"],
        ),
        (
            |h| h.ring_unfit = Some("barred".to_owned()),
            "io_uring",
            Severity::Warns,
            &["barred", "io_uring_disabled=0"],
        ),
        (|h| h.clock = Some("hpet".to_owned()), "clock", Severity::Warns, &["hpet", "echo tsc"]),
        (
            |h| h.cards[0].receive_queues = 1,
            "interrupts",
            Severity::Warns,
            &["ethtool -L eth0", "echo f > "],
        ),
        (|h| h.migrate = Some(0), "migration", Severity::Warns, &["tcp_migrate_req=1"]),
    ];

    #[test]
    fn each_illness_is_found_with_the_command_that_cures_it() {
        for (sicken, topic, severity, expected) in ILL {
            let mut host = healthy();
            sicken(&mut host);
            let finding = one(5000, "", &host, topic);
            let all = format!("{} {} {:?}", finding.found, finding.needed, finding.cure);
            assert_eq!(finding.severity, severity, "{topic}: {all}");
            let plain = all.replace("\\\"", "\"");
            for part in expected {
                assert!(plain.contains(part), "{topic}: wanted {part} in {plain}");
            }
            let ok = judge(&config(""), 5000, &host).ok;
            assert_eq!(ok, severity != Severity::Stops, "{topic}");
        }
    }

    #[test]
    fn what_is_asked_for_counts_and_not_the_host_alone() {
        let host = healthy();
        assert_eq!(one(1000, "", &host, "queue").severity, Severity::Fine);
        assert_eq!(one(100_000, "", &host, "ports").severity, Severity::Stops);
        let full = one(5000, "[global]\nmaxconn = 100", &host, "maxconn");
        assert!(full.cure.unwrap().contains("maxconn = 5000"));
        let barred = Host { ring_unfit: Some("barred".to_owned()), ..healthy() };
        let asked = one(10, "[global]\nengine = \"io_uring\"", &barred, "io_uring");
        assert_eq!(asked.severity, Severity::Stops);
    }

    #[test]
    fn what_cannot_be_read_is_not_judged() {
        let unknown = Host { processors: 1, ..Host::default() };
        let diagnosis = judge(&config(""), 5000, &unknown);
        assert!(diagnosis.ok, "{}", diagnosis.text());
        assert!(serde_json::from_str::<serde_json::Value>(&diagnosis.json()).is_ok());
    }
}
