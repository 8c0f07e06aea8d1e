//! What so many agents take, on paper: relays, processors, memory, descriptors, ports. PURE but for
//! the file of a measurement.
//!
//! Every figure follows from three of the fleet (how often an agent reports, how many connections it
//! keeps, how large a report is) and from what a report costs the relay, measured. docs/CAPACITY.md
//! works an example through.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::Profile;
use crate::config::{BACKLOG_DEFAULT, Config};
use crate::supervisor::limits::{self, Host as Limits, SOURCE_PORTS};

use super::judge::{BYTES_A_SESSION, TIME_WAIT, TRACKED_AN_AGENT, pages_of_pipes, queue_for};

/// Most of its processors that a relay is planned to use: queues grow without bound towards the whole,
/// and an outage brings everybody back at once.
const HEADROOM: f64 = 0.65;
/// Bytes of a relay process without sessions (measured: 15.2 MB resident with one worker).
const BYTES_AT_REST: u64 = 16 << 20;
/// Bytes of user memory of a session (measured: 600, with its place in tables and timers).
const USER_BYTES_A_SESSION: u64 = 600;
/// Bytes of a connection in TIME_WAIT (`tw_sock_TCP` in /proc/slabinfo).
const BYTES_IN_TIME_WAIT: u64 = 256;
/// What Ethernet, IP and TCP add to one packet, with timestamps.
const BYTES_A_PACKET: f64 = 66.0;

/// One agent of a profile, as docs/BENCHMARKS.md derives it from the agents' code.
struct Agent {
    reports_a_second: f64,
    connects_a_second: f64,
    /// At one time, at most: when the server is slow, every agent waits on its connection.
    sessions: u64,
    /// Bytes of a report, header and body, as loadgen sends it on average.
    bytes_a_report: f64,
    packets_a_report: f64,
    /// Microseconds of the relay's processor for a report: the highest of the runs with 5000 agents
    /// at their own pace (89 to 107, and 77 to 98). A busier relay works on many at once and needs
    /// less for each, so this errs on the side of caution.
    micros_a_report: f64,
}

impl Agent {
    const fn of(profile: Profile) -> Self {
        match profile {
            Profile::V5Churn => Self {
                reports_a_second: 3.0 / 16.15 + 0.1,
                connects_a_second: 3.0 / 16.15 + 0.1,
                sessions: 1,
                bytes_a_report: 1240.0,
                packets_a_report: 5.0,
                micros_a_report: 107.0,
            },
            Profile::GoKeepalive => Self {
                reports_a_second: 1.5 / 15.0,
                connects_a_second: 0.0,
                sessions: 2,
                bytes_a_report: 1764.0,
                packets_a_report: 3.0,
                micros_a_report: 98.0,
            },
        }
    }
}

/// What is to be planned for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub agents: u32,
    pub profile: Profile,
    /// Processors of one relay.
    pub cores: u16,
    /// Addresses that connections go to.
    pub servers: u32,
    /// Addresses that one relay's connections come from.
    pub sources: u32,
    /// What a report costs there, instead of the built-in figure.
    pub measured: Option<Measured>,
}

/// What `loadgen --json` or `loadgen find-max --json` has measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub profile: Profile,
    /// Microseconds of the relay's processor for a report.
    pub micros_a_report: f64,
    /// How throughput grows with workers, where that was measured.
    pub scaling: Option<Scaling>,
}

/// The Universal Scalability Law's two losses (Gunther, Guerrilla Capacity Planning, chapter 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The share that cannot be done side by side.
    pub contention: f64,
    /// What each worker costs each other.
    pub coherency: f64,
}

impl Scaling {
    /// How many workers' work so many do.
    fn capacity(self, workers: f64) -> f64 {
        let others = workers - 1.0;
        workers / (1.0 + self.contention * others + self.coherency * workers * others)
    }
}

/// Why a file is no measurement to plan with.
#[derive(Debug, thiserror::Error)]
pub enum MeasuredError {
    #[error("cannot read {file}: {error}")]
    Unreadable { file: String, error: std::io::Error },
    #[error(
        "{file} is no measurement: {error}; write one with: loadgen find-max --json measured.json, \
         or loadgen --agents N --json measured.json"
    )]
    Foreign { file: String, error: serde_json::Error },
    #[error(
        "{file} does not say what the relay needed: {why}; measure again, and with --target give \
         --relay-pid as well"
    )]
    Unfit { file: String, why: &'static str },
}

