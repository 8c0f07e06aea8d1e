//! The configuration that an operator had with HAProxy, as ours.
//!
//! The text is cut into words (`lexer`), read section by section (`sections`, by the table of
//! `keywords`; `global`, `proxy`, `bind`, `server`, `resolvers`, `rules` and `switching` know the single lines), and only then turned into
//! a [`Config`] (`mapping`). Nothing is dropped in silence: what has no counterpart is refused with
//! its place and the remedy, or, where that is harmless, named in the [`Report`] with the reason.
//!
//! The rules are those of HAProxy's configuration manual, whose sections the comments name.

mod bind;
mod global;
mod keywords;
mod lexer;
mod mapping;
mod proxy;
mod report;
mod resolvers;
mod rules;
mod sections;
mod server;
mod source;
mod switching;
#[cfg(test)]
mod tests;
mod unison;

use super::error::Fault;
use super::{Config, Overrides};

pub use report::{Note, NoteKind, Report};

/// The text as it may be shown: what stands behind `stats WORD` may be a password, however the word is
/// spelled. Its places stay what they are.
pub(super) fn masked(text: &str) -> String {
    let mask = |line: &str| {
        let start = line.len() - line.trim_start().len();
        let mut words = line[start..].split(char::is_whitespace).filter(|word| !word.is_empty());
        let (Some("stats"), Some(word)) = (words.next(), words.next()) else {
            return line.to_owned();
        };
        let shown = word.as_ptr() as usize - line.as_ptr() as usize + word.len();
        let hidden = line[shown..].bytes().map(|byte| match byte {
            b' ' | b'\t' | b'\r' | b'\n' => char::from(byte),
            _ => '*',
        });
        line[..shown].chars().chain(hidden).collect()
    };
    text.split_inclusive('\n').map(mask).collect()
}

/// The configuration in a text of HAProxy's format, or everything that is wrong with it.
/// `environment` gives the values of variables.
pub(super) fn read(
    text: &str,
    overrides: &Overrides,
    environment: lexer::Variables,
) -> Result<(Config, Report), Vec<Fault>> {
    let sections = sections::read(text, environment)?;
    mapping::config(sections, overrides)
}
