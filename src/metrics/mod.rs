//! Counts: one writer each, any reader.
//!
//! A worker owns one [`Counters`] and writes it; whoever reads takes [`Counters::read`] of each
//! worker and adds them up. What all workers write, the record of a server, is in
//! [`crate::backend::board`].

mod sessions;
mod traffic;
mod turns;

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::backend::board::Board;
use crate::backend::histogram::Times;
use crate::engine::EngineStats;
pub use crate::engine::Link;
use crate::op::{Flow, ListenerId, Path};
pub use crate::session::{CloseReason, Report};
pub use sessions::{Progress, SessionPlace, SessionView};
pub use traffic::{Traffic, TrafficCounts, culprit, tell};
use turns::Turns;

/// A count that one thread writes and any thread reads. No read-modify-write: there is no other
/// writer to lose against, and a locked instruction costs some 20 cycles on the data path.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes over what somebody else has counted.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The count. Counts read one after the other may be of different moments.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is told of a session that has ended.
#[derive(Debug)]
pub struct SessionRecord {
    pub listener: ListenerId,
    pub client: SocketAddr,
    pub server: Option<Arc<Board>>,
    pub queued: Queued,
    /// What it asked for, where that is read.
    pub asked: Option<Box<Asked>>,
    /// How the connections fared, by [`Side::index`](crate::op::Side::index), of a session that failed.
    pub links: Option<Box<Links>>,
    pub report: Report,
}

/// How the connections of a session fared, where there were any.
pub type Links = [Option<Link>; 2];

/// How a session waited for a place at a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// All its waits together; zero is not at all.
    pub time: Duration,
    /// How many were before it when it last began to wait.
    pub behind: u32,
}

/// What a session asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Of a door.
    Request(RequestLine),
    /// Of whoever is behind the relay: the host that a TLS client names (SNI).
    Host(String),
}

/// What may be told of a request. The query is not part of it: agents put their key there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestLine {
    pub method: String,
    pub path: String,
    /// The status that the agent got; `None` if it went before there was one.
    pub status: Option<u16>,
}

