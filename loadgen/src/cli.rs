//! The command line: what was typed, and what is meant.

use crate::clock::{Nanos, nanos};
use crate::exit::{Error, SUCCESS, USAGE};
use crate::io::{IoKind, uring};
use crate::plan::{Plan, Profile};
use crate::report::slo::Objective;
use crate::sink;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Most source addresses that a list may name.
const SOURCES_MAX: usize = 4096;
/// Most agents: their descriptors, ports and memory end long before.
const AGENTS_MAX: i64 = 1_000_000;

#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    about = "Simulates thousands of monitoring agents, measures honestly, judges what a relay carries",
    long_about = "Simulates thousands of monitoring agents, measures honestly, judges what a relay \
        carries.\n\nWith --agents alone it starts three upstream addresses (`loadgen sink`) and \
        the `fanin` beside it, loads the relay, reports, and ends both. With --target it loads \
        anything that listens.",
    after_help = "Exit codes: 0 done, 1 exchanges failed or the run did, 2 usage, 71 the system \
        refused something, 98 the generator itself could not offer the load, 99 an objective was \
        missed.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Typed {
    #[command(subcommand)]
    command: Option<TypedCommand>,
    #[command(flatten)]
    run: Option<TypedRun>,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// The upstream: answers like StackState's intake, verifies every body
    Sink(TypedSink),
    /// Runs a command that ends when its parent ends
    #[command(hide = true)]
    Tether(Tether),
}

#[derive(Debug, Args)]
struct TypedRun {
    /// How many agents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX), required = true)]
    agents: u32,
    /// What to load; without it, the fanin beside this program and a sink are started
    #[arg(long, value_name = "HOST:PORT", help_heading = "Target")]
    target: Option<String>,
    /// The fanin to start, when it is not beside this program
    #[arg(long, value_name = "PATH", conflicts_with = "target", help_heading = "Target")]
    fanin: Option<PathBuf>,
    /// The process whose processor time and memory are reported, with --target
    #[arg(long, value_name = "PID", requires = "target", help_heading = "Target")]
    relay_pid: Option<i32>,
    /// Further arguments for the started fanin, after --
    #[arg(last = true, value_name = "FANIN ARGUMENTS", conflicts_with = "target")]
    fanin_arguments: Vec<String>,

    /// How the agents behave
    #[arg(long, value_enum, default_value = "v5-churn", help_heading = "Load")]
    profile: Profile,
    /// How long to measure, after the ramp
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = "Load")]
    duration: Duration,
    /// The agents start spread over this time, which is warm-up
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Load")]
    ramp: Duration,
    /// Agents' timers run this many times faster than in life
    #[arg(long, value_name = "FACTOR", alias = "rate-scale", default_value = "1", value_parser = speedup, help_heading = "Load")]
    speedup: f64,
    /// All agents' timers expire together: the worst case
    #[arg(long, help_heading = "Load")]
    synchronised: bool,
    /// Decides phases, jitters and bodies; the same seed repeats the plan
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    seed: u64,
    /// How long an agent waits for an exchange
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration, help_heading = "Load")]
    timeout: Duration,

    /// How sockets are driven; auto takes io_uring where the host allows it
    #[arg(long, value_enum, default_value = "auto", help_heading = "Generator")]
    io: TypedIo,
    /// Load threads; by default as many as the agents' descriptors need
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Generator")]
    threads: Option<u32>,
    /// Source addresses, given out to the agents in turn: 10.0.0.5,10.0.1.0/28
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Generator")]
    source: Vec<String>,
    /// The run is invalid (exit 98) when the generator's own send or loop lag reaches this at p99
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration, help_heading = "Generator")]
    max_send_lag: Duration,

    /// An objective, such as 'p99<20ms', 'connect.p99.9<=5ms', 'errors==0', 'rate>=1400'
    #[arg(long = "slo", value_name = "OBJECTIVE", help_heading = "Output")]
    objectives: Vec<Objective>,
    /// Write the report as JSON (docs/loadgen-report.md)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Write the run second by second as CSV
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    csv: Option<PathBuf>,
    /// Write the latency's percentiles as HdrHistogram's text, for its plotter
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    hgrm: Option<PathBuf>,
    /// Write the latency second by second as HdrHistogram's interval log (V2)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    hlog: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TypedSink {
    /// Where to listen; repeat for more addresses; port 0 is any free port
    #[arg(long, value_name = "ADDR", required = true)]
    listen: Vec<SocketAddr>,
    /// How long to wait before each answer
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = duration)]
    delay: Duration,
    /// Threads that serve
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Go on serving when the parent process ends
    #[arg(long)]
    stay: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TypedIo {
    Auto,
    Uring,
    Tokio,
}

