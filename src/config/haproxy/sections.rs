//! The text, section by section: what each line sets, with its place, and no meaning yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::backend::choose::Algorithm;
use crate::config::error::Fault;
use crate::config::value;
use crate::password::Hash;

use crate::config::{
    ControlLevel, ControlMode, HttpCheck, LogOutput, Source, SyslogForm, SyslogTarget,
};

use super::keywords::{self, Treatment};
use super::lexer::{self, Environment, Line, Word};
use super::report::{NoteKind, Report};
use super::resolvers::Resolvers;
use super::rules::{Acls, Verdict};
use super::server::{ServerLine, ServerOptions};
use super::switching::{HelloTest, Switch};

/// Faults gathered before giving up on a text: it is something else.
const FAULTS_MAX: usize = 100;
/// Sections of proxies in one text.
const PROXIES_MAX: usize = 1024;

/// What was written, and where.
#[derive(Clone, Debug)]
pub(super) struct Set<T> {
    pub(super) value: T,
    pub(super) line: usize,
    pub(super) said: String,
    pub(super) span: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Global,
    Defaults,
    Frontend,
    Backend,
    Listen,
    Resolvers,
}

impl Kind {
    const ALL: [(&'static str, Self); 6] = [
        ("global", Self::Global),
        ("defaults", Self::Defaults),
        ("frontend", Self::Frontend),
        ("backend", Self::Backend),
        ("listen", Self::Listen),
        ("resolvers", Self::Resolvers),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("?", |(word, _)| word)
    }

    pub(super) const fn is_front(self) -> bool {
        matches!(self, Self::Frontend | Self::Listen)
    }

    pub(super) const fn is_back(self) -> bool {
        matches!(self, Self::Backend | Self::Listen)
    }
}

/// Sections that HAProxy has and a relay of bytes has no use for.
const FOREIGN: &[(&str, &str)] = &[
    ("peers", "remove the section: there are no tables to share"),
    ("userlist", "remove the section: users belong to HTTP, which passes through unchanged"),
    ("mailers", "remove the section: no mails are sent; /metrics and the log tell of changes"),
    ("program", "remove the section: fanin starts no programs; systemd does"),
    ("cache", "remove the section: HTTP passes through unchanged"),
    ("http-errors", "remove the section: HTTP passes through unchanged"),
    ("fcgi-app", "remove the section: HTTP passes through unchanged"),
    ("ring", "remove the section, and log to the syslog server itself"),
    ("log-forward", "remove the section: fanin forwards no logs"),
    ("log-profile", "remove the section: fanin has its own log lines"),
    ("crt-list", "remove the section: TLS passes through unchanged"),
    ("crt-store", "remove the section: TLS passes through unchanged"),
    ("traces", "remove the section: `fanin ends` shows what became of connections"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Tcp,
    Http,
}

/// The waits that a timeout may be for (manual, 4.2 "timeout").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Client,
    Server,
    Connect,
    Tunnel,
    ClientFin,
    ServerFin,
    Check,
    Queue,
}

/// What a proxy has of its own or from its defaults.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) mode: Option<Set<Mode>>,
    pub(super) timeouts: [Option<Set<Duration>>; 8],
    pub(super) retries: Option<Set<u16>>,
    pub(super) redispatch: Option<Set<bool>>,
    pub(super) balance: Option<Set<Algorithm>>,
    pub(super) maxconn: Option<Set<u32>>,
    pub(super) backlog: Option<Set<u32>>,
    pub(super) default_backend: Option<Set<String>>,
    pub(super) default_server: ServerOptions,
    pub(super) source: Option<Set<Source>>,
    pub(super) splices: bool,
    pub(super) httpchk: Option<Set<HttpCheck>>,
    pub(super) stats_users: StatsUsers,
}

/// Who may see a statistics page.
#[derive(Clone, Debug, Default)]
pub(super) struct StatsUsers {
    pub(super) users: Vec<(String, Hash)>,
    /// They may change servers too.
    pub(super) administer: bool,
}

