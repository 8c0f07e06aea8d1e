//! `server`, `server-template` and `default-server` lines (manual, 5.2).

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::value::{self, Refusal};
use crate::config::{Prefer, ServerAddress, Source};
use crate::op::ProxyVersion;

use super::lexer::{self, Line, Word};
use super::report::NoteKind;
use super::sections::{Reader, Set};
use super::source::source;

/// One server as written.
#[derive(Clone, Debug)]
pub(super) struct ServerLine {
    pub(super) name: Set<String>,
    pub(super) address: Set<ServerAddress>,
    pub(super) options: ServerOptions,
}

/// What a server has of its own, or from `default-server`.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerOptions {
    pub(super) weight: Option<u16>,
    pub(super) backup: Option<bool>,
    pub(super) maxconn: Option<u32>,
    pub(super) check: Option<bool>,
    pub(super) check_port: Option<u16>,
    pub(super) prefer: Option<Prefer>,
    pub(super) inter: Option<Duration>,
    pub(super) fastinter: Option<Duration>,
    pub(super) downinter: Option<Duration>,
    pub(super) rise: Option<u16>,
    pub(super) fall: Option<u16>,
    pub(super) source: Option<Source>,
    pub(super) send_proxy: Option<ProxyVersion>,
    pub(super) slow_start: Option<Duration>,
    /// Sessions that may wait for it.
    pub(super) queue_max: Option<u32>,
    pub(super) ends_on_down: Option<bool>,
    /// Where it is checked instead.
    pub(super) check_address: Option<IpAddr>,
    /// Whether its checks speak TLS, where that is said.
    pub(super) check_tls: Option<bool>,
    pub(super) tls: TlsWords,
}

/// TLS with a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsWords {
    /// It is spoken; without this the others mean nothing.
    pub(super) ssl: bool,
    /// `None` is those that the system trusts.
    pub(super) ca: Option<PathBuf>,
    /// The name that is asked for and checked; `None` is the server's own.
    pub(super) sni: Option<String>,
    /// The name that the certificate must hold, where that is said.
    pub(super) verified: Option<String>,
    /// HAProxy would not check certificates.
    pub(super) unverified: bool,
}

