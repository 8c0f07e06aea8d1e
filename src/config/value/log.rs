//! Values of the log.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::{LogFormat, SyslogForm, SyslogTarget};

use super::{Refusal, Words, choice, socket_path};

/// The port of syslog over UDP (RFC 3164 section 2).
const SYSLOG_PORT: u16 = 514;

pub(in crate::config) const FORMATS: Words<LogFormat> =
    &[("text", LogFormat::Text), ("json", LogFormat::Json), ("tcplog", LogFormat::Tcplog)];
pub(in crate::config) const SYSLOG_FORMS: Words<SyslogForm> =
    &[("rfc3164", SyslogForm::Rfc3164), ("rfc5424", SyslogForm::Rfc5424)];
/// Of how many sessions that ended well one may get a line.
pub const SAMPLE_MAX: u32 = 1_000_000;
/// By their numbers (RFC 3164 section 4.1.1, with HAProxy's names).
pub(in crate::config) const FACILITIES: Words<u8> = &[
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("auth2", 10),
    ("ftp", 11),
    ("ntp", 12),
    ("audit", 13),
    ("alert", 14),
    ("cron2", 15),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// Where a syslog server listens: `off`, `/dev/log`, `192.0.2.5:514` or `192.0.2.5`.
pub fn syslog(text: &str) -> Result<Option<SyslogTarget>, Refusal> {
    if text == "off" {
        return Ok(None);
    }
    if text.starts_with('/') {
        return socket_path(text).map(|path| Some(SyslogTarget::Socket(path)));
    }
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    let address = match (text.parse(), plain.parse::<IpAddr>()) {
        (Ok(address), _) => Ok(address),
        (_, Ok(ip)) => Ok(SocketAddr::new(ip, SYSLOG_PORT)),
        _ => Err(Refusal::new(
            "not the place of a syslog server",
            "allowed: \"off\", a socket such as \"/dev/log\", or an address such as \"192.0.2.5:514\"",
        )),
    };
    address.map(|address| Some(SyslogTarget::Udp(address)))
}

/// Where lines are written to: `off`, or a whole path.
pub fn log_file(text: &str) -> Result<Option<PathBuf>, Refusal> {
    match text {
        "off" => Ok(None),
        path if path.starts_with('/') && !path.ends_with('/') => Ok(Some(PathBuf::from(path))),
        _ => Err(Refusal::new(
            "not a whole path",
            "allowed: \"off\", or a path such as \"/var/log/fanin/sessions.log\"",
        )),
    }
}

/// What stands before a line to a syslog server.
pub fn syslog_form(text: &str) -> Result<SyslogForm, Refusal> {
    choice(text, SYSLOG_FORMS)
}

/// The number of a facility.
pub fn facility(text: &str) -> Result<u8, Refusal> {
    choice(text, FACILITIES)
}