/// A command that is to end with its parent.
#[derive(Debug, Args)]
pub(crate) struct Tether {
    /// The parent; when it has ended already, the command is not run.
    #[arg(long)]
    pub(crate) parent: i32,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// What is meant.
#[derive(Debug)]
pub(crate) enum Command {
    /// Load something.
    Run(Box<Settings>),
    /// Be the upstream.
    Sink(sink::Settings),
    /// Run a command that ends with its parent.
    Tether(Tether),
    /// Help or version was asked for and has been printed.
    Told,
}

/// What to load.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Something that listens already, as typed, and its process if known.
    Given { address: String, relay_pid: Option<i32> },
    /// The fanin beside this program, or the one named.
    Started { fanin: Option<PathBuf>, arguments: Vec<String> },
}

/// Where the report goes besides the terminal (docs/loadgen-report.md).
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The report, whole.
    pub(crate) json: Option<PathBuf>,
    /// Second by second.
    pub(crate) csv: Option<PathBuf>,
    /// HdrHistogram's percentile text.
    pub(crate) hgrm: Option<PathBuf>,
    /// HdrHistogram's interval log.
    pub(crate) hlog: Option<PathBuf>,
}

/// A load run, complete.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Who posts what when.
    pub(crate) plan: Plan,
    /// What to load.
    pub(crate) target: Target,
    /// How sockets are driven, and why not on io_uring if that was wished.
    pub(crate) io: (IoKind, Option<String>),
    /// Load threads, if given.
    pub(crate) threads: Option<u32>,
    /// Source addresses; empty lets the kernel, or the port check, choose.
    pub(crate) sources: Vec<IpAddr>,
    /// How long an agent waits for an exchange.
    pub(crate) timeout: Nanos,
    /// From which send lag at p99 on the run is invalid.
    pub(crate) max_send_lag: Nanos,
    /// What must hold.
    pub(crate) objectives: Vec<Objective>,
    /// Where the report goes besides the terminal.
    pub(crate) files: Files,
}

/// Reads the command line.
///
/// # Errors
/// When a value is not allowed; what clap itself finds has been printed already.
pub(crate) fn parse() -> Result<Command, Error> {
    let typed = match Typed::try_parse() {
        Ok(typed) => typed,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { SUCCESS };
            // Nobody to tell when the terminal is gone.
            let _ = error.print();
            return if code == SUCCESS { Ok(Command::Told) } else { Err(Error::Told(code)) };
        }
    };
    match (typed.command, typed.run) {
        (Some(TypedCommand::Sink(sink)), _) => Ok(Command::Sink(sink::Settings {
            listen: sink.listen,
            delay: sink.delay,
            threads: sink.threads as usize,
            stay: sink.stay,
        })),
        (Some(TypedCommand::Tether(tether)), _) => Ok(Command::Tether(tether)),
        (None, Some(run)) => Ok(Command::Run(Box::new(settings(run)?))),
        (None, None) => Err(Error::Usage(
            "how many agents? Give --agents N; with nothing else running, `loadgen --agents 5000` \
             does it all (`loadgen --help` for more)"
                .to_owned(),
        )),
    }
}

