//! The command line: what was typed, and what is meant.

mod meant;
mod values;

use crate::clock::nanos;
use crate::exit::{Error, SUCCESS, USAGE};
use crate::io::{IoKind, uring};
use crate::plan::{Phases, Plan};
use crate::profile::Profile;
use crate::proxy::Proxy;
use crate::report::slo::Objective;
use crate::search::Bounds;
use crate::sink;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
pub(crate) use meant::{Cast, Claim, Command, Files, FindMax, Relay, Settings, Target, Tls};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
pub(crate) use values::duration;
use values::{Stall, busy, moment, ratio, share, sources, speedup, stall};

/// What find-max looks for when no objective is given.
const FOUND_BY: [&str; 2] = ["errors==0", "p99<1s"];
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
    after_help = "`loadgen find-max` searches the most agents that meet the objectives, `loadgen claim` \
        judges the 1000 agents of the proxy page.\n\nExit codes: 0 done, 1 exchanges failed or the run did, 2 usage, 71 the system \
        refused something, 98 the generator itself could not offer the load, 99 an objective was \
        missed.",
    args_conflicts_with_subcommands = true
)]
struct Typed {
    #[command(subcommand)]
    command: Option<TypedCommand>,
    #[command(flatten)]
    run: TypedRun,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// The upstream: answers like StackState's intake, verifies every body
    Sink(TypedSink),
    /// Searches the most agents that meet the objectives
    FindMax(Box<TypedFindMax>),
    /// Judges the claim of 1000 agents on an m3.xlarge, beside HAProxy if asked
    Claim(TypedClaim),
    /// Draws the reports (--json) of several runs over each other
    Compare(Compare),
    /// Adds up the interval logs (--hlog) of several machines or runs, exactly
    Merge(Merge),
    /// Runs a command that ends when its parent ends
    #[command(hide = true)]
    Tether(Tether),
}

#[derive(Debug, Args)]
struct TypedRun {
    /// How many agents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX))]
    agents: Option<u32>,
    #[command(flatten)]
    load: TypedLoad,
    /// How long to measure, after the ramp
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = "Load")]
    duration: Duration,
    /// Begin at this moment, the same on several machines: 2026-11-26T20:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, help_heading = "Load")]
    start_at: Option<SystemTime>,

    /// A line each second instead of the screen that a terminal gets
    #[arg(long, help_heading = "Output")]
    plain: bool,
    /// Write the report as JSON (docs/loadgen-report.md)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Write the report as one HTML page with charts
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,
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

/// What every kind of run has.
#[derive(Debug, Args)]
struct TypedLoad {
    /// What to load; without it, the fanin beside this program and a sink are started
    #[arg(long, value_name = "HOST:PORT", help_heading = "Target")]
    target: Option<String>,
    /// The fanin to start, when it is not beside this program
    #[arg(long, value_name = "PATH", conflicts_with = "target", help_heading = "Target")]
    fanin: Option<PathBuf>,
    /// The process whose processor time and memory are reported, with --target
    #[arg(long, value_name = "PID", requires = "target", help_heading = "Target")]
    relay_pid: Option<i32>,
    /// Whom agents of v5-proxy post to, through the proxy at --target
    #[arg(long, value_name = "HOST:PORT", requires = "target", help_heading = "Target")]
    upstream: Option<String>,
    /// Whom the proxy is to let through
    #[arg(long, value_name = "NAME:PASSWORD", requires = "upstream", help_heading = "Target")]
    proxy_user: Option<String>,
    /// Further arguments for the started fanin, after --
    #[arg(last = true, value_name = "FANIN ARGUMENTS", conflicts_with = "target")]
    fanin_arguments: Vec<String>,

    /// How the agents behave
    ///
    /// v5-churn, v5-proxy, go-keepalive, storm, brownout, idle, hostile, or the path of a file NAME.toml of your own
    /// (docs/loadgen-profile.md)
    #[arg(long, value_name = "PROFILE", default_value = "v5-churn", value_parser = Profile::typed, help_heading = "Load")]
    profile: Profile,
    /// The agents start spread over this time, which is warm-up
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Load")]
    ramp: Duration,
    /// Agents' timers run this many times faster than in life
    #[arg(long, value_name = "FACTOR", alias = "rate-scale", default_value = "1", value_parser = speedup, help_heading = "Load")]
    speedup: f64,
    /// How the agents' timers stand to each other
    #[arg(long, value_enum, default_value = "uniform", help_heading = "Load")]
    phases: Phases,
    /// All agents' timers expire together, the worst case: short for --phases aligned
    #[arg(long, conflicts_with = "phases", help_heading = "Load")]
    synchronised: bool,
    /// Decides phases, jitters and bodies; the same seed repeats the plan
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    seed: u64,
    /// How long an agent waits for an exchange
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration, help_heading = "Load")]
    timeout: Duration,

    /// Agents speak TLS with the upstream, through the relay, and verify its certificate
    #[arg(long, help_heading = "TLS")]
    tls: bool,
    /// Certificate authorities that they trust instead of the system's (PEM), with --target
    #[arg(long, value_name = "FILE", requires_all = ["tls", "target"], help_heading = "TLS")]
    ca_file: Option<PathBuf>,
    /// Whom the certificate must name, when that is not the host of --target
    #[arg(long, value_name = "NAME", requires_all = ["tls", "target"], help_heading = "TLS")]
    server_name: Option<String>,

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
}

