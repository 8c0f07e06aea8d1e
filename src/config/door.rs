//! What an agent door and the way from it to its servers are told besides what every listener is.

use std::path::PathBuf;
use std::time::Duration;

use super::value;

/// The longest body of a request unless told otherwise. Agents cut theirs at 2 to 4 MB; the forwarder
/// of version 5 keeps 30 MB for all that waits.
pub(super) const BODY_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;
/// How long a connection to a server is kept without a request. It has to be shorter than the server
/// keeps it, or requests meet its end: Apache's and Node's 5 s are the shortest in wide use. Under load
/// the connections that were used last are used next, so none of those grows old.
pub(super) const KEEP_IDLE_DEFAULT: Duration = Duration::from_secs(4);

/// What becomes of the bytes that come through a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They pass unchanged.
    #[default]
    Tcp,
    /// They are requests of agents, forwarded one by one.
    Agent,
    /// They begin by saying where they want to go, as a web proxy is told (CONNECT, absolute URIs).
    Proxy,
}

impl Mode {
    /// The word for it.
    pub fn label(self) -> &'static str {
        value::word(self, value::MODES)
    }
}

/// TLS towards the servers of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A file of the authorities (PEM) that are trusted alone; `None` is those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The name that is asked for and that the certificate must hold; `None` is the server's own.
    pub sni: Option<String>,
}
