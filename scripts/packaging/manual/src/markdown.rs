//! `fanin.toml(5)` from docs/CONFIG.md: headings become sections, rows of tables become tagged
//! paragraphs.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, roman};

/// The page.
pub(crate) fn page(document: &str) -> Vec<u8> {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.roff.control("TH", ["FANIN.TOML", "5", "", &format!("fanin {version}"), "fanin manual"]);
    page.roff.control("SH", ["NAME"]);
    page.roff.text([roman("fanin.toml - configuration of the relay fanin")]);
    page.roff.control("SH", ["DESCRIPTION"]);
    for event in Parser::new_ext(document, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.roff.control("SH", ["SEE ALSO"]);
    page.roff.text([roman("fanin(8), fanin-check(8), fanin-import(8)")]);
    page.roff.render().into_bytes()
}

#[derive(Default)]
struct Page {
    roff: Roff,
    /// What has been said since the last paragraph, cell or heading began.
    line: Vec<Inline>,
    strong: bool,
    /// Within a block of code, whose line breaks stay.
    code: bool,
    /// Within a list: a paragraph begins with its bullet.
    bullet: bool,
    list: bool,
    /// Where the link leads that is being read.
    link: Option<String>,
    /// The cells of the row so far.
    row: Option<Vec<Vec<Inline>>>,
    title: bool,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.begin(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => {
                for line in text.lines() {
                    self.roff.text([roman(line)]);
                }
            }
            Event::Text(text) => self.say(&text, self.strong),
            Event::Code(text) => self.say(&text, true),
            Event::SoftBreak | Event::HardBreak => self.say(" ", false),
            // The page has nothing else; its test sees what is lost.
            _ => {}
        }
    }

    fn say(&mut self, text: &str, strong: bool) {
        self.line.push(if strong { bold(text) } else { roman(text) });
    }

    fn begin(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => self.title = level == HeadingLevel::H1,
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => {
                self.code = true;
                self.roff.control("PP", []).control("nf", []).control("RS", ["4"]);
            }
            Tag::List(_) => self.list = true,
            // A list whose items stand close together has no paragraphs in them.
            Tag::Item => self.bullet = true,
            Tag::Strong | Tag::Emphasis => self.strong = true,
            Tag::Link { dest_url, .. } => self.link = Some(dest_url.into_string()),
            Tag::TableRow => self.row = Some(Vec::new()),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                let heading: String = text_of(&std::mem::take(&mut self.line));
                if !self.title {
                    self.roff.control("SH", [heading.as_str()]);
                }
            }
            TagEnd::Paragraph => self.paragraph(),
            TagEnd::Item if !self.line.is_empty() => self.paragraph(),
            TagEnd::List(_) => self.list = false,
            TagEnd::CodeBlock => {
                self.code = false;
                self.roff.control("RE", []).control("fi", []);
            }
            TagEnd::Strong | TagEnd::Emphasis => self.strong = false,
            TagEnd::Link => {
                let link =
                    self.link.take().filter(|link| !link.contains("://")).unwrap_or_default();
                // What is on this page needs no place.
                if let Some(file) = link.split('#').next().filter(|file| !file.is_empty()) {
                    self.say(&format!(" (/usr/share/doc/fanin/{file})"), false);
                }
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.line);
                // The head of a table is no row.
                if let Some(row) = &mut self.row {
                    row.push(cell);
                }
            }
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    fn paragraph(&mut self) {
        let line = std::mem::take(&mut self.line);
        // Said of the document, not of the file.
        if text_of(&line).starts_with("This page is checked") {
            return;
        }
        if std::mem::take(&mut self.bullet) {
            self.roff.control("IP", ["\\(bu", "2"]);
        } else if !self.list {
            self.roff.control("PP", []);
        }
        self.roff.text(line);
    }

    /// key, default, meaning.
    fn row(&mut self) {
        let mut cells = self.row.take().unwrap_or_default().into_iter();
        let (Some(key), Some(default), Some(meaning)) = (cells.next(), cells.next(), cells.next())
        else {
            return;
        };
        let mut tag = key;
        if !default.is_empty() {
            tag.push(roman("  ["));
            tag.extend(default);
            tag.push(roman("]"));
        }
        self.roff.control("TP", []);
        self.roff.text(tag);
        self.roff.text(if meaning.is_empty() { vec![roman("as above")] } else { meaning });
    }
}

fn text_of(line: &[Inline]) -> String {
    let text = |inline: &Inline| match inline {
        Inline::Roman(text) | Inline::Bold(text) | Inline::Italic(text) => text.clone(),
        Inline::LineBreak => " ".to_owned(),
    };
    line.iter().map(text).collect()
}
