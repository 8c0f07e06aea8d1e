//! The command line as typed. What is meant by it is decided elsewhere; no file is read here.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::config::{
    ConfigError, EngineChoice, FILE_DEFAULT, LogFormat, Origin, Overrides, Pin, Refusal,
    ServerAddress, value,
};
use crate::op::SpliceMode;

/// How the process ends, in the numbers of sysexits(3) where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All went as asked.
    Success = 0,
    /// It started and then something failed, or the running relay said no.
    Runtime = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The operating system refused something that cannot be configured away (`EX_OSERR`).
    System = 71,
    /// A permission is missing (`EX_NOPERM`).
    Permission = 77,
    /// The configuration is missing or wrong (`EX_CONFIG`).
    Configuration = 78,
}

impl ExitCode {
    /// The one with this number; any other number is a failure at work.
    pub fn of(number: u8) -> Self {
        let known =
            [Self::Success, Self::Usage, Self::System, Self::Permission, Self::Configuration];
        known.into_iter().find(|code| *code as u8 == number).unwrap_or(Self::Runtime)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

impl From<&ConfigError> for ExitCode {
    fn from(error: &ConfigError) -> Self {
        match error {
            error if error.is_usage() => Self::Usage,
            error if error.is_permission() => Self::Permission,
            _ => Self::Configuration,
        }
    }
}

/// Where relays listen by custom.
const LISTEN_USUAL: u16 = 3834;

const EXAMPLES: &str = "\
Examples:
  fanin run --listen :3834 --server intake.example.com:443
  fanin status

Then point the agents at port 3834 of this host. With a file instead of flags:
  fanin check -c /etc/fanin/fanin.toml && fanin run -c /etc/fanin/fanin.toml

Exit codes: 0 done, 1 failed while running, 2 wrong usage, 71 system, 77 permission,
78 configuration.";

const RUN_EXAMPLES: &str = "\
Examples:
  fanin run --listen :3834 --server 10.0.0.7:443 --server 10.0.0.8:443
  fanin run -c /etc/fanin/fanin.toml --workers 4

Signals: TERM lets sessions end for up to the drain time, a second TERM (or INT) ends at once,
HUP reads the file again without touching a connection, USR2 goes over to the binary that is installed
now (see fanin upgrade).";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  apt-get install fanin && fanin upgrade
  fanin upgrade --binary /usr/local/bin/fanin-1.2

The new binary starts beside the old one and reads the configuration. If it serves, it takes over
every listener and the process id of the service, and the old one lets its sessions end for up to
`retire`; if it does not, nothing has happened. USR2 does the same.";

const PASSWD_EXAMPLES: &str = "\
Examples:
  fanin passwd
  openssl rand -base64 18 | tee agents.password | fanin passwd

The line that is printed goes into the file of the web proxy door:
  [proxy]
  users = { agents = \"$argon2id$...\" }";

const PLAN_EXAMPLES: &str = "\
Examples:
  fanin plan --agents 5000
  loadgen find-max --json here.json && fanin plan --agents 100000 --measured here.json

On paper: nothing is looked at on this host. `fanin doctor` says what this one lacks.";

const TOP_KEYS: &str = "\
Keys:
  q, Esc, Ctrl-C      end the view, not the relay
  Tab, 1 to 5         another table: servers, listeners, workers, ends, latest
  up, down            another row; PgUp and PgDn ten, Home and End the first and the last
  s                   sort servers by name, sessions, new ones a second, failures
  p, space            pause, and go on
  Ctrl-L, Ctrl-Z      draw anew; to the shell, where fg comes back
  ?                   help

Where standard input or output is no terminal, or with --times, it is plain text, a look after the
other. Colours are left out where NO_COLOR is set.

Examples:
  fanin top
  fanin top --times 60 | tee minute.txt";

/// Relays the connections of many monitoring agents to a few servers, one worker thread a core
#[derive(Debug, Parser)]
#[command(
    name = "fanin",
    version,
    about = "Relays the connections of many monitoring agents to a few servers",
    long_about = "Relays the connections of many monitoring agents to a few servers:\n\n    \
        agents ---> fanin ---> servers\n\n\
        Bytes pass unchanged, so HTTP and TLS work through it as they are. One worker thread a \
        core, each with its own io_uring or epoll.",
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the arguments of the process. What is not a command to carry out (help, the version,
    /// wrong usage) has been printed when this returns an exit code.
    pub fn from_process() -> Result<Self, ExitCode> {
        Self::from_arguments(std::env::args_os())
    }

    fn from_arguments<A: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, ExitCode> {
        Self::try_parse_from(arguments).map_err(|error| {
            // A closed pipe is no reason to fail: `fanin --help | head -1`.
            let _ = error.print();
            if error.use_stderr() { ExitCode::Usage } else { ExitCode::Success }
        })
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay in the foreground
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<Run>),
    /// Check a configuration file: says what is wrong, where, and what to write instead
    Check(Check),
    /// Turn a configuration of HAProxy into fanin's own: TOML on standard output, and on standard
    /// error what maps, what is ignored and why, and what to look at
    Import(Import),
    /// Say what on this host would stop so many agents, and the command that cures it
    Doctor(Doctor),
    /// Say what so many agents take: relays, processors, memory, descriptors, source ports
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(Plan),
    /// Read a password from standard input and print the hash to write into [proxy] users
    #[command(after_help = PASSWD_EXAMPLES)]
    Passwd,
    /// Show what a running relay does: workers, sessions, bytes, servers
    Status(Status),
    /// Show a running relay second by second, on a screen with keys or as plain text
    #[command(after_help = TOP_KEYS)]
    Top(Top),
    /// Show how the latest sessions of a running relay ended, and why
    Ends(Ends),
    /// Have a running relay read its file again, without touching a connection
    Reload(Target),
    /// Have a running relay go over to another binary: the listeners stay, sessions end in peace
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade(Upgrade),
    /// Have a running relay stop accepting, let its sessions end, and exit
    Drain(Target),
}

#[derive(Args, Debug)]
pub struct Run {
    /// Configuration file (TOML; a name ending in .cfg is read as HAProxy's format)
    #[arg(
        short = 'c',
        long,
        short_alias = 'f',
        value_name = "FILE",
        default_value = FILE_DEFAULT,
        conflicts_with_all = ["listen", "server"]
    )]
    config: PathBuf,
    /// Address where agents connect, such as :3834 (every IPv4 address) or [::]:3834; repeatable
    #[arg(long, value_name = "ADDR", value_parser = value::bind_address, requires = "server")]
    listen: Vec<SocketAddr>,
    /// Server that sessions go to, HOST:PORT; repeatable, sessions take turns
    #[arg(long, value_name = "ADDR", value_parser = value::server_address, requires = "listen")]
    server: Vec<ServerAddress>,
    /// Worker threads: auto (one a CPU) or a number
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<AutoOr<u16>>,
    /// What carries the sessions: auto, io_uring or epoll
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineChoice>,
    /// Whether bytes move inside the kernel: auto (where it pays), always or never
    #[arg(long, value_name = "WHEN", value_parser = value::splice)]
    splice: Option<SpliceMode>,
    /// Where workers run: auto, off, or CPUs such as 0,2-5
    #[arg(long, value_name = "LIST", value_parser = value::pin)]
    pin: Option<Pin>,
    /// Sessions at one time: auto (what the descriptor limit carries) or a number
    #[arg(long, value_name = "N", value_parser = maxconn)]
    maxconn: Option<AutoOr<u32>>,
    /// Path of the control socket, through which `fanin status` asks
    #[arg(long, value_name = "PATH", value_parser = value::socket_path)]
    control: Option<PathBuf>,
    /// Shape of the log lines on standard error: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Do not confine the relay process: for debugging, and for finding out whether that is to blame
    #[arg(long)]
    no_sandbox: bool,
}

impl Run {
    /// Where the configuration to run comes from.
    pub fn origin(self) -> Origin {
        let overrides = Overrides {
            workers: self.workers.map(|AutoOr(workers)| workers),
            engine: self.engine,
            splice: self.splice,
            pin: self.pin,
            maxconn: self.maxconn.map(|AutoOr(maxconn)| maxconn),
            control: self.control,
            log_format: self.log_format,
            sandbox: self.no_sandbox.then_some(false),
        };
        if self.listen.is_empty() {
            return Origin::File { path: self.config, overrides };
        }
        Origin::Flags { listen: self.listen, servers: self.server, overrides }
    }
}

#[derive(Args, Debug)]
pub struct Check {
    /// Configuration file (TOML; a name ending in .cfg is read as HAProxy's format)
    #[arg(short = 'c', long, short_alias = 'f', value_name = "FILE", default_value = FILE_DEFAULT)]
    pub config: PathBuf,
    /// Print the complete configuration, every default filled in
    #[arg(long)]
    pub print: bool,
}

impl Check {
    /// Where the configuration to check comes from.
    pub fn origin(&self) -> Origin {
        Origin::File { path: self.config.clone(), overrides: Overrides::default() }
    }
}

#[derive(Args, Debug)]
pub struct Import {
    /// Configuration file of HAProxy
    #[arg(value_name = "FILE.cfg")]
    pub file: PathBuf,
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// Configuration to judge the host by [default: /etc/fanin/fanin.toml if there is one, else the
    /// defaults]
    #[arg(short = 'c', long, short_alias = 'f', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Agents at one time [default: maxconn if it is set, else 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub agents: Option<u32>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

impl Doctor {
    /// Where the configuration to judge by comes from; `there` tells whether a file is there.
    pub fn origin(&self, there: impl Fn(&Path) -> bool) -> Origin {
        let file = |path: PathBuf| Origin::File { path, overrides: Overrides::default() };
        match &self.config {
            Some(path) => file(path.clone()),
            None if there(Path::new(FILE_DEFAULT)) => file(FILE_DEFAULT.into()),
            None => usual(),
        }
    }
}

/// The relay that most will run: one listener, one server.
pub fn usual() -> Origin {
    Origin::Flags {
        listen: vec![SocketAddr::from(([0, 0, 0, 0], LISTEN_USUAL))],
        servers: vec![ServerAddress::Name { host: "intake.example.com".into(), port: 443 }],
        overrides: Overrides::default(),
    }
}

#[derive(Args, Debug)]
pub struct Plan {
    /// Agents at one time, in the whole fleet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub agents: u32,
    /// How they behave [default: v5-churn, or as in the measurement]
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub profile: Option<Profile>,
    /// Processors of one relay
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub cores: u16,
    /// Addresses of the servers that the relays connect to
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub servers: u32,
    /// Addresses that one relay connects from
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub sources: u32,
    /// What a report costs, from `loadgen --json` or `loadgen find-max --json` on such a host, instead
    /// of the built-in figure
    #[arg(long, value_name = "FILE")]
    pub measured: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// How the agents of a fleet behave; the names are those of `loadgen --profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// sts-agent and dd-agent 5: a connection for each report
    V5Churn,
    /// Agents written in Go: one or two connections kept, a report on each every 15 s
    GoKeepalive,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5Churn => "v5-churn",
            Self::GoKeepalive => "go-keepalive",
        })
    }
}

