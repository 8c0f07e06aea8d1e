//! Somebody's own profile, from a file (docs/loadgen-profile.md).

use super::{Post, Profile};
use crate::clock::{Nanos, SECOND, nanos};
use crate::dice::Dice;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::path::Path;

/// Most kinds of posts in a file.
const POSTS_MAX: usize = 32;
/// Most connections that one agent holds at one time.
const CONNECTIONS_MAX: u8 = 16;
/// Largest body: what the intake takes (3 MB), and the sink with it.
const BYTES_MAX: u32 = 3_000_000;
/// Parts of a share.
const PARTS: u64 = 1_000_000;

/// An agent as its file describes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Own {
    /// The name in reports; that of the file if it has none.
    name: Option<String>,
    /// Whether connections are kept between posts, as Go agents do, or made for each.
    #[serde(default)]
    keeps: bool,
    /// Connections at one time, each with posts of its own.
    #[serde(default = "one")]
    connections: u8,
    post: Vec<OwnPost>,
}

/// One thing that is posted again and again.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnPost {
    /// Path and query, from the first slash on.
    #[serde(default = "series")]
    pub(crate) path: String,
    /// From one to the next.
    #[serde(deserialize_with = "time")]
    every: Nanos,
    /// Added to each pause: a random time up to this.
    #[serde(default, deserialize_with = "time")]
    think: Nanos,
    /// Size of the body, or the least and the most.
    #[serde(default)]
    pub(crate) bytes: Size,
    /// How many of its turns are used: 1 is all, 0.25 is a quarter.
    #[serde(default = "whole")]
    share: f64,
    /// The connection on which it goes, from 1.
    #[serde(default = "one")]
    connection: u8,
}

/// How large a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Size {
    /// Always this.
    Always(u32),
    /// Anything from the first to the second.
    Between([u32; 2]),
}

impl Default for Size {
    /// A bare host's metrics, compressed.
    fn default() -> Self {
        Self::Always(2300)
    }
}

impl Size {
    /// The least and the most.
    pub(crate) fn bounds(self) -> [u32; 2] {
        match self {
            Self::Always(bytes) => [bytes, bytes],
            Self::Between(bounds) => bounds,
        }
    }
}

fn one() -> u8 {
    1
}

fn whole() -> f64 {
    1.0
}

