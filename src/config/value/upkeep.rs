//! Values of names and checks.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{NAME_BYTES_MAX, Refusal, display_duration, duration, timeout};

/// Checks in a row that can be asked for.
pub const CHECKS_MAX: u16 = 1000;
/// Bounds of the time between two checks.
pub const CHECK_INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(3600);

/// A time between two checks.
pub fn check_interval(text: &str) -> Result<Duration, Refusal> {
    within(text, &CHECK_INTERVALS)
}

/// The path of a request: it goes into the request's first line as it is.
pub fn http_path(text: &str) -> Result<String, Refusal> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !text.starts_with('/') || !plain || text.len() > 1024 {
        return Err(Refusal::new("not a path", "write \"/\" or a path such as \"/health\""));
    }
    Ok(text.to_owned())
}

/// The host of a request, with a port if it has one.
pub fn http_host(text: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(plain) {
        return Err(Refusal::new("not a host", "write a name such as \"intake.example.com\""));
    }
    Ok(text.to_owned())
}

/// Status codes: one, or a range such as `200-399`.
pub fn statuses(text: &str) -> Result<(u16, u16), Refusal> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first @ 100..=599), Ok(last @ 100..=599)) if first <= last => Ok((first, last)),
        _ => Err(Refusal::new(
            "not status codes",
            "write one, such as \"200\", or a range, such as \"200-399\"",
        )),
    }
}

/// How often an unanswered question can be asked again.
pub const DNS_RETRIES_MAX: u16 = 10;
/// The longest that one question may wait.
pub const DNS_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Addresses of one name that can be used.
pub const ADDRESSES_MAX: u16 = 1024;
/// Bounds of a time to live: a name server is not asked every moment, and what is older than a day
/// is no longer looked after.
pub const TTL_BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// How long a question to a name server may wait.
pub fn dns_timeout(text: &str) -> Result<Duration, Refusal> {
    let timeout = timeout(text)?;
    if timeout > DNS_TIMEOUT_MAX {
        let most = display_duration(DNS_TIMEOUT_MAX);
        return Err(Refusal::new("too long for one question", format!("at most \"{most}\"")));
    }
    Ok(timeout)
}

/// A bound for the time to live of a name.
pub fn ttl(text: &str) -> Result<Duration, Refusal> {
    within(text, &TTL_BOUNDS)
}

fn within(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, Refusal> {
    let duration = duration(text)?;
    if !bounds.contains(&duration) {
        let [first, last] = [bounds.start(), bounds.end()].map(|bound| display_duration(*bound));
        return Err(Refusal::new("out of range", format!("allowed: \"{first}\" to \"{last}\"")));
    }
    Ok(duration)
}

/// The port of name servers (RFC 1035 section 4.2).
pub const NAMESERVER_PORT: u16 = 53;

/// The address of a check.
pub fn check_address(text: &str) -> Result<IpAddr, Refusal> {
    text.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified()).ok_or_else(|| {
        Refusal::new("not the address of a host", "write an IP address, such as \"192.0.2.7\"")
    })
}

/// A name server: an IP address, with a port if it is not 53.
pub fn nameserver(text: &str) -> Result<SocketAddr, Refusal> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, NAMESERVER_PORT)),
        Err(_) => text.parse().ok(),
    };
    let usable = |address: &SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
    address.filter(usable).ok_or_else(|| {
        Refusal::new(
            "not the address of a name server",
            "write an IP address, with a port if it is not 53, such as \"10.0.0.2\" or \"[::1]:5353\"",
        )
    })
}