/// The parts of loadgen's files that matter here (docs/loadgen-report.md).
#[derive(Deserialize)]
#[serde(tag = "schema")]
enum Document {
    #[serde(rename = "loadgen-report/1")]
    Report { asked: Asked, generator: Generator, relay: Option<RelayCost> },
    #[serde(rename = "loadgen-find-max/1")]
    Search {
        profile: Profile,
        trials: Vec<Trial>,
        #[serde(default)]
        scaling: Option<Scaling>,
    },
}

#[derive(Deserialize)]
struct Asked {
    profile: Profile,
}

#[derive(Deserialize)]
struct Generator {
    invalid: Vec<String>,
}

#[derive(Deserialize)]
struct RelayCost {
    us_per_exchange: f64,
}

#[derive(Deserialize)]
struct Trial {
    verdict: String,
    relay_us_per_exchange: Option<f64>,
}

impl Measured {
    /// Reads what loadgen wrote.
    ///
    /// # Errors
    /// When it is no file of loadgen's, or one that says nothing about the relay.
    pub fn read(path: &Path) -> Result<Self, MeasuredError> {
        let file = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Err(MeasuredError::Unreadable { file, error }),
        };
        Self::parse(&text, file)
    }

    fn parse(text: &str, file: String) -> Result<Self, MeasuredError> {
        let (profile, micros, scaling, why) = match serde_json::from_str(text) {
            Err(error) => return Err(MeasuredError::Foreign { file, error }),
            Ok(Document::Report { generator, .. }) if !generator.invalid.is_empty() => {
                let why = "the generator was the limit of that run, which is invalid";
                return Err(MeasuredError::Unfit { file, why });
            }
            Ok(Document::Report { asked, relay, .. }) => {
                let micros = relay.map(|relay| relay.us_per_exchange);
                (asked.profile, micros, None, "it has no processor time of a relay")
            }
            Ok(Document::Search { profile, trials, scaling }) => {
                let passed = trials.into_iter().filter(|trial| trial.verdict == "passed");
                // The dearest: the smaller the load, the dearer a report.
                let micros = passed.filter_map(|trial| trial.relay_us_per_exchange);
                (profile, micros.reduce(f64::max), scaling, "no trial passed with a known relay")
            }
        };
        match micros.filter(|micros| micros.is_finite() && *micros > 0.0) {
            Some(micros_a_report) => Ok(Self { profile, micros_a_report, scaling }),
            None => Err(MeasuredError::Unfit { file, why }),
        }
    }
}

/// What it takes. Figures of a relay are for the moment when one of the relays has failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub agents: u32,
    pub profile: Profile,
    pub cores: u16,
    pub reports_a_second: f64,
    pub connects_a_second: f64,
    /// Relays that carry the load, and one more.
    pub relays: u64,
    /// Source addresses with which processors, and not ports, would decide how many.
    pub sources_wanted: Option<u64>,
    pub agents_a_relay: u64,
    pub micros_a_report: f64,
    /// Whether that figure was measured by whoever asks, or is the built-in one.
    pub is_measured: bool,
    /// Processors busy in each relay.
    pub processors: f64,
    /// Agents that one relay's processors carry.
    pub agents_by_processors: u64,
    pub sessions: u64,
    /// Megabits a second in each direction, on the side with more.
    pub megabits_a_second: f64,
    pub user_bytes: u64,
    pub kernel_bytes: u64,
    /// `LimitNOFILE`: for each worker, since each has a table of its own.
    pub descriptors: u64,
    /// `fs.pipe-user-pages-soft` when the relay runs as an ordinary user.
    pub pipe_pages: u64,
    /// `net.core.somaxconn`, `net.ipv4.tcp_max_syn_backlog` and the listener's `backlog`.
    pub queue: u64,
    /// Connections that are tracked, if the host tracks any.
    pub tracked: u64,
    /// Seconds of all processors until all agents are connected again after an outage.
    pub storm_seconds: f64,
    pub ports: PortBudget,
}

