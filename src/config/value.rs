//! Single values, from the text in which people write them: durations, sizes, addresses, choices.
//! The file and the flags share these, so that a value means the same in both.

mod backend;
mod door;
mod log;
mod proxy;
mod upkeep;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ControlLevel, ControlMode, EngineChoice, LogOutput, Pin, Prefer, Rate, ServerAddress};
use crate::op::{SessionKey, SpliceMode};

pub use backend::*;
pub(super) use door::*;
pub use log::*;
pub(super) use proxy::*;
pub use upkeep::*;

/// The longest duration that can be asked for. Anything longer is meant as "never", and a
/// connection that is never given up is a leak.
pub const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Worker threads that can be asked for: more than any machine has CPUs for.
pub const WORKERS_MAX: u16 = 1024;
/// Sessions that can be asked for: what a session key can count in one worker.
pub const MAXCONN_MAX: u32 = SessionKey::INDEX_LIMIT;
/// The longest accept queue: the kernel counted it in 16 bits until Linux 4.1, and cuts it to
/// `net.core.somaxconn` in silence.
pub const BACKLOG_MAX: u32 = 65_535;
/// The smallest pipe that pays; the engine gives smaller ones up.
pub const PIPE_BYTES_MIN: u32 = 64 * 1024;
/// The largest pipe that can be asked for. An ordinary user is held to `fs.pipe-max-size`, 1 MiB.
pub const PIPE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Pipes that can be asked for.
pub const PIPES_MAX: u32 = 1 << 20;
/// The longest name of a listener, backend or server: what a host name may have (RFC 1035).
pub const NAME_BYTES_MAX: usize = 253;
/// The longest period of a rate.
pub const RATE_PERIOD_MAX: Duration = Duration::from_secs(3600);
/// The steepest ramp: faster than any machine accepts.
pub const RAMP_MAX: u32 = 1_000_000;
/// Sessions that one source can be limited to: they are counted in 16 bits.
pub const SOURCE_SESSIONS_MAX: u16 = u16::MAX - 1;
/// Networks in one list.
pub const NETWORKS_MAX: usize = 65_536;
/// The longest path of a unix socket, without the NUL that ends it (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a value cannot be taken, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong with it.
    pub why: String,
    /// What is allowed, or what to write.
    pub help: String,
}

impl Refusal {
    pub(super) fn new(why: impl Into<String>, help: impl Into<String>) -> Self {
        Self { why: why.into(), help: help.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.help)
    }
}

impl std::error::Error for Refusal {}

/// The words for a choice, in the order in which help texts list them.
pub(super) type Words<T> = &'static [(&'static str, T)];

pub(super) const ENGINES: Words<EngineChoice> = &[
    ("auto", EngineChoice::Auto),
    ("io_uring", EngineChoice::IoUring),
    ("epoll", EngineChoice::Epoll),
];
pub(super) const CONTROL_LEVELS: Words<ControlLevel> = &[
    ("user", ControlLevel::User),
    ("operator", ControlLevel::Operator),
    ("admin", ControlLevel::Admin),
];
pub(super) const CONTROL_MODES: Words<ControlMode> =
    &[("0600", ControlMode::Owner), ("0660", ControlMode::Group)];
pub(super) const OUTPUTS: Words<LogOutput> =
    &[("stderr", LogOutput::Stderr), ("stdout", LogOutput::Stdout)];
pub(super) const SPLICES: Words<SpliceMode> =
    &[("auto", SpliceMode::Auto), ("always", SpliceMode::Always), ("never", SpliceMode::Never)];
pub(super) const PREFERENCES: Words<Prefer> =
    &[("ipv4", Prefer::Ipv4), ("ipv6", Prefer::Ipv6), ("both", Prefer::Both)];

/// The value that `word` stands for.
pub(super) fn choice<T: Copy>(word: &str, words: Words<T>) -> Result<T, Refusal> {
    if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
        return Ok(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let allowed = format!("allowed: {}", listed(&known));
    let help = match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"? {allowed}"),
        None => allowed,
    };
    Err(Refusal::new("not one of the allowed words", help))
}

/// The word for a value.
pub(super) fn word<T: Copy + PartialEq>(value: T, words: Words<T>) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("?", |(word, _)| word)
}

/// When to splice: `auto`, `always` or `never`.
pub fn splice(word: &str) -> Result<SpliceMode, Refusal> {
    choice(word, SPLICES)
}

/// The one of `known` that `typed` was probably meant to be.
pub(super) fn nearest<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Below this similarity a suggestion confuses more than it helps; clap uses 0.7.
    const SIMILAR_MIN: f64 = 0.75;
    let typed = typed.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&typed, known), known))
        .filter(|(similar, _)| *similar >= SIMILAR_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, known)| known)
}