#[derive(Debug, Args)]
struct TypedFindMax {
    #[command(flatten)]
    load: TypedLoad,
    /// The first number of agents that is tried
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX), help_heading = "Search")]
    from: u32,
    /// The most that are tried
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX), help_heading = "Search")]
    most: u32,
    /// How near the bounds come, as a share of the result
    #[arg(long, value_name = "SHARE", default_value = "0.03", value_parser = share, help_heading = "Search")]
    precision: f64,
    /// How long each trial of the search measures
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Search")]
    trial: Duration,
    /// How long each confirming trial measures
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = "Search")]
    duration: Duration,
    /// Searches for each of these numbers of the started fanin's workers, and fits the Universal
    /// Scalability Law to four or more: 1,2,4,8
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "target", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Search")]
    workers: Vec<u32>,
    /// How many trials must confirm the result
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Search")]
    confirm: u32,
    /// Write bounds and trials as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TypedClaim {
    /// Numbers of agents, each a run
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1000,5000", value_parser = clap::value_parser!(u32).range(1..=AGENTS_MAX))]
    agents: Vec<u32>,
    /// Judge this relay too, with the proxy page's own configuration, in the same run
    #[arg(long, value_name = "PEER", value_enum)]
    peer: Option<Peer>,
    /// The fanin to start, when it is not beside this program
    #[arg(long, value_name = "PATH")]
    fanin: Option<PathBuf>,
    /// How much faster one thread of this processor is than one of the m3.xlarge
    #[arg(long, value_name = "RATIO", default_value = "1.85", value_parser = ratio)]
    ratio: f64,
    /// Processors of this machine that stand for the m3.xlarge; by default from the ratio
    #[arg(long, value_name = "N", value_parser = ratio)]
    budget: Option<f64>,
    /// How long each run measures, after the ramp
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// The agents start spread over this time, which is warm-up
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    ramp: Duration,
    /// Write the verdicts as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A relay to be judged beside fanin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// HAProxy, from the search path.
    Haproxy,
}

/// `loadgen compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Reports in JSON; the first is what the others are held against.
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write the charts, over each other, as one HTML page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// `loadgen merge`.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Interval logs of HdrHistogram, from loadgen or others.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write the sum's percentiles as HdrHistogram's text.
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TypedSink {
    /// Where to listen; repeat for more addresses; port 0 is any free port
    #[arg(long, value_name = "ADDR", required = true)]
    listen: Vec<SocketAddr>,
    /// How long to wait before each answer
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = duration)]
    delay: Duration,
    /// The longest wait, when answers wait for a random time from --delay to this
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay_most: Option<Duration>,
    /// Answer nothing for a while now and then: 1s/10s is one second in every ten
    #[arg(long, value_name = "LENGTH/EVERY", value_parser = stall)]
    stall: Option<Stall>,
    /// The share of POSTs that are answered with a 503
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = busy)]
    busy: f64,
    /// Speak TLS as well, with cert.pem and key.pem of this directory; if there are none they are made,
    /// and ca.pem, which agents are to trust
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
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
    /// Processors that the command may use, if not all.
    #[arg(long, value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// What may be typed.
pub fn command() -> clap::Command {
    Typed::command()
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
    let Some(command) = typed.command else {
        return Ok(Command::Run(Box::new(run_settings(typed.run)?)));
    };
    match command {
        TypedCommand::Sink(sink) => Ok(Command::Sink(sink::Settings {
            listen: sink.listen,
            manners: sink::Manners {
                delay: [sink.delay, sink.delay_most.unwrap_or(sink.delay).max(sink.delay)],
                stall: sink.stall,
                busy: sink.busy,
            },
            threads: sink.threads as usize,
            tls: sink.tls,
            stay: sink.stay,
        })),
        TypedCommand::Tether(tether) => Ok(Command::Tether(tether)),
        TypedCommand::FindMax(typed) => Ok(Command::FindMax(Box::new(find_max(*typed)?))),
        TypedCommand::Claim(typed) => Ok(Command::Claim(Box::new(claim(typed)?))),
        TypedCommand::Compare(compare) => Ok(Command::Compare(compare)),
        TypedCommand::Merge(merge) => Ok(Command::Merge(merge)),
    }
}

fn run_settings(typed: TypedRun) -> Result<Settings, Error> {
    let agents = typed.agents.ok_or_else(|| {
        Error::Usage(
            "how many agents? Give --agents N; with nothing else running, `loadgen --agents 5000` \
             does it all (`loadgen --help` for more)"
                .to_owned(),
        )
    })?;
    let mut settings = settings(typed.load, agents, typed.duration)?;
    settings.start_at = typed.start_at;
    settings.live = !typed.plain;
    let TypedRun { json, html, csv, hgrm, hlog, .. } = typed;
    settings.files = Files { json, html, csv, hgrm, hlog };
    Ok(settings)
}

