//! What is meant by what was typed, complete.

use super::{Compare, Merge, Peer, Tether};
use crate::clock::Nanos;
use crate::io::IoKind;
use crate::plan::Plan;
use crate::proxy::Proxy;
use crate::report::slo::Objective;
use crate::search::Bounds;
use crate::sink;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

/// What is meant.
#[derive(Debug)]
pub(crate) enum Command {
    /// Load something.
    Run(Box<Settings>),
    /// Search the most agents.
    FindMax(Box<FindMax>),
    /// Judge the claim.
    Claim(Box<Claim>),
    /// Draw runs over each other.
    Compare(Compare),
    /// Add interval logs up.
    Merge(Merge),
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
    /// One that is started for the run, with a sink.
    Started(Cast),
}

/// Who is started.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    /// The relay.
    pub(crate) relay: Relay,
    /// Processors that the relay may use; all when empty.
    pub(crate) cpus: Vec<usize>,
}

/// A relay that loadgen knows to start.
#[derive(Clone, Debug)]
pub(crate) enum Relay {
    /// The fanin beside this program, or the one named, with further arguments.
    Fanin { path: Option<PathBuf>, arguments: Vec<String> },
    /// HAProxy from the search path, with the proxy page's configuration.
    Haproxy,
}

impl Relay {
    /// The name in tables and files.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Fanin { .. } => "fanin",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Where the report goes besides the terminal (docs/loadgen-report.md).
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// The report, whole.
    pub(crate) json: Option<PathBuf>,
    /// The same as a page.
    pub(crate) html: Option<PathBuf>,
    /// Second by second.
    pub(crate) csv: Option<PathBuf>,
    /// HdrHistogram's percentile text.
    pub(crate) hgrm: Option<PathBuf>,
    /// HdrHistogram's interval log.
    pub(crate) hlog: Option<PathBuf>,
}

/// TLS as it was typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Whom to trust; the system's authorities, or those of the sink that is started.
    pub(crate) ca_file: Option<PathBuf>,
    /// Whom to expect; the target's host.
    pub(crate) server_name: Option<String>,
}

/// A load run, complete.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Who posts what when.
    pub(crate) plan: Plan,
    /// When to begin, if not as soon as possible.
    pub(crate) start_at: Option<SystemTime>,
    /// Whether a terminal shows the run on its screen.
    pub(crate) live: bool,
    /// What to load.
    pub(crate) target: Target,
    /// The proxy at the target, if it is one.
    pub(crate) proxy: Option<Proxy>,
    /// How agents speak TLS, if they do.
    pub(crate) tls: Option<Tls>,
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

/// A search for the most agents.
#[derive(Debug)]
pub(crate) struct FindMax {
    /// The confirming trial; the search's are shorter.
    pub(crate) settings: Settings,
    /// The bounds and the steps of the search.
    pub(crate) bounds: Bounds,
    /// Numbers of workers of the relay, each with a search; none leaves the number to the relay.
    pub(crate) workers: Vec<u32>,
    /// How long each trial of the search measures.
    pub(crate) trial: Nanos,
    /// Where bounds and trials go besides the terminal.
    pub(crate) json: Option<PathBuf>,
}

/// The claim's runs.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The first of them.
    pub(crate) settings: Settings,
    /// Numbers of agents, each a run.
    pub(crate) agents: Vec<u32>,
    /// Judged beside fanin.
    pub(crate) peer: Option<Peer>,
    /// How much faster one thread of this processor is than one of the m3.xlarge.
    pub(crate) ratio: f64,
    /// Processors of this machine that stand for the m3.xlarge, if not by the ratio.
    pub(crate) budget: Option<f64>,
    /// Where the verdicts go besides the terminal.
    pub(crate) json: Option<PathBuf>,
}