/// `"a", "b" or "c"`
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Units of time, longest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A duration such as `500ms`, `5s`, `2m`, `1h` or `1d`; zero is one.
pub fn duration(text: &str) -> Result<Duration, Refusal> {
    const EXAMPLES: &str = "write a whole number with a unit, such as \"500ms\", \"5s\" or \"2m\"";
    let (digits, unit) = split_unit(text);
    let Ok(count) = digits.parse::<u64>() else {
        return Err(Refusal::new("not a duration", EXAMPLES));
    };
    if unit.is_empty() {
        return Err(Refusal::new(
            "a duration needs a unit",
            format!("write \"{count}s\" for seconds or \"{count}ms\" for milliseconds"),
        ));
    }
    let Some((_, millis)) = DURATION_UNITS.iter().find(|(known, _)| *known == unit) else {
        let why = format!("\"{}\" is no unit of time", unit.escape_debug());
        return Err(Refusal::new(why, "units: \"ms\", \"s\", \"m\", \"h\", \"d\""));
    };
    match count.checked_mul(*millis).map(Duration::from_millis) {
        Some(duration) if duration <= DURATION_MAX => Ok(duration),
        _ => {
            Err(Refusal::new("too long", format!("at most \"{}\"", display_duration(DURATION_MAX))))
        }
    }
}

/// A duration that is not zero.
pub fn timeout(text: &str) -> Result<Duration, Refusal> {
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err(Refusal::new(
            "a timeout of zero would end every connection at once",
            "write at least \"1ms\"; there is no \"never\", a connection never given up is a leak",
        ));
    }
    Ok(duration)
}

/// The longest that events may gather: agents and their servers are milliseconds apart, not more.
pub const LATENCY_BUDGET_MAX: Duration = Duration::from_millis(100);

/// How long events may gather: `0`, or microseconds or milliseconds up to [`LATENCY_BUDGET_MAX`].
pub fn latency_budget(text: &str) -> Result<Duration, Refusal> {
    const HELP: &str = "write \"0\" for none, or up to \"100ms\", such as \"300us\" or \"1ms\"";
    let (digits, unit) = split_unit(text);
    let Ok(count) = digits.parse::<u64>() else {
        return Err(Refusal::new("not a duration", HELP));
    };
    let budget = match unit {
        "us" => Duration::from_micros(count),
        "ms" => Duration::from_millis(count),
        "" if count == 0 => Duration::ZERO,
        "" => return Err(Refusal::new("a duration needs a unit", HELP)),
        unit => {
            let why = format!("\"{}\" is no unit of a latency budget", unit.escape_debug());
            return Err(Refusal::new(why, HELP));
        }
    };
    if budget > LATENCY_BUDGET_MAX {
        return Err(Refusal::new("events may not gather for so long", HELP));
    }
    Ok(budget)
}

/// A duration as [`latency_budget`] reads it.
pub fn display_latency_budget(budget: Duration) -> String {
    match budget.as_micros() {
        0 => "0".to_owned(),
        micros if micros % 1000 == 0 => format!("{}ms", micros / 1000),
        micros => format!("{micros}us"),
    }
}

/// A duration as [`duration`] reads it, in the largest unit that divides it.
pub fn display_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, size) = DURATION_UNITS
        .into_iter()
        .find(|(_, size)| millis > 0 && millis.is_multiple_of(*size))
        .unwrap_or(("s", 1000));
    format!("{}{unit}", millis / size)
}

const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A size such as `256KiB`, in bytes.
pub fn size(text: &str) -> Result<u64, Refusal> {
    const EXAMPLES: &str = "write a whole number with a unit, such as \"256KiB\" or \"1MiB\"";
    let (digits, unit) = split_unit(text);
    let Ok(count) = digits.parse::<u64>() else {
        return Err(Refusal::new("not a size", EXAMPLES));
    };
    let Some((_, bytes)) = SIZE_UNITS.iter().find(|(known, _)| *known == unit) else {
        let why = if unit.is_empty() {
            "a size needs a unit".to_owned()
        } else {
            format!("\"{}\" is no unit of size", unit.escape_debug())
        };
        return Err(Refusal::new(why, "units: \"B\", \"KiB\", \"MiB\", \"GiB\""));
    };
    count.checked_mul(*bytes).ok_or_else(|| Refusal::new("too large", EXAMPLES))
}

/// Bytes of a pipe.
pub fn pipe_size(text: &str) -> Result<u32, Refusal> {
    let bytes = size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if (PIPE_BYTES_MIN..=PIPE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(Refusal::new(
            "out of range",
            format!(
                "allowed: \"{}\" to \"{}\"; smaller pipes cost more than copying",
                display_size(PIPE_BYTES_MIN.into()),
                display_size(PIPE_BYTES_MAX.into())
            ),
        )),
    }
}

