//! What a running relay says about itself: as data here, as text in `text`.

mod text;

use serde::Serialize;

use crate::backend::board::{Admin, Tally};
use crate::config::Mode;
use crate::confinement::Sandbox;
use crate::metrics::{Counts, TrafficCounts};

use super::Health;

/// What `fanin status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub version: &'static str,
    /// The process to send signals to.
    pub pid: i32,
    /// The process that does the work.
    pub relay_pid: u32,
    /// Which relay process that is since the start of the service.
    pub generation: u64,
    /// Relay processes before it that let their sessions end.
    pub retiring: Vec<i32>,
    pub uptime_seconds: u64,
    pub phase: PhaseName,
    pub configuration: ConfigurationStatus,
    /// Sums over all workers.
    pub total: Counts,
    #[serde(flatten)]
    pub relay: RelayStatus,
    pub names: Vec<NameStatus>,
    pub agents: AgentsStatus,
    pub log_lines_dropped: u64,
}

/// Where sessions come from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AgentsStatus {
    /// Sources that are known.
    pub seen: u64,
    /// Those that came regularly, and no longer come.
    pub silent: u64,
    /// Those that made room for others, or were not seen for a day.
    pub forgotten: u64,
    /// The latest of those who are silent.
    pub silent_agents: Vec<AgentStatus>,
}

/// One source of sessions.
#[derive(Clone, Debug, Serialize)]
pub struct AgentStatus {
    /// An address, or a network of IPv6 with 64 bits.
    pub address: String,
    pub silent: bool,
    pub seen_seconds_ago: u64,
    /// How long it usually makes no session.
    pub period_seconds: u64,
    /// That have ended.
    pub sessions: u64,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
}

/// What is known of a server's name.
#[derive(Clone, Debug, Serialize)]
pub struct NameStatus {
    pub name: String,
    /// The last good answer.
    pub addresses: Vec<String>,
    /// `None` is not yet.
    pub asked_seconds_ago: Option<u64>,
    pub next_in_seconds: u64,
    /// Why the last question came to nothing, if it did.
    pub failure: Option<String>,
}

/// Where the relay is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    Serving,
    Draining,
    Stopping,
}

impl PhaseName {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining: accepting no more, sessions may end",
            Self::Stopping => "stopping",
        }
    }
}

/// Where the configuration came from, and what became of the last reload.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigurationStatus {
    /// `None` is the command line.
    pub path: Option<String>,
    /// When what is in force was loaded.
    pub loaded: String,
    /// The last reload, if there was one.
    pub reload: Option<ReloadStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ReloadStatus {
    pub time: String,
    pub ok: bool,
    pub message: String,
}

/// What the relay itself knows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RelayStatus {
    /// Sessions at one time that the process takes.
    pub maxconn: u64,
    /// Pipes at one time, and descriptors for each worker.
    pub pipes_max: u64,
    pub descriptors: u64,
    /// The name of the host.
    pub host: String,
    /// What the relay process has given up.
    pub sandbox: Sandbox,
    pub listeners: Vec<ListenerStatus>,
    pub servers: Vec<ServerStatus>,
    /// Of each backend, in the order of the configuration.
    pub queues: Vec<QueueStatus>,
    pub workers: Vec<WorkerStatus>,
    /// The threads of the agent doors.
    pub doors: Vec<DoorStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    pub name: String,
    pub addresses: Vec<String>,
    pub backend: String,
    pub state: ListenerState,
    /// `tcp` or `agent`.
    pub mode: &'static str,
    /// Sessions now; through an agent door, requests under way.
    pub sessions: u64,
    /// Connections now, to which the limit applies.
    pub connections: u64,
    /// `None` is no limit but the process's.
    pub maxconn: Option<u64>,
    pub traffic: TrafficCounts,
    /// Where TLS clients go by the name that they ask for.
    pub routes: Vec<RouteStatus>,
}

/// One route of a listener.
#[derive(Clone, Debug, Serialize)]
pub struct RouteStatus {
    pub sni: String,
    pub backend: String,
    pub sessions_total: u64,
}