/// One address to listen on.
#[derive(Clone, Debug)]
pub(super) struct Bind {
    pub(super) address: Set<std::net::SocketAddr>,
}

/// A frontend, a backend, or both.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) kind: Kind,
    pub(super) name: Set<String>,
    pub(super) settings: Settings,
    pub(super) binds: Vec<Bind>,
    pub(super) servers: Vec<ServerLine>,
    pub(super) acls: Acls,
    pub(super) verdicts: Vec<Set<Verdict>>,
    /// Tests of the first message of TLS by the name of their `acl`.
    pub(super) hello_acls: BTreeMap<String, Vec<HelloTest>>,
    pub(super) switches: Vec<Switch>,
    /// Where a PROXY header was asked for.
    pub(super) accept_proxy: Option<Set<()>>,
    /// Where its statistics page was asked for.
    pub(super) stats: Option<Set<()>>,
}

/// A `log` line (manual, 4.2 "log").
#[derive(Clone, Debug)]
pub(super) struct LogLine {
    pub(super) target: SyslogTarget,
    pub(super) form: SyslogForm,
    /// Of so many sessions one is told of.
    pub(super) sample: Option<u32>,
    /// By its number.
    pub(super) facility: u8,
    /// The least of the levels that are sent leaves out those of sessions (info).
    pub(super) quiet: bool,
}

/// The `global` section.
#[derive(Clone, Debug, Default)]
pub(super) struct Global {
    pub(super) maxconn: Option<Set<u32>>,
    pub(super) workers: Option<Set<u16>>,
    pub(super) pipes: Option<Set<u32>>,
    pub(super) nosplice: Option<Set<()>>,
    pub(super) drain: Option<Set<Duration>>,
    pub(super) socket: Option<Set<std::path::PathBuf>>,
    /// What those may do there who may connect.
    pub(super) level: Option<Set<ControlLevel>>,
    /// Who may connect there.
    pub(super) mode: Option<Set<ControlMode>>,
    pub(super) log: Option<Set<LogLine>>,
    /// `log stdout` or `log stderr`.
    pub(super) output: Option<Set<LogOutput>>,
    pub(super) tag: Option<Set<String>>,
    /// Sessions without a byte get no line.
    pub(super) no_null: Option<Set<()>>,
    /// Nor do those that ended well.
    pub(super) no_normal: Option<Set<()>>,
}

/// A whole text.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) global: Global,
    pub(super) proxies: Vec<Proxy>,
    pub(super) resolvers: Resolvers,
    pub(super) report: Report,
}

/// The sections of a text, or everything that is wrong with it.
pub(super) fn read(text: &str, environment: lexer::Variables) -> Result<Sections, Vec<Fault>> {
    let mut reader = Reader {
        environment: Environment::new(environment),
        sections: Sections::default(),
        faults: Vec::new(),
        place: Place::Nowhere,
        defaults: BTreeMap::new(),
        latest_defaults: String::new(),
        negated: false,
        keyword_words: 1,
        orphans: None,
    };
    reader.read(text);
    if reader.faults.is_empty() { Ok(reader.sections) } else { Err(reader.faults) }
}

/// Where the lines go that are being read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Before any section.
    Nowhere,
    In(Kind),
    /// In a section that has been refused whole.
    Skipped,
}

pub(super) struct Reader {
    pub(super) environment: Environment,
    pub(super) sections: Sections,
    faults: Vec<Fault>,
    place: Place,
    /// By name; those without one have none.
    defaults: BTreeMap<String, Settings>,
    /// The name of those that hold for a section that names none: the ones written last.
    latest_defaults: String,
    /// The line began with `no`.
    pub(super) negated: bool,
    /// How many words the keyword of the line is.
    pub(super) keyword_words: usize,
    /// Lines in a row that stand in no section: the fault, and the number of the last.
    orphans: Option<Orphans>,
}