/// Declares the counts once: as a worker writes them, and as they are read.
macro_rules! counts {
    ($( #[doc = $doc:literal] $name:ident, )*) => {
        /// One worker's counts.
        #[derive(Debug, Default)]
        // Lines of their own (two, for the adjacent-line prefetcher): workers do not slow each
        // other down.
        #[repr(align(128))]
        pub struct Counters {
            $( #[doc = $doc] pub $name: Counter, )*
            /// Sessions ended, by [`CloseReason::index`].
            pub ended: [Counter; CloseReason::COUNT],
            turns: Turns,
            engine: EngineCounters,
        }

        /// What was counted, as read at one time.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counts {
            $( #[doc = $doc] pub $name: u64, )*
            /// Sessions ended, by [`CloseReason::index`].
            #[serde(serialize_with = "by_reason")]
            pub ended: [u64; CloseReason::COUNT],
            /// How long turns took, by [`TURN_BOUNDS_MICROS`](crate::backend::histogram::TURN_BOUNDS_MICROS).
            pub turns: Times,
            #[serde(flatten)]
            pub engine: EngineCounts,
        }

        impl Counters {
            /// All counts as they are now.
            pub fn read(&self) -> Counts {
                Counts {
                    $( $name: self.$name.value(), )*
                    ended: self.ended.each_ref().map(Counter::value),
                    turns: self.turns.read(),
                    engine: self.engine.read(),
                }
            }
        }

        impl AddAssign<&Counts> for Counts {
            fn add_assign(&mut self, other: &Self) {
                $( self.$name += other.$name; )*
                for (sum, count) in self.ended.iter_mut().zip(other.ended) {
                    *sum += count;
                }
                self.turns += &other.turns;
                self.engine += &other.engine;
            }
        }
    };
}

counts! {
    /// Connections accepted.
    accepted,
    /// Times accept(2) failed for want of descriptors or memory.
    accept_failures,
    /// Connections accepted and ended at once, because there was no place even to wait.
    refused,
    /// Connections ended at once, because their address may not connect.
    denied,
    /// Connections ended because their source had too many, or came too fast.
    source_limited,
    /// Sessions now.
    sessions,
    /// Sessions so far.
    sessions_total,
    /// Listeners that accept nothing now, because there is no place or no descriptor.
    listeners_paused,
    /// Attempts to connect to a server.
    connect_attempts,
    /// Attempts that failed for a reason that is the server's.
    connect_failures,
    /// Attempts that were not a session's first.
    retries,
    /// Attempts that went to another server than the one that had failed.
    redispatches,
    /// Source ports of ours towards the addresses that were connected to.
    source_ports,
    /// Those in use.
    source_ports_used,
    /// Source ports of ours that somebody else had.
    port_conflicts,
    /// Connections to servers without a session now.
    spares,
    /// Sessions that were given one of these.
    spares_used,
    /// Sessions that found none.
    spares_missed,
    /// Those that were ended without a session: too old, ended by their server, failed, not wanted.
    spares_dropped,
    /// Ended sessions without a log line, because the log did not keep up.
    records_dropped,
}

impl Counters {
    /// Counts bytes that were delivered without an engine.
    pub fn delivered(&self, bytes: [u64; 2]) {
        for flow in Flow::ALL {
            self.engine.bytes[flow.index()][Path::Copied.index()].add(bytes[flow.index()]);
        }
    }

    /// A turn took so long.
    pub fn turned(&self, took: Duration) {
        self.turns.note(took);
    }

    /// Takes over what the engine counts itself.
    pub fn publish(&self, stats: &EngineStats) {
        let engine = &self.engine;
        for flow in Flow::ALL {
            for path in Path::ALL {
                engine.bytes[flow.index()][path.index()].set(stats.bytes_by(flow, path));
            }
        }
        engine.bytes_discarded.set(stats.bytes_discarded);
        engine.pipes_open.set(stats.pipes_open);
        engine.pipes_used.set(stats.pipes_used);
        engine.pipes_missed.set(stats.pipes_missed);
        engine.pipes_small.set(stats.pipes_small);
        engine.buffers_used.set(stats.buffers_used);
        engine.buffers_missed.set(stats.buffers_missed);
        engine.completions_stale.set(stats.completions_stale);
        engine.queue_overflows.set(stats.queue_overflows);
    }
}

/// The engine's counts, where other threads can read them.
#[derive(Debug, Default)]
struct EngineCounters {
    bytes: [[Counter; 2]; 2],
    bytes_discarded: Counter,
    pipes_open: Counter,
    pipes_used: Counter,
    pipes_missed: Counter,
    pipes_small: Counter,
    buffers_used: Counter,
    buffers_missed: Counter,
    completions_stale: Counter,
    queue_overflows: Counter,
}

impl EngineCounters {
    fn read(&self) -> EngineCounts {
        let by = |flow: Flow, path: Path| self.bytes[flow.index()][path.index()].value();
        let bytes = |flow: Flow| PathBytes {
            copied: by(flow, Path::Copied),
            spliced: by(flow, Path::Spliced),
        };
        EngineCounts {
            bytes_to_backend: bytes(Flow::ToBackend),
            bytes_to_client: bytes(Flow::ToClient),
            bytes_discarded: self.bytes_discarded.value(),
            pipes_open: self.pipes_open.value(),
            pipes_used: self.pipes_used.value(),
            pipes_missed: self.pipes_missed.value(),
            pipes_small: self.pipes_small.value(),
            buffers_used: self.buffers_used.value(),
            buffers_missed: self.buffers_missed.value(),
            completions_stale: self.completions_stale.value(),
            queue_overflows: self.queue_overflows.value(),
        }
    }
}

/// What engines have counted; [`EngineStats`] explains each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EngineCounts {
    pub bytes_to_backend: PathBytes,
    pub bytes_to_client: PathBytes,
    pub bytes_discarded: u64,
    pub pipes_open: u64,
    pub pipes_used: u64,
    pub pipes_missed: u64,
    pub pipes_small: u64,
    pub buffers_used: u64,
    pub buffers_missed: u64,
    pub completions_stale: u64,
    pub queue_overflows: u64,
}

impl EngineCounts {
    /// Both directions together.
    pub fn bytes(&self) -> PathBytes {
        let mut bytes = self.bytes_to_backend;
        bytes += self.bytes_to_client;
        bytes
    }
}

impl AddAssign<&Self> for EngineCounts {
    fn add_assign(&mut self, other: &Self) {
        self.bytes_to_backend += other.bytes_to_backend;
        self.bytes_to_client += other.bytes_to_client;
        self.bytes_discarded += other.bytes_discarded;
        self.pipes_open += other.pipes_open;
        self.pipes_used += other.pipes_used;
        self.pipes_missed += other.pipes_missed;
        self.pipes_small += other.pipes_small;
        self.buffers_used += other.buffers_used;
        self.buffers_missed += other.buffers_missed;
        self.completions_stale += other.completions_stale;
        self.queue_overflows += other.queue_overflows;
    }
}

/// Bytes delivered, by the way they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathBytes {
    pub copied: u64,
    pub spliced: u64,
}