/// A size as [`size`] reads it, in the largest unit that divides it.
pub fn display_size(bytes: u64) -> String {
    let (unit, size) = SIZE_UNITS
        .into_iter()
        .find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size))
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim_start())
}

/// A number within `range`.
pub(super) fn number<N>(number: i64, range: RangeInclusive<N>) -> Result<N, Refusal>
where
    N: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
{
    match N::try_from(number) {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(Refusal::new(
            "out of range",
            format!("allowed: {} to {}", range.start(), range.end()),
        )),
    }
}

/// `auto` (`None`), or a number within `range`.
pub fn auto_or<N>(text: &str, range: RangeInclusive<N>) -> Result<Option<N>, Refusal>
where
    N: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
{
    if text == "auto" {
        return Ok(None);
    }
    let parsed: i64 = text.parse().map_err(|_| {
        Refusal::new(
            "not a number",
            format!("allowed: \"auto\", or {} to {}", range.start(), range.end()),
        )
    })?;
    number(parsed, range).map(Some)
}

/// A number in a period: `20/1s`, `600/1m`. Counted in milliseconds, so no more than one in each.
pub fn rate(text: &str) -> Result<Rate, Refusal> {
    const EXAMPLES: &str = "write a number in a period, such as \"20/1s\" or \"600/1m\"";
    let Some((count, period)) = text.split_once('/') else {
        return Err(Refusal::new("not a rate", EXAMPLES));
    };
    let digits = count.bytes().all(|byte| byte.is_ascii_digit());
    let (Some(count), period) = (count.parse::<u32>().ok().filter(|_| digits), duration(period)?)
    else {
        return Err(Refusal::new("the number is not a whole number", EXAMPLES));
    };
    if period > RATE_PERIOD_MAX || period.is_zero() {
        let most = display_duration(RATE_PERIOD_MAX);
        return Err(Refusal::new(
            "the period is out of range",
            format!("allowed: \"1ms\" to \"{most}\""),
        ));
    }
    if count == 0 || u128::from(count) > period.as_millis() {
        let most = period.as_millis();
        return Err(Refusal::new(
            "the number is out of range",
            format!("allowed: 1 to {most} in this period, one a millisecond"),
        ));
    }
    Ok(Rate { count, period })
}

/// An address to listen on: `10.0.0.1:3834`, `[::1]:3834`, or `:3834` and `*:3834` for every IPv4
/// address. Port 0 lets the kernel choose one.
pub fn bind_address(text: &str) -> Result<SocketAddr, Refusal> {
    const EXAMPLES: &str =
        "write IP:PORT, such as \"0.0.0.0:3834\", \":3834\" (the same) or \"[::]:3834\"";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = split_port(text).map_err(|why| Refusal::new(why, EXAMPLES))?;
    if host.is_empty() || host == "*" {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    let why = format!("\"{}\" is not an IP address", host.escape_debug());
    Err(Refusal::new(why, EXAMPLES))
}

/// Whether a name is that of an SRV record for TCP (RFC 2782): `_service._tcp.domain`.
pub fn is_service(name: &str) -> bool {
    let mut labels = name.split('.');
    labels.next().is_some_and(|label| label.starts_with('_'))
        && labels.next().is_some_and(|label| label.eq_ignore_ascii_case("_tcp"))
        && labels.next().is_some()
}

/// A server's address: `10.0.0.7:443`, `[2001:db8::7]:443`, `intake.example.com:443`, or the name of an
/// SRV record, `_intake._tcp.example.com`.
pub fn server_address(text: &str) -> Result<ServerAddress, Refusal> {
    const EXAMPLES: &str = "write HOST:PORT, such as \"intake.example.com:443\"";
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or(rest);
        let port = if scheme == "http" { 80 } else { 443 };
        let remedy =
            if split_port(host).is_ok() { host.to_owned() } else { format!("{host}:{port}") };
        let why = "a URL, where only a host and a port are wanted";
        let help = format!("write \"{}\"", remedy.escape_debug());
        return Err(Refusal::new(why, help));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let with_port = SocketAddr::new(ip, 443);
        return Err(Refusal::new("has no port", format!("write IP:PORT, such as \"{with_port}\"")));
    }
    let name = text.split(':').next().unwrap_or(text);
    if is_service(name) && host_name(name) {
        if name != text {
            let why = "an SRV record tells the port of each of its hosts";
            return Err(Refusal::new(why, format!("write \"{name}\"")));
        }
        return Ok(ServerAddress::Service { name: name.to_owned() });
    }
    let (host, port) = split_port(text).map_err(|why| {
        let help = if why == NO_PORT && host_name(text) {
            format!("write HOST:PORT, such as \"{text}:443\"")
        } else {
            EXAMPLES.to_owned()
        };
        Refusal::new(why, help)
    })?;
    if port == 0 {
        return Err(Refusal::new("nothing listens on port 0", "allowed: 1 to 65535"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return connectable(address);
    }
    if !host_name(host) {
        let why = format!("\"{}\" is no host name and no IP address", host.escape_debug());
        return Err(Refusal::new(why, EXAMPLES));
    }
    Ok(ServerAddress::Name { host: host.to_owned(), port })
}

fn connectable(address: SocketAddr) -> Result<ServerAddress, Refusal> {
    let ip = address.ip().to_canonical();
    if ip.is_unspecified() {
        let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port());
        return Err(Refusal::new(
            "stands for every address of a host and cannot be connected to",
            format!("write \"{here}\" if the server is on this host"),
        ));
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(Refusal::new(
            "TCP cannot connect to a group of hosts",
            "write the address of one host; list further servers beside it",
        ));
    }
    Ok(ServerAddress::Ip(address))
}

const NO_PORT: &str = "has no port";

/// What is before the last colon, and the port after it.
fn split_port(text: &str) -> Result<(&str, u16), &'static str> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(NO_PORT);
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address needs brackets before its port");
    }
    // `parse` would take "+80".
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    match port.parse() {
        Ok(port) => Ok((host, port)),
        Err(_) => Err("the port is above 65535"),
    }
}

