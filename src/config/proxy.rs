//! What the web proxy doors are told: who may use them, and what for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::password::Hash;

use super::Network;
use super::value::{self, Refusal};

/// Nobody gets anywhere unless it is named here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Who may use the doors; empty is everybody who may connect.
    pub users: BTreeMap<String, Hash>,
    /// Where connections may lead, besides the servers of the door's own backend.
    pub allow: Vec<Destination>,
}

/// Where a connection may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: Pattern,
    /// `None` is every port.
    pub port: Option<u16>,
}

/// Hosts that are named at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every host that has a public address: `*`.
    Any,
    /// The hosts below a domain, in small letters: `*.example.com` is `example.com` here.
    Under(String),
    /// One host, in small letters.
    Host(String),
    /// Addresses, whatever leads to them.
    Network(Network),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Pattern::Any => f.write_str("*")?,
            Pattern::Under(domain) => write!(f, "*.{domain}")?,
            Pattern::Host(host) => f.write_str(host)?,
            Pattern::Network(network) => {
                let text = network.to_string();
                match text.contains(':') {
                    true => write!(f, "[{text}]")?,
                    false => f.write_str(&text)?,
                }
            }
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl FromStr for Destination {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        value::destination(text)
    }
}