impl PathBytes {
    /// By either way.
    pub const fn total(self) -> u64 {
        self.copied + self.spliced
    }
}

impl AddAssign for PathBytes {
    fn add_assign(&mut self, other: Self) {
        self.copied += other.copied;
        self.spliced += other.spliced;
    }
}

/// All workers' counts, as read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub total: Counts,
    pub workers: Vec<Counts>,
}

impl Snapshot {
    /// Reads every worker's counts and adds them up.
    pub fn read<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
        let workers: Vec<Counts> = workers.into_iter().map(Counters::read).collect();
        let mut total = Counts::default();
        for counts in &workers {
            total += counts;
        }
        Self { total, workers }
    }
}

/// `{"completed": 12, "client_reset": 0, ...}`
fn by_reason<S: Serializer>(
    ended: &[u64; CloseReason::COUNT],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(ended.len()))?;
    for reason in CloseReason::ALL {
        map.serialize_entry(reason.label(), &ended[reason.index()])?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_read_apart_and_together() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].accepted.add(3);
        workers[1].accepted.add(4);
        workers[1].sessions.set(2);
        workers[0].ended[CloseReason::Stopped.index()].add(1);
        workers[1].ended[CloseReason::Stopped.index()].add(1);
        let mut stats = EngineStats { pipes_small: 5, ..EngineStats::default() };
        stats.bytes[Flow::ToClient.index()][Path::Spliced.index()] = 10;
        workers[0].publish(&stats);
        workers[1].publish(&stats);
        let snapshot = Snapshot::read(&workers);
        assert_eq!(snapshot.workers[0].accepted, 3);
        assert_eq!(snapshot.workers[1].sessions, 2);
        assert_eq!(snapshot.total.accepted, 7);
        assert_eq!(snapshot.total.ended[CloseReason::Stopped.index()], 2);
        assert_eq!(snapshot.total.engine.bytes_to_client, PathBytes { copied: 0, spliced: 20 });
        assert_eq!(snapshot.total.engine.bytes().total(), 20);
        assert_eq!(snapshot.total.engine.pipes_small, 10);
    }

    #[test]
    fn what_an_engine_counts_is_taken_over_and_not_added_up() {
        let counters = Counters::default();
        for pipes_open in [7, 4] {
            counters.publish(&EngineStats { pipes_open, ..EngineStats::default() });
        }
        assert_eq!(counters.read().engine.pipes_open, 4);
    }

    #[test]
    fn a_snapshot_names_reasons_and_ways() {
        let counters = Counters::default();
        counters.ended[CloseReason::ServerIdle.index()].add(9);
        let json = serde_json::to_value(Snapshot::read([&counters])).expect("serialises");
        assert_eq!(json["total"]["ended"]["server_idle"], 9);
        assert_eq!(json["workers"][0]["bytes_to_client"]["spliced"], 0);
        assert_eq!(json["total"]["completions_stale"], 0);
    }

    #[test]
    fn another_thread_reads_what_one_writes() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..10_000).for_each(|_| counters.accepted.add(1)));
            let mut last = 0;
            while !writer.is_finished() {
                let now = counters.accepted.value();
                assert!(now >= last, "a count never goes back");
                last = now;
            }
        });
        assert_eq!(counters.accepted.value(), 10_000);
    }
}
