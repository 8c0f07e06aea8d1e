//! The configuration, complete and checked: nothing left to interpret, nothing missing.
//!
//! `file` is the TOML as written, `value` one value as written, `reader` the way from both to here,
//! `haproxy` the way from HAProxy's format, `backend` the servers, `door`, `proxy` and `upkeep` what only some of it is about, `origin` where it all comes from, `networks` sets of
//! addresses, `check` what makes the whole impossible, `error` what a person sees then, `render` the way back to TOML. The rest of the
//! program knows only the types here, and [`Origin::load`], which makes them. Names of servers are not resolved here (that takes the
//! network); everything else that can be judged from the text alone has been judged.

mod backend;
mod check;
mod door;
mod error;
mod file;
mod haproxy;
mod networks;
mod origin;
mod proxy;
mod reader;
mod render;
mod routes;
#[cfg(test)]
mod tests;
mod upkeep;
pub mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::op::SpliceMode;
use crate::password::Hash;

pub use backend::{
    Backend, CONNECT_DEFAULT, HALF_CLOSED_DEFAULT, Queue, RETRIES_DEFAULT, Server, ServerAddress,
    Source, SourcePorts, Spare, Timeouts, WEIGHT_DEFAULT,
};
pub use door::{Mode, Tls};
pub use error::ConfigError;
pub use haproxy::{Note, NoteKind, Report};
pub use networks::{Network, Networks};
pub use origin::{Origin, Overrides};
pub use proxy::{Destination, Pattern, Proxy};
pub use routes::{NamePattern, NameRoute};
pub use upkeep::{Check, Dns, HttpCheck, Prefer};
pub use value::Refusal;

/// Where the configuration is when nobody says otherwise.
pub const FILE_DEFAULT: &str = "/etc/fanin/fanin.toml";

/// How long nothing may move. The agents written in Go keep an idle connection for 90 s and must be
/// the ones that end it: a relay that ends it first makes their next request fail.
pub const IDLE_DEFAULT: Duration = Duration::from_secs(120);
/// How long sessions may go on after SIGTERM.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(30);
/// How long sessions may go on in a relay process whose place another has taken. Agents end their
/// idle connections after 90 s, and nobody waits for the old process.
pub const RETIRE_DEFAULT: Duration = Duration::from_secs(600);
/// Connections that the kernel keeps while they wait to be accepted: what Linux allows by default
/// (`net.core.somaxconn` since 5.4).
pub const BACKLOG_DEFAULT: u32 = 4096;
/// local0
pub const FACILITY_DEFAULT: u8 = 16;
/// Bytes asked for each pipe: what an ordinary user may ask for (`fs.pipe-max-size`). Where relay and
/// ends are on one machine, 20 streams cost 0.47 to 0.52 s of CPU a GB through pipes of 1 MiB and 0.59
/// to 0.65 s through those of 256 KiB (docs/decisions/0004-pipes-of-a-mebibyte.md).
pub const PIPE_BYTES_DEFAULT: u32 = 1024 * 1024;

const _: () = assert!(
    PIPE_BYTES_DEFAULT >= value::PIPE_BYTES_MIN && PIPE_BYTES_DEFAULT <= value::PIPE_BYTES_MAX
);

/// All that a relay process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub global: Global,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// At least one, each with at least one server, but for those of web proxy doors alone.
    pub backends: Vec<Backend>,
    pub proxy: Proxy,
    pub dns: Dns,
    pub stats: Stats,
    pub control: Control,
    pub log: Log,
}

impl Config {
    /// The configuration that `--listen` and `--server` alone stand for: one listener with all the
    /// addresses, in front of one backend with all the servers, and every default.
    pub fn from_flags(
        listen: &[SocketAddr],
        servers: &[ServerAddress],
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut backend = Backend::new("default");
        backend.servers = servers.iter().cloned().map(Server::new).collect();
        let config = Self {
            global: overrides.over(Global::default()),
            listeners: vec![Listener::new(listen.to_vec(), 0)],
            backends: vec![backend],
            proxy: Proxy::default(),
            dns: Dns::default(),
            stats: Stats::default(),
            control: Control { socket: overrides.control.clone(), ..Control::default() },
            log: Log { format: overrides.log_format.unwrap_or_default(), ..Log::default() },
        };
        match check::judge(&config, &check::Spans::default()) {
            faults if faults.is_empty() => Ok(config),
            faults => Err(ConfigError::in_flags(faults)),
        }
    }

    /// The configuration in a text, with the flags that override parts of it. `path` is for the
    /// messages alone.
    pub fn from_text(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        reader::read(text, overrides).map_err(|faults| ConfigError::in_file(path, text, faults))
    }

    /// The configuration in a text of HAProxy's format, and what became of its lines.
    pub fn from_haproxy(
        path: &Path,
        text: &str,
        overrides: &Overrides,
    ) -> Result<(Self, Report), ConfigError> {
        haproxy::read(text, overrides, |name| std::env::var(name).ok())
            .map_err(|faults| ConfigError::in_file(path, &haproxy::masked(text), faults))
    }

