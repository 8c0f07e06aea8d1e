//! `use_backend` by the name that a TLS client asks for, and what HAProxy needs besides to know it (manual,
//! 4.2, 7.1 and 7.3.5).

use crate::config::error::Fault;
use crate::config::routes::NamePattern;
use crate::config::value;

use super::lexer::{Line, Word};
use super::report::NoteKind;
use super::sections::{Reader, Set};

/// Who goes to which backend.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    pub(super) backend: Set<String>,
    pub(super) names: Vec<NamePattern>,
}

/// What is tested of a first message of TLS.
#[derive(Clone, Debug)]
pub(super) enum HelloTest {
    /// That it is one.
    Is,
    /// The name in it.
    Names(Vec<NamePattern>),
}

const HELP: &str =
    "write use_backend NAME if { req.ssl_sni -i intake.example.com }, or -m end .example.com";
const WAITED_FOR: &str =
    "the first message of TLS is waited for where a name decides, 5 s at the most";

/// Whether this is a test of the first message of TLS.
pub(super) fn is_hello_test(test: &str) -> bool {
    is_name(test) || is_kind(test)
}

fn is_name(test: &str) -> bool {
    matches!(test, "req_ssl_sni" | "req.ssl_sni")
}

fn is_kind(test: &str) -> bool {
    matches!(test, "req_ssl_hello_type" | "req.ssl_hello_type")
}

impl Reader {
    /// `acl NAME req.ssl_sni ...`
    pub(super) fn hello_acl(&mut self, line: &Line) {
        let Some(test) = self.hello_test(line.rest(2)) else { return };
        self.one_kind_of_test(line);
        if let Some(proxy) = self.proxy() {
            proxy.hello_acls.entry(line.word(1).to_owned()).or_default().push(test);
        }
    }

    /// An `acl` of which some lines test the address and others the name is neither here.
    pub(super) fn one_kind_of_test(&mut self, line: &Line) {
        let name = line.word(1);
        let tests_names = is_hello_test(line.word(2));
        let mixed = self.proxy().is_some_and(|proxy| match tests_names {
            true => proxy.acls.contains_key(name),
            false => proxy.hello_acls.contains_key(name),
        });
        if mixed {
            let help =
                "give the lines with src a name of their own; they count in tcp-request connection";
            self.fault(
                line,
                1,
                "an acl that tests both `src` and a name",
                "cannot be taken over",
                help,
            );
        }
    }

    /// `use_backend NAME if { req.ssl_sni ... }`
    pub(super) fn use_backend(&mut self, line: &Line) {
        if line.word(2) != "if" {
            let title = "`use_backend` without a condition";
            return self.fault(line, 2, title, "for whom?", "write default_backend NAME, or `if`");
        }
        let Some(alternatives) = self.hello_condition(line, 3) else { return };
        let mut names = Vec::new();
        for tests in alternatives {
            let mut named = tests.into_iter().filter_map(|test| match test {
                HelloTest::Names(names) => Some(names),
                HelloTest::Is => None,
            });
            let (Some(all), None) = (named.next(), named.next()) else {
                let title = "an alternative that does not test one name";
                return self.fault(line, 3, title, "cannot be taken over", HELP);
            };
            names.extend(all);
        }
        let word = &line.words[1];
        let mut backend = Self::set(line, word.text.clone());
        backend.span = word.span.clone();
        if let Some(proxy) = self.proxy() {
            proxy.switches.push(Switch { backend, names });
        }
    }

    /// `tcp-request content accept if { req.ssl_hello_type 1 }`
    pub(super) fn tcp_content(&mut self, line: &Line) {
        let waits = line.word(2) == "accept"
            && (line.word(3).is_empty()
                || line.word(3) == "if" && self.hello_condition(line, 4).is_some());
        if waits {
            self.note(NoteKind::Ignored, line, line.said(99), WAITED_FOR);
        } else if line.word(2) != "accept" || line.word(3) != "if" {
            let help = "write it as `tcp-request connection` if it tests `src`; no other bytes are looked at \
                        than the first message of TLS";
            self.fault(line, 2, "content decides nothing here", "cannot be taken over", help);
        }
    }

