//! What `resolvers` sections say (manual 5.3.2): all of them together are our `[dns]`, since one relay
//! asks one set of name servers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Dns;
use crate::config::value;

use super::lexer::Line;
use super::report::{NoteKind, Report};
use super::sections::{Reader, Set};

/// What was written in all sections; of a value that stands in several, the last.
#[derive(Debug, Default)]
pub(super) struct Resolvers {
    nameservers: Vec<Set<SocketAddr>>,
    /// The line that has the system's name servers asked.
    system: Option<Set<()>>,
    retries: Option<Set<u16>>,
    /// `timeout retry`: how long an answer is waited for.
    retry: Option<Set<Duration>>,
    /// `hold valid`: how long an answer is good.
    valid: Option<Set<Duration>>,
}

impl Reader {
    /// `nameserver NAME ADDRESS`.
    pub(super) fn nameserver(&mut self, line: &Line) {
        const HELP: &str =
            "write nameserver NAME ADDRESS:PORT, such as: nameserver ns1 10.0.0.2:53";
        let Some(word) = line.words.get(2) else {
            return self.fault(line, 0, "a name server without an address", "where is it?", HELP);
        };
        if word.text.starts_with("tcp") {
            let text = "asked over UDP; an answer that does not fit is asked for again over TCP";
            self.note(NoteKind::Danger, line, line.said(3), text);
        }
        let plain = ["udp@", "tcp@", "udp4@", "udp6@", "tcp4@", "tcp6@", "ipv4@", "ipv6@"]
            .iter()
            .find_map(|kind| word.text.strip_prefix(kind))
            .unwrap_or(&word.text);
        match value::nameserver(plain) {
            Ok(address) => {
                let set = Self::set(line, address);
                self.sections.resolvers.nameservers.push(set);
            }
            Err(refusal) => self.refuse_word(word, &refusal),
        }
    }

    pub(super) fn parse_resolv_conf(&mut self, line: &Line) {
        self.sections.resolvers.system = Some(Self::set(line, ()));
    }

    /// `hold STATUS TIME`.
    pub(super) fn hold(&mut self, line: &Line) {
        if line.word(1) == "valid" {
            let set = self.time(line, 2).map(|time| Self::set(line, time));
            self.sections.resolvers.valid = set;
            return;
        }
        let text = "the last good answer is used for as long as there is no other";
        self.note(NoteKind::Ignored, line, line.said(99), text);
    }

    pub(super) fn resolve_retries(&mut self, line: &Line) {
        let retries = self.number(line, 0..=value::DNS_RETRIES_MAX);
        self.sections.resolvers.retries = retries.map(|retries| Self::set(line, retries));
    }

    pub(super) fn resolvers_timeout(&mut self, line: &Line) {
        if line.word(1) == "retry" {
            let set = self.time(line, 2).map(|time| Self::set(line, time));
            self.sections.resolvers.retry = set;
            return;
        }
        let text = "a name is looked up again when its time to live is over, and when connects to \
                    its servers fail";
        self.note(NoteKind::Ignored, line, line.said(99), text);
    }
}

/// The `[dns]` that follows.
pub(super) fn dns(written: &Resolvers, report: &mut Report) -> Dns {
    let mut dns = Dns::default();
    let mut mapped = |line: usize, said: &str, text: &str| {
        report.note(NoteKind::Mapped, line, said, text);
    };
    for set in &written.nameservers {
        mapped(set.line, &set.said, "[dns] nameservers");
        if !dns.nameservers.contains(&set.value) {
            dns.nameservers.push(set.value);
        }
    }
    if let Some(set) = &written.retries {
        mapped(set.line, &set.said, "[dns] retries");
        dns.retries = set.value;
    }
    if let Some(set) = &written.retry {
        mapped(set.line, &set.said, "[dns] timeout");
        dns.timeout = set.value.clamp(Duration::from_millis(1), value::DNS_TIMEOUT_MAX);
    }
    if let Some(set) = &written.valid {
        mapped(set.line, &set.said, "[dns] ttl_max: sooner, if the name's time to live is over");
        dns.ttl_max = set.value.clamp(*value::TTL_BOUNDS.start(), *value::TTL_BOUNDS.end());
        dns.ttl_min = dns.ttl_min.min(dns.ttl_max);
    }
    if let Some(set) = &written.system {
        if dns.nameservers.is_empty() {
            mapped(set.line, &set.said, "the name servers of /etc/resolv.conf are asked");
        } else {
            let text = "the name servers that are listed are asked alone";
            report.note(NoteKind::Danger, set.line, set.said.as_str(), text);
        }
    }
    dns
}