    /// The configuration in a file of HAProxy's format, whatever its name, and what became of its
    /// lines.
    pub fn import(path: &Path) -> Result<(Self, Report), ConfigError> {
        Self::from_haproxy(path, &file::text(path)?, &Overrides::default())
    }

    /// The complete configuration as TOML, every default filled in. Reading it back gives the same
    /// configuration.
    pub fn render(&self) -> String {
        render::config(self)
    }

    /// The listening address at which a backend's own sessions would arrive if one of its servers
    /// had `address`: a loop without end. For addresses that were not in the text, but looked up.
    pub fn loop_at(&self, backend: usize, address: SocketAddr) -> Option<SocketAddr> {
        check::met(self, backend, &ServerAddress::Ip(address)).map(|(_, bind)| bind)
    }

    /// The servers that have a name: the number and the place of each, the name, and the port that goes
    /// with each address found; 0 where that tells its own.
    pub fn named(&self) -> impl Iterator<Item = (usize, usize, &str, u16)> {
        self.backends.iter().enumerate().flat_map(|(number, backend)| {
            let servers = backend.servers.iter().enumerate();
            servers.filter_map(move |(place, server)| match &server.address {
                ServerAddress::Name { host, port } => Some((number, place, host.as_str(), *port)),
                ServerAddress::Service { name } => Some((number, place, name.as_str(), 0)),
                ServerAddress::Ip(_) => None,
            })
        })
    }

    /// The backend that a listener's sessions go to.
    pub fn backend_of(&self, listener: &Listener) -> &Backend {
        &self.backends[listener.backend]
    }
}

/// What concerns the process as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Worker threads; `None` is one for each CPU that the process may run on.
    pub workers: Option<u16>,
    /// Threads of the agent doors; `None` is one for every two workers.
    pub door_threads: Option<u16>,
    pub engine: EngineChoice,
    pub splice: SpliceMode,
    pub pin: Pin,
    /// Sessions at one time in the process; `None` is as many as the descriptor limit carries.
    pub maxconn: Option<u32>,
    /// How long sessions may go on after SIGTERM.
    pub drain: Duration,
    /// How long sessions of a relay process may go on after another has taken its place.
    pub retire: Duration,
    /// How long events may gather before a worker looks at them; zero is not at all.
    pub latency_budget: Duration,
    /// Bytes asked for each pipe.
    pub pipe_bytes: u32,
    /// Pipes at one time in the process; `None` is a quarter of maxconn, within what
    /// `fs.pipe-user-pages-soft` grants an ordinary user.
    pub pipes: Option<u32>,
    /// Whom the relay process runs as; `None` is whoever started it.
    pub user: Option<String>,
    /// Its group; `None` is the user's.
    pub group: Option<String>,
    /// Whether the relay process is confined to what it needs.
    pub sandbox: bool,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            workers: None,
            door_threads: None,
            engine: EngineChoice::default(),
            splice: SpliceMode::default(),
            pin: Pin::default(),
            maxconn: None,
            drain: DRAIN_DEFAULT,
            retire: RETIRE_DEFAULT,
            latency_budget: Duration::ZERO,
            pipe_bytes: PIPE_BYTES_DEFAULT,
            pipes: None,
            user: None,
            group: None,
            sandbox: true,
        }
    }
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

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value::word(*self, value::ENGINES))
    }
}

impl FromStr for EngineChoice {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::choice(text, value::ENGINES)
    }
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
    pub mode: Mode,
    /// Bytes of the longest body of a request, where requests are understood.
    pub body_max: u64,
    /// Index into [`Config::backends`].
    pub backend: usize,
    /// Sessions at one time through this listener; `None` is no limit but the process's.
    pub maxconn: Option<u32>,
    /// A client connection on which nothing moves for this long is ended.
    pub client_idle: Duration,
    /// Length of the kernel's queue of connections not yet accepted (listen(2)).
    pub backlog: u32,
    /// Who alone may connect; empty is everybody.
    pub allow: Vec<Network>,
    /// Who may not, whatever `allow` says.
    pub deny: Vec<Network>,
    /// Load balancers that speak for their clients: they must begin with a PROXY header, and nobody
    /// else may connect. Empty is none, and everybody speaks for itself.
    pub proxy_from: Vec<Network>,
    pub per_source: PerSource,
    /// Connections a second that are let in at first after a start or an outage, twice as many every
    /// 5 s; `None` lets in whoever comes.
    pub ramp: Option<u32>,
    /// Whether the names that TLS clients ask for are read, also without `routes`.
    pub sni: bool,
    /// The first that fits is it; all others go to `backend`.
    pub routes: Vec<NameRoute>,
}

/// What the connections from each source may come to. With PROXY headers, the source is whom they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// Sessions at one time; `None` is no limit.
    pub sessions: Option<u16>,
    /// New connections; `None` is no limit.
    pub rate: Option<Rate>,
    /// Addresses that agree in so many bits are one source.
    pub ipv4_prefix: u8,
    /// The same for IPv6: a host has a /64 at its command (RFC 4291 section 2.5.4).
    pub ipv6_prefix: u8,
}

