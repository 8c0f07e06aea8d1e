//! The configuration, complete and checked: nothing left to interpret, nothing missing.
//!
//! `file` is the TOML as written, `error` what a person sees when it is wrong. The rest of the
//! program knows only the types here. Names of servers are not resolved here (that takes the
//! network); everything else that can be judged from the text alone has been judged.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::op::SpliceMode;

/// All that a relay process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub global: Global,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// At least one, each with at least one server.
    pub backends: Vec<Backend>,
    pub control: Control,
    pub log: Log,
}

/// What concerns the process as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Worker threads; `None` is one for each CPU that the process may run on.
    pub workers: Option<u16>,
    pub engine: EngineChoice,
    pub splice: SpliceMode,
    pub pin: Pin,
    /// Sessions at one time in the process; `None` is as many as the descriptor limit carries.
    pub maxconn: Option<u32>,
    /// How long sessions may go on after SIGTERM.
    pub drain: Duration,
    /// Bytes asked for each pipe.
    pub pipe_bytes: u32,
    /// Pipes at one time in the process; `None` is a quarter of maxconn, within what
    /// `fs.pipe-user-pages-soft` grants an ordinary user.
    pub pipes: Option<u32>,
}

/// Which engine carries the sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel can do what is needed, else epoll.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

/// Where the workers run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// The scheduler decides.
    #[default]
    Off,
    /// Worker n on the n-th CPU that the process may run on.
    Auto,
    /// Worker n on the n-th CPU of this list.
    List(Vec<u16>),
}

/// Addresses that accept connections for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    /// At least one.
    pub bind: Vec<SocketAddr>,
    /// Index into [`Config::backends`].
    pub backend: usize,
    /// Sessions at one time through this listener; `None` is no limit but the process's.
    pub maxconn: Option<u32>,
    /// A client connection on which nothing moves for this long is ended.
    pub client_idle: Duration,
    /// Length of the kernel's queue of connections not yet accepted (listen(2)).
    pub backlog: u32,
}

/// Servers among which sessions are shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub balance: Balance,
    pub timeouts: Timeouts,
    /// Further attempts after the first that failed, while no byte has been sent.
    pub retries: u16,
    /// Whether a further attempt goes to another server where there is one.
    pub redispatch: bool,
    pub source: Source,
    /// At least one.
    pub servers: Vec<Server>,
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight; each worker takes its own turns.
    #[default]
    RoundRobin,
}

/// How long a session may stay in each of its waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For one connect to a server.
    pub connect: Duration,
    /// A server connection on which nothing moves for this long is ended.
    pub server_idle: Duration,
    /// After one direction has ended, a session on which nothing moves for this long is ended.
    pub half_closed: Duration,
}

/// Where connections to the servers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub ports: SourcePorts,
}

/// Who chooses the source port of a connection to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePorts {
    /// We do, from a range outside `ip_local_port_range`, where the server is not on loopback and
    /// such a range is free; else the kernel.
    #[default]
    Auto,
    /// The kernel, always.
    Kernel,
    /// We do, from this range (both ends included).
    Range { first: u16, last: u16 },
}

/// One upstream server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: ServerAddress,
    /// Share of the sessions relative to the others' weights; zero takes none.
    pub weight: u16,
    /// Used only when no server without this mark can be.
    pub backup: bool,
    /// Sessions at one time in the process; `None` is no limit.
    pub maxconn: Option<u32>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    Ip(SocketAddr),
    /// To be looked up when the relay starts and at each reload.
    Name {
        host: String,
        port: u16,
    },
}

/// The socket through which `fanin status` and its siblings speak to a running relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// `None` is a path derived from who runs the relay and where it listens.
    pub socket: Option<PathBuf>,
}

/// What is written about what happened. Everything goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// Whether each ended session gets a line.
    pub sessions: bool,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}
