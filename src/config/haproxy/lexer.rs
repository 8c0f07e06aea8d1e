//! Lines into words, as HAProxy cuts them (its manual, sections 2.2 and 2.3): quotes, escapes,
//! comments, environment variables. Each word knows where it stands in the text.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::error::Fault;

/// Words of one line, as in HAProxy (`MAX_LINE_ARGS`).
const WORDS_MAX: usize = 64;
/// Bytes that the words of one line may come to, as in HAProxy (`LINESIZE`): variables multiply.
const LINE_BYTES_MAX: usize = 2048;

/// One word of a line, quotes and escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Where it was written, quotes included, in bytes of the whole text.
    pub(super) span: Range<usize>,
}

/// One line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    /// At least one.
    pub(super) words: Vec<Word>,
}

impl Line {
    /// The n-th word, or nothing.
    pub(super) fn word(&self, n: usize) -> &str {
        self.words.get(n).map_or("", |word| word.text.as_str())
    }

    /// The words from the n-th on.
    pub(super) fn rest(&self, n: usize) -> &[Word] {
        self.words.get(n..).unwrap_or_default()
    }

    /// Where the words from `from` to `to` stand, both included; the last word if there are fewer.
    pub(super) fn span(&self, from: usize, to: usize) -> Range<usize> {
        let last = self.words.len() - 1;
        self.words[from.min(last)].span.start..self.words[to.min(last)].span.end
    }

    /// The words as one would write them, for messages: the first `count` of them.
    pub(super) fn said(&self, count: usize) -> String {
        let words: Vec<String> =
            self.words.iter().take(count).map(|word| shown(&word.text)).collect();
        words.join(" ")
    }
}

/// The process's variables, by name.
pub(in crate::config) type Variables = fn(&str) -> Option<String>;

/// A text as a terminal may be shown it: what would steer the terminal is written out.
pub(super) fn shown(text: &str) -> String {
    let written = |c: char| match c {
        c if c.is_control() => c.escape_debug().to_string(),
        c => c.to_string(),
    };
    text.chars().map(written).collect()
}

/// The variables that a line may name: the process's own, changed by `setenv` and its like.
pub(super) struct Environment {
    process: Variables,
    /// `None` is a variable that was taken away.
    changed: BTreeMap<String, Option<String>>,
}

impl Environment {
    pub(super) const fn new(process: Variables) -> Self {
        Self { process, changed: BTreeMap::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        match self.changed.get(name) {
            Some(value) => value.clone(),
            None => (self.process)(name),
        }
    }

    pub(super) fn set(&mut self, name: &str, value: Option<String>) {
        self.changed.insert(name.to_owned(), value);
    }
}

/// The words of the line at `start` of a text; `None` if it says nothing. Names of variables that
/// are not set are added to `unset`.
pub(super) fn cut(
    raw: &str,
    start: usize,
    number: usize,
    environment: &Environment,
    unset: &mut Vec<String>,
) -> Result<Option<Line>, Box<Fault>> {
    let mut cutter = Cutter {
        raw,
        start,
        at: 0,
        quote: None,
        word: None,
        word_start: 0,
        words: Vec::new(),
        environment,
        unset,
    };
    cutter.run()?;
    let words = cutter.words;
    let bytes: usize = words.iter().map(|word| word.text.len() + 1).sum();
    if words.len() > WORDS_MAX || bytes > LINE_BYTES_MAX || raw.len() > LINE_BYTES_MAX {
        return Err(Box::new(
            Fault::new("this line is too long")
                .at(start..start + raw.len(), "HAProxy does not read it either")
                .help(format!("at most {WORDS_MAX} words and {LINE_BYTES_MAX} bytes")),
        ));
    }
    Ok((!words.is_empty()).then_some(Line { number, words }))
}

/// A quotation mark that has been opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    /// `"`: variables and escapes are seen.
    Weak,
    /// `'`: nothing is.
    Strong,
}

struct Cutter<'t, 'e> {
    raw: &'t str,
    start: usize,
    at: usize,
    quote: Option<(Quote, usize)>,
    word: Option<String>,
    word_start: usize,
    words: Vec<Word>,
    environment: &'e Environment,
    unset: &'e mut Vec<String>,
}

impl Cutter<'_, '_> {
    fn run(&mut self) -> Result<(), Box<Fault>> {
        while let Some(c) = self.raw[self.at..].chars().next() {
            let quote = self.quote.map(|(quote, _)| quote);
            match (c, quote) {
                ('\'', Some(Quote::Strong)) | ('"', Some(Quote::Weak)) => {
                    self.quote = None;
                    self.at += 1;
                }
                (_, Some(Quote::Strong)) => self.emit(c),
                ('\'', None) => self.open(Quote::Strong),
                ('"', None) => self.open(Quote::Weak),
                ('\\', _) => self.escape()?,
                ('$', Some(Quote::Weak)) => self.variable()?,
                ('#', None) => break,
                (' ' | '\t' | '\r' | '\n', None) => {
                    self.end_word();
                    self.at += 1;
                }
                _ => self.emit(c),
            }
        }
        self.end_word();
        match self.quote {
            None => Ok(()),
            Some((quote, at)) => {
                let mark = if quote == Quote::Weak { '"' } else { '\'' };
                let fault = Fault::new(format!("a quotation mark {mark} that is not closed"));
                Err(Box::new(fault.at(self.start + at..self.start + at + 1, "opened here").help(
                    "close it on the same line, or write \\ before it to mean the character",
                )))
            }
        }
    }