/// Source ports of one relay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortBudget {
    pub servers: u32,
    pub sources: u32,
    /// Of fanin's own range, for every pair of a source and a server address.
    pub own: u64,
    /// At one time, when every agent waits for an answer.
    pub in_use: u64,
    /// Waiting in TIME_WAIT, if every closed connection waits its 60 s.
    pub in_time_wait: u64,
    /// Until fanin comes back to a port that it used; it may be used again at once, as long as TCP
    /// timestamps are on. None where connections are kept.
    pub seconds_round: Option<f64>,
    /// Until a relay that leaves the choice to the kernel has none left; None if it never happens.
    pub kernel_exhausted_after: Option<f64>,
}

/// What `wanted` takes.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of agents, reports and ports, all far below 2^52 and none negative"
)]
pub fn plan(wanted: &Wanted, config: &Config) -> Plan {
    let agent = Agent::of(wanted.profile);
    let measured = wanted.measured.as_ref();
    let micros_a_report =
        measured.map_or(agent.micros_a_report, |measured| measured.micros_a_report);
    let cores = f64::from(wanted.cores);
    let whole = measured
        .and_then(|measured| measured.scaling)
        .map_or(cores, |scaling| scaling.capacity(cores));
    let busy_a_agent = agent.reports_a_second * micros_a_report / 1e6;
    let agents_by_processors = ((whole * HEADROOM / busy_a_agent) as u64).max(1);
    let limits = Limits::on_paper(wanted.cores);
    let pairs = u64::from(wanted.servers) * u64::from(wanted.sources);
    let own = SOURCE_PORTS.len() as u64 * pairs;
    let agents_by_ports = (own / agent.sessions).max(1);
    let agents = u64::from(wanted.agents);
    let by_processors = agents.div_ceil(agents_by_processors);
    let carrying = by_processors.max(agents.div_ceil(agents_by_ports));
    let agents_a_relay = agents.div_ceil(carrying);
    let sessions = agents_a_relay * agent.sessions;
    let fleet = agents_a_relay as f64;
    let connects = fleet * agent.connects_a_second;
    let in_time_wait = (connects * TIME_WAIT as f64).ceil() as u64;
    let kernels = limits.local_ports.len() as u64 * pairs;
    let bytes = agent.bytes_a_report + agent.packets_a_report * BYTES_A_PACKET;
    // Connections are dealt out by chance: four standard deviations above the share.
    let share = sessions as f64 / cores;
    let uneven = ((share + 4.0 * share.sqrt()) * cores).ceil() as u64;
    Plan {
        agents: wanted.agents,
        profile: wanted.profile,
        cores: wanted.cores,
        reports_a_second: f64::from(wanted.agents) * agent.reports_a_second,
        connects_a_second: f64::from(wanted.agents) * agent.connects_a_second,
        relays: carrying + 1,
        sources_wanted: (carrying > by_processors).then(|| {
            let sessions = agents.div_ceil(by_processors) * agent.sessions;
            sessions.div_ceil(SOURCE_PORTS.len() as u64 * u64::from(wanted.servers))
        }),
        agents_a_relay,
        micros_a_report,
        is_measured: measured.is_some(),
        processors: fleet * busy_a_agent * cores / whole,
        agents_by_processors,
        sessions,
        megabits_a_second: fleet * agent.reports_a_second * bytes * 8.0 / 1e6,
        user_bytes: BYTES_AT_REST + sessions * USER_BYTES_A_SESSION,
        kernel_bytes: sessions * BYTES_A_SESSION + in_time_wait.min(own) * BYTES_IN_TIME_WAIT,
        descriptors: limits::descriptors_needed(config, &limits, wanted.cores, uneven),
        pipe_pages: pages_of_pipes(agents_a_relay),
        queue: queue_for(sessions, wanted.cores.into()),
        tracked: TRACKED_AN_AGENT * agents_a_relay,
        storm_seconds: sessions as f64 * micros_a_report / 1e6 / whole,
        ports: PortBudget {
            servers: wanted.servers,
            sources: wanted.sources,
            own,
            in_use: sessions,
            in_time_wait,
            seconds_round: (connects > 0.0).then(|| own as f64 / connects),
            kernel_exhausted_after: (in_time_wait > kernels).then(|| kernels as f64 / connects),
        },
    }
}

