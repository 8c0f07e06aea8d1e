//! PURE: how an agent behaves on the wire.
//!
//! The timers are those of the real agents. v5 (sts-agent, dd-agent 5): the collector sleeps
//! 15 s after each run (`DEFAULT_CHECK_FREQUENCY`) and posts three times per run, statsd posts
//! every 10 s (`DOGSTATSD_FLUSH_INTERVAL`). Go agents post every 15 s on connections they keep.

mod conduct;
mod own;

use crate::clock::{Nanos, SECOND};
pub(crate) use conduct::Conduct;
pub(crate) use own::{Own, Size};
use std::path::Path;

/// Sleep between two collector runs, and flush interval of the Go agents.
pub(crate) const COLLECTOR_SLEEP: Nanos = 15 * SECOND;
/// How long a collector run takes.
pub(crate) const COLLECTOR_RUN: (Nanos, Nanos) = (3 * SECOND / 10, 2 * SECOND);
/// From run to run, on average.
pub(crate) const COLLECTOR_PERIOD: Nanos =
    COLLECTOR_SLEEP + (COLLECTOR_RUN.0 + COLLECTOR_RUN.1) / 2;
/// When the second and third post of a run follow the first.
pub(crate) const LATER_POSTS: (Nanos, Nanos) = (SECOND / 2, 5 * SECOND);
/// The statsd flush interval.
pub(crate) const STATSD_FLUSH: Nanos = 10 * SECOND;
/// How often the process table rides along with the intake post.
pub(crate) const PROCESSES_EVERY: Nanos = 60 * SECOND;

/// Built-in profiles by the names that are typed.
const NAMED: [Profile; 7] = [
    Profile::V5Churn,
    Profile::V5Proxy,
    Profile::GoKeepalive,
    Profile::Storm,
    Profile::Brownout,
    Profile::Idle,
    Profile::Hostile,
];

/// How an agent behaves on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Profile {
    /// sts-agent and dd-agent 5: a new connection for each POST, closed by the agent.
    V5Churn,
    /// The same through a web proxy, by curl: one connection to it, which is kept.
    V5Proxy,
    /// Go agents: one or two connections held, a POST on each every 15 s.
    GoKeepalive,
    /// v5 agents after an outage: what has piled up goes out at 2/s in waves, from the end of the ramp.
    Storm,
    /// v5 agents while the upstream is slow: the sink that loadgen starts takes 5 to 19 s to
    /// answer and refuses a tenth.
    Brownout,
    /// Connections that say nothing after one POST: what a session costs in memory.
    Idle,
    /// Bad manners every 15 s: half-open connections, replies read late, resets after the
    /// head, ends before the body's.
    Hostile,
    /// Somebody's own, from a file (docs/loadgen-profile.md).
    Own(&'static Own),
}

impl Profile {
    /// Reads a name, or the file of an own profile.
    ///
    /// # Errors
    /// With what is allowed, or what is wrong with the file.
    pub(crate) fn typed(text: &str) -> Result<Self, String> {
        if let Some(named) = Self::named(text) {
            return Ok(named);
        }
        if text.ends_with(".toml") {
            // One for the process, as everybody copies a profile.
            return Own::read(Path::new(text)).map(|own| Self::Own(Box::leak(Box::new(own))));
        }
        let names = NAMED.map(Self::label).join(", ");
        Err(format!(
            "no profile '{text}'; allowed: {names}, or the path of a file NAME.toml of your own (docs/loadgen-profile.md)"
        ))
    }

    fn named(name: &str) -> Option<Self> {
        NAMED.into_iter().find(|profile| profile.label() == name)
    }

    /// The name as typed, or as the file has it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::V5Churn => "v5-churn",
            Self::V5Proxy => "v5-proxy",
            Self::GoKeepalive => "go-keepalive",
            Self::Storm => "storm",
            Self::Brownout => "brownout",
            Self::Idle => "idle",
            Self::Hostile => "hostile",
            Self::Own(own) => own.name(),
        }
    }

    /// Posts per second of one agent with unscaled timers, on average.
    pub(crate) fn posts_per_second(self) -> f64 {
        match self {
            // 3 posts in 15 s of sleep and 1.15 s of run on average, and one in 10 s.
            Self::V5Churn | Self::V5Proxy | Self::Storm | Self::Brownout => 3.0 / 16.15 + 0.1,
            Self::Hostile => 1.0 / 15.0,
            // One and a half connections on average, each with a post in 15 s.
            Self::GoKeepalive => 1.5 / 15.0,
            Self::Idle => 0.0,
            Self::Own(own) => own.posts_per_second(),
        }
    }

    /// How the sink that loadgen starts behaves: options of `loadgen sink`.
    pub(crate) fn sink_manners(self) -> &'static [&'static str] {
        match self {
            Self::Brownout => &["--delay", "5s", "--delay-most", "19s", "--busy", "0.1"],
            _ => &[],
        }
    }

    /// Whether the agent holds its connection between posts: Go agents do, v5 ones do not.
    pub(crate) fn keeps_connections(self) -> bool {
        match self {
            Self::V5Churn | Self::Storm | Self::Brownout | Self::Hostile => false,
            Self::V5Proxy | Self::GoKeepalive | Self::Idle => true,
            Self::Own(own) => own.keeps(),
        }
    }

    /// Connections an agent holds open between posts, on average.
    pub(crate) fn held_connections(self) -> f64 {
        match self {
            Self::V5Churn | Self::Storm | Self::Brownout => 0.0,
            Self::GoKeepalive => 1.5,
            Self::V5Proxy | Self::Idle => 1.0,
            // 10 s and 5 s in 60.
            Self::Hostile => 0.25,
            Self::Own(own) if own.keeps() => f64::from(own.lanes()),
            Self::Own(_) => 0.0,
        }
    }

    /// Whether it speaks as the v5 agents do; else as the Go ones.
    pub(crate) fn is_v5(self) -> bool {
        match self {
            Self::GoKeepalive => false,
            Self::Own(own) => !own.keeps(),
            _ => true,
        }
    }

    /// Kinds of posts that it has; their numbers are those of [`Post`].
    pub(crate) fn posts(self) -> impl Iterator<Item = Post> {
        let count = match self {
            Self::Own(own) => own.post_count(),
            Self::Hostile => Conduct::POSTS,
            _ => Post::BUILT_IN,
        };
        (0..count).map(Post)
    }
}

/// What is posted: a kind, by its number in the profile. Bodies differ by kind, see `payload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Post(pub(crate) u8);

impl Post {
    /// `/intake/`: host metadata and events, next to empty.
    pub(crate) const INTAKE: Self = Self(0);
    /// `/intake/` with the process table, once a minute.
    pub(crate) const INTAKE_PROCESSES: Self = Self(1);
    /// `/api/v1/series`: the metrics of a bare host.
    pub(crate) const SERIES: Self = Self(2);
    /// `/api/v1/check_run`: the states of the checks.
    pub(crate) const CHECK_RUN: Self = Self(3);
    /// `/api/v1/series` by statsd: its own counters, not compressed.
    pub(crate) const STATSD: Self = Self(4);
    /// How many kinds the real agents have.
    const BUILT_IN: u8 = 5;
}
