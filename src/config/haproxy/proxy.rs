//! What single lines of `defaults` and the proxies say. A value is judged here; what it
//! means for the relay is `mapping`'s affair.

use std::time::Duration;

use crate::backend::choose::Algorithm;
use crate::config::HttpCheck;
use crate::config::error::Fault;
use crate::config::value::{self, Refusal};
use crate::password::{Hash, PASSWORD_BYTES_MAX, USER_BYTES_MAX};

use super::lexer::{self, Line, Word};
use super::report::NoteKind;
use super::sections::{Kind, Mode, Reader, Wait};

/// The waits, by the word behind `timeout`.
pub(super) const WAITS: [(&str, Wait); 8] = [
    ("client", Wait::Client),
    ("server", Wait::Server),
    ("connect", Wait::Connect),
    ("tunnel", Wait::Tunnel),
    ("client-fin", Wait::ClientFin),
    ("server-fin", Wait::ServerFin),
    ("check", Wait::Check),
    ("queue", Wait::Queue),
];

/// Timeouts of HTTP alone.
const HTTP_WAITS: [&str; 4] = ["http-request", "http-keep-alive", "tarpit", "client-hs"];

impl Reader {
    pub(super) fn mode(&mut self, line: &Line) {
        let Some(word) = self.argument(line, "write mode tcp") else { return };
        let mode = match word.text.as_str() {
            "tcp" => Mode::Tcp,
            "http" => Mode::Http,
            other => {
                let title = format!("there is no mode `{}`", other.escape_debug());
                return self.fault(line, 1, &title, "not a mode", "write mode tcp");
            }
        };
        self.settings().mode = Some(Self::set(line, mode));
        self.no_more_than(line, 2);
    }

    pub(super) fn maxconn(&mut self, line: &Line) {
        let number = self.number(line, 1..=value::MAXCONN_MAX);
        let number = number.map(|number| Self::set(line, number));
        match self.kind() {
            Kind::Global => self.sections.global.maxconn = number,
            _ => self.settings().maxconn = number,
        }
        self.no_more_than(line, 2);
    }

    pub(super) fn backlog(&mut self, line: &Line) {
        let number = self.number(line, 1..=value::BACKLOG_MAX);
        self.settings().backlog = number.map(|number| Self::set(line, number));
        self.no_more_than(line, 2);
    }

    pub(super) fn retries(&mut self, line: &Line) {
        let number = self.number(line, 0..=value::RETRIES_MAX);
        self.settings().retries = number.map(|number| Self::set(line, number));
        self.no_more_than(line, 2);
    }

    pub(super) fn redispatch(&mut self, line: &Line) {
        let on = !self.negated;
        self.settings().redispatch = Some(Self::set(line, on));
    }

    pub(super) fn dontlognull(&mut self, line: &Line) {
        let set = (!self.negated).then(|| Self::set(line, ()));
        self.sections.global.no_null = set;
    }

    pub(super) fn dontlog_normal(&mut self, line: &Line) {
        let set = (!self.negated).then(|| Self::set(line, ()));
        self.sections.global.no_normal = set;
    }

    pub(super) fn tcplog(&mut self, line: &Line) {
        self.note(
            NoteKind::Ignored,
            line,
            line.said(2),
            "with a syslog server each session has this line, else one in fanin's own form",
        );
    }

    pub(super) fn tcp_keepalive(&mut self, line: &Line) {
        self.note(
            NoteKind::Ignored,
            line,
            line.said(2),
            "the idle timeouts find peers that are gone",
        );
    }

    pub(super) fn splice(&mut self, line: &Line) {
        let on = !self.negated;
        self.settings().splices = on;
        self.note(
            NoteKind::Mapped,
            line,
            line.said(2),
            "[global] splice = \"auto\": where it pays",
        );
    }

    /// `option tcp-check` and its like: a check connects. `option httpchk [METHOD] [URI [VERSION]]`.
    pub(super) fn option_check(&mut self, line: &Line) {
        if line.word(1) != "httpchk" {
            let text = "a check connects, and that is enough";
            return self.note(NoteKind::Ignored, line, line.said(99), text);
        }
        let words: Vec<&str> = line.words.iter().skip(2).map(|word| word.text.as_str()).collect();
        let (method, path) = match words.as_slice() {
            [] => ("GET", "/"),
            [path] => ("GET", *path),
            [method, path, ..] => (*method, *path),
        };
        match value::http_path(path) {
            Ok(path) => {
                let text = "[[server]] check http, by GET and HTTP/1.1";
                let kind = if method == "GET" { NoteKind::Mapped } else { NoteKind::Danger };
                self.note(kind, line, line.said(99), text);
                let set = Self::set(line, HttpCheck::new(path));
                self.settings().httpchk = Some(set);
            }
            Err(refusal) => self.refuse_word(&line.words[line.words.len() - 1], &refusal),
        }
    }

