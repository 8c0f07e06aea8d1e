//! Why a session ended, and what each side is told.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

use crate::op::{CloseHow, Side};

/// The first cause of a session's end. It is the label of the metric, the field of the log line and
/// what the tests assert; nothing else describes an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// Both directions came to their end and every byte was delivered.
    Completed,
    /// The client sent a RST.
    ClientReset,
    /// The server sent a RST.
    ServerReset,
    /// The client closed while bytes were still on their way to it.
    ClientGone,
    /// The server closed while bytes were still on their way to it.
    ServerGone,
    /// The client's connection failed otherwise (keep-alive, unreachable network).
    ClientFailed,
    /// The server's connection failed otherwise.
    ServerFailed,
    /// Nothing moved on the client's connection for `client_idle`.
    ClientIdle,
    /// Nothing moved on the server's connection for `server_idle`.
    ServerIdle,
    /// One direction had ended and nothing moved in the other for `half_closed`.
    HalfClosed,
    /// The last attempt to connect took longer than `connect`.
    ConnectTimeout,
    /// The last attempt to connect was refused.
    ConnectRefused,
    /// The last attempt to connect failed otherwise (unreachable, reset).
    ConnectFailed,
    /// No source port towards the server was free.
    NoPort,
    /// No server could take the session: none has a weight or an address, or all are full and nobody
    /// may wait.
    NoServer,
    /// All servers were full, and no place came free within `queue`.
    QueueTimeout,
    /// All servers were full, and as many sessions waited already as may.
    QueueFull,
    /// We lacked something for the server's socket: descriptors or memory.
    NoResources,
    /// The client did not begin with a PROXY header although it must.
    BadGreeting,
    /// The PROXY header did not come in time.
    GreetingTimeout,
    /// The source that the PROXY header names is at one of its limits.
    SourceLimit,
    /// Checks found its server down, and `on_down` wants its sessions ended.
    ServerDown,
    /// It was at rest, and its server has moved (`on_move`) or more than its share (`rebalance`).
    Rebalanced,
    /// An administrator ended it.
    ShutDown,
    /// The agent's request was refused: malformed, or beyond a limit.
    BadRequest,
    /// The server's certificate or its TLS was not accepted.
    TlsFailed,
    /// A client of the web proxy door has not said who it is, or is not who it says.
    LoginFailed,
    /// It wanted to go where nobody may.
    DestinationDenied,
    /// The drain's deadline passed.
    Drained,
    /// The relay was told to end at once.
    Stopped,
}

impl CloseReason {
    /// All reasons, in index order.
    pub const ALL: [Self; 30] = [
        Self::Completed,
        Self::ClientReset,
        Self::ServerReset,
        Self::ClientGone,
        Self::ServerGone,
        Self::ClientFailed,
        Self::ServerFailed,
        Self::ClientIdle,
        Self::ServerIdle,
        Self::HalfClosed,
        Self::ConnectTimeout,
        Self::ConnectRefused,
        Self::ConnectFailed,
        Self::NoPort,
        Self::NoServer,
        Self::QueueTimeout,
        Self::QueueFull,
        Self::NoResources,
        Self::BadGreeting,
        Self::GreetingTimeout,
        Self::SourceLimit,
        Self::ServerDown,
        Self::Rebalanced,
        Self::ShutDown,
        Self::BadRequest,
        Self::TlsFailed,
        Self::LoginFailed,
        Self::DestinationDenied,
        Self::Drained,
        Self::Stopped,
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// For tables with one entry a reason.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name outside: in logs, metrics and the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientReset => "client_reset",
            Self::ServerReset => "server_reset",
            Self::ClientGone => "client_gone",
            Self::ServerGone => "server_gone",
            Self::ClientFailed => "client_failed",
            Self::ServerFailed => "server_failed",
            Self::ClientIdle => "client_idle",
            Self::ServerIdle => "server_idle",
            Self::HalfClosed => "half_closed",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectFailed => "connect_failed",
            Self::NoPort => "no_port",
            Self::NoServer => "no_server",
            Self::QueueTimeout => "queue_timeout",
            Self::QueueFull => "queue_full",
            Self::NoResources => "no_resources",
            Self::BadGreeting => "bad_greeting",
            Self::GreetingTimeout => "greeting_timeout",
            Self::SourceLimit => "source_limit",
            Self::ServerDown => "server_down",
            Self::Rebalanced => "rebalanced",
            Self::ShutDown => "shut_down",
            Self::BadRequest => "bad_request",
            Self::TlsFailed => "tls_failed",
            Self::LoginFailed => "login_failed",
            Self::DestinationDenied => "destination_denied",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
        }
    }

    /// What an error on an established connection means. EPIPE is not for here: it says that the
    /// peer had closed in order before, so the other direction may still be whole.
    pub const fn of_broken(side: Side, errno: Errno) -> Self {
        match (side, errno) {
            (Side::Client, Errno::ECONNRESET) => Self::ClientReset,
            (Side::Backend, Errno::ECONNRESET) => Self::ServerReset,
            (Side::Client, Errno::EPIPE) => Self::ClientGone,
            (Side::Backend, Errno::EPIPE) => Self::ServerGone,
            (Side::Client, _) => Self::ClientFailed,
            (Side::Backend, _) => Self::ServerFailed,
        }
    }

    /// What a failed attempt to connect means, if it was the last.
    pub const fn of_connect(errno: Errno) -> Self {
        match errno {
            Errno::ECONNREFUSED => Self::ConnectRefused,
            Errno::ETIMEDOUT => Self::ConnectTimeout,
            Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => Self::NoPort,
            // ENOSPC: fs.epoll.max_user_watches.
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC => {
                Self::NoResources
            }
            _ => Self::ConnectFailed,
        }
    }

    /// How both sockets are ended. Everything but a whole session ends with a RST, so that nobody
    /// takes a cut stream for a complete one (guarantee G1).
    pub(super) const fn how(self) -> CloseHow {
        match self {
            Self::Completed => CloseHow::Orderly,
            _ => CloseHow::Reset,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub reason: CloseReason,
    /// Bytes delivered, by [`Flow::index`](crate::op::Flow::index).
    pub bytes: [u64; 2],
    /// Bytes taken from a source whose sink had closed; by [`Flow::index`](crate::op::Flow::index).
    pub bytes_discarded: [u64; 2],
    /// Attempts to connect.
    pub attempts: u16,
    /// From the client's arrival until a server was connected.
    pub connect_time: Option<Duration>,
    /// From the client's arrival until it was sent the first byte, and until a byte last moved.
    pub first_byte: Option<Duration>,
    pub last_byte: Option<Duration>,
    /// From the client's arrival to the end.
    pub total_time: Duration,
}

impl Report {
    /// Of somebody for whom no session began.
    pub const fn unserved(reason: CloseReason, attempts: u16, total_time: Duration) -> Self {
        Self {
            reason,
            bytes: [0; 2],
            bytes_discarded: [0; 2],
            attempts,
            connect_time: None,
            first_byte: None,
            last_byte: None,
            total_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_index_order_and_labels_are_unique() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        let mut labels = CloseReason::ALL.map(CloseReason::label);
        labels.sort_unstable();
        assert!(labels.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
