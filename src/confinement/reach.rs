//! Which files and ports a configuration takes, and Landlock, which keeps a process from all others.
//!
//! Best effort: what the kernel does not know is left out, and said. Landlock tells TCP ports apart and
//! not addresses; UDP (name servers, syslog) is beyond it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
};

use crate::config::{Config, Mode, Server, ServerAddress, SourcePorts};

use super::Part;

/// What rules are written for. A newer one restricts more, unknown to us.
const KNOWN: ABI = ABI::V7;
/// The first that knows ports (Linux 6.7).
const KNOWS_PORTS: ABI = ABI::V4;
const DNS_PORT: u16 = 53;
/// A port is a rule. The 22,528 ports that workers choose from unless told otherwise took 200 to 300 ms
/// at each start, and MiBs of the kernel's memory.
const BIND_RULES_MAX: usize = 4096;
/// What is read again while the relay runs, wherever it stands in them: names and name servers, the
/// time zone, certificates of authorities. Folders, since files are replaced in them.
const READ: &[&str] = &[
    "/etc",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];
/// What names of name servers may lead to, as systemd-resolved and others make it.
const RESOLVER: &str = "/etc/resolv.conf";

/// What a relay process may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// TCP ports to connect to; `None` is any.
    connects: Option<BTreeSet<u16>>,
    /// TCP ports to bind, before a connect; `None` is any.
    binds: Option<BTreeSet<u16>>,
    /// Folders in which files are read.
    reads: BTreeSet<PathBuf>,
    /// Folders in which files are made and written.
    writes: BTreeSet<PathBuf>,
}

impl Reach {
    /// What a configuration takes that is read from this file, if it is.
    pub(super) fn of(config: &Config, file: Option<&Path>) -> Self {
        let folder = |path: &Path| path.parent().map(Path::to_owned);
        let authorities =
            config.backends.iter().filter_map(|backend| backend.tls.as_ref()?.ca.as_ref());
        let from_environment = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(std::env::var_os);
        let resolver = Path::new(RESOLVER).canonicalize().ok();
        let reads = READ.iter().map(PathBuf::from);
        let reads = reads.chain(authorities.filter_map(|file| folder(file)));
        let reads = reads.chain(from_environment.into_iter().flatten().map(PathBuf::from));
        let reads = reads.chain(resolver.as_deref().and_then(folder));
        let reads = reads.chain(file.and_then(|file| folder(&std::path::absolute(file).ok()?)));
        Self {
            connects: connects(config),
            binds: binds(config),
            reads: reads.collect(),
            writes: config.log.file.as_deref().and_then(folder).into_iter().collect(),
        }
    }

    /// Whether a process that may reach this may do all that `other` takes.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let covers =
            |mine: &Option<BTreeSet<u16>>, others: &Option<BTreeSet<u16>>| match (mine, others) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(mine), Some(others)) => mine.is_superset(others),
            };
        covers(&self.connects, &other.connects)
            && covers(&self.binds, &other.binds)
            && self.reads.is_superset(&other.reads)
            && self.writes.is_superset(&other.writes)
    }

    /// Keeps the calling thread, and those that it will start, from everything else.
    pub(super) fn enforce(&self) -> Vec<Part> {
        match self.restrict() {
            Ok(LandlockStatus::Available { effective_abi, .. }) => self.told(effective_abi),
            Ok(_) => self.missing("the kernel has no Landlock, or it is not in its lsm= list"),
            Err(error) => self.missing(&error.to_string()),
        }
    }

    fn restrict(&self) -> Result<LandlockStatus, RulesetError> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?;
        for (ports, access) in self.ports() {
            if ports.is_some() {
                ruleset = ruleset.handle_access(access)?;
            }
        }
        let mut ruleset = ruleset.create()?;
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let writing = AccessFs::WriteFile | AccessFs::MakeReg;
        ruleset = permit(ruleset, &self.reads, reading)?;
        ruleset = permit(ruleset, &self.writes, writing)?;
        for (ports, access) in self.ports() {
            for port in ports.iter().flatten() {
                ruleset = ruleset.add_rule(NetPort::new(*port, access))?;
            }
        }
        ruleset.restrict_self().map(|status| status.landlock)
    }

    fn ports(&self) -> [(&Option<BTreeSet<u16>>, AccessNet); 2] {
        [(&self.connects, AccessNet::ConnectTcp), (&self.binds, AccessNet::BindTcp)]
    }

    fn told(&self, abi: ABI) -> Vec<Part> {
        let version = format!("ABI {}", abi as i32);
        let files = Part { name: FILES, in_force: true, detail: Some(version.clone()) };
        let (in_force, detail) = match &self.connects {
            _ if abi < KNOWS_PORTS => (false, format!("{version}; Linux 6.7 or newer has it")),
            None => (false, "an SRV record or a web proxy door leads to any port".to_owned()),
            Some(ports) if ports.len() > LISTED => (true, format!("{} ports", ports.len())),
            Some(ports) => {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                (true, format!("to {}", ports.join(", ")))
            }
        };
        vec![files, Part { name: PORTS, in_force, detail: Some(detail) }]
    }

    fn missing(&self, why: &str) -> Vec<Part> {
        let part = |name| Part { name, in_force: false, detail: Some(why.to_owned()) };
        [FILES, PORTS].map(part).into()
    }
}