    /// `http-check expect status CODES` is what there is; it stands behind `option httpchk`.
    pub(super) fn http_check(&mut self, line: &Line) {
        let codes = match (line.word(1), line.word(2)) {
            ("expect", "status") => value::statuses(line.word(3)).ok(),
            _ => None,
        };
        match (codes, &mut self.settings().httpchk) {
            (Some(codes), Some(set)) => {
                set.value.expect = codes;
                self.note(NoteKind::Mapped, line, line.said(99), "[[server]] check expect");
            }
            _ => {
                let text = "a check asks for the page of `option httpchk` and looks at the status \
                            code of the answer alone: 200 to 399";
                self.note(NoteKind::Danger, line, line.said(99), text);
            }
        }
    }

    pub(super) fn tcp_check(&mut self, line: &Line) {
        let text = "a check connects, and what the server says is not looked at";
        self.note(NoteKind::Danger, line, line.said(99), text);
    }

    pub(super) fn hash_type(&mut self, line: &Line) {
        let text = "balance \"source\" is consistent by itself; nothing else hashes";
        self.note(NoteKind::Ignored, line, line.said(99), text);
    }

    pub(super) fn rate_limit(&mut self, line: &Line) {
        let help = "remove the line; limits for each source are [[listener]] per_source in fanin's own file";
        self.fault(
            line,
            0,
            "`rate-limit sessions` has no counterpart",
            "cannot be taken over",
            help,
        );
    }

    pub(super) fn default_backend(&mut self, line: &Line) {
        let help = "write default_backend NAME";
        let Some(word) = self.argument(line, help) else { return };
        let mut set = Self::set(line, word.text.clone());
        set.span = word.span.clone();
        self.settings().default_backend = Some(set);
        self.no_more_than(line, 2);
    }

    pub(super) fn balance(&mut self, line: &Line) {
        let help = "write balance roundrobin, leastconn, source, first or random";
        let Some(word) = self.argument(line, help) else { return };
        let name = word.text.split('(').next().unwrap_or_default();
        // Turns by weights that cannot be set while it runs: here they are the same turns.
        let ours = if name == "static-rr" { "roundrobin" } else { name };
        if let Some((_, balance)) = Algorithm::WORDS.iter().find(|(known, _)| *known == ours) {
            self.settings().balance = Some(Self::set(line, *balance));
        } else if matches!(name, "uri" | "url_param" | "hdr" | "hash" | "rdp-cookie") {
            let title = format!("balance `{name}` has no counterpart");
            self.fault(line, 1, &title, "cannot be taken over", help);
        } else {
            let title = format!("there is no balance `{}`", name.escape_debug());
            self.fault(line, 1, &title, "not an algorithm", help);
        }
    }

