//! Values of the web proxy doors.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Destination, NamePattern, Network, Pattern};
use crate::password::{Hash, USER_BYTES_MAX};

use super::{Refusal, host_name};

/// Users that can be named.
pub(in crate::config) const USERS_MAX: usize = 10_000;
/// Destinations that can be named.
pub(in crate::config) const DESTINATIONS_MAX: usize = 10_000;

const EXAMPLES: &str = "write HOST:PORT, such as \"intake.example.com:443\", \"*.example.com:443\", \
                        \"10.1.0.0/16:8080\" or \"[2001:db8::7]:443\"";

/// Where connections may lead: a host, the hosts of a domain or a network, and a port.
pub(in crate::config) fn destination(text: &str) -> Result<Destination, Refusal> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Refusal::new("has no port", format!("{EXAMPLES}; \":*\" is every port")));
    };
    let port = match port {
        "*" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
            Ok(port @ 1..) => Some(port),
            _ => return Err(Refusal::new("not a port", "allowed: 1 to 65535, or * for every one")),
        },
        _ => return Err(Refusal::new("not a port", EXAMPLES)),
    };
    Ok(Destination { host: pattern(host)?, port })
}

fn pattern(text: &str) -> Result<Pattern, Refusal> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(inside) = bracketed {
        return inside.parse::<Network>().map(Pattern::Network);
    }
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    if address.parse::<Ipv4Addr>().is_ok() {
        return text.parse::<Network>().map(Pattern::Network);
    }
    match names(text) {
        _ if text == "*" => Ok(Pattern::Any),
        Some(NamePattern::Under(domain)) => Ok(Pattern::Under(domain)),
        Some(NamePattern::Host(host)) => Ok(Pattern::Host(host)),
        None => Err(Refusal::new("not a host, a domain or a network", EXAMPLES)),
    }
}

/// A host, or all below a domain.
fn names(text: &str) -> Option<NamePattern> {
    let name = |name: &str| host_name(name) && !name.ends_with('.');
    match text.strip_prefix("*.") {
        Some(domain) if name(domain) => Some(NamePattern::Under(domain.to_ascii_lowercase())),
        None if name(text) => Some(NamePattern::Host(text.to_ascii_lowercase())),
        _ => None,
    }
}

/// The name that a TLS client asks for.
pub(in crate::config) fn sni(text: &str) -> Result<NamePattern, Refusal> {
    let not_an_address = text.parse::<IpAddr>().is_err();
    names(text).filter(|_| not_an_address).ok_or_else(|| {
        let allowed = "allowed: \"intake.example.com\", \"*.example.com\"; who asks for no name or for \
                       another one goes to the listener's `backend`";
        Refusal::new("not the name of a host", allowed)
    })
}

/// The name of a user of a web proxy door.
pub(in crate::config) fn user(name: &str) -> Result<(), Refusal> {
    let fits = (1..=USER_BYTES_MAX).contains(&name.len());
    if fits && !name.contains(':') && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(Refusal::new(
        "not a name that can be typed before a colon",
        format!("allowed: 1 to {USER_BYTES_MAX} bytes without a colon (RFC 7617 section 2)"),
    ))
}

/// The hash of a user's password.
pub(in crate::config) fn hash(text: &str) -> Result<Hash, Refusal> {
    Hash::read(text).map_err(|no| {
        Refusal::new(no.0, "make one with: fanin passwd, and write the whole line that it prints")
    })
}