const FILES: &str = "landlock_files";
const PORTS: &str = "landlock_ports";
/// More ports than that are told by their number.
const LISTED: usize = 8;

/// A folder that is not there needs no rule: nothing can be read or written in it either.
fn permit(
    ruleset: RulesetCreated,
    folders: &BTreeSet<PathBuf>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let there = folders.iter().filter_map(|folder| PathFd::new(folder).ok());
    there
        .map(|folder| PathBeneath::new(folder, access))
        .try_fold(ruleset, |ruleset, rule| ruleset.add_rule(rule))
}

/// Where servers, their checks and name servers listen; and where clients of a web proxy door may go.
fn connects(config: &Config) -> Option<BTreeSet<u16>> {
    let mut ports: BTreeSet<u16> = match config.dns.nameservers.as_slice() {
        // Long answers come by TCP.
        [] => [DNS_PORT].into(),
        servers => servers.iter().map(|server| server.port()).collect(),
    };
    for Server { address, check, .. } in config.backends.iter().flat_map(|one| &one.servers) {
        ports.insert(match address {
            ServerAddress::Ip(address) => address.port(),
            ServerAddress::Name { port, .. } => *port,
            ServerAddress::Service { .. } => return None,
        });
        ports.extend(check.as_ref().and_then(|check| check.port));
    }
    if config.listeners.iter().any(|listener| listener.mode == Mode::Proxy) {
        for destination in &config.proxy.allow {
            // Without one, every port is allowed.
            ports.insert(destination.port?);
        }
    }
    Some(ports)
}