/// What becomes of an option.
#[derive(Clone, Copy)]
enum Treatment {
    /// Read by this; so many words follow.
    Take(usize, fn(&mut Reader, &mut ServerOptions, &Word, &str)),
    Ignore(usize, &'static str),
    /// Without effect here, which a person should look at.
    Look(usize, &'static str),
    Refuse(&'static str),
}

use Treatment::{Ignore, Look, Refuse, Take};

const UNCHECKED: &str = "a check connects, or asks for a page; nothing else is looked at";
const FAILURES: &str = "a server that connects fail to is left alone for a while, longer each time, without being told to";
const NAMES: &str = "every name is looked up again for as long as the relay runs: [dns]";
const FIRST: &str = "the relay starts without an answer, and keeps the last good one";
const TLS: &str = "fanin has the versions, ciphers and protocols that rustls holds for safe";
const CLIENT_CERTIFICATE: &str =
    "remove it: fanin has no certificate of its own to show to servers";

const OPTIONS: &[(&str, Treatment)] = &[
    (
        "weight",
        Take(1, |reader, options, word, value| {
            options.weight = reader.bounded(word, value, 0..=value::WEIGHT_MAX);
        }),
    ),
    (
        "maxconn",
        Take(1, |reader, options, word, value| {
            // 0 is no limit there.
            let limit: Option<u32> = reader.bounded(word, value, 0..=value::MAXCONN_MAX);
            options.maxconn = limit.filter(|&limit| limit > 0);
        }),
    ),
    ("backup", Take(0, |_, options, _, _| options.backup = Some(true))),
    ("no-backup", Take(0, |_, options, _, _| options.backup = Some(false))),
    ("check", Take(0, |_, options, _, _| options.check = Some(true))),
    ("no-check", Take(0, |_, options, _, _| options.check = Some(false))),
    (
        "port",
        Take(1, |reader, options, word, value| {
            options.check_port = reader.bounded(word, value, 1..=u16::MAX);
        }),
    ),
    ("inter", Take(1, |reader, options, word, value| options.inter = reader.span_of(word, value))),
    (
        "fastinter",
        Take(1, |reader, options, word, value| options.fastinter = reader.span_of(word, value)),
    ),
    (
        "downinter",
        Take(1, |reader, options, word, value| options.downinter = reader.span_of(word, value)),
    ),
    (
        "rise",
        Take(1, |reader, options, word, value| {
            options.rise = reader.bounded(word, value, 1..=value::CHECKS_MAX);
        }),
    ),
    (
        "fall",
        Take(1, |reader, options, word, value| {
            options.fall = reader.bounded(word, value, 1..=value::CHECKS_MAX);
        }),
    ),
    (
        "addr",
        Take(1, |reader, options, word, value| match value.parse() {
            Ok(address) => options.check_address = Some(address),
            Err(_) => {
                let refusal = Refusal::new("not an address", "write an IP address, or remove addr");
                reader.refuse_word(word, &refusal);
            }
        }),
    ),
    ("observe", Ignore(1, FAILURES)),
    ("error-limit", Ignore(1, FAILURES)),
    ("on-error", Ignore(1, FAILURES)),
    (
        "on-marked-down",
        Take(1, |reader, options, word, value| match value {
            "shutdown-sessions" => options.ends_on_down = Some(true),
            _ => {
                let refusal = Refusal::new("no action", "write shutdown-sessions");
                reader.refuse_word(word, &refusal);
            }
        }),
    ),
    (
        "on-marked-up",
        Look(
            1,
            "sessions on backup servers stay there until they end; [backend] rebalance moves idle ones \
             gently where a server comes back",
        ),
    ),
    ("check-send-proxy", Ignore(0, "checks introduce themselves where send-proxy is set")),
    ("check-ssl", Take(0, |_, options, _, _| options.check_tls = Some(true))),
    ("no-check-ssl", Take(0, |_, options, _, _| options.check_tls = Some(false))),
    ("check-sni", Ignore(1, UNCHECKED)),
    ("check-alpn", Ignore(1, UNCHECKED)),
    ("check-proto", Ignore(1, UNCHECKED)),
    ("init-addr", Ignore(1, FIRST)),
    ("resolvers", Ignore(1, NAMES)),
    (
        "resolve-prefer",
        Take(1, |reader, options, word, value| {
            options.prefer = match value {
                "ipv4" => Some(Prefer::Ipv4),
                "ipv6" => Some(Prefer::Ipv6),
                _ => {
                    let refusal = Refusal::new("no kind of address", "write ipv4 or ipv6");
                    reader.refuse_word(word, &refusal);
                    None
                }
            };
        }),
    ),
    ("resolve-net", Ignore(1, "all addresses of the name are used, in turn")),
    ("resolve-opts", Ignore(1, "all addresses of the name are used, in turn")),
    ("id", Ignore(1, "names serve as identities")),
    ("init-state", Ignore(1, UNCHECKED)),
    ("enabled", Ignore(0, "that is what it is")),
    ("disabled", Refuse("remove the server's line")),
    (
        "slowstart",
        Take(1, |reader, options, word, value| {
            let read = super::proxy::time(value).map(|time| time.min(value::DURATION_MAX));
            options.slow_start = read.map_err(|refusal| reader.refuse_word(word, &refusal)).ok();
        }),
    ),
    ("tcp-ut", Ignore(1, "the idle timeouts find peers that are gone")),
    ("tfo", Ignore(0, "the first bytes go out as the connect completes")),
    ("no-tfo", Ignore(0, "that is what it is")),
    (
        "maxqueue",
        Take(1, |reader, options, word, value| {
            // 0 is no limit there.
            let limit: Option<u32> = reader.bounded(word, value, 0..=value::QUEUE_PLACES_MAX);
            options.queue_max = limit.filter(|&limit| limit > 0);
        }),
    ),
    ("minconn", Refuse("remove it: maxconn alone limits a server")),
    ("cookie", Refuse("remove it: sessions are not tied to servers")),
    ("track", Refuse("remove it, or give the server checks of its own")),
    ("redir", Refuse("remove it: HTTP passes through unchanged")),
    ("namespace", Refuse("remove it; systemd can put fanin into a namespace")),
    ("socks4", Refuse("remove it: servers are connected to directly")),
    (
        "source",
        Take(1, |reader, options, word, value| match source(value) {
            Ok(source) => options.source = Some(source),
            Err(refusal) => reader.refuse_word(word, &refusal),
        }),
    ),
    ("usesrc", Refuse("remove it: clients' own addresses cannot be taken")),
    ("interface", Refuse("remove it: the routes choose the interface")),
    ("send-proxy", Take(0, |_, options, _, _| options.send_proxy = Some(ProxyVersion::V1))),
    ("send-proxy-v2", Take(0, |_, options, _, _| options.send_proxy = Some(ProxyVersion::V2))),
    ("no-send-proxy", Take(0, |_, options, _, _| options.send_proxy = None)),
    ("no-send-proxy-v2", Take(0, |_, options, _, _| options.send_proxy = None)),
    (
        "send-proxy-v2-ssl",
        Refuse("write send-proxy-v2: TLS passes through, and nothing is known of it"),
    ),
    (
        "send-proxy-v2-ssl-cn",
        Refuse("write send-proxy-v2: TLS passes through, and nothing is known of it"),
    ),
    ("agent-check", Refuse("remove it, and give the server a `check`")),
    ("ssl", Take(0, |_, options, _, _| options.tls.ssl = true)),
    ("no-ssl", Take(0, |_, options, _, _| options.tls.ssl = false)),
    (
        "verify",
        Take(1, |reader, options, word, value| match value {
            "required" => options.tls.unverified = false,
            "none" => options.tls.unverified = true,
            _ => reader.refuse_word(word, &Refusal::new("no choice", "write required")),
        }),
    ),
    (
        "ca-file",
        Take(1, |reader, options, word, value| match value {
            "@system-ca" => options.tls.ca = None,
            _ => match value::authorities(value) {
                Ok(ca) => options.tls.ca = ca,
                Err(refusal) => reader.refuse_word(word, &refusal),
            },
        }),
    ),
    (
        "sni",
        Take(1, |reader, options, word, value| {
            let fixed = value.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')'));
            match fixed.map(value::server_name) {
                Some(Ok(name)) => options.tls.sni = Some(name),
                Some(Err(refusal)) => reader.refuse_word(word, &refusal),
                // The name in the request, which is the server's own here.
                None if value.ends_with("hdr(host)") => options.tls.sni = None,
                None => {
                    let help = "write str(NAME), or remove sni: the server's own name is asked for";
                    reader.refuse_word(word, &Refusal::new("not a fixed name", help));
                }
            }
        }),
    ),
    (
        "verifyhost",
        Take(1, |reader, options, word, value| match value::server_name(value) {
            Ok(name) => options.tls.verified = Some(name),
            Err(refusal) => reader.refuse_word(word, &refusal),
        }),
    ),
    ("crt", Refuse(CLIENT_CERTIFICATE)),
    ("crl-file", Refuse("remove it: revoked certificates are not asked for")),
    ("alpn", Ignore(1, TLS)),
    ("npn", Ignore(1, TLS)),
    ("ciphers", Ignore(1, TLS)),
    ("ciphersuites", Ignore(1, TLS)),
    ("ssl-min-ver", Ignore(1, TLS)),
    ("ssl-max-ver", Ignore(1, TLS)),
    ("no-sslv3", Ignore(0, TLS)),
    ("no-tlsv10", Ignore(0, TLS)),
    ("no-tlsv11", Ignore(0, TLS)),
    ("no-tls-tickets", Ignore(0, TLS)),
    ("no-ssl-reuse", Ignore(0, TLS)),
    ("proto", Refuse("remove it: bytes pass unchanged")),
    ("pool-max-conn", Ignore(1, "each session has a connection of its own")),
    ("pool-purge-delay", Ignore(1, "each session has a connection of its own")),
    ("pool-low-conn", Ignore(1, "each session has a connection of its own")),
];

impl Reader {
    pub(super) fn server(&mut self, line: &Line) {
        const HELP: &str =
            "write server NAME HOST:PORT, such as: server mothership intake.example.com:443";
        let Some(name) = self.server_name(line, 1, HELP) else { return };
        let Some(word) = line.words.get(2) else {
            let title = format!("server `{}` has no address", name.value.escape_debug());
            return self.fault(line, 1, &title, "where is it?", HELP);
        };
        // HAProxy would take the option for the name of a host.
        if OPTIONS.iter().any(|(known, _)| *known == word.text) {
            let title = format!("server `{}` has no address", name.value.escape_debug());
            let help = format!(
                "write it before `{0}`: server {1} HOST:PORT {0} ...",
                word.text, name.value
            );
            return self.fault(
                line,
                2,
                &title,
                "an option stands where the address belongs",
                &help,
            );
        }
        let Some(address) = self.server_address(line, word) else { return };
        self.add_server(line, name, address, 3);
    }