impl ListenerStatus {
    /// Whether requests are understood here.
    pub fn is_door(&self) -> bool {
        self.mode == Mode::Agent.label()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerState {
    Accepting,
    /// No place is free; the kernel's queue holds who comes.
    Paused,
    /// An administrator has it let nobody in for now.
    Disabled,
    /// It accepts no more.
    Ended,
}

/// Sessions that wait for a place at a server.
#[derive(Clone, Debug, Serialize)]
pub struct QueueStatus {
    pub backend: String,
    /// Now, and at most so far.
    pub waiting: u64,
    pub waiting_max: u64,
    /// How many may at one time.
    pub places: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    pub backend: String,
    pub name: String,
    /// As configured.
    pub address: String,
    /// What the address stands for.
    pub resolved: Vec<String>,
    /// What checks have found, if it is checked.
    pub check: Option<Health>,
    /// A word, such as `in use`, `backup` or `down`.
    pub state: String,
    /// What an administrator wants of it.
    pub admin: Admin,
    /// How its backend chooses among its servers.
    pub balance: String,
    /// As it is, and as it is configured.
    pub weight: u16,
    pub weight_configured: u16,
    /// How much of its share it gets, in hundredths, while it grows into it after it came back.
    pub slow_start_percent: Option<u32>,
    pub backup: bool,
    pub maxconn: Option<u64>,
    #[serde(flatten)]
    pub tally: Tally,
}

impl ServerStatus {
    /// Whether sessions may go there.
    pub fn is_usable(&self) -> bool {
        self.weight > 0
            && self.admin == Admin::Ready
            && !self.resolved.is_empty()
            && self.check.as_ref().is_none_or(|check| check.up)
    }
}

impl RelayStatus {
    /// Where the sessions of a backend wait.
    pub fn queue(&self, backend: &str) -> Option<&QueueStatus> {
        self.queues.iter().find(|queue| queue.backend == backend)
    }

    /// The counts of every thread that serves.
    pub fn counts(&self) -> impl Iterator<Item = &Counts> {
        let workers = self.workers.iter().map(|worker| &worker.counts);
        workers.chain(self.doors.iter().map(|door| &door.counts))
    }

    /// Whether a backend is one that an agent door leads to.
    pub fn is_asked(&self, backend: &str) -> bool {
        self.listeners.iter().any(|one| one.is_door() && one.backend == backend)
    }

    /// The servers of a backend.
    pub fn servers_of(&self, backend: &str) -> &[ServerStatus] {
        self.backends().find(|servers| servers[0].backend == backend).unwrap_or_default()
    }

    /// The servers of each backend, in the order of the configuration.
    pub fn backends(&self) -> impl Iterator<Item = &[ServerStatus]> {
        self.servers.chunk_by(|one, other| one.backend == other.backend)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct WorkerStatus {
    pub index: u16,
    /// `io_uring` or `epoll`.
    pub engine: String,
    /// Why not the other one, if there is something to say.
    pub engine_why: Option<String>,
    /// `None` is wherever the scheduler likes.
    pub cpu: Option<u16>,
    #[serde(flatten)]
    pub counts: Counts,
}

/// A thread of the agent doors.
#[derive(Clone, Debug, Serialize)]
pub struct DoorStatus {
    pub index: u16,
    #[serde(flatten)]
    pub counts: Counts,
}

impl Status {
    /// Whether sessions that come now are let in and find a server.
    pub fn is_ready(&self) -> bool {
        let open = |listener: &ListenerStatus| {
            !matches!(listener.state, ListenerState::Disabled | ListenerState::Ended)
        };
        self.phase == PhaseName::Serving
            && self.relay.listeners.iter().any(open)
            && self.relay.servers.iter().any(ServerStatus::is_usable)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metrics::{CloseReason, EngineCounts, PathBytes};

    fn listener() -> ListenerStatus {
        ListenerStatus {
            name: "agents".to_owned(),
            addresses: vec!["0.0.0.0:3834".to_owned()],
            backend: "intake".to_owned(),
            state: ListenerState::Accepting,
            mode: Mode::Tcp.label(),
            connections: 34,
            sessions: 34,
            maxconn: None,
            traffic: TrafficCounts::default(),
            routes: vec![RouteStatus {
                sni: "*.logs.example.com".to_owned(),
                backend: "logs".to_owned(),
                sessions_total: 1200,
            }],
        }
    }

    pub(in crate::control) fn relay_status() -> RelayStatus {
        let counts = |accepted| Counts {
            accepted,
            sessions: 17,
            sessions_total: accepted,
            engine: EngineCounts {
                bytes_to_backend: PathBytes { copied: 1024, spliced: 3 * 1024 * 1024 },
                bytes_to_client: PathBytes { copied: 512, spliced: 0 },
                pipes_open: 4,
                pipes_used: 1,
                ..EngineCounts::default()
            },
            ..Counts::default()
        };
        let worker = |index, accepted| WorkerStatus {
            index,
            engine: "epoll".to_owned(),
            engine_why: Some("io_uring is barred by seccomp; using epoll".to_owned()),
            cpu: None,
            counts: counts(accepted),
        };
        RelayStatus {
            maxconn: 4096,
            pipes_max: 512,
            descriptors: 20_000,
            host: "relay-1".to_owned(),
            sandbox: Sandbox::example(),
            listeners: vec![listener()],
            servers: vec![ServerStatus {
                backend: "intake".to_owned(),
                name: "a".to_owned(),
                address: "intake.example.com:443".to_owned(),
                resolved: vec!["192.0.2.7:443".to_owned()],
                check: None,
                state: "up".to_owned(),
                admin: Admin::Ready,
                balance: "roundrobin".to_owned(),
                weight: 1,
                weight_configured: 1,
                slow_start_percent: None,
                backup: false,
                maxconn: Some(10_000),
                tally: Tally {
                    sessions: 34,
                    sessions_max: 99,
                    sessions_total: 1_234_567,
                    connect_failures: 2,
                    retries: 1,
                    client_aborts: 3,
                    server_aborts: 4,
                    bytes_to_server: 2048,
                    bytes_from_server: 1023,
                    ..Tally::default()
                },
            }],
            queues: vec![QueueStatus {
                backend: "intake".to_owned(),
                waiting: 5,
                waiting_max: 1_005,
                places: 4096,
            }],
            workers: vec![worker(0, 1_000_000), worker(1, 234_567)],
            doors: Vec::new(),
        }
    }

    pub(in crate::control) fn status() -> Status {
        let relay = relay_status();
        let mut total = Counts::default();
        for worker in &relay.workers {
            total += &worker.counts;
        }
        total.ended[CloseReason::Completed.index()] = 999;
        total.ended[CloseReason::ClientReset.index()] = 1;
        Status {
            version: "0.1.0",
            pid: 4711,
            relay_pid: 4712,
            generation: 1,
            retiring: Vec::new(),
            uptime_seconds: 11_520,
            phase: PhaseName::Serving,
            configuration: ConfigurationStatus {
                path: Some("/etc/fanin/fanin.toml".to_owned()),
                loaded: "2026-08-21T09:30:00.250Z".to_owned(),
                reload: Some(ReloadStatus {
                    time: "2026-08-21T10:00:00.000Z".to_owned(),
                    ok: false,
                    message: "fanin.toml:3:1: unknown key".to_owned(),
                }),
            },
            total,
            names: vec![NameStatus {
                name: "intake.example.com".to_owned(),
                addresses: vec!["192.0.2.7".to_owned(), "192.0.2.8".to_owned()],
                asked_seconds_ago: Some(7),
                next_in_seconds: 53,
                failure: Some("no answer from 10.0.0.2:53".to_owned()),
            }],
            relay,
            agents: AgentsStatus {
                seen: 1_234,
                silent: 1,
                forgotten: 0,
                silent_agents: vec![AgentStatus {
                    address: "10.0.0.7".to_owned(),
                    silent: true,
                    seen_seconds_ago: 300,
                    period_seconds: 15,
                    sessions: 4_000,
                    bytes_to_backend: 4_096,
                    bytes_to_client: 512,
                }],
            },
            log_lines_dropped: 0,
        }
    }

    #[test]
    fn the_text_has_first_things_first_and_aligned() {
        let expected = "\
fanin 0.1.0, pid 4711, up 3h 12m, serving
relay process  4712, generation 1
configuration  /etc/fanin/fanin.toml, loaded 2026-08-21T09:30:00.250Z
last reload    2026-08-21T10:00:00.000Z  FAILED, what ran before runs on: fanin.toml:3:1: unknown key
engine         io_uring is barred by seccomp; using epoll
sandbox        as fanin; no capabilities, files (Landlock ABI 3)
note           sandbox: not in force: ports (Linux 6.7 or newer has it)
sessions       34 now, 1,234,567 so far
bytes          3.0 KiB (0.0 %) copied, 6.0 MiB (99.9 %) spliced
  to servers   6.0 MiB: 2.0 KiB (0.0 %) copied, 6.0 MiB (99.9 %) spliced
  to clients   1.0 KiB: 1.0 KiB (100.0 %) copied, 0 B (0.0 %) spliced
pipes          2 used of 8 open; 0 times none was free
connects       0 attempts, 0 failed, 0 retries, 0 to another server
agents         1,234 seen, 1 silent
queue          intake: 5 wait for a server, 1,005 at most so far, of 4,096

LISTENER  ADDRESS       BACKEND  STATE      SESSIONS  MAX
agents    0.0.0.0:3834  intake   accepting        34    -

LISTENER  SNI                 BACKEND  TOTAL
agents    *.logs.example.com  logs     1,200

BACKEND  SERVER  ADDRESS                 STATE  SESSIONS     MAX      TOTAL  FAILED     SENT  RECEIVED
intake   a       intake.example.com:443  up           34  10,000  1,234,567       2  2.0 KiB    1023 B

NAME                ADDRESSES             ASKED    NEXT  LAST ANSWER
intake.example.com  192.0.2.7 192.0.2.8  7s ago  in 53s  no answer from 10.0.0.2:53

AGENT     STATE        SEEN  USUALLY EVERY  SESSIONS     SENT  RECEIVED
10.0.0.7  silent  5m 0s ago            15s     4,000  4.0 KiB     512 B

WORKER  ENGINE  CPU  SESSIONS   ACCEPTED   COPIED  SPLICED  PIPES  TURN P50  P99
     0  epoll   any        17  1,000,000  1.5 KiB  3.0 MiB    1/4         -    -
     1  epoll   any        17    234,567  1.5 KiB  3.0 MiB    1/4         -    -

ENDED         SESSIONS   SHARE
completed          999  99.9 %
client_reset         1   0.1 %
";
        let text = status().render();
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_should_be_zero_is_shown_when_it_is_not() {
        let mut status = status();
        status.log_lines_dropped = 1500;
        status.total.engine.pipes_small = 3;
        let text = status.render();
        assert!(text.contains("note           1,500 log lines dropped"), "{text}");
        assert!(text.contains("note           3 pipes given up"), "{text}");
    }

    #[test]
    fn a_relay_that_has_done_nothing_has_a_status_too() {
        let mut status = status();
        status.total = Counts::default();
        status.relay = RelayStatus::default();
        status.configuration.path = None;
        let text = status.render();
        assert!(text.contains("the command line"), "{text}");
        assert!(text.contains("0 B (-) copied, 0 B (-) spliced"), "{text}");
        assert!(!text.contains("LISTENER"), "{text}");
    }

    #[test]
    fn programs_get_numbers_under_stable_names() {
        let json = serde_json::to_value(status()).expect("serialises");
        assert_eq!(json["phase"], "serving");
        assert_eq!(json["total"]["bytes_to_backend"]["spliced"], 2 * 3 * 1024 * 1024);
        assert_eq!(json["total"]["ended"]["client_reset"], 1);
        assert_eq!(json["workers"][1]["accepted"], 234_567);
        assert_eq!(json["workers"][1]["engine"], "epoll");
        assert_eq!(json["servers"][0]["sessions_total"], 1_234_567);
        assert_eq!(json["listeners"][0]["state"], "accepting");
        assert_eq!(json["configuration"]["reload"]["ok"], false);
    }
}