    pub(super) fn timeout(&mut self, line: &Line) {
        let (name, at) = match line.word(0) {
            "clitimeout" => ("client", 1),
            "srvtimeout" => ("server", 1),
            "contimeout" => ("connect", 1),
            _ => (line.word(1), 2),
        };
        if self.kind() == Kind::Resolvers {
            return self.resolvers_timeout(line);
        }
        if HTTP_WAITS.contains(&name) {
            return self.note(
                NoteKind::Ignored,
                line,
                line.said(99),
                "concerns HTTP, and what is relayed here is TCP",
            );
        }
        let Some((_, wait)) = WAITS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = WAITS.iter().map(|(known, _)| *known).collect();
            let title = format!("there is no timeout `{}`", name.escape_debug());
            let help = format!("known: {}", known.join(", "));
            return self.fault(line, 1, &title, "for what?", &help);
        };
        let set = self.time(line, at).map(|time| Self::set(line, time));
        self.no_more_than(line, at + 1);
        self.settings().timeouts[*wait as usize] = set;
    }

    pub(super) fn stats(&mut self, line: &Line) {
        let set = Self::set(line, ());
        let known = [
            "enable",
            "uri",
            "refresh",
            "hide-version",
            "show-legends",
            "show-node",
            "show-desc",
            "show-modules",
            "realm",
            "auth",
            "admin",
            "scope",
            "http-request",
        ];
        if !known.contains(&line.word(1)) {
            let title = format!("there is no `stats {}`", line.word(1).escape_debug());
            let help = format!("known: {}", known.join(", "));
            return self.fault(line, 1, &title, "unknown", &help);
        }
        if self.kind() != Kind::Defaults
            && let Some(proxy) = self.proxy()
        {
            proxy.stats.get_or_insert(set);
        }
        match line.word(1) {
            "auth" => self.stats_auth(line),
            "admin" => self.stats_admin(line),
            "http-request" | "scope" => {
                let text = "not taken over: whoever may look sees everything; name who may with stats auth, or \
                            [stats] viewers";
                self.note(NoteKind::Danger, line, line.said(2), text);
            }
            _ => {
                let text = "the page is at / and shows everything";
                self.note(NoteKind::Ignored, line, line.said(2), text);
            }
        }
    }

    /// `stats auth NAME:PASSWORD`. The password is a secret: no message has it.
    fn stats_auth(&mut self, line: &Line) {
        let (name, password) = line.word(2).split_once(':').unwrap_or_default();
        let fits = !password.is_empty() && password.len() <= PASSWORD_BYTES_MAX;
        if !fits || value::user(name).is_err() {
            // Without the line itself: what stands there may be a password.
            let title = format!("line {}: `stats auth` names nobody with a password", line.number);
            let help = format!(
                "write stats auth NAME:PASSWORD, of at most {USER_BYTES_MAX} and {PASSWORD_BYTES_MAX} bytes"
            );
            return self.refuse(Fault::new(title).help(help));
        }
        let hash = Hash::repeatable(name, password.as_bytes());
        self.settings().stats_users.users.push((name.to_owned(), hash));
        let said = format!("stats auth {}:...", lexer::shown(name));
        self.note(NoteKind::Mapped, line, said, "[stats] viewers; the password as its hash");
    }

    /// `stats admin if TRUE`: who may look may change servers. No other condition can be asked here.
    fn stats_admin(&mut self, line: &Line) {
        if matches!((line.word(2), line.word(3), line.words.len()), ("if", "TRUE", 4)) {
            self.settings().stats_users.administer = true;
            let text = "[stats] admins: whom `stats auth` names, and nobody without it";
            return self.note(NoteKind::Mapped, line, line.said(4), text);
        }
        let text = "servers can be changed from the page by those alone whom [stats] admins names, with what \
                    `fanin passwd` prints: convert the file with `fanin import` and add them";
        self.note(NoteKind::Danger, line, line.said(4), text);
    }

    // Values

    pub(super) fn refuse_word(&mut self, word: &Word, refusal: &Refusal) {
        let title = format!("`{}` cannot be taken", word.text.escape_debug());
        let fault = Fault::new(title).at(word.span.clone(), refusal.why.as_str());
        self.refuse(fault.help(refusal.help.as_str()));
    }

    /// The number behind the keyword.
    pub(super) fn number<N>(&mut self, line: &Line, range: std::ops::RangeInclusive<N>) -> Option<N>
    where
        N: Copy + PartialOrd + std::fmt::Display + TryFrom<i64>,
    {
        let help = format!("allowed: {} to {}", range.start(), range.end());
        let word = self.argument(line, &help)?;
        let digits = word.text.bytes().all(|byte| byte.is_ascii_digit());
        let read = match word.text.parse::<i64>() {
            Ok(number) if digits => value::number(number, range),
            _ => Err(Refusal::new("not a whole number", help)),
        };
        read.map_err(|refusal| self.refuse_word(word, &refusal)).ok()
    }

    /// The time at a word.
    pub(super) fn time(&mut self, line: &Line, at: usize) -> Option<Duration> {
        let Some(word) = line.words.get(at) else {
            let title = format!("`{}` lacks its time", line.said(at));
            self.fault(line, at, &title, "nothing follows", "write a time such as 5s");
            return None;
        };
        match time(&word.text) {
            Ok(Duration::ZERO) => {
                let said = line.said(99);
                let text = "0 is for ever in HAProxy; a connection that is never given up is a \
                            leak, so here it is 7 days";
                self.note(NoteKind::Danger, line, said, text);
                Some(value::DURATION_MAX)
            }
            Ok(time) if time > value::DURATION_MAX => {
                let text = "longer than 7 days, which is the most here";
                self.note(NoteKind::Danger, line, line.said(99), text);
                Some(value::DURATION_MAX)
            }
            Ok(time) => Some(time),
            Err(refusal) => {
                self.refuse_word(word, &refusal);
                None
            }
        }
    }
}

/// A time as HAProxy writes it: a number of milliseconds, or with a unit (manual, 2.5). What is not
/// a whole millisecond is rounded up, as there.
pub(super) fn time(text: &str) -> Result<Duration, Refusal> {
    const EXAMPLES: &str =
        "write a time such as 5s, 500ms or 2m; without a unit it is milliseconds";
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let Ok(count) = digits.parse::<u64>() else {
        return Err(Refusal::new("not a time", EXAMPLES));
    };
    let micros = match unit {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(Refusal::new("not a unit of time", EXAMPLES)),
    };
    // HAProxy counts milliseconds in 31 bits.
    match count.checked_mul(micros).map(|micros| micros.div_ceil(1000)) {
        Some(millis) if i32::try_from(millis).is_ok() => Ok(Duration::from_millis(millis)),
        _ => Err(Refusal::new("too long", "HAProxy takes 24 days at the most, fanin 7")),
    }
}