/// The ports that connections come from, where they are few or the kernel's choice. A port that could
/// be bound all the same is of no use: seccomp bars listen(2).
fn binds(config: &Config) -> Option<BTreeSet<u16>> {
    // The kernel's choice, for a source address.
    let mut ports = BTreeSet::from([0]);
    for backend in &config.backends {
        match backend.source.ports {
            SourcePorts::Auto => return None,
            SourcePorts::Kernel => {}
            SourcePorts::Range { first, last } => ports.extend(first..=last),
        }
    }
    (ports.len() <= BIND_RULES_MAX).then_some(ports)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::{fs, io, thread};

    use nix::errno::Errno;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;
    use crate::config::Overrides;

    fn config(text: &str) -> Config {
        let text = format!("[[listener]]\nbind = [\"127.0.0.1:3834\"]\n{text}");
        Config::from_text("test.toml".as_ref(), &text, &Overrides::default()).unwrap()
    }

    fn reach_of(config: &Config) -> Reach {
        Reach::of(config, None)
    }

    fn server(address: &str) -> String {
        format!("[[backend.b.server]]\naddress = \"{address}\"\n")
    }

    #[test]
    fn a_reach_is_what_the_configuration_names() {
        let text = server("a.example:443") + "check = { port = 8080 }\n" + &server("192.0.2.1:444");
        let reach = reach_of(&config(&format!("[log]\nfile = \"/var/log/fanin/x.log\"\n{text}")));
        assert_eq!(reach.connects, Some([53, 443, 444, 8080].into()));
        assert_eq!(reach.binds, None);
        assert_eq!(reach.writes, [PathBuf::from("/var/log/fanin")].into());
        let narrow = "[backend.b]\nsource = { ports = \"2000-2002\" }\n[dns]\nnameservers = [\"192.0.2.9:5353\"]\n";
        let reach = reach_of(&config(&(server("192.0.2.1:444") + narrow)));
        assert_eq!(reach.connects, Some([444, 5353].into()));
        assert_eq!(reach.binds, Some([0, 2000, 2001, 2002].into()));
        assert_eq!(reach_of(&config(&server("_intake._tcp.example.com"))).connects, None);
        let door = |allow: &str| {
            let door =
                "[[listener]]\nbind = [\"127.0.0.1:3128\"]\nmode = \"proxy\"\nbackend = \"b\"\n";
            let text = format!("{door}[proxy]\nallow = [\"{allow}\"]\n");
            reach_of(&config(&(server("192.0.2.1:444") + &text))).connects
        };
        assert_eq!(door("*.example.org:8443"), Some([53, 444, 8443].into()));
        assert_eq!(door("*.example.org:*"), None);
    }

    #[test]
    fn what_is_within_reach_needs_no_other_process_and_the_rest_does() {
        let one = reach_of(&config(&server("192.0.2.1:443")));
        let two = reach_of(&config(&(server("192.0.2.1:443") + &server("192.0.2.1:444"))));
        let all = reach_of(&config(&server("_intake._tcp.example.com")));
        let logs = config(&(server("192.0.2.1:443") + "[log]\nfile = \"/var/log/x/y\"\n"));
        assert!(one.covers(&one) && two.covers(&one) && all.covers(&two));
        assert!(!one.covers(&two) && !two.covers(&all) && !one.covers(&reach_of(&logs)));
    }

    /// In a thread of its own, since there is no way back.
    #[test]
    fn other_files_and_other_ports_are_out_of_reach() {
        let allowed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = listening.local_addr().unwrap();
        let folder = std::env::temp_dir().join(format!("fanin-reach-{}", std::process::id()));
        let (inside, outside) = (folder.join("logs"), folder.join("secret"));
        fs::create_dir_all(&inside).unwrap();
        fs::write(&outside, "secret").unwrap();
        let text = format!("[log]\nfile = \"{}\"\n", inside.join("log").display());
        let reach = reach_of(&config(&(server(&allowed.to_string()) + &text)));
        let kind = |result: io::Result<()>| result.map_err(|error| error.kind());
        let denied = Err(io::ErrorKind::PermissionDenied);
        thread::scope(|scope| {
            scope.spawn(|| {
                crate::sys::confine::gain_nothing().unwrap();
                let parts = reach.enforce();
                if !parts[0].in_force {
                    eprintln!("SKIPPED: {parts:?}");
                    return;
                }
                assert_eq!(kind(fs::read(&outside).map(drop)), denied);
                assert_eq!(kind(fs::write(&outside, "")), denied);
                assert_eq!(kind(fs::write(folder.join("new"), "")), denied);
                assert_eq!(kind(fs::read_dir("/").map(drop)), denied);
                assert_eq!(kind(fs::remove_file(&outside)), denied);
                assert_eq!(kind(fs::write(inside.join("log"), "a line")), Ok(()));
                assert_eq!(kind(fs::read("/etc/hosts").map(drop)), Ok(()));
                if parts[1].in_force {
                    assert_eq!(kind(TcpStream::connect(other).map(drop)), denied);
                    let refused = Err(io::ErrorKind::ConnectionRefused);
                    assert_eq!(kind(TcpStream::connect(allowed).map(drop)), refused);
                }
            });
        });
        TcpStream::connect(other).expect("this thread is free");
        fs::remove_dir_all(folder).unwrap();
    }

    /// Does something in a thread that is confined to the reach, if the kernel knows as much of Landlock.
    fn within(reach: &Reach, least: ABI, act: impl FnOnce() + Send) {
        thread::scope(|scope| {
            scope.spawn(|| {
                crate::sys::confine::gain_nothing().unwrap();
                let parts = reach.enforce();
                let version = parts[0].detail.as_ref().and_then(|told| told.strip_prefix("ABI "));
                let version = version.and_then(|number| number.parse::<i32>().ok());
                match version {
                    Some(version) if version >= least as i32 => act(),
                    _ => eprintln!("SKIPPED: {parts:?}"),
                }
            });
        });
    }

    #[test]
    fn only_the_source_ports_of_the_configuration_are_bound() {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (mine, other) = (free(), free());
        let [mine, other] = [mine, other].map(|socket| socket.local_addr().unwrap());
        let source = format!("[backend.b]\nsource = {{ ports = \"{0}-{0}\" }}\n", mine.port());
        let reach = reach_of(&config(&(server("192.0.2.1:444") + &source)));
        let bound = |address| TcpListener::bind(address).map(drop).map_err(|error| error.kind());
        within(&reach, KNOWS_PORTS, || {
            assert_eq!(bound(other), Err(io::ErrorKind::PermissionDenied));
            assert_eq!(bound(mine), Ok(()));
            // The kernel's choice, for a source address.
            assert_eq!(bound(SocketAddr::new(mine.ip(), 0)), Ok(()));
        });
        assert_eq!(bound(other), Ok(()), "this thread is free");
    }

    #[test]
    fn other_processes_and_their_abstract_sockets_are_out_of_reach() {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Pid::from_raw(other.id().try_into().unwrap());
        let name = format!("fanin-reach-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _listening = UnixListener::bind_addr(&address).unwrap();
        let connected =
            || UnixStream::connect_addr(&address).map(drop).map_err(|error| error.kind());
        within(&reach_of(&config(&server("192.0.2.1:444"))), ABI::V6, || {
            assert_eq!(kill(process, Signal::SIGCONT), Err(Errno::EPERM));
            assert_eq!(connected(), Err(io::ErrorKind::PermissionDenied));
        });
        assert_eq!(
            (kill(process, Signal::SIGCONT), connected()),
            (Ok(()), Ok(())),
            "this thread is free"
        );
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}
