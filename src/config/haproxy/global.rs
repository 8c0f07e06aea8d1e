//! Lines of the `global` section (manual, 3), and `log`, which may stand in others too.

use crate::config::error::Fault;
use crate::config::value;

use super::lexer::{self, Line};
use super::report::NoteKind;
use super::sections::Reader;

/// The facilities of syslog.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "auth2",
    "ftp", "ntp", "audit", "alert", "cron2", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

impl Reader {
    pub(super) fn nbthread(&mut self, line: &Line) {
        let workers = self.number(line, 1..=value::WORKERS_MAX);
        self.sections.global.workers = workers.map(|workers| Self::set(line, workers));
        self.no_more_than(line, 2);
    }

    pub(super) fn maxpipes(&mut self, line: &Line) {
        let pipes = self.number(line, 0..=value::PIPES_MAX);
        self.sections.global.pipes = pipes.map(|pipes| Self::set(line, pipes));
        self.no_more_than(line, 2);
    }

    pub(super) fn nosplice(&mut self, line: &Line) {
        self.sections.global.nosplice = Some(Self::set(line, ()));
        self.no_more_than(line, 1);
    }

    pub(super) fn spread_checks(&mut self, line: &Line) {
        self.note(
            NoteKind::Ignored,
            line,
            line.said(2),
            "checks are always spread over their interval",
        );
    }

    pub(super) fn hard_stop_after(&mut self, line: &Line) {
        let time = self.time(line, self.keyword_words);
        self.sections.global.drain = time.map(|time| Self::set(line, time));
        self.no_more_than(line, 2);
    }

    pub(super) fn ca_base(&mut self, line: &Line) {
        self.note(NoteKind::Ignored, line, line.said(2), "TLS passes through unchanged");
    }

    pub(super) fn ssl_server_verify(&mut self, line: &Line) {
        let (kind, text) = match line.word(1) {
            "none" => (
                NoteKind::Danger,
                "certificates are not checked by HAProxy; TLS passes through here, so that the \
                 agents check them: leave that switched on in the agents",
            ),
            _ => (NoteKind::Ignored, "TLS passes through unchanged, and the agents check it"),
        };
        self.note(kind, line, line.said(2), text);
    }

    pub(super) fn setenv(&mut self, line: &Line) {
        let (name, value) = (line.word(1).to_owned(), line.word(2).to_owned());
        if name.is_empty() || line.words.len() < 3 {
            let help = "write setenv NAME VALUE";
            return self.fault(
                line,
                line.words.len() - 1,
                "a variable without a value",
                "nothing follows",
                help,
            );
        }
        self.no_more_than(line, 3);
        if line.word(0) == "setenv" || self.environment.get(&name).is_none() {
            self.environment.set(&name, Some(value));
        }
        self.note(NoteKind::Mapped, line, line.said(2), "holds for the lines below");
    }

    pub(super) fn unsetenv(&mut self, line: &Line) {
        for word in line.rest(1) {
            self.environment.set(&word.text, None);
        }
        self.note(NoteKind::Mapped, line, line.said(99), "holds for the lines below");
    }

    pub(super) fn stats_socket(&mut self, line: &Line) {
        let help = "write a path such as /run/fanin/relay.sock";
        let Some(word) = self.argument(line, help) else { return };
        let path = word.text.strip_prefix("unix@").unwrap_or(&word.text);
        let is_network = word.text.contains('@') && !word.text.starts_with("unix@")
            || !path.contains('/') && path.contains(':');
        if is_network {
            let title = format!("the control socket cannot be `{}`", word.text.escape_debug());
            let why = "whoever reaches it could command the relay";
            return self.refuse(Fault::new(title).at(word.span.clone(), why).help(help));
        }
        match value::socket_path(path) {
            Err(refusal) => self.refuse_word(word, &refusal),
            Ok(_) if self.sections.global.socket.is_some() => {
                let title = "a second control socket";
                self.fault(line, 0, title, "there is one already", "remove one of the two");
            }
            Ok(path) => {
                self.sections.global.socket = Some(Self::set(line, path));
                self.stats_socket_options(line);
            }
        }
    }

    fn stats_socket_options(&mut self, line: &Line) {
        let mut at = self.keyword_words + 1;
        while at < line.words.len() {
            let word = line.word(at).to_owned();
            let (words, reason) = match word.as_str() {
                "mode" => (2, "owner and group may connect (0660)"),
                "user" | "uid" | "group" | "gid" => (2, "it belongs to whom fanin runs as"),
                "level" => (2, "who may connect may command"),
                "expose-fd" => {
                    (2, "the parent process holds the listening sockets over every reload")
                }
                "process" | "thread" | "severity-output" | "name" | "id" => {
                    (2, "one relay process serves all")
                }
                _ => {
                    let title =
                        format!("unknown option `{}` of a control socket", word.escape_debug());
                    let help = "known: mode, user, group, uid, gid, level, expose-fd";
                    return self.fault(line, at, &title, "unknown", help);
                }
            };
            let said = format!("stats socket ... {word} {}", lexer::shown(line.word(at + 1)));
            self.note(NoteKind::Ignored, line, said, reason);
            at += words;
        }
    }

    /// `log TARGET ... FACILITY`: what is written goes to standard error.
    pub(super) fn log(&mut self, line: &Line) {
        if self.negated {
            return;
        }
        let reason = "log lines go to standard error, which systemd hands to its journal";
        let target = line.word(1);
        if target == "global" && line.words.len() == 2 {
            return self.note(NoteKind::Ignored, line, "log global", reason);
        }
        let facility = line.rest(2).iter().any(|word| FACILITIES.contains(&word.text.as_str()));
        if FACILITIES.contains(&target) && !target.contains(['.', '/', ':']) && !facility {
            let title = format!("`log {target}` lacks the address of the syslog server");
            let help = format!("write log HOST {target}, such as: log 127.0.0.1 {target}");
            return self.fault(line, 1, &title, "this is the facility", &help);
        }
        if target.is_empty() || !facility {
            let help = "write log HOST FACILITY, such as: log 127.0.0.1 local0";
            let last = line.words.len() - 1;
            return self.fault(
                line,
                last,
                "a log line without target and facility",
                "what follows?",
                help,
            );
        }
        self.note(NoteKind::Ignored, line, line.said(99), reason);
    }
}
