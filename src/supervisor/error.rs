//! Why the relay does not start, with the remedy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::cli::ExitCode;
use crate::config::ConfigError;
use crate::confinement::ConfineError;
use crate::control::SocketError;

/// What stops a start, or makes a reload impossible. The message is one line for people: the
/// thing, the value, what is allowed and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be read or is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// More sessions were asked for than the descriptors carry.
    #[error(
        "maxconn {asked} with {workers} workers needs {needed} descriptors in each worker, and the \
         limit is {limit} (RLIMIT_NOFILE), which carries {carried} sessions; raise the limit \
         (systemd: LimitNOFILE={needed}, shell: ulimit -n {needed}), use more workers (each has \
         a descriptor table of its own), or lower maxconn to {carried}"
    )]
    Descriptors { asked: u64, workers: u16, limit: u64, carried: u64, needed: u64 },
    /// The configured source ports are the kernel's own.
    #[error(
        "source ports {first}-{last} overlap the range that the kernel chooses from, {}-{} \
         (net.ipv4.ip_local_port_range): other programs could no longer connect; choose ports \
         outside it, or leave source ports at \"auto\"",
        .local.start(), .local.end()
    )]
    SourcePorts { first: u16, last: u16, local: RangeInclusive<u16> },
    /// A configured source address is not one of this host's.
    #[error(
        "source address {address} of backend {backend}: {}; `ip address` lists those that this host \
         has; one that comes later, as with VRRP, needs: sysctl -w net.ipv4.ip_nonlocal_bind=1 \
         (IPv6: net.ipv6.ip_nonlocal_bind=1)",
        .errno.desc()
    )]
    SourceAddress { backend: String, address: IpAddr, errno: Errno },
    /// Another fanin serves this address.
    #[error(
        "another fanin already listens on {address}: two relays would share its connections \
         without knowing; end the other one first, or listen on another port \
         (`fanin status` shows it)"
    )]
    SecondInstance { address: SocketAddr },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}", bind_remedy(.address, *.errno))]
    Bind { address: SocketAddr, errno: Errno },
    /// A server's name has no address.
    #[error("{0}")]
    Resolve(String),
    /// The engine that was asked for cannot run here.
    #[error("engine \"io_uring\" cannot run here: {reason}; or use engine \"auto\" or \"epoll\"")]
    Engine { reason: String },
    /// A CPU to pin to is not one that the process may use.
    #[error(
        "pin names CPU {processor}, which this process may not use (allowed: {allowed}); name \
         allowed ones, or use pin \"auto\""
    )]
    Pin { processor: u16, allowed: String },
    /// The relay process cannot be confined.
    #[error("{0}")]
    Confine(#[from] ConfineError),
    /// A thread cannot be confined further than the process is.
    #[error(
        "the kernel takes no further filter of system calls: {error}; without memory for it there is \
         none for connections either; fanin run --no-sandbox goes without"
    )]
    Narrow { error: Errno },
    /// The control socket cannot be made.
    #[error("{0}")]
    Control(#[from] SocketError),
    /// A worker or a door's thread did not come up.
    #[error("{name} did not start: {error}")]
    Thread { name: String, error: io::Error },
    /// TLS towards the servers of a backend cannot be had as it is asked for.
    #[error("backend {backend}: {why}")]
    Tls { backend: String, why: String },
    /// There are doors for agents, and no descriptors for them.
    #[error(
        "the agent doors have no descriptors: the limit is {limit} (RLIMIT_NOFILE); raise it \
         (systemd: LimitNOFILE=65536, shell: ulimit -n 65536)"
    )]
    DoorDescriptors { limit: u64 },
    /// The relay process cannot be executed.
    #[error("cannot start {}: {error}", .binary.display())]
    Spawn { binary: PathBuf, error: io::Error },
    /// The parent is of another version, and what it hands over is not understood.
    #[error(
        "fanin {} cannot take over from the version that runs while that one runs; restart the \
         service to change over (systemctl restart fanin)",
        env!("CARGO_PKG_VERSION")
    )]
    OtherFormat,
    /// It ran and then could not go on.
    #[error("{0}")]
    Later(String),
    /// Something basic about this host could not be found out.
    #[error("cannot find out {what}: {error}")]
    Host { what: &'static str, error: io::Error },
}

impl StartError {
    /// How a process that cannot start ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(error) => error.into(),
            Self::Descriptors { .. }
            | Self::SourcePorts { .. }
            | Self::SourceAddress { .. }
            | Self::Tls { .. }
            | Self::DoorDescriptors { .. }
            | Self::Pin { .. } => ExitCode::Configuration,
            Self::Bind { errno: Errno::EACCES | Errno::EPERM, .. } => ExitCode::Permission,
            Self::Control(error) if error.is_permission() => ExitCode::Permission,
            Self::Confine(error) if error.is_permission() => ExitCode::Permission,
            Self::Confine(error) if error.is_configuration() => ExitCode::Configuration,
            Self::Resolve(_) | Self::Later(_) => ExitCode::Runtime,
            _ => ExitCode::System,
        }
    }
}

fn bind_remedy(address: &SocketAddr, errno: Errno) -> String {
    let port = address.port();
    match errno {
        Errno::EADDRINUSE => format!(
            "another program has the port; `ss -ltnp 'sport = :{port}'` shows which; end it, or \
             listen on another port"
        ),
        Errno::EACCES | Errno::EPERM => format!(
            "permission denied: ports below net.ipv4.ip_unprivileged_port_start need \
             CAP_NET_BIND_SERVICE; grant it (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), \
             or listen on a port above 1023 instead of {port}"
        ),
        Errno::EADDRNOTAVAIL => format!(
            "this host has no address {}; `ip address` lists those it has; 0.0.0.0 stands for all",
            address.ip()
        ),
        errno => format!("{} ({errno:?})", errno.desc()),
    }
}