    /// `server-template PREFIX COUNT NAME:PORT`: as many of the name's addresses as there are.
    pub(super) fn server_template(&mut self, line: &Line) {
        const HELP: &str = "write server-template PREFIX COUNT HOST:PORT";
        let Some(name) = self.server_name(line, 1, HELP) else { return };
        let (Some(count), Some(word)) = (line.words.get(2), line.words.get(3)) else {
            let last = line.words.len() - 1;
            return self.fault(
                line,
                last,
                "a server-template lacks count or address",
                "what follows?",
                HELP,
            );
        };
        let range = count.text.split_once('-').unwrap_or(("1", &count.text));
        let bounds = (range.0.parse::<u16>(), range.1.parse::<u16>());
        if !matches!(bounds, (Ok(first), Ok(last)) if first <= last && last > 0) {
            return self.fault(line, 2, "not a count of servers", "how many?", "write 5, or 1-5");
        }
        let Some(address) = self.server_address(line, word) else { return };
        let text = "one [[server]]: its sessions take turns among all addresses of the name";
        self.note(NoteKind::Mapped, line, line.said(4), text);
        self.add_server(line, name, address, 4);
    }

    pub(super) fn default_server(&mut self, line: &Line) {
        let mut options = self.settings().default_server.clone();
        self.server_options(line, 1, &mut options);
        self.settings().default_server = options;
    }