    fn begin_word(&mut self) -> &mut String {
        if self.word.is_none() {
            self.word_start = self.at;
        }
        self.word.get_or_insert_default()
    }

    fn end_word(&mut self) {
        if let Some(text) = self.word.take() {
            let span = self.start + self.word_start..self.start + self.at;
            self.words.push(Word { text, span });
        }
    }

    fn emit(&mut self, c: char) {
        self.begin_word().push(c);
        self.at += c.len_utf8();
    }

    fn open(&mut self, quote: Quote) {
        // An empty word is one too: "".
        self.begin_word();
        self.quote = Some((quote, self.at));
        self.at += 1;
    }

    fn escape(&mut self) -> Result<(), Box<Fault>> {
        let rest = &self.raw[self.at + 1..];
        let weak = self.quote.is_some();
        let (c, length) = match rest.chars().next() {
            Some(c @ (' ' | '\t' | '\\' | '"' | '#' | '\'')) => (c, 2),
            Some('$') if weak => ('$', 2),
            Some('n') => ('\n', 2),
            Some('r') => ('\r', 2),
            Some('t') => ('\t', 2),
            Some('x') => {
                let digits = rest.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                let Some(byte) = digits.filter(u8::is_ascii) else {
                    return Err(Box::new(
                        Fault::new("\\x needs two hexadecimal digits up to 7f")
                            .at(self.start + self.at..self.start + self.at + 2, "here")
                            .help("write \\x20 for a space, or \\\\x for these two characters"),
                    ));
                };
                (char::from(byte), 4)
            }
            // Other combinations are no escapes.
            _ => ('\\', 1),
        };
        self.begin_word().push(c);
        self.at += length;
        Ok(())
    }

    /// `$NAME`, `${NAME}` or `${NAME-what else}`.
    fn variable(&mut self) -> Result<(), Box<Fault>> {
        let rest = &self.raw[self.at + 1..];
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (inside, length) = match rest.strip_prefix('{') {
            Some(braced) => match braced.find('}') {
                Some(end) => (&braced[..end], end + 3),
                None => return Err(self.bad_variable("has no closing brace")),
            },
            None => {
                let end = rest.find(|c| !letter(c)).unwrap_or(rest.len());
                (&rest[..end], end + 1)
            }
        };
        let (name, otherwise) = match inside.split_once('-') {
            Some((name, otherwise)) => (name, Some(otherwise)),
            None => (inside, None),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(letter) {
            return Err(self.bad_variable("is no name of a variable"));
        }
        let value = self.environment.get(name).or_else(|| otherwise.map(str::to_owned));
        if value.is_none() {
            self.unset.push(name.to_owned());
        }
        self.begin_word().push_str(&value.unwrap_or_default());
        self.at += length;
        Ok(())
    }

    fn bad_variable(&self, why: &str) -> Box<Fault> {
        let fault = Fault::new("$ inside double quotes begins the name of an environment variable")
            .at(self.start + self.at..self.start + self.at + 1, why)
            .help("write \"$NAME\" or \"${NAME}\", or \\$ for the character");
        Box::new(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(raw: &str) -> Result<Vec<String>, String> {
        let process: Variables = |name| (name == "PORT").then(|| "3834".to_owned());
        let environment = Environment::new(process);
        let line = cut(raw, 0, 1, &environment, &mut Vec::new());
        match line {
            Ok(line) => Ok(line
                .map(|line| line.words.into_iter().map(|word| word.text).collect())
                .unwrap_or_default()),
            Err(fault) => Err(fault.title),
        }
    }

    #[test]
    fn words_quotes_and_escapes_are_those_of_the_manual() {
        for (raw, expected) in [
            ("", &[][..]),
            ("  # only a comment", &[]),
            ("bind *:3834 # DTDG", &["bind", "*:3834"]),
            ("bind\t*:3834#glued", &["bind", "*:3834"]),
            (r#"a "b c" 'd "e' f\ g"#, &["a", "b c", "d \"e", "f g"]),
            (r##"a "#" '#' \#"##, &["a", "#", "#", "#"]),
            (r#"\x41\\\n "\"" ''"#, &["A\\\n", "\"", ""]),
            (r"a\b \q", &["a\\b", "\\q"]),
            (
                r#""*:${PORT}" "$PORT" $PORT "\$PORT" '$PORT'"#,
                &["*:3834", "3834", "$PORT", "$PORT", "$PORT"],
            ),
            (r#""${NONE-80}:${NONE}""#, &["80:"]),
            (r#"x"y"'z'"#, &["xyz"]),
            ("caf\u{e9} \u{2713}", &["caf\u{e9}", "\u{2713}"]),
        ] {
            assert_eq!(words(raw).unwrap(), expected, "{raw}");
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_its_place() {
        for (raw, expected) in [
            ("a \"b", "not closed"),
            ("a 'b", "not closed"),
            (r"a \xz1", "two hexadecimal digits"),
            (r"a \xff", "two hexadecimal digits"),
            ("a \"${PORT\"", "environment variable"),
            ("a \"$\"", "environment variable"),
        ] {
            let title = words(raw).unwrap_err();
            assert!(title.contains(expected), "{raw}: {title}");
        }
        assert!(words(&"a ".repeat(65)).unwrap_err().contains("too long"));
    }

    #[test]
    fn a_word_knows_where_it_stands() {
        let none: Variables = |_| None;
        let environment = Environment::new(none);
        let line = cut(" ab 'c d' #", 100, 7, &environment, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(line.words[0].span, 101..103);
        assert_eq!(line.words[1].span, 104..109);
        assert_eq!((line.number, line.span(0, 9)), (7, 101..109));
    }
}