#[derive(Args, Debug)]
pub struct Upgrade {
    #[command(flatten)]
    pub target: Target,
    /// The binary that takes over; without it, the one that now has the path of the one that runs
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    pub target: Target,
    /// The agents that were seen instead, the silent ones first
    #[arg(long)]
    pub agents: bool,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Top {
    #[command(flatten)]
    pub target: Target,
    /// So many looks as plain text, a second each, and then the end
    #[arg(long, value_name = "N")]
    pub times: Option<u32>,
}

#[derive(Args, Debug)]
pub struct Ends {
    #[command(flatten)]
    pub target: Target,
    /// Those of one reason, such as server_reset; docs/OPERATIONS.md has all
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// At most so many, the latest
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub last: u32,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

impl Ends {
    /// The command for the control socket.
    pub fn command(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        let json = if self.json { "json" } else { "" };
        format!("ends {reason} {} {json}", self.last)
    }
}

/// Which running relay is meant. Without either flag it is the only one that runs.
#[derive(Args, Debug)]
pub struct Target {
    /// The configuration file that the relay was started with
    #[arg(short = 'c', long, short_alias = 'f', value_name = "FILE", conflicts_with = "control")]
    pub config: Option<PathBuf>,
    /// Path of the relay's control socket
    #[arg(long, value_name = "PATH", value_parser = value::socket_path)]
    pub control: Option<PathBuf>,
}

/// A number, or `auto`. A type of its own, because clap takes an `Option<Option<_>>` for a flag
/// whose value may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AutoOr<N>(Option<N>);

fn workers(text: &str) -> Result<AutoOr<u16>, Refusal> {
    value::auto_or(text, 1..=value::WORKERS_MAX).map(AutoOr)
}

fn maxconn(text: &str) -> Result<AutoOr<u32>, Refusal> {
    value::auto_or(text, 1..=value::MAXCONN_MAX).map(AutoOr)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    fn origin(line: &str) -> Origin {
        match parse(line).expect(line).command {
            Command::Run(run) => run.origin(),
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_alone_are_an_origin_without_a_file() {
        let Origin::Flags { listen, servers, overrides } = origin(
            "fanin run --listen :3834 --listen [::1]:3835 --server a.example:443 --workers 3",
        ) else {
            panic!("expected flags");
        };
        assert_eq!(listen[0].to_string(), "0.0.0.0:3834");
        assert_eq!(listen[1].to_string(), "[::1]:3835");
        assert_eq!(servers[0].to_string(), "a.example:443");
        assert_eq!(overrides.workers, Some(Some(3)));
    }

    #[test]
    fn a_file_is_the_default_and_has_two_spellings() {
        assert_eq!(origin("fanin run").path(), Some(Path::new(FILE_DEFAULT)));
        for line in ["fanin run -c x.toml", "fanin run -f x.toml"] {
            assert_eq!(origin(line).path(), Some(Path::new("x.toml")));
        }
    }

    #[test]
    fn every_override_is_read() {
        let Origin::File { overrides, .. } = origin(
            "fanin run --workers auto --engine io_uring --splice never --pin 0,2-3 --maxconn 500 \
             --control /tmp/x.sock --log-format json --no-sandbox",
        ) else {
            panic!("expected a file");
        };
        let expected = Overrides {
            workers: Some(None),
            engine: Some(EngineChoice::IoUring),
            splice: Some(SpliceMode::Never),
            pin: Some(Pin::List(vec![0, 2, 3])),
            maxconn: Some(Some(500)),
            control: Some("/tmp/x.sock".into()),
            log_format: Some(LogFormat::Json),
            sandbox: Some(false),
        };
        assert_eq!(overrides, expected);
    }

    #[test]
    fn wrong_usage_names_the_value_and_the_remedy() {
        for (line, expected) in [
            ("fanin run --listen :3834", "--server <ADDR>"),
            ("fanin run --server a:1", "--listen <ADDR>"),
            ("fanin run -c x --listen :1 --server a:1", "cannot be used with"),
            ("fanin run --listen 3834 --server a:1", "write IP:PORT"),
            ("fanin run --listen :1 --server a", "\"a:443\""),
            ("fanin run --engine uring", "did you mean \"io_uring\"?"),
            ("fanin run --workers 0", "1 to 1024"),
            ("fanin run --pin 1,1", "CPU 1 is named twice"),
            ("fanin run --splice sometimes", "\"auto\", \"always\" or \"never\""),
            ("fanin status -c x --control y", "cannot be used with"),
            ("fanin rum", "run"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn help_teaches_the_product() {
        let help = Cli::command().render_help().to_string();
        for expected in ["Examples:", "--listen :3834 --server", "status", "check", "reload"] {
            assert!(help.contains(expected), "{help}");
        }
    }

    #[test]
    fn exit_codes_tell_help_from_wrong_usage() {
        assert_eq!(Cli::from_arguments(["fanin", "--version"]).unwrap_err(), ExitCode::Success);
        assert_eq!(Cli::from_arguments(["fanin", "nonsense"]).unwrap_err(), ExitCode::Usage);
    }
}
