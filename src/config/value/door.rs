//! Values of an agent door.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::Mode;

use super::{Refusal, Words, choice, host_name, size};

pub(in crate::config) const MODES: Words<Mode> =
    &[("tcp", Mode::Tcp), ("proxy", Mode::Proxy), ("agent", Mode::Agent)];
/// Modes that are elsewhere: not mistyped.
const MODES_ELSEWHERE: [&str; 2] = ["http", "haproxy"];
/// Bodies that can be asked for.
const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The longest path that is put before those of requests.
const PREFIX_BYTES_MAX: usize = 256;
/// The word for the authorities that the system trusts.
pub(in crate::config) const SYSTEM: &str = "system";

pub(in crate::config) fn mode(word: &str) -> Result<Mode, Refusal> {
    if MODES_ELSEWHERE.contains(&word) {
        return Err(Refusal::new(
            "not a mode of this relay",
            "write mode = \"tcp\": HTTP and TLS pass through unchanged; \"proxy\": a web proxy for \
             agents with proxy_host; or \"agent\": their requests are forwarded",
        ));
    }
    choice(word, MODES)
}

/// The longest body of a request.
pub(in crate::config) fn body_size(text: &str) -> Result<u64, Refusal> {
    let bytes = size(text)?;
    if bytes == 0 || bytes > BODY_BYTES_MAX {
        return Err(Refusal::new("out of range", "allowed: \"1B\" to \"1GiB\""));
    }
    Ok(bytes)
}

/// What stands before the path of each request: a path without a query, `.` or `..`; empty is nothing.
pub(in crate::config) fn prefix(text: &str) -> Result<String, Refusal> {
    const HELP: &str = "write a path such as \"/stsAgent/\", or \"\" for none";
    if text.is_empty() {
        return Ok(String::new());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(plain) || text.len() > PREFIX_BYTES_MAX {
        return Err(Refusal::new("not a path to put before others", HELP));
    }
    if text.split('/').any(|part| part == "." || part == "..") {
        return Err(Refusal::new("leads elsewhere by a dot", HELP));
    }
    Ok(text.to_owned())
}

/// A file of authorities, or the word for the system's own.
pub(in crate::config) fn authorities(text: &str) -> Result<Option<PathBuf>, Refusal> {
    const HELP: &str = "write \"system\", or the whole path of a PEM file such as \
                        \"/etc/fanin/ca.pem\"";
    match text {
        SYSTEM => Ok(None),
        path if path.starts_with('/') && !path.contains('\0') => Ok(Some(path.into())),
        _ => Err(Refusal::new("not a whole path", HELP)),
    }
}

/// The name of a server: a host's, or an address.
pub(in crate::config) fn server_name(text: &str) -> Result<String, Refusal> {
    if host_name(text) || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        "not a name that a certificate can hold",
        "write a name such as \"intake.example.com\", without a port",
    ))
}