/// Whether a text can be a host name: labels of letters, digits, hyphens and underscores (RFC 1123;
/// underscores occur in container networks), and not a mistyped IPv4 address.
fn host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= NAME_BYTES_MAX
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// A name for a listener, backend or server. It goes into log lines, tables and metric labels as it
/// is, so it holds nothing that would have to be quoted there.
pub(super) fn name(text: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:[]%".contains(c);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(plain) {
        return Err(Refusal::new(
            "not a usable name",
            format!(
                "allowed: 1 to {NAME_BYTES_MAX} of the letters a-z, A-Z, 0-9 and . _ - : [ ] %"
            ),
        ));
    }
    Ok(text.to_owned())
}

/// Where workers run: `auto`, `off`, or CPUs such as `0,2` or `0-3,8`.
pub fn pin(text: &str) -> Result<Pin, Refusal> {
    let refuse = |why| Refusal::new(why, "allowed: \"auto\", \"off\", or CPUs such as 0,2-5");
    match text {
        "auto" => return Ok(Pin::Auto),
        "off" => return Ok(Pin::Off),
        _ => {}
    }
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>())
        else {
            return Err(refuse("not a list of CPUs"));
        };
        if first > last || usize::from(last - first) >= usize::from(WORKERS_MAX) {
            return Err(refuse("not a range of CPUs"));
        }
        cpus.extend(first..=last);
    }
    pin_list(cpus)
}

pub(super) fn pin_list(cpus: Vec<u16>) -> Result<Pin, Refusal> {
    if cpus.is_empty() {
        return Err(Refusal::new(
            "a list without CPUs",
            "allowed: \"auto\", \"off\", or CPUs such as [0, 2]",
        ));
    }
    if cpus.len() > usize::from(WORKERS_MAX) {
        return Err(Refusal::new("too many CPUs", format!("at most {WORKERS_MAX}")));
    }
    let mut sorted = cpus.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Refusal::new(
            format!("CPU {} is named twice", pair[0]),
            "name each CPU once: two workers on one CPU only take turns",
        ));
    }
    Ok(Pin::List(cpus))
}

/// A path for the control socket.
pub fn socket_path(text: &str) -> Result<std::path::PathBuf, Refusal> {
    if text.is_empty() || text.contains('\0') {
        return Err(Refusal::new("not a path", "write a path such as \"/run/fanin/relay.sock\""));
    }
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(Refusal::new(
            format!("a path of {} bytes is too long for a unix socket", text.len()),
            format!("at most {SOCKET_PATH_BYTES_MAX} bytes: choose a shorter directory"),
        ));
    }
    Ok(text.into())
}

/// Whom to run as: `off`, or the name or number of a user or group.
pub fn account(text: &str) -> Result<Option<String>, Refusal> {
    let usable = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | '/' | ',');
    match text {
        "off" => Ok(None),
        name if !name.is_empty() && name.len() <= 256 && name.chars().all(usable) => {
            Ok(Some(name.to_owned()))
        }
        _ => Err(Refusal::new(
            "not the name of a user or group",
            "allowed: \"off\", a name such as \"fanin\", or a number such as \"65534\"",
        )),
    }
}
