//! Values of backends and their servers.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::SourcePorts;
use crate::op::ProxyVersion;

use super::{Refusal, Words, choice, display_duration, duration};

/// The largest weight of a server, as in HAProxy.
pub const WEIGHT_MAX: u16 = 256;
/// Further attempts that can be asked for.
pub const RETRIES_MAX: u16 = 100;
/// Sessions that may wait for a place at a server.
pub const QUEUE_PLACES_MAX: u32 = 1_000_000;
/// Addresses that one backend's connections come from: each has 22,528 ports towards each server.
pub const SOURCE_ADDRESSES_MAX: usize = 64;
/// Spare connections of one worker to one server: what 1000 sessions a second use up in a round trip of
/// a second.
pub const SPARES_MAX: u16 = 1024;
/// Source ports below this need a capability (`net.ipv4.ip_unprivileged_port_start`).
pub const SOURCE_PORT_MIN: u16 = 1024;

/// Whether a server is told whose a connection is.
pub(in crate::config) const SEND_PROXY: Words<Option<ProxyVersion>> =
    &[("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
/// Whether the sessions of a server end when it is found down.
pub(in crate::config) const ON_DOWN: Words<bool> = &[("keep", false), ("end", true)];
/// Whether sessions leave an address that their server no longer has.
pub(in crate::config) const ON_MOVE: Words<bool> = &[("keep", false), ("leave", true)];

/// A duration that is not zero, or `off`, which is zero.
pub fn timeout_or_off(text: &str) -> Result<Duration, Refusal> {
    if text == "off" {
        return Ok(Duration::ZERO);
    }
    let refuse =
        |refusal: Refusal| Refusal::new(refusal.why, format!("{}, or \"off\"", refusal.help));
    match duration(text).map_err(refuse)? {
        Duration::ZERO => Err(Refusal::new("no time at all", "write \"off\", or at least \"1ms\"")),
        duration => Ok(duration),
    }
}

/// A duration as [`timeout_or_off`] reads it.
pub fn display_or_off(duration: Duration) -> String {
    if duration.is_zero() { "off".to_owned() } else { display_duration(duration) }
}

/// The PROXY header with which a server is told whose a connection is.
pub fn send_proxy(text: &str) -> Result<Option<ProxyVersion>, Refusal> {
    choice(text, SEND_PROXY)
}

/// An address of this host that connections can come from; `others` are those already named.
pub fn source_address(text: &str, others: &[IpAddr]) -> Result<IpAddr, Refusal> {
    const ALLOWED: &str = "allowed: addresses of this host, such as \"192.0.2.10\", without a port";
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Refusal::new("not an address", ALLOWED));
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err(Refusal::new("no connection can come from this address", ALLOWED));
    }
    if others.contains(&address) {
        return Err(Refusal::new("this address is named twice", "name each once"));
    }
    Ok(address)
}

/// Who chooses source ports: `auto`, `kernel` or a range such as `10240-32767`.
pub fn source_ports(text: &str) -> Result<SourcePorts, Refusal> {
    const EXAMPLES: &str = "allowed: \"auto\", \"kernel\", or a range such as \"10240-32767\"";
    match text {
        "auto" => return Ok(SourcePorts::Auto),
        "kernel" => return Ok(SourcePorts::Kernel),
        _ => {}
    }
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)): Option<(u16, u16)> = range else {
        return Err(Refusal::new("not a range of ports", EXAMPLES));
    };
    if first > last || first < SOURCE_PORT_MIN {
        return Err(Refusal::new(
            "not a usable range of ports",
            format!("the first is at least {SOURCE_PORT_MIN} and not above the last"),
        ));
    }
    Ok(SourcePorts::Range { first, last })
}
