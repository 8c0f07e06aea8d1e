//! Lines of the `global` section (manual, 3), and `log`, which may stand in others too.

use crate::config::error::Fault;
use crate::config::{ControlMode, LogOutput, SyslogForm, value};

use super::lexer::{self, Line};
use super::report::NoteKind;
use super::sections::{LogLine, Reader};

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
                "mode" => {
                    self.socket_mode(line, at + 1);
                    at += 2;
                    continue;
                }
                "user" | "uid" | "group" | "gid" => (2, "it belongs to whom fanin runs as"),
                "level" => {
                    self.socket_level(line, at + 1);
                    at += 2;
                    continue;
                }
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

    /// Who may connect. Never everybody: on a path that others reach they could command the relay.
    fn socket_mode(&mut self, line: &Line, at: usize) {
        let word = line.word(at);
        let Ok(mode) = u32::from_str_radix(word, 8) else {
            let title = format!("unknown mode `{}`", word.escape_debug());
            let last = at.min(line.words.len() - 1);
            return self.fault(line, last, &title, "not an octal number", "write 600 or 660");
        };
        let said = format!("stats socket ... mode {}", lexer::shown(word));
        let group = mode & 0o020 != 0;
        let taken = if group { ControlMode::Group } else { ControlMode::Owner };
        self.sections.global.mode = Some(Self::set(line, taken));
        if mode & 0o002 != 0 {
            let others = if group { ", its group" } else { "" };
            let text = format!(
                "[control] mode = \"{taken}\": everybody could command HAProxy; here root, the user who runs \
                 fanin{others}, and nobody else"
            );
            return self.note(NoteKind::Danger, line, said, text);
        }
        self.note(NoteKind::Mapped, line, said, format!("[control] mode = \"{taken}\""));
    }

    /// What HAProxy lets everybody do who may connect; here root and who runs the relay may do all.
    fn socket_level(&mut self, line: &Line, at: usize) {
        match line.word(at).parse() {
            Ok(level) => self.sections.global.level = Some(Self::set(line, level)),
            Err(_) => {
                let title = format!("unknown level `{}`", line.word(at).escape_debug());
                let help = "known: user, operator, admin";
                self.fault(line, at.min(line.words.len() - 1), &title, "unknown", help);
            }
        }
    }

    /// `log TARGET ... FACILITY`: lines of sessions go there, all others there and to standard error.
    pub(super) fn log(&mut self, line: &Line) {
        if self.negated {
            return;
        }
        let target = line.word(1);
        if target == "global" && line.words.len() == 2 {
            let text = "one log for all: that of the global section";
            return self.note(NoteKind::Ignored, line, "log global", text);
        }
        let mut words = LogWords::default();
        let mut at = 2;
        while let Some(option) = line.words.get(at).map(|word| word.text.as_str()) {
            let value = line.word(at + 1);
            match option {
                "len" => self.note_of_log(
                    NoteKind::Ignored,
                    line,
                    at,
                    "lines are as long as what they tell",
                ),
                "ring" | "profile" => {
                    self.note_of_log(NoteKind::Ignored, line, at, "there is one form of line")
                }
                "format" => self.log_form(line, at, &mut words),
                "sample" => match sampled(value) {
                    Some(sample) => words.sample = Some(sample),
                    None => self.note_of_log(
                        NoteKind::Danger,
                        line,
                        at,
                        "write [log] sample = N: of the sessions that end well one in N is told of",
                    ),
                },
                _ => break,
            }
            at += 2;
        }
        words.facility = value::facility(line.word(at)).ok();
        if value::facility(target).is_ok() && words.facility.is_none() {
            let title = format!("`log {target}` lacks the address of the syslog server");
            let help = format!("write log HOST {target}, such as: log 127.0.0.1 {target}");
            return self.fault(line, 1, &title, "this is the facility", &help);
        }
        let Some(facility) = words.facility.filter(|_| !target.is_empty()) else {
            let help = "write log HOST FACILITY, such as: log 127.0.0.1 local0";
            let last = at.min(line.words.len() - 1);
            return self.fault(
                line,
                last,
                "a log line without target and facility",
                "what follows?",
                help,
            );
        };
        self.log_levels(line, at + 1, &mut words);
        self.syslog(line, target, facility, &words);
    }

    /// `format F`: what stands before a line.
    fn log_form(&mut self, line: &Line, at: usize, words: &mut LogWords) {
        match line.word(at + 1) {
            "rfc5424" => words.form = SyslogForm::Rfc5424,
            "rfc3164" | "local" => {}
            _ => self.note_of_log(
                NoteKind::Danger,
                line,
                at,
                "before each line stands what RFC 3164 has; [log] syslog_format = \"rfc5424\" is the \
                 other choice",
            ),
        }
    }

    /// The least level that is sent, and the one that others are raised to. Lines of sessions are of
    /// level info.
    fn log_levels(&mut self, line: &Line, at: usize, words: &mut LogWords) {
        const LEVELS: [&str; 8] =
            ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
        for (nth, word) in line.rest(at).iter().enumerate() {
            let level = LEVELS.iter().position(|level| *level == word.text);
            match level.filter(|_| nth < 2) {
                None => {
                    let title = format!("unknown level `{}` of a log", word.text.escape_debug());
                    let help = format!("levels: {}", LEVELS.join(", "));
                    return self.fault(line, at + nth, &title, "unknown", &help);
                }
                Some(level) if nth == 0 => words.quiet = level < 6,
                Some(_) => {}
            }
        }
        if words.quiet {
            let text = "[log] sessions = false, as lines of sessions are of level info; lines of all other \
                        levels are sent";
            self.note(NoteKind::Danger, line, line.said(99), text);
        }
    }

    /// What becomes of the option of a log that stands there.
    fn note_of_log(&mut self, kind: NoteKind, line: &Line, at: usize, why: &str) {
        let said = format!("log ... {} {}", line.word(at), lexer::shown(line.word(at + 1)));
        self.note(kind, line, said, why);
    }

    /// The first syslog server is taken; there is one.
    fn syslog(&mut self, line: &Line, target: &str, facility: u8, words: &LogWords) {
        let plain = ["udp@", "unix@", "ipv4@", "ipv6@"]
            .iter()
            .find_map(|kind| target.strip_prefix(kind))
            .unwrap_or(target);
        let journal = "log lines go to standard error, which systemd hands to its journal";
        match value::syslog(plain) {
            Ok(Some(_)) if self.sections.global.log.is_some() => {
                let text = "there is one syslog server: the first that is named";
                self.note(NoteKind::Ignored, line, line.said(99), text);
            }
            Ok(Some(target)) => {
                let LogWords { form, sample, quiet, .. } = *words;
                let log = LogLine { target, form, sample, facility, quiet };
                self.sections.global.log = Some(Self::set(line, log));
            }
            _ if matches!(plain, "stdout" | "stderr") => {
                let output = if plain == "stdout" { LogOutput::Stdout } else { LogOutput::Stderr };
                self.sections.global.output = Some(Self::set(line, output));
            }
            _ => {
                let text = format!("{journal}: write the address of the syslog server, not a name");
                self.note(NoteKind::Danger, line, line.said(99), text);
            }
        }
    }

    pub(super) fn log_tag(&mut self, line: &Line) {
        let Some(word) = self.argument(line, "write log-tag NAME") else { return };
        match value::name(&word.text) {
            Ok(tag) => self.sections.global.tag = Some(Self::set(line, tag)),
            Err(refusal) => self.refuse_word(word, &refusal),
        }
    }
}

/// What stands behind the target of a log.
#[derive(Clone, Copy, Debug, Default)]
struct LogWords {
    form: SyslogForm,
    sample: Option<u32>,
    facility: Option<u8>,
    quiet: bool,
}

/// `1:N`: of N lines the first is sent. Of other choices there is no counterpart.
fn sampled(text: &str) -> Option<u32> {
    text.strip_prefix("1:")?.parse().ok().filter(|&of| of > 0)
}