    pub(super) fn inspect_delay(&mut self, line: &Line) {
        self.note(NoteKind::Ignored, line, line.said(99), WAITED_FOR);
    }

    /// Alternatives, each of tests that must all hold.
    fn hello_condition(&mut self, line: &Line, from: usize) -> Option<Vec<Vec<HelloTest>>> {
        let mut alternatives = vec![Vec::new()];
        let mut words = line.rest(from);
        while let Some((word, after)) = words.split_first() {
            let (tests, after) = match word.text.as_str() {
                "or" | "||" => {
                    alternatives.push(Vec::new());
                    words = after;
                    continue;
                }
                "{" => {
                    let (test, after) = self.in_braces(word, after, HELP)?;
                    (vec![self.hello_test(test)?], after)
                }
                name => (self.named_test(word, name)?, after),
            };
            alternatives.last_mut()?.extend(tests);
            words = after;
        }
        if alternatives.iter().any(Vec::is_empty) {
            self.fault(line, from, "a condition without terms", "what follows?", HELP);
            return None;
        }
        Some(alternatives)
    }

    fn named_test(&mut self, word: &Word, name: &str) -> Option<Vec<HelloTest>> {
        let known = self.proxy().and_then(|proxy| proxy.hello_acls.get(name).cloned());
        let Some(tests) = known else {
            let title =
                format!("`{}` tests no name that a TLS client asks for", name.escape_debug());
            self.refuse(Fault::new(title).at(word.span.clone(), "cannot be taken over").help(HELP));
            return None;
        };
        // Lines of one name add up: any of its names will do.
        let mut names = Vec::new();
        for test in tests {
            match test {
                HelloTest::Names(more) => names.extend(more),
                HelloTest::Is => return Some(vec![HelloTest::Is]),
            }
        }
        Some(vec![HelloTest::Names(names)])
    }

    fn hello_test(&mut self, words: &[Word]) -> Option<HelloTest> {
        let (test, mut values) = words.split_first()?;
        if is_kind(&test.text) {
            return match values {
                [one] if one.text == "1" => Some(HelloTest::Is),
                _ => self.no_counterpart(values.first().unwrap_or(test), "the kind of message"),
            };
        }
        if !is_name(&test.text) {
            return self.no_counterpart(test, "the test");
        }
        let mut below = false;
        while let Some((flag, rest)) = values.split_first()
            && flag.text.starts_with('-')
        {
            values = match (flag.text.as_str(), rest) {
                ("-i" | "--", rest) => rest,
                ("-m", [kind, rest @ ..]) if matches!(kind.text.as_str(), "str" | "end") => {
                    below = kind.text == "end";
                    rest
                }
                _ => return self.no_counterpart(flag, "the flag"),
            };
        }
        let mut names = Vec::new();
        for word in values {
            let text = match word.text.strip_prefix('.') {
                Some(domain) if below => format!("*.{domain}"),
                _ if below => {
                    return self.no_counterpart(word, "an ending without a dot before it,");
                }
                // There it is a letter like any other, and fits no name.
                _ if word.text.contains('*') => return self.no_counterpart(word, "the star in"),
                _ => word.text.clone(),
            };
            match value::sni(&text) {
                Ok(name) => names.push(name),
                Err(refusal) => {
                    self.refuse_word(word, &refusal);
                    return None;
                }
            }
        }
        if names.is_empty() {
            return self.no_counterpart(test, "a test of no name,");
        }
        Some(HelloTest::Names(names))
    }

    fn no_counterpart(&mut self, word: &Word, what: &str) -> Option<HelloTest> {
        let title = format!("{what} `{}` has no counterpart", word.text.escape_debug());
        self.refuse(Fault::new(title).at(word.span.clone(), "cannot be taken over").help(HELP));
        None
    }
}