impl Default for PerSource {
    fn default() -> Self {
        Self { sessions: None, rate: None, ipv4_prefix: 32, ipv6_prefix: 64 }
    }
}

/// So many in a period: all of them at once after a rest, else evenly spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, value::display_duration(self.period))
    }
}

impl FromStr for Rate {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::rate(text)
    }
}

impl Listener {
    /// A listener named after its first address, with every default.
    pub fn new(bind: Vec<SocketAddr>, backend: usize) -> Self {
        Self {
            name: bind.first().map(ToString::to_string).unwrap_or_default(),
            bind,
            mode: Mode::Tcp,
            body_max: door::BODY_BYTES_DEFAULT,
            backend,
            maxconn: None,
            client_idle: IDLE_DEFAULT,
            backlog: BACKLOG_DEFAULT,
            allow: Vec::new(),
            deny: Vec::new(),
            proxy_from: Vec::new(),
            per_source: PerSource::default(),
            ramp: None,
            sni: false,
            routes: Vec::new(),
        }
    }

    /// Whether some of its sessions go to this backend.
    pub fn leads_to(&self, backend: usize) -> bool {
        self.backend == backend || self.routes.iter().any(|route| route.backend == backend)
    }

    /// Who may connect; `None` is everybody. `deny` is looked at first, then `allow`.
    pub fn permitted(&self) -> Option<Networks> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return None;
        }
        let set = |networks: &[Network]| networks.iter().copied().collect::<Networks>();
        let allowed = match self.allow.as_slice() {
            [] => Networks::everything(),
            allow => set(allow),
        };
        Some(allowed.without(&set(&self.deny)))
    }
}

/// Statistics over HTTP: a page, metrics, HAProxy's CSV, health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Where; empty is nowhere.
    pub bind: Vec<SocketAddr>,
    /// Who may look; empty is everybody.
    pub viewers: BTreeMap<String, Hash>,
    /// Who may change servers there; empty is nobody.
    pub admins: BTreeMap<String, Hash>,
}

/// The socket through which `fanin status` and its siblings speak to a running relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `None` is a path derived from who runs the relay and where it listens.
    pub socket: Option<PathBuf>,
    /// Who may connect.
    pub mode: ControlMode,
    /// What those may do there who are neither root nor the user who runs the relay.
    pub level: ControlLevel,
}

/// Who may connect to the control socket beside root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlMode {
    /// The user who runs the relay.
    Owner,
    /// So may that user's group.
    #[default]
    Group,
}

impl ControlMode {
    /// The mode of the socket's file.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
        }
    }
}

impl fmt::Display for ControlMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value::word(*self, value::CONTROL_MODES))
    }
}

impl FromStr for ControlMode {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::choice(text, value::CONTROL_MODES)
    }
}

/// How much somebody may do through the control socket; HAProxy's word for it is `level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlLevel {
    /// Ask for what says nothing of any client.
    User,
    /// Ask for everything.
    #[default]
    Operator,
    /// Change things.
    Admin,
}

impl fmt::Display for ControlLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value::word(*self, value::CONTROL_LEVELS))
    }
}

impl FromStr for ControlLevel {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::choice(text, value::CONTROL_LEVELS)
    }
}

/// What is written about what happened: to standard error, and to a syslog server if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub sessions: SessionLines,
    /// Whether a session whose client sent no byte gets one.
    pub null: bool,
    /// Of the sessions that ended well, one in so many gets one.
    pub sample: u32,
    /// Where lines go that go nowhere else.
    pub output: LogOutput,
    /// Gets the lines of sessions, and a copy of all others.
    pub file: Option<PathBuf>,
    /// So does this.
    pub syslog: Option<SyslogTarget>,
    pub syslog_form: SyslogForm,
    /// By its number (RFC 3164 section 4.1.1).
    pub facility: u8,
    /// What a line says that it is from.
    pub tag: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            sessions: SessionLines::default(),
            null: true,
            sample: 1,
            output: LogOutput::default(),
            file: None,
            syslog: None,
            syslog_form: SyslogForm::default(),
            facility: FACILITY_DEFAULT,
            tag: "fanin".to_owned(),
        }
    }
}

/// Which ended sessions get a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionLines {
    #[default]
    All,
    /// Those that did not end well.
    Failed,
    None,
}

impl fmt::Display for SessionLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "true",
            Self::Failed => "\"failed\"",
            Self::None => "false",
        })
    }
}

/// A stream that every process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output, which some containers' managers alone read.
    Stdout,
}

/// What stands before a line to a syslog server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyslogForm {
    #[default]
    Rfc3164,
    Rfc5424,
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTarget {
    /// A datagram socket of this host, such as /dev/log.
    Socket(PathBuf),
    Udp(SocketAddr),
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Udp(address) => address.fmt(f),
        }
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
    /// HAProxy's `option tcplog`.
    Tcplog,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value::word(*self, value::FORMATS))
    }
}

impl FromStr for LogFormat {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::choice(text, value::FORMATS)
    }
}