    fn server_name(&mut self, line: &Line, at: usize, help: &str) -> Option<Set<String>> {
        let Some(word) = line.words.get(at) else {
            self.fault(line, 0, "a server without name and address", "nothing follows", help);
            return None;
        };
        match value::name(&word.text) {
            Ok(name) => {
                let mut set = Self::set(line, name);
                set.span = word.span.clone();
                Some(set)
            }
            Err(refusal) => {
                self.refuse_word(word, &refusal);
                None
            }
        }
    }

    fn server_address(&mut self, line: &Line, word: &Word) -> Option<Set<ServerAddress>> {
        match address(&word.text) {
            Ok(address) => {
                let mut set = Self::set(line, address);
                set.span = word.span.clone();
                Some(set)
            }
            Err(refusal) => {
                self.refuse_word(word, &refusal);
                None
            }
        }
    }

    fn add_server(
        &mut self,
        line: &Line,
        name: Set<String>,
        address: Set<ServerAddress>,
        options_at: usize,
    ) {
        let mut options = self.settings().default_server.clone();
        self.server_options(line, options_at, &mut options);
        if let Some(proxy) = self.proxy() {
            proxy.servers.push(ServerLine { name, address, options });
        }
    }

    fn server_options(&mut self, line: &Line, from: usize, options: &mut ServerOptions) {
        let mut at = from;
        while let Some(word) = line.words.get(at) {
            let name = word.text.as_str();
            let Some((_, option)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
                let known = OPTIONS.iter().map(|(known, _)| *known);
                let help = match value::nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "correct it, or remove it".to_owned(),
                };
                let title = format!("unknown option `{}` of a server", name.escape_debug());
                return self.fault(line, at, &title, "unknown", &help);
            };
            let words = match option {
                Take(words, _) | Ignore(words, _) | Look(words, _) => *words,
                Refuse(remedy) => {
                    let title = format!("option `{name}` of a server has no counterpart");
                    return self.fault(line, at, &title, "cannot be taken over", remedy);
                }
            };
            if line.words.len() <= at + words {
                let title = format!("option `{name}` lacks what it is set to");
                return self.fault(
                    line,
                    at,
                    &title,
                    "nothing follows",
                    "write its value behind it",
                );
            }
            match option {
                Take(_, take) => {
                    take(self, options, &line.words[at + words], line.word(at + words))
                }
                Ignore(_, reason) | Look(_, reason) => {
                    let said = format!(
                        "server ... {}",
                        lexer::shown(&[name, line.word(at + 1)][..=words].join(" "))
                    );
                    let looked_at = matches!(option, Look(..));
                    let kind = if looked_at { NoteKind::Danger } else { NoteKind::Ignored };
                    self.note(kind, line, said, *reason);
                }
                Refuse(_) => {}
            }
            at += 1 + words;
        }
    }