fn series() -> String {
    "/stsAgent/api/v1/series/".to_owned()
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Nanos, D::Error> {
    let text = String::deserialize(from)?;
    crate::cli::duration(&text).map(nanos).map_err(D::Error::custom)
}

impl Own {
    /// Reads a file.
    ///
    /// # Errors
    /// With the file, the place and what is wrong there.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut own = Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = own.name.get_or_insert(stem);
        match Profile::named(name) {
            Some(_) => Err(format!(
                "{}: the name {name:?} is that of a built-in profile; give it another",
                path.display()
            )),
            None => Ok(own),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let own: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        own.check()?;
        Ok(own)
    }

    fn check(&self) -> Result<(), String> {
        if self.post.is_empty() || self.post.len() > POSTS_MAX {
            return Err(format!("{} [[post]] tables; allowed: 1 to {POSTS_MAX}", self.post.len()));
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            let connections = self.connections;
            return Err(format!("connections = {connections}; allowed: 1 to {CONNECTIONS_MAX}"));
        }
        for (number, post) in (1..).zip(&self.post) {
            post.check(self.connections)
                .map_err(|why| format!("[[post]] number {number}: {why}"))?;
        }
        let silent = (0..self.connections).find(|&lane| self.posts_of(lane).next().is_none());
        match silent {
            Some(lane) => Err(format!(
                "connection {} has no [[post]]; give it one, or lower connections",
                lane + 1
            )),
            None => Ok(()),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("own")
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Connections of an agent at one time.
    pub(crate) fn lanes(&self) -> u8 {
        self.connections
    }

    pub(super) fn post_count(&self) -> u8 {
        u8::try_from(self.post.len()).unwrap_or(u8::MAX)
    }

    /// The description of a post of this profile.
    pub(crate) fn post(&self, post: Post) -> &OwnPost {
        &self.post[usize::from(post.0)]
    }

    /// What goes on one connection.
    pub(crate) fn posts_of(&self, lane: u8) -> impl Iterator<Item = (Post, &OwnPost)> {
        let posts = (0..).map(Post).zip(&self.post);
        posts.filter(move |(_, post)| post.connection == lane + 1)
    }

    #[expect(clippy::cast_precision_loss, reason = "times of at most a month")]
    pub(super) fn posts_per_second(&self) -> f64 {
        let rate = |post: &OwnPost| {
            let pause = post.every as f64 + post.think as f64 / 2.0;
            post.share * SECOND as f64 / pause
        };
        self.post.iter().map(rate).sum()
    }
}

impl OwnPost {
    fn check(&self, connections: u8) -> Result<(), String> {
        if self.every == 0 {
            return Err("every = \"0s\"; write a time above zero, such as \"15s\"".to_owned());
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(format!("share = {}; allowed: above 0, at most 1", self.share));
        }
        let [least, most] = self.bytes.bounds();
        if least > most || most > BYTES_MAX {
            return Err(format!(
                "bytes from {least} to {most}; allowed: 0 to {BYTES_MAX}, the least first"
            ));
        }
        if self.connection == 0 || self.connection > connections {
            let connection = self.connection;
            return Err(format!(
                "connection = {connection}; allowed: 1 to {connections} (connections)"
            ));
        }
        let plain = |byte: u8| byte.is_ascii_graphic();
        if !self.path.starts_with('/') || !self.path.bytes().all(plain) {
            return Err(format!(
                "path = {:?}; write one that begins with a slash, without spaces",
                self.path
            ));
        }
        Ok(())
    }

    pub(crate) fn every(&self) -> Nanos {
        self.every
    }

    pub(crate) fn think(&self) -> Nanos {
        self.think
    }

    /// Whether this turn is used.
    pub(crate) fn is_sent(&self, dice: &mut Dice) -> bool {
        if self.share >= 1.0 {
            return true;
        }
        #[expect(clippy::cast_precision_loss, reason = "a part of a million")]
        let chance = dice.below(PARTS) as f64 / PARTS as f64;
        chance < self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "edge"
        keeps = true
        connections = 2

        [[post]]
        every = "10s"
        bytes = [200, 400]

        [[post]]
        path = "/stsAgent/intake/"
        every = "20s"
        think = "10s"
        share = 0.5
        connection = 2
    "#;

    #[test]
    fn a_file_says_all_that_a_plan_needs() {
        let own = Own::parse(FILE).unwrap();
        assert_eq!((own.name(), own.keeps(), own.lanes()), ("edge", true, 2));
        // 0.1 a second, and half of one in 25 s.
        assert!((own.posts_per_second() - 0.12).abs() < 1e-9);
        let second: Vec<_> =
            own.posts_of(1).map(|(post, each)| (post, each.path.as_str())).collect();
        assert_eq!(second, [(Post(1), "/stsAgent/intake/")]);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        for (from, to, says) in [
            ("every = \"10s\"", "every = \"10\"", "is no time"),
            ("every = \"10s\"", "every = \"0s\"", "above zero"),
            ("connections = 2", "connections = 3", "connection 3 has no [[post]]"),
            ("connections = 2", "connections = 1", "allowed: 1 to 1"),
            ("share = 0.5", "share = 1.5", "at most 1"),
            ("[200, 400]", "[400, 200]", "the least first"),
            ("[200, 400]", "-1", "bytes"),
            ("/stsAgent/intake/", "intake", "begins with a slash"),
            ("keeps", "keep", "unknown field `keep`"),
        ] {
            let said = Own::parse(&FILE.replace(from, to)).unwrap_err();
            assert!(said.contains(says), "{to}: {said}");
        }
    }
}
