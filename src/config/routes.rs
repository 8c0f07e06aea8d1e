//! Where a listener's TLS clients go by the name that they ask for (SNI).

use std::fmt;

/// Routes of one listener; each session looks through them.
pub(super) const ROUTES_MAX: usize = 256;

/// Who asks for such a name goes to another backend than the listener's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRoute {
    pub sni: NamePattern,
    /// Index into [`Config::backends`](super::Config::backends).
    pub backend: usize,
}

/// Names of hosts, in small letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    Host(String),
    /// All below a domain: `*.example.com` is `example.com` here.
    Under(String),
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Under(domain) => write!(f, "*.{domain}"),
        }
    }
}