    /// A time between checks.
    fn span_of(&mut self, word: &Word, text: &str) -> Option<Duration> {
        let read = super::proxy::time(text);
        let (first, last) = (*value::CHECK_INTERVALS.start(), *value::CHECK_INTERVALS.end());
        read.map(|time| time.clamp(first, last))
            .map_err(|refusal| self.refuse_word(word, &refusal))
            .ok()
    }

    fn bounded<N>(
        &mut self,
        word: &Word,
        text: &str,
        range: std::ops::RangeInclusive<N>,
    ) -> Option<N>
    where
        N: Copy + PartialOrd + std::fmt::Display + TryFrom<i64>,
    {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let read = match text.parse::<i64>() {
            Ok(number) if digits => value::number(number, range),
            _ => {
                let help = format!("allowed: {} to {}", range.start(), range.end());
                Err(Refusal::new("not a whole number", help))
            }
        };
        read.map_err(|refusal| self.refuse_word(word, &refusal)).ok()
    }
}

/// A server's address as HAProxy writes it: IPv6 without brackets too.
fn address(text: &str) -> Result<ServerAddress, Refusal> {
    for kind in ["unix@", "abns@", "fd@", "sockpair@", "quic4@", "quic6@"] {
        if text.starts_with(kind) {
            return Err(Refusal::new("servers are reached over TCP", "write HOST:PORT"));
        }
    }
    if text.starts_with('/') {
        return Err(Refusal::new(
            "servers are reached over TCP, and this is a unix socket",
            "write HOST:PORT",
        ));
    }
    let plain = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"]
        .iter()
        .find_map(|kind| text.strip_prefix(kind))
        .unwrap_or(text);
    if plain.rsplit_once(':').is_some_and(|(_, port)| port.starts_with(['+', '-'])) {
        return Err(Refusal::new("a port relative to the client's", "write the server's own port"));
    }
    // `2001:db8::1:443` is what HAProxy takes for an address and a port: the last colon counts.
    let bracketed = match plain.rsplit_once(':') {
        Some((host, port))
            if !host.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok() =>
        {
            format!("[{host}]:{port}")
        }
        _ => plain.to_owned(),
    };
    value::server_address(&bracketed)
}
