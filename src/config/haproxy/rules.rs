//! `acl` and `tcp-request connection`: who may connect, by address (manual, 4.2 and 7.1).
//!
//! Rules are taken in their order, and the first whose condition holds decides. What they come to is
//! a set of addresses, so conditions are worked out as sets: exactly, whatever their order.

use std::collections::BTreeMap;

use crate::config::error::Fault;
use crate::config::networks::{Network, Networks};

use super::lexer::{Line, Word};
use super::sections::Reader;
use super::switching::is_hello_test;

/// Lists of addresses by the name of their `acl`.
pub(super) type Acls = BTreeMap<String, Networks>;

/// What becomes of whom.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) accept: bool,
    pub(super) who: Networks,
}

const HELP: &str =
    "a condition is made of `{ src 10.0.0.0/8 }`, names of acl lines with src, `!` and `or`";

impl Reader {
    pub(super) fn acl(&mut self, line: &Line) {
        let name = line.word(1).to_owned();
        if name.is_empty() || line.words.len() < 4 {
            let last = line.words.len() - 1;
            let help = "write acl NAME src 10.0.0.0/8";
            return self.fault(
                line,
                last,
                "an acl lacks name, test or values",
                "what follows?",
                help,
            );
        }
        if is_hello_test(line.word(2)) {
            return self.hello_acl(line);
        }
        let Some(networks) = self.source_test(line.rest(2)) else { return };
        self.one_kind_of_test(line);
        if let Some(proxy) = self.proxy() {
            // Lines of one name add up.
            let known = proxy.acls.entry(name).or_default();
            *known = known.union(&networks);
        }
    }

    pub(super) fn tcp_request(&mut self, line: &Line) {
        let accept = match line.word(2) {
            "accept" => true,
            "reject" => false,
            "expect-proxy" => {
                let help = "write `accept-proxy` behind the address in the bind line, and list the \
                            load balancers in [[listener]] proxy_from of fanin's own file";
                return self.fault(
                    line,
                    2,
                    "`expect-proxy` has no counterpart",
                    "cannot be taken over",
                    help,
                );
            }
            other => {
                let title =
                    format!("`tcp-request connection {}` has no counterpart", other.escape_debug());
                return self.fault(
                    line,
                    2,
                    &title,
                    "cannot be taken over",
                    "known: accept, reject",
                );
            }
        };
        let who = match line.word(3) {
            "" => Networks::everything(),
            "if" | "unless" => {
                let Some(who) = self.condition(line.rest(4), line) else { return };
                if line.word(3) == "if" { who } else { who.complement() }
            }
            _ => return self.fault(line, 3, "this is no condition", "`if` or `unless`?", HELP),
        };
        let verdict = Self::set(line, Verdict { accept, who });
        if let Some(proxy) = self.proxy() {
            proxy.verdicts.push(verdict);
        }
    }

    /// Terms side by side must all hold; `or` begins another alternative.
    fn condition(&mut self, words: &[Word], line: &Line) -> Option<Networks> {
        if words.is_empty() {
            self.fault(line, 3, "a condition without terms", "what follows?", HELP);
            return None;
        }
        let mut alternatives = Networks::default();
        let mut all = Networks::everything();
        let mut empty = true;
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            if matches!(word.text.as_str(), "or" | "||") {
                if empty {
                    break;
                }
                alternatives = alternatives.union(&all);
                all = Networks::everything();
                empty = true;
                rest = after;
                continue;
            }
            let (term, after) = self.term(word, after)?;
            all = all.intersection(&term);
            empty = false;
            rest = after;
        }
        if empty {
            self.fault(line, 99, "a condition that ends in `or`", "what follows?", HELP);
            return None;
        }
        Some(alternatives.union(&all))
    }

    /// `NAME`, `!NAME`, `{ src ... }`, `! NAME`, `!{ src ... }`.
    fn term<'w>(&mut self, word: &Word, after: &'w [Word]) -> Option<(Networks, &'w [Word])> {
        let (bare, negated) = match word.text.strip_prefix('!') {
            Some(bare) => (bare, true),
            None => (word.text.as_str(), false),
        };
        let (networks, after) = match bare {
            "" if negated => {
                let (next, rest) = after.split_first()?;
                self.term(next, rest)?
            }
            "{" => {
                let (test, after) = self.in_braces(word, after, HELP)?;
                (self.source_test(test)?, after)
            }
            name => (self.named_acl(word, name)?, after),
        };
        Some((if negated { networks.complement() } else { networks }, after))
    }

    /// What stands between this brace and its end, and what stands behind that.
    pub(super) fn in_braces<'w>(
        &mut self,
        brace: &Word,
        after: &'w [Word],
        help: &str,
    ) -> Option<(&'w [Word], &'w [Word])> {
        let Some(end) = after.iter().position(|word| word.text == "}") else {
            let fault = Fault::new("a brace that is not closed");
            self.refuse(fault.at(brace.span.clone(), "opened here").help(help));
            return None;
        };
        Some((&after[..end], &after[end + 1..]))
    }

    fn named_acl(&mut self, word: &Word, name: &str) -> Option<Networks> {
        match name {
            "TRUE" => return Some(Networks::everything()),
            "FALSE" => return Some(Networks::default()),
            "LOCALHOST" => return self.network("127.0.0.0/8", word),
            _ => {}
        }
        let known = self.proxy().and_then(|proxy| proxy.acls.get(name).cloned());
        if known.is_none() {
            let title = format!("there is no acl `{}`", name.escape_debug());
            let help = "write `acl NAME src ...` above this line";
            self.refuse(Fault::new(title).at(word.span.clone(), "is not known here").help(help));
        }
        known
    }

    /// `src ADDRESS ...`
    fn source_test(&mut self, words: &[Word]) -> Option<Networks> {
        let Some((test, values)) = words.split_first() else {
            return Some(Networks::default());
        };
        if test.text != "src" {
            let title = format!("the test `{}` has no counterpart", test.text.escape_debug());
            let help = "only `src` can be tested, the address that a connection comes from; and in \
                        `use_backend` the name that a TLS client asks for, `req.ssl_sni`";
            self.refuse(Fault::new(title).at(test.span.clone(), "cannot be taken over").help(help));
            return None;
        }
        let mut all = Networks::default();
        for word in values {
            if matches!(word.text.as_str(), "-m" | "ip" | "--") {
                continue;
            }
            if word.text.starts_with('-') {
                let title = format!("the flag `{}` has no counterpart", word.text.escape_debug());
                let help = "write the addresses themselves: src 10.0.0.0/8 192.0.2.1";
                self.refuse(
                    Fault::new(title).at(word.span.clone(), "cannot be taken over").help(help),
                );
                return None;
            }
            all = all.union(&self.network(&word.text, word)?);
        }
        Some(all)
    }

    fn network(&mut self, text: &str, word: &Word) -> Option<Networks> {
        // HAProxy forgives bits of a host: 10.1.2.3/8 is 10.0.0.0/8.
        match Network::of_host(&netmask(text)) {
            Ok(network) => Some([network].into_iter().collect()),
            Err(refusal) => {
                self.refuse_word(word, &refusal);
                None
            }
        }
    }
}

/// `10.0.0.0/255.0.0.0` as `10.0.0.0/8`.
fn netmask(text: &str) -> String {
    let parts = text.split_once('/').and_then(|(address, mask)| {
        let bits = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
        (bits.leading_ones() + bits.trailing_zeros() >= 32)
            .then(|| format!("{address}/{}", bits.leading_ones()))
    });
    parts.unwrap_or_else(|| text.to_owned())
}