struct Orphans {
    fault: usize,
    last: usize,
    fits: keywords::Where,
}

impl Reader {
    fn read(&mut self, text: &str) {
        let mut start = 0;
        for (number, raw) in (1..).zip(text.split_inclusive('\n')) {
            let bare = raw.trim_end_matches(['\n', '\r']);
            let mut unset = Vec::new();
            match lexer::cut(bare, start, number, &self.environment, &mut unset) {
                Ok(Some(line)) => self.line(line),
                Ok(None) => {}
                Err(fault) => self.faults.push(*fault),
            }
            for name in unset {
                let text = "this variable is not set: it stands for nothing, there as here";
                self.sections.report.note(NoteKind::Danger, number, format!("${name}"), text);
            }
            start += raw.len();
            if self.faults.len() > FAULTS_MAX {
                return;
            }
        }
        self.name_orphans();
    }

    fn line(&mut self, mut line: Line) {
        if line.word(0).starts_with('.') {
            let fault =
                Fault::new(format!("conditional blocks such as `{}` are not read", line.word(0)));
            self.faults.push(
                fault
                    .at(line.span(0, 0), "fanin reads one configuration, not several in one")
                    .help("keep the branch that applies on this host, and remove the other"),
            );
            return;
        }
        let section = Kind::ALL.iter().find(|(word, _)| *word == line.word(0));
        if let Some((_, kind)) = section {
            return self.open(*kind, &line);
        }
        if let Some((word, remedy)) = FOREIGN.iter().find(|(word, _)| *word == line.word(0)) {
            let fault = Fault::new(format!("a section `{word}` has no counterpart"));
            self.faults.push(fault.at(line.span(0, 1), "cannot be taken over").help(*remedy));
            self.place = Place::Skipped;
            return;
        }
        self.negated = matches!(line.word(0), "no" | "default") && line.words.len() > 1;
        if self.negated {
            line.words.remove(0);
        }
        let kind = match &self.place {
            Place::Skipped => return,
            Place::Nowhere => return self.orphan(&line),
            Place::In(kind) => *kind,
        };
        self.keyword(kind, &line);
    }

    fn keyword(&mut self, kind: Kind, line: &Line) {
        let (first, second) = (line.word(0), line.word(1));
        let Some((keyword, words)) = keywords::find(first, second, kind.place()) else {
            return self.unknown(kind, line);
        };
        let said = line.said(words.max(2));
        if keyword.place & kind.place() == 0 {
            let text = format!("has no effect in a section `{}`, there as here", kind.word());
            // HAProxy warns and goes on, except for what makes a section what it is.
            if matches!(keyword.name, "bind" | "server" | "server-template") || kind == Kind::Global
            {
                let fault = Fault::new(format!(
                    "`{}` cannot stand in a section `{}`",
                    keyword.name,
                    kind.word()
                ));
                let help =
                    "a frontend listens (bind), a backend has servers (server), a `listen` both";
                self.faults.push(
                    fault.at(line.span(0, words - 1), "stands in the wrong section").help(help),
                );
                return;
            }
            return self.note(NoteKind::Ignored, line, said, text);
        }
        self.keyword_words = words;
        match keyword.treatment {
            Treatment::Take(take) => take(self, line),
            Treatment::Ignore(reason) => self.note(NoteKind::Ignored, line, said, reason),
            Treatment::Refuse(_) if self.negated => {}
            Treatment::Refuse(remedy) => {
                let title = format!("`{}` has no counterpart", line.said(words));
                self.faults.push(
                    Fault::new(title)
                        .at(line.span(0, words - 1), "cannot be taken over")
                        .help(remedy),
                );
            }
        }
    }