fn settings(typed: TypedRun) -> Result<Settings, Error> {
    let plan = Plan {
        agents: typed.agents,
        profile: typed.profile,
        seed: typed.seed,
        ramp: nanos(typed.ramp),
        duration: nanos(typed.duration),
        speedup: typed.speedup,
        synchronised: typed.synchronised,
    };
    if typed.duration.is_zero() {
        return Err(Error::Usage(
            "--duration 0: nothing would be measured; give some seconds, such as 30s".to_owned(),
        ));
    }
    Ok(Settings {
        plan,
        target: match typed.target {
            Some(address) => Target::Given { address, relay_pid: typed.relay_pid },
            None => Target::Started { fanin: typed.fanin, arguments: typed.fanin_arguments },
        },
        io: choose_io(typed.io)?,
        threads: typed.threads,
        sources: sources(&typed.source)?,
        timeout: nanos(typed.timeout),
        max_send_lag: nanos(typed.max_send_lag),
        objectives: typed.objectives,
        files: Files { json: typed.json, csv: typed.csv, hgrm: typed.hgrm, hlog: typed.hlog },
    })
}

fn choose_io(typed: TypedIo) -> Result<(IoKind, Option<String>), Error> {
    match (typed, uring::probe) {
        (TypedIo::Tokio, _) => Ok((IoKind::Tokio, None)),
        (TypedIo::Uring, probe) => probe().map(|()| (IoKind::Uring, None)).map_err(|why| {
            Error::System(format!("--io uring: {why}; use --io tokio, or --io auto"))
        }),
        (TypedIo::Auto, probe) => Ok(match probe() {
            Ok(()) => (IoKind::Uring, None),
            Err(why) => (IoKind::Tokio, Some(why)),
        }),
    }
}

fn sources(list: &[String]) -> Result<Vec<IpAddr>, Error> {
    let mut sources = Vec::new();
    for item in list {
        let refuse = || {
            Error::Usage(format!(
                "--source {item}: neither an address nor a network; write 10.0.0.5 or \
                 10.0.1.0/28, several with commas"
            ))
        };
        let (address, bits) = match item.split_once('/') {
            None => (item.as_str(), 32),
            Some((address, bits)) => (address, bits.parse().map_err(|_| refuse())?),
        };
        match address.parse().map_err(|_| refuse())? {
            IpAddr::V6(address) if !item.contains('/') => sources.push(IpAddr::V6(address)),
            IpAddr::V4(address) if bits <= 32 => {
                let size = 1_u64 << (32 - bits);
                if size > SOURCES_MAX as u64 {
                    return Err(Error::Usage(format!(
                        "--source {item}: {size} addresses, {SOURCES_MAX} are allowed"
                    )));
                }
                let first = u64::from(u32::from(address)) / size * size;
                let hosts = (first..first + size).filter_map(|n| u32::try_from(n).ok());
                sources.extend(hosts.map(|n| IpAddr::V4(n.into())));
            }
            _ => return Err(refuse()),
        }
    }
    Ok(sources)
}

/// Reads 250us, 500ms, 30s, 2m, 1h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("'{text}' is no time; write a number and us, ms, s, m or h, such as 30s");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(refuse()),
    };
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration <= Duration::from_secs(30 * 24 * 3600) => Ok(duration),
        _ => Err(format!("'{text}' is longer than 30 days")),
    }
}

fn speedup(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (0.001..=10_000.0).contains(&factor) => Ok(factor),
        _ => Err(format!("'{text}': a factor from 0.001 to 10000; 10 is ten times the rate")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Typed::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_unit_and_not_without() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["30", "s", "-1s", "1 s", "1d", "99999h", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn source_lists_take_addresses_and_networks() {
        let read = |items: &[&str]| {
            sources(&items.iter().map(|&i| i.to_owned()).collect::<Vec<_>>()).map(|s| s.len())
        };
        assert_eq!(read(&["127.0.0.5", "127.0.1.0/28"]).unwrap(), 17);
        assert_eq!(read(&["::1"]).unwrap(), 1);
        for bad in ["host", "10.0.0.0/33", "10.0.0.0/8", "10.0.0.0/x"] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_run_needs_agents_and_a_command_does_not() {
        assert!(Typed::try_parse_from(["loadgen", "--target", "h:1"]).is_err());
        assert!(Typed::try_parse_from(["loadgen", "sink", "--listen", "127.0.0.1:0"]).is_ok());
        assert!(Typed::try_parse_from(["loadgen", "--agents", "0"]).is_err());
        let typed = Typed::try_parse_from(["loadgen", "--agents", "5", "--", "--workers", "1"]);
        assert_eq!(typed.unwrap().run.unwrap().fanin_arguments, ["--workers", "1"]);
    }
}
