//! What a person sees when a configuration is wrong: where, what, what is allowed, what to do next.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Faults shown at one time. Past this a file is not mistyped but something else.
const FAULTS_SHOWN_MAX: usize = 12;

/// Why there is no configuration.
#[derive(Debug)]
pub struct ConfigError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The file could not be read at all.
    Unreadable { title: String, help: Vec<String>, permission: bool },
    /// The text was read and is wrong.
    File { path: PathBuf, text: String, faults: Vec<Fault> },
    /// The flags contradict each other.
    Flags { faults: Vec<Fault> },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The key and the value.
    pub(super) title: String,
    /// Where it is in the text, in bytes, if it is in a text and not missing from it.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong with what stands there.
    pub(super) why: String,
    /// What else in the text belongs to it.
    pub(super) other: Option<(Range<usize>, String)>,
    /// What is allowed, what to do next.
    pub(super) help: Vec<String>,
}

impl Fault {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), span: None, why: String::new(), other: None, help: Vec::new() }
    }

    pub(super) fn at(mut self, span: Range<usize>, why: impl Into<String>) -> Self {
        self.span = Some(span);
        self.why = why.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Writes out what would steer a terminal, wherever a message quotes the text.
    fn tame(&mut self) {
        let texts = [&mut self.title, &mut self.why].into_iter().chain(&mut self.help);
        for text in texts.filter(|text| text.contains(is_control)) {
            *text = text
                .chars()
                .map(|c| if is_control(c) { c.escape_debug().to_string() } else { c.to_string() })
                .collect();
        }
    }
}

fn is_control(c: char) -> bool {
    c.is_control() && c != '\n'
}

impl ConfigError {
    pub(super) fn in_file(path: &Path, text: &str, mut faults: Vec<Fault>) -> Self {
        faults.iter_mut().for_each(Fault::tame);
        faults.sort_by_key(|fault| fault.span.as_ref().map_or(usize::MAX, |span| span.start));
        Self { kind: Kind::File { path: path.to_owned(), text: text.to_owned(), faults } }
    }

    pub(super) fn in_flags(faults: Vec<Fault>) -> Self {
        Self { kind: Kind::Flags { faults } }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let permission = error.kind() == io::ErrorKind::PermissionDenied;
        let help = match error.kind() {
            io::ErrorKind::NotFound => vec![
                "name the file: fanin run -c FILE".to_owned(),
                "or run without one: fanin run --listen :3834 --server intake.example.com:443"
                    .to_owned(),
            ],
            io::ErrorKind::PermissionDenied => vec![format!(
                "let the user who runs fanin read it, and enter its directories: ls -l {}",
                path.display()
            )],
            _ => Vec::new(),
        };
        Self {
            kind: Kind::Unreadable {
                title: format!("cannot read the configuration {}: {error}", path.display()),
                help,
                permission,
            },
        }
    }

    /// The file is there, but cannot be a configuration.
    pub(super) fn unusable(path: &Path, why: &str, help: &[&str]) -> Self {
        Self {
            kind: Kind::Unreadable {
                title: format!("{} {why}", path.display()),
                help: help.iter().map(|&line| line.to_owned()).collect(),
                permission: false,
            },
        }
    }

    /// Whether a permission was missing.
    pub const fn is_permission(&self) -> bool {
        matches!(self.kind, Kind::Unreadable { permission: true, .. })
    }

    /// Whether it was the command line that was wrong, and not a file.
    pub const fn is_usage(&self) -> bool {
        matches!(self.kind, Kind::Flags { .. })
    }

    /// The whole message, in colours if `colour`. Several lines, without a line end at the end.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        match &self.kind {
            Kind::Unreadable { title, help, .. } => {
                let fault = Fault { help: help.clone(), ..Fault::new(title) };
                fault.render(&renderer, None)
            }
            Kind::File { path, text, faults } => {
                let path = path.display().to_string();
                let mut rendered = render_all(faults, &renderer, Some((&path, text)));
                if faults.len() > 1 {
                    rendered.push(format!("{} errors in {path}", faults.len()));
                }
                rendered.join("\n\n")
            }
            Kind::Flags { faults } => render_all(faults, &renderer, None).join("\n\n"),
        }
    }

    /// The gist in one line, for a log: the first fault, where it is, and how many more there are.
    pub fn summary(&self) -> String {
        let (faults, place) = match &self.kind {
            Kind::Unreadable { title, .. } => return title.clone(),
            Kind::Flags { faults } => (faults, None),
            Kind::File { path, text, faults } => (faults, Some((path, text))),
        };
        let Some(first) = faults.first() else {
            return String::new();
        };
        let mut line = String::new();
        if let Some((path, text)) = place {
            line = format!("{}:", path.display());
            if let Some(span) = &first.span {
                let (row, column) = line_column(text, span.start);
                line += &format!("{row}:{column}:");
            }
            line.push(' ');
        }
        line += &first.title;
        for part in std::iter::once(&first.why).chain(&first.help) {
            if !part.is_empty() {
                line += "; ";
                line += part.lines().next().unwrap_or_default();
            }
        }
        if faults.len() > 1 {
            line += &format!(" (and {} more)", faults.len() - 1);
        }
        line
    }
}

fn render_all(faults: &[Fault], renderer: &Renderer, source: Option<(&str, &str)>) -> Vec<String> {
    faults.iter().take(FAULTS_SHOWN_MAX).map(|fault| fault.render(renderer, source)).collect()
}

impl Fault {
    /// `source` is the path and the text.
    fn render(&self, renderer: &Renderer, source: Option<(&str, &str)>) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(self.title.as_str()));
        match (source, &self.span) {
            (Some((path, text)), Some(span)) => {
                let mut snippet = Snippet::source(text).path(path).annotation(
                    AnnotationKind::Primary.span(within(text, span)).label(self.why.as_str()),
                );
                if let Some((span, label)) = &self.other {
                    snippet = snippet.annotation(
                        AnnotationKind::Context.span(within(text, span)).label(label.as_str()),
                    );
                }
                group = group.element(snippet);
            }
            (Some((path, _)), None) => {
                group = group.element(Origin::path(path));
            }
            (None, _) if !self.why.is_empty() => {
                group = group.element(Level::NOTE.message(self.why.as_str()));
            }
            (None, _) => {}
        }
        let group = group.elements(self.help.iter().map(|line| Level::HELP.message(line.as_str())));
        renderer.render(&[group])
    }
}

/// The part of a span that is really in the text, cut to its first line: a whole table as a drawing
/// would hide its point.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = floor_boundary(text, span.start);
    let end = floor_boundary(text, span.end).max(start);
    let line_end = text[start..end].find(['\n', '\r']).map_or(end, |length| start + length);
    start..line_end
}

/// The last place at or before `offset` where a character begins.
fn floor_boundary(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Line and column, from 1, columns in characters.
fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..floor_boundary(text, offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigError {}
