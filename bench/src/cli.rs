//! The command line as typed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::scenario::Work;

const EXAMPLES: &str = "\
Examples:
  cargo build --release && cargo run --release -p bench -- run bench/scenarios/churn.toml
  bench run bench/scenarios/bulk-down.toml --only direct fanin-epoll haproxy-splice --rounds 9";

/// Measures fanin beside its peers, interleaved, on the same cores
#[derive(Debug, Parser)]
#[command(name = "bench", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run scenarios for every subject in turn, and report
    Run(Run),
    /// Count the instructions of one exchange and of one connection, in user mode
    Instructions(Instructions),
    /// The far end (started by `run`)
    #[command(hide = true)]
    Server(Server),
    /// The near end (started by `run`)
    #[command(hide = true)]
    Load(Load),
    /// What lies between near and far (started by `run`)
    #[command(hide = true)]
    Delay(Delay),
    /// Pins itself, ties itself to its parent and becomes a command (started by `run`)
    #[command(hide = true)]
    Tether(Tether),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Scenario files (bench/scenarios/*.toml)
    #[arg(required = true, value_name = "FILE")]
    pub(crate) scenarios: Vec<PathBuf>,
    /// Rounds; each runs every subject once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Only these subjects: a name, or the beginning of names (direct, fanin-epoll-auto,
    /// fanin-io_uring, haproxy, haproxy-splice, nginx, squid)
    #[arg(long, num_args = 1.., value_name = "SUBJECT")]
    pub(crate) only: Vec<String>,
    /// Where results are written [default: bench/results/DATE-COMMIT]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The fanin to measure [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) fanin: Option<PathBuf>,
    /// A second fanin, measured beside the first as rival-*: an older build, say
    #[arg(long, value_name = "PATH")]
    pub(crate) rival: Option<PathBuf>,
    /// CPU of the relay [default: the first that we may use]
    #[arg(long, value_name = "CPU")]
    pub(crate) relay_cpu: Option<usize>,
    /// CPUs of load and servers [default: all others]
    #[arg(long, value_name = "CPU,..", value_delimiter = ',')]
    pub(crate) load_cpus: Vec<usize>,
    /// A remark that is kept with the results, on what else the machine did, say
    #[arg(long, value_name = "TEXT")]
    pub(crate) remark: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Instructions {
    /// Only these subjects: a name, or the beginning of names
    #[arg(long, num_args = 1.., value_name = "SUBJECT", default_values = ["fanin-epoll-auto", "fanin-io_uring-auto"])]
    pub(crate) only: Vec<String>,
    /// The fanin to count [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) fanin: Option<PathBuf>,
    /// Fail if a count has grown beyond the one that is kept
    #[arg(long)]
    pub(crate) check: bool,
    /// Write the counts down, to be held against
    #[arg(long, conflicts_with = "check")]
    pub(crate) keep: bool,
    /// Where they are kept
    #[arg(long, value_name = "FILE", default_value = "bench/instructions.toml")]
    pub(crate) kept: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Server {
    /// What to answer, in JSON
    #[arg(long, value_parser = work)]
    pub(crate) work: Work,
    /// The one address to listen on [default: 127.0.0.1 and following, as many as the work says]
    #[arg(long)]
    pub(crate) at: Option<Ipv4Addr>,
}

#[derive(Debug, Args)]
pub(crate) struct Delay {
    /// The network namespace of the far end
    #[arg(long)]
    pub(crate) far: PathBuf,
    /// How long each packet waits
    #[arg(long)]
    pub(crate) one_way_us: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// What to ask, in JSON
    #[arg(long, value_parser = work)]
    pub(crate) work: Work,
    /// Where connections go, in turn
    #[arg(long, required = true)]
    pub(crate) target: Vec<SocketAddr>,
    /// Where a web proxy is to lead them, in turn
    #[arg(long)]
    pub(crate) destination: Vec<SocketAddr>,
    /// The server's process
    #[arg(long)]
    pub(crate) server: i32,
    /// The relay's process, if there is one
    #[arg(long)]
    pub(crate) relay: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct Tether {
    /// The process to end with
    #[arg(long)]
    pub(crate) parent: i32,
    /// Where to run
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) cpus: Vec<usize>,
    /// What to become
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

fn work(text: &str) -> Result<Work, serde_json::Error> {
    serde_json::from_str(text)
}