impl Plan {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, text: String| {
            for (number, line) in text.lines().enumerate() {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{:<14}{line}", if number == 0 { name } else { "" });
            }
        };
        row("fleet", self.fleet());
        row("relays", self.relays());
        row("processors", self.busy());
        row("network", format!("{:.1} Mbit/s in, and the same out again", self.megabits_a_second));
        row(
            "memory",
            format!(
                "{} MiB of the relay and {} MiB of the kernel, {} sessions at most",
                mebibytes(self.user_bytes),
                mebibytes(self.kernel_bytes),
                self.sessions
            ),
        );
        row(
            "descriptors",
            format!("{} for each worker: LimitNOFILE={0} in the unit", self.descriptors),
        );
        row(
            "pipes",
            format!(
                "{} pages if bulk passes too: fs.pipe-user-pages-soft={0}; reports need none",
                self.pipe_pages
            ),
        );
        row("queue", self.queue());
        row("ports", self.port_lines());
        row("sysctl", self.sysctl());
        out
    }

    fn fleet(&self) -> String {
        format!(
            "{} agents of {}: {:.0} reports/s, {:.0} new connections/s",
            self.agents, self.profile, self.reports_a_second, self.connects_a_second
        )
    }

    fn relays(&self) -> String {
        let plural = if self.cores == 1 { "" } else { "s" };
        let mut text = format!(
            "{} of {} core{plural} each: {} to carry the agents and 1 for when one fails\n",
            self.relays,
            self.cores,
            self.relays - 1
        );
        if let Some(sources) = self.sources_wanted {
            let _ = writeln!(
                text,
                "source ports decide: with {sources} source addresses in each, fewer would do (--sources {sources})"
            );
        }
        text + &format!(
            "below, each figure is for one relay while another is down: {} agents",
            self.agents_a_relay
        )
    }

    fn busy(&self) -> String {
        let whose =
            if self.is_measured { "as measured" } else { "the built-in figure; see --measured" };
        format!(
            "{:.2} of {cores} busy, at {:.0} us a report ({whose})\n\
             {} agents would keep {:.0} % of {cores} busy: the rest is for storms and for chance",
            self.processors,
            self.micros_a_report,
            self.agents_by_processors,
            HEADROOM * 100.0,
            cores = self.cores,
        )
    }

    fn queue(&self) -> String {
        let how = match self.queue > BACKLOG_DEFAULT.into() {
            true => format!("backlog = {} in the [[listener]]", self.queue),
            false => format!("{}: the default backlog of {BACKLOG_DEFAULT} holds them", self.queue),
        };
        format!(
            "{how}; after an outage all come at once\n\
             to take them all costs {:.1} s of the processors; `ramp` in the listener spreads them",
            self.storm_seconds
        )
    }

    fn port_lines(&self) -> String {
        let ports = &self.ports;
        let mut text = format!(
            "{} of fanin's own: {} server address(es), {} source address(es); {} in use at most",
            ports.own, ports.servers, ports.sources, ports.in_use
        );
        if let Some(seconds) = ports.seconds_round {
            let _ = write!(
                text,
                "\neach comes round after {seconds:.1} s and may: TCP timestamps tell the connections apart\n\
                 {} would be in TIME_WAIT on a relay that waits its {TIME_WAIT} s",
                ports.in_time_wait
            );
        }
        if let Some(seconds) = ports.kernel_exhausted_after {
            let _ = write!(
                text,
                "\nwith `source = {{ ports = \"kernel\" }}`, and with other relays, they are used up after {seconds:.1} s"
            );
        }
        text
    }

    fn sysctl(&self) -> String {
        format!(
            "net.core.somaxconn={0}\nnet.ipv4.tcp_max_syn_backlog={0}\nnet.ipv4.tcp_timestamps=1\n\
             net.netfilter.nf_conntrack_max={1}   # only if the host tracks connections\n\
             `fanin doctor --agents {2}` on the host says which of them are not so yet",
            self.queue,
            65_536 + self.tracked,
            self.agents_a_relay
        )
    }

    /// For programs.
    pub fn json(&self) -> String {
        // Strings and numbers alone: that cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

const fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn wanted(agents: u32) -> Wanted {
        let profile = Profile::V5Churn;
        Wanted { agents, profile, cores: 4, servers: 1, sources: 1, measured: None }
    }

    fn planned(wanted: &Wanted) -> Plan {
        plan(wanted, &cli::usual().load().unwrap())
    }

    fn near(is: f64, wants: f64) -> bool {
        (is / wants - 1.0).abs() < 0.01
    }

    /// By hand: 5000 x 0.2858 reports/s x 107 us = 0.153 processors; 60 s of them are 85,7xx ports.
    #[test]
    fn five_thousand_agents_are_reckoned_as_by_hand() {
        let plan = planned(&wanted(5000));
        assert!(near(plan.reports_a_second, 1429.0) && near(plan.processors, 0.153), "{plan:#?}");
        assert_eq!((plan.relays, plan.agents_a_relay, plan.sessions), (2, 5000, 5000));
        assert_eq!((plan.queue, plan.ports.own), (1250, 22_528));
        assert!((85_600..85_900).contains(&plan.ports.in_time_wait));
        assert!(near(plan.ports.seconds_round.unwrap(), 15.77));
        assert!(near(plan.ports.kernel_exhausted_after.unwrap(), 19.76));
        assert!(
            plan.text()
                .contains("2 of 4 cores each: 1 to carry the agents and 1 for when one fails")
        );
        assert!(serde_json::from_str::<serde_json::Value>(&plan.json()).is_ok());
    }

    #[test]
    fn kept_connections_wear_no_ports_out_but_hold_them() {
        let go = Wanted { profile: Profile::GoKeepalive, ..wanted(40_000) };
        let plan = planned(&go);
        assert_eq!((plan.ports.seconds_round, plan.ports.kernel_exhausted_after), (None, None));
        assert_eq!((plan.relays, plan.sources_wanted), (5, Some(4)), "80,000 of 22,528 ports");
        let cured = planned(&Wanted { sources: 4, ..go });
        assert_eq!((cured.relays, cured.sources_wanted), (2, None));
    }

    #[test]
    fn processors_decide_where_ports_do_not() {
        let many = Wanted { servers: 8, sources: 8, cores: 1, ..wanted(1_000_000) };
        let plan = planned(&many);
        // 0.65 / (0.2858 x 107e-6) agents a core.
        assert!(plan.agents_by_processors.abs_diff(21_258) < 60, "{plan:#?}");
        assert_eq!(plan.relays, 1_000_000u64.div_ceil(plan.agents_by_processors) + 1);
        assert!(plan.processors <= 0.65);
    }

    #[test]
    fn a_measurement_takes_the_place_of_the_built_in_figure() {
        let search = r#"{"schema":"loadgen-find-max/1","profile":"go-keepalive","trials":[
            {"verdict":"passed","relay_us_per_exchange":40.0},
            {"verdict":"passed","relay_us_per_exchange":50.0},
            {"verdict":"failed","relay_us_per_exchange":500.0}],
            "scaling":{"contention":0.1,"coherency":0.0}}"#;
        let measured = Measured::parse(search, "m.json".to_owned()).unwrap();
        let scaling = Some(Scaling { contention: 0.1, coherency: 0.0 });
        let expected = Measured { profile: Profile::GoKeepalive, micros_a_report: 50.0, scaling };
        assert_eq!(measured, expected);
        let profile = Profile::GoKeepalive;
        let plan = planned(&Wanted { profile, measured: Some(measured), ..wanted(1000) });
        // Four cores do the work of 4 / 1.3.
        assert!(near(plan.processors, 1000.0 * 0.1 * 50e-6 * 1.3), "{plan:#?}");
        assert!(plan.is_measured);
    }

    #[test]
    fn a_file_that_does_not_say_it_is_refused_with_what_would() {
        let invalid = r#"{"schema":"loadgen-report/1","asked":{"profile":"v5-churn"},
            "generator":{"invalid":["late"]},"relay":{"us_per_exchange":90.0}}"#;
        let blind = r#"{"schema":"loadgen-report/1","asked":{"profile":"v5-churn"},
            "generator":{"invalid":[]},"relay":null}"#;
        for (text, says) in [
            (invalid, "the generator was the limit"),
            (blind, "--relay-pid"),
            ("{}", "loadgen find-max --json"),
            (r#"{"schema":"loadgen-claim/1"}"#, "loadgen-claim/1"),
        ] {
            let error = Measured::parse(text, "m.json".to_owned()).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("m.json"), "{error}");
        }
        let valid = blind.replace("null", r#"{"us_per_exchange":90.0,"more":1}"#);
        let measured = Measured::parse(&valid, String::new()).unwrap();
        assert!(near(measured.micros_a_report, 90.0));
    }
}