fn find_max(typed: TypedFindMax) -> Result<FindMax, Error> {
    let TypedFindMax { from, most, precision, confirm, .. } = typed;
    if from > most {
        return Err(Error::Usage(format!("--from {from}: more than --most {most}")));
    }
    if typed.trial.is_zero() {
        return Err(Error::Usage("--trial 0: nothing would be measured; try 10s".to_owned()));
    }
    let mut settings = settings(typed.load, from, typed.duration)?;
    if settings.objectives.is_empty() {
        let objectives = FOUND_BY.iter().map(|text| text.parse());
        settings.objectives = objectives.collect::<Result<_, _>>().map_err(Error::Usage)?;
    }
    let bounds = Bounds { from, most, precision, confirm };
    let workers = typed.workers;
    Ok(FindMax { settings, bounds, workers, trial: nanos(typed.trial), json: typed.json })
}

fn claim(typed: TypedClaim) -> Result<Claim, Error> {
    let load = TypedLoad::by_default();
    let load = TypedLoad { fanin: typed.fanin, ramp: typed.ramp, ..load };
    let agents = typed.agents.first().copied().unwrap_or_default();
    Ok(Claim {
        settings: settings(load, agents, typed.duration)?,
        agents: typed.agents,
        peer: typed.peer,
        ratio: typed.ratio,
        budget: typed.budget,
        json: typed.json,
    })
}

fn settings(typed: TypedLoad, agents: u32, measured: Duration) -> Result<Settings, Error> {
    if measured.is_zero() {
        return Err(Error::Usage(
            "--duration 0: nothing would be measured; give some seconds, such as 30s".to_owned(),
        ));
    }
    let plan = Plan {
        agents,
        profile: typed.profile,
        seed: typed.seed,
        ramp: nanos(typed.ramp),
        duration: nanos(measured),
        speedup: typed.speedup,
        phases: if typed.synchronised { Phases::Aligned } else { typed.phases },
    };
    let relay = Relay::Fanin { path: typed.fanin, arguments: typed.fanin_arguments };
    Ok(Settings {
        plan,
        start_at: None,
        live: false,
        target: match typed.target {
            Some(address) => Target::Given { address, relay_pid: typed.relay_pid },
            None => Target::Started(Cast { relay, cpus: Vec::new() }),
        },
        proxy: proxy(typed.profile, typed.upstream, typed.proxy_user.as_deref())?,
        tls: typed.tls.then_some(Tls { ca_file: typed.ca_file, server_name: typed.server_name }),
        io: choose_io(typed.io)?,
        threads: typed.threads,
        sources: sources(&typed.source)?,
        timeout: nanos(typed.timeout),
        max_send_lag: nanos(typed.max_send_lag),
        objectives: typed.objectives,
        files: Files::default(),
    })
}

fn proxy(
    profile: Profile,
    upstream: Option<String>,
    user: Option<&str>,
) -> Result<Option<Proxy>, Error> {
    match (profile, upstream) {
        (Profile::V5Proxy, Some(upstream)) => Ok(Some(Proxy::new(upstream, user))),
        (Profile::V5Proxy, None) => Err(Error::Usage(
            "--profile v5-proxy: whom do the agents post to? Give the proxy as --target HOST:PORT and \
             the server behind it as --upstream HOST:PORT"
                .to_owned(),
        )),
        (profile, Some(upstream)) => Err(Error::Usage(format!(
            "--upstream {upstream}: agents of {} use no proxy; give --profile v5-proxy, or leave \
             --upstream away",
            profile.label()
        ))),
        (_, None) => Ok(None),
    }
}

impl TypedLoad {
    /// As if nothing had been typed.
    fn by_default() -> Self {
        let command = Self::augment_args(clap::Command::new("loadgen"));
        let matches = command.get_matches_from(["loadgen"]);
        clap::FromArgMatches::from_arg_matches(&matches).expect("every option has a default")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Typed::command().debug_assert();
    }

    #[test]
    fn a_run_needs_agents_and_a_command_does_not() {
        let typed = Typed::try_parse_from(["loadgen", "--target", "h:1"]).unwrap();
        assert!(
            matches!(run_settings(typed.run), Err(Error::Usage(why)) if why.contains("--agents"))
        );
        assert!(Typed::try_parse_from(["loadgen", "sink", "--listen", "127.0.0.1:0"]).is_ok());
        assert!(Typed::try_parse_from(["loadgen", "--agents", "0"]).is_err());
        let typed = Typed::try_parse_from(["loadgen", "--agents", "5", "--", "--workers", "1"]);
        assert_eq!(typed.unwrap().run.load.fanin_arguments, ["--workers", "1"]);
    }
}
