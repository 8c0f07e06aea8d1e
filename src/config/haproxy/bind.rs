//! `bind` lines: where agents connect (manual, 4.2 and 5.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::error::Fault;
use crate::config::value::Refusal;

use super::lexer::{Line, Word};
use super::report::NoteKind;
use super::sections::{Bind, Reader};

/// Addresses to listen on in one line: a range of ports is one each.
const BINDS_MAX: usize = 256;

/// The options of a `bind` line that take a word, and those that take none, with what becomes of
/// them (manual, 5.1).
const BIND_IGNORED: [(&str, usize, &str); 17] = [
    ("name", 1, "the listener has its section's name"),
    ("id", 1, "names serve as identities"),
    ("nice", 1, "all sessions of a worker are served in turn"),
    ("process", 1, "each worker has a listening socket of its own"),
    ("thread", 1, "each worker has a listening socket of its own"),
    ("shards", 1, "each worker has a listening socket of its own"),
    ("defer-accept", 0, "measured: it gains nothing within the noise"),
    ("tfo", 0, "agents do not send in their SYN"),
    ("mss", 1, "the route's MSS applies"),
    ("tcp-ut", 1, "the idle timeouts find peers that are gone"),
    ("v4v6", 0, ""),
    ("level", 1, "it concerns the control socket"),
    ("user", 1, "a TCP address has no owner"),
    ("group", 1, "a TCP address has no owner"),
    ("uid", 1, "a TCP address has no owner"),
    ("gid", 1, "a TCP address has no owner"),
    ("severity-output", 1, "it concerns the control socket"),
];

impl Reader {
    /// `listen stats :3835`: how HAProxy wrote it up to version 1.5.
    pub(super) fn bind_of_header(&mut self, line: &Line, words: &[Word]) {
        let text =
            "an address behind the name, as HAProxy wrote it before 1.6: taken for a `bind` line";
        self.note(NoteKind::Danger, line, line.said(99), text);
        self.addresses(line, &words[0]);
        if let Some(word) = words.get(1) {
            let title = format!("`{}` is one word too many", word.text.escape_debug());
            let help = "write the address in a `bind` line of its own, with its options";
            self.refuse(Fault::new(title).at(word.span.clone(), "cannot stand here").help(help));
        }
    }

    pub(super) fn bind(&mut self, line: &Line) {
        let help = "write bind ADDRESS:PORT, such as: bind *:3834";
        let Some(word) = self.argument(line, help) else { return };
        self.addresses(line, word);
        let mut at = 2;
        while at < line.words.len() {
            at += self.bind_option(line, at);
        }
    }

    /// The option at a word of a `bind` line; how many words it is.
    fn bind_option(&mut self, line: &Line, at: usize) -> usize {
        let name = line.word(at).to_owned();
        if let Some((_, words, reason)) = BIND_IGNORED.iter().find(|(known, ..)| *known == name) {
            if !reason.is_empty() {
                self.note(NoteKind::Ignored, line, format!("bind ... {name}"), *reason);
            }
            return 1 + words;
        }
        if let "maxconn" | "backlog" = name.as_str() {
            // The same words as a line of its own.
            let words = line.rest(at).iter().take(2).cloned().collect();
            self.keyword_words = 1;
            let own = Line { number: line.number, words };
            match name.as_str() {
                "maxconn" => self.maxconn(&own),
                _ => self.backlog(&own),
            }
            return 2;
        }
        if name == "accept-proxy" {
            let set = Self::set(line, ());
            if let Some(proxy) = self.proxy() {
                proxy.accept_proxy = Some(set);
            }
            return 1;
        }
        let remedy = match name.as_str() {
            "ssl" | "crt" | "ca-file" | "alpn" | "verify" | "ciphers" | "crt-list" => {
                "remove what concerns TLS: it passes through unchanged, and the server ends it"
            }
            "transparent" | "interface" | "namespace" => {
                "listen on an address of the interface instead; systemd can put fanin into a namespace"
            }
            _ => "correct it, or remove it",
        };
        let title = format!("option `{}` of `bind` has no counterpart", name.escape_debug());
        self.fault(line, at, &title, "cannot be taken over", remedy);
        line.words.len()
    }

    fn addresses(&mut self, line: &Line, word: &Word) {
        for part in word.text.split(',') {
            match bind_addresses(part) {
                Ok(addresses) => {
                    for address in addresses {
                        let mut set = Self::set(line, address);
                        set.span = word.span.clone();
                        if let Some(proxy) = self.proxy() {
                            proxy.binds.push(Bind { address: set });
                        }
                    }
                }
                Err(refusal) => self.refuse_word(word, &refusal),
            }
        }
    }
}

/// The addresses that one part of a `bind` line stands for (manual, 4.2 "bind").
fn bind_addresses(text: &str) -> Result<Vec<SocketAddr>, Refusal> {
    const EXAMPLES: &str = "write ADDRESS:PORT, such as *:3834, 10.0.0.1:3834 or :::3834";
    if text.starts_with('/')
        || ["unix@", "abns@", "uxst@"].iter().any(|kind| text.starts_with(kind))
    {
        return Err(Refusal::new("agents come over TCP, and this is a unix socket", EXAMPLES));
    }
    if text.starts_with("fd@") || text.starts_with("sockpair@") {
        let help = "write the address: fanin opens its own sockets, one a worker, and keeps them over a reload";
        return Err(Refusal::new("an inherited descriptor is not taken over", help));
    }
    if text.starts_with("quic") || text.starts_with("udp") {
        return Err(Refusal::new("fanin relays TCP alone", EXAMPLES));
    }
    let family =
        ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"].iter().find(|kind| text.starts_with(*kind));
    let plain = family.map_or(text, |kind| &text[kind.len()..]);
    let is_v6 = family.is_some_and(|kind| kind.contains('6'));
    let Some((host, ports)) = plain.rsplit_once(':') else {
        return Err(Refusal::new("has no port", EXAMPLES));
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(Refusal::new("the port is not a number from 1 to 65535", EXAMPLES));
    };
    if first > last || usize::from(last - first) >= BINDS_MAX {
        return Err(Refusal::new(
            "not a usable range of ports",
            "at most 256 ports, the first not above the last",
        ));
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ip: IpAddr = match host {
        "" | "*" if is_v6 => Ipv6Addr::UNSPECIFIED.into(),
        "" | "*" => Ipv4Addr::UNSPECIFIED.into(),
        host => host.parse().map_err(|_| {
            let why = format!("\"{}\" is not an IP address", host.escape_debug());
            Refusal::new(why, EXAMPLES)
        })?,
    };
    Ok((first..=last).map(|port| SocketAddr::new(ip, port)).collect())
}