    fn unknown(&mut self, kind: Kind, line: &Line) {
        let two = matches!(line.word(0), "option" | "timeout" | "stats" | "tcp-request");
        let typed = if two { line.said(2) } else { line.said(1) };
        let title =
            format!("unknown keyword `{}` in a section `{}`", typed.escape_debug(), kind.word());
        let words = keywords::names(kind.place());
        let why = match value::nearest(&typed, words) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "HAProxy's TCP mode has no such keyword here".to_owned(),
        };
        let help =
            "correct the line, or remove it; what fanin takes over stands in docs/MIGRATION.md";
        self.faults.push(Fault::new(title).at(line.span(0, usize::from(two)), why).help(help));
    }

    /// A line before any section. Lines that follow each other are one fault: their header is
    /// missing. Which one is said, and not guessed: nothing is read under it.
    fn orphan(&mut self, line: &Line) {
        let place = |name: keywords::Where| {
            keywords::find(line.word(0), line.word(1), name)
                .is_some_and(|(keyword, _)| keyword.place & name != 0)
        };
        let fits =
            [keywords::GLOBAL, keywords::DEFAULTS].into_iter().filter(|&name| place(name)).sum();
        match &mut self.orphans {
            Some(orphans) if orphans.last + 1 == line.number => {
                orphans.last = line.number;
                orphans.fits &= fits;
            }
            _ => {
                self.name_orphans();
                let fault = Fault::new("this stands in no section").at(line.span(0, 99), "");
                self.orphans = Some(Orphans { fault: self.faults.len(), last: line.number, fits });
                self.faults.push(fault);
            }
        }
        // What is wrong with the line itself is wrong in any section.
        if line.word(0) == "log" {
            self.keyword(Kind::Defaults, line);
        }
    }

    /// Says which header the lines lack that stand in no section.
    fn name_orphans(&mut self) {
        let Some(orphans) = self.orphans.take() else { return };
        let header = match orphans.fits {
            keywords::GLOBAL => "`global`",
            keywords::DEFAULTS => "`defaults`",
            _ => "`global` or `defaults`",
        };
        let fault = &mut self.faults[orphans.fault];
        fault.title = format!("a section header is missing: {header}");
        fault.why = format!("stands in no section, as does all down to line {}", orphans.last);
        fault.help = vec![format!("write {header} on a line of its own before this one")];
    }

    fn open(&mut self, kind: Kind, line: &Line) {
        self.name_orphans();
        self.place = Place::In(kind);
        match kind {
            Kind::Global => self.no_more_than(line, 1),
            Kind::Defaults => self.open_defaults(line),
            Kind::Resolvers => {
                if line.words.len() < 2 {
                    self.fault(
                        line,
                        0,
                        "resolvers without a name",
                        "which?",
                        "write resolvers NAME",
                    );
                }
                self.no_more_than(line, 2);
            }
            Kind::Frontend | Kind::Backend | Kind::Listen => self.open_proxy(kind, line),
        }
    }

    fn open_defaults(&mut self, line: &Line) {
        let (name, from) = match (line.word(1), line.word(2)) {
            ("from", parent) => ("", parent),
            (name, "from") => (name, line.word(3)),
            (name, _) => {
                self.no_more_than(line, 2);
                (name, "")
            }
        };
        let settings = if from.is_empty() { Settings::default() } else { self.named(line, from) };
        self.defaults.insert(name.to_owned(), settings);
        name.clone_into(&mut self.latest_defaults);
    }

    /// The defaults that `from NAME` names.
    fn named(&mut self, line: &Line, name: &str) -> Settings {
        if let Some(settings) = self.defaults.get(name) {
            return settings.clone();
        }
        let known: Vec<&str> = self.defaults.keys().map(String::as_str).collect();
        let help = match value::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write a section `defaults {name}` above"),
        };
        let last = line.words.len() - 1;
        self.fault(
            line,
            last,
            &format!("there are no defaults called `{name}`"),
            "is not known here",
            &help,
        );
        Settings::default()
    }

    fn open_proxy(&mut self, kind: Kind, line: &Line) {
        let name = line.words.get(1).cloned();
        let Some(name) = name else {
            let help = format!("write {} NAME", kind.word());
            return self.fault(
                line,
                0,
                &format!("a `{}` without a name", kind.word()),
                "which?",
                &help,
            );
        };
        if let Err(refusal) = value::name(&name.text) {
            let title =
                format!("a `{}` cannot be called `{}`", kind.word(), name.text.escape_debug());
            self.faults
                .push(Fault::new(title).at(name.span.clone(), refusal.why).help(refusal.help));
        }
        if self.sections.proxies.len() >= PROXIES_MAX {
            return self.fault(
                line,
                0,
                "too many sections",
                "one too many",
                "write fewer than 1024",
            );
        }
        let from = line.words.iter().skip(2).position(|word| word.text == "from").map(|at| at + 2);
        let settings = match from {
            Some(at) => self.named(line, line.word(at + 1)),
            None => self.defaults.get(&self.latest_defaults).cloned().unwrap_or_default(),
        };
        self.sections.proxies.push(Proxy {
            kind,
            name: Set { said: line.said(2), line: line.number, span: name.span, value: name.text },
            settings,
            binds: Vec::new(),
            servers: Vec::new(),
            acls: Acls::default(),
            verdicts: Vec::new(),
            hello_acls: BTreeMap::new(),
            switches: Vec::new(),
            accept_proxy: None,
            stats: None,
        });
        let after = &line.words[2..from.unwrap_or(line.words.len())];
        if kind.is_front() && !after.is_empty() {
            self.bind_of_header(line, after);
        } else if let Some(word) = after.first() {
            let title = format!("`{}` is one word too many", word.text.escape_debug());
            let help = format!("a `{}` takes a name and, at most, from DEFAULTS", kind.word());
            self.faults
                .push(Fault::new(title).at(word.span.clone(), "cannot stand here").help(help));
        }
    }

    // What handlers of keywords use.

    /// The settings that the lines go to: of the proxy that is open, or of the defaults.
    pub(super) fn settings(&mut self) -> &mut Settings {
        match self.sections.proxies.last_mut() {
            Some(proxy) if self.place != Place::In(Kind::Defaults) => &mut proxy.settings,
            _ => self.defaults.entry(self.latest_defaults.clone()).or_default(),
        }
    }

    /// The section that is being read.
    pub(super) const fn kind(&self) -> Kind {
        match self.place {
            Place::In(kind) => kind,
            _ => Kind::Defaults,
        }
    }

    /// The proxy that is open.
    pub(super) fn proxy(&mut self) -> Option<&mut Proxy> {
        self.sections.proxies.last_mut()
    }

    pub(super) fn note(
        &mut self,
        kind: NoteKind,
        line: &Line,
        said: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.sections.report.note(kind, line.number, said, text);
    }

    pub(super) fn refuse(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// A fault at the n-th word.
    pub(super) fn fault(&mut self, line: &Line, n: usize, title: &str, why: &str, help: &str) {
        self.faults.push(Fault::new(title).at(line.span(n, n), why).help(help));
    }

    /// HAProxy takes no words that it does not know either.
    pub(super) fn no_more_than(&mut self, line: &Line, words: usize) {
        if let Some(word) = line.words.get(words) {
            let title = format!("`{}` is one word too many", word.text.escape_debug());
            let help = format!("`{}` ends before it", line.said(words));
            self.faults
                .push(Fault::new(title).at(word.span.clone(), "cannot stand here").help(help));
        }
    }

    /// The word behind the keyword, or a fault.
    pub(super) fn argument<'l>(&mut self, line: &'l Line, help: &str) -> Option<&'l Word> {
        let word = line.words.get(self.keyword_words);
        if word.is_none() {
            let title = format!("`{}` lacks what it is set to", line.said(self.keyword_words));
            let last = line.words.len() - 1;
            self.fault(line, last, &title, "nothing follows", help);
        }
        word
    }

    /// What a line sets, with its place.
    pub(super) fn set<T>(line: &Line, value: T) -> Set<T> {
        Set { value, line: line.number, said: line.said(99), span: line.span(0, 99) }
    }
}
