//! The sources that sessions come from: who has been here, and who has fallen silent. An agent that was
//! killed, or that a firewall has cut off, tells nobody; all there is to see is that it no longer comes.
//!
//! Workers have no part in it. What is known comes from the records of ended sessions, in bounded memory. One
//! whose sessions last for long has no record meanwhile, so the workers are asked for their sessions before
//! anybody is called silent, and only then.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{SessionRecord, SessionView};

use super::status::{AgentStatus, AgentsStatus};
use super::text::{Table, grouped, size, span};

/// Sources that are known at one time, some 100 bytes each; of more, those seen longest ago are forgotten.
const KNOWN_MAX: usize = 10_000;
/// Of those, so many make room for the next.
const FORGOTTEN_AT_ONCE: usize = KNOWN_MAX / 10;
/// One that is not seen for so long is gone, and no longer silent: its host was taken away.
const GONE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Periods without a connection after which one is silent.
const PERIODS: u32 = 3;
/// And no sooner than this: less is a restart.
const SILENT_MIN: Duration = Duration::from_secs(60);
/// Sessions from which a period can be told.
const SESSIONS_MIN: u64 = 4;
/// How often it is looked who has fallen silent.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A worker that does not answer in this time does not turn, and nobody is called silent for that.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Shown by name where there is no room for all.
const SHOWN: usize = 20;

/// What is known of one source.
#[derive(Debug)]
struct Agent {
    sessions: u64,
    bytes: [u64; 2],
    /// When its latest session began.
    begun: Instant,
    /// When it was last known to be there.
    last: Instant,
    /// The longest pause between the beginnings of two sessions, of late: agents send several reports at
    /// once, so that most pauses say nothing. A longer one, such as an outage, is forgotten in twice its
    /// time.
    period: Duration,
    is_silent: bool,
}

impl Agent {
    fn is_overdue(&self, now: Instant) -> bool {
        let patience = (self.period * PERIODS).max(SILENT_MIN);
        self.sessions >= SESSIONS_MIN && now.saturating_duration_since(self.last) > patience
    }
}

/// Who has been here.
#[derive(Debug, Default)]
pub(super) struct Agents {
    known: HashMap<IpAddr, Agent>,
    forgotten: u64,
    looked: Option<Instant>,
    asked: Option<Asked>,
    /// Since somebody last asked: those who are silent now, and those who have come back.
    fallen_silent: Vec<IpAddr>,
    come_back: Vec<IpAddr>,
}

/// The workers are asked for their sessions.
#[derive(Debug)]
struct Asked {
    at: Instant,
    waiting: Vec<Receiver<Vec<SessionView>>>,
    there: HashSet<IpAddr>,
}

impl Asked {
    /// Takes note of what has come; whether every worker has answered.
    fn hear(&mut self) -> bool {
        let Self { waiting, there, .. } = self;
        waiting.retain(|answered| match answered.try_recv() {
            Ok(views) => {
                there.extend(views.iter().map(|view| source(view.client.ip())));
                false
            }
            Err(error) => error == TryRecvError::Empty,
        });
        waiting.is_empty()
    }
}

/// Whom an address stands for: a host has a whole /64 of IPv6 (RFC 8981).
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// A source for people: `10.0.0.7`, `2001:db8::/64`.
fn address(source: &IpAddr) -> String {
    if source.is_ipv6() { format!("{source}/64") } else { source.to_string() }
}

impl Agents {
    /// A session has ended.
    pub(super) fn note(&mut self, record: &SessionRecord, now: Instant) {
        let ip = source(record.client.ip());
        let begun = now.checked_sub(record.report.total_time).unwrap_or(now);
        let full = self.known.len() >= KNOWN_MAX;
        if full && !self.known.contains_key(&ip) {
            self.make_room();
        }
        let agent = self.known.entry(ip).or_insert(Agent {
            sessions: 0,
            bytes: [0; 2],
            begun,
            last: now,
            period: Duration::ZERO,
            is_silent: false,
        });
        if begun > agent.begun {
            let pause = begun - agent.begun;
            agent.period = pause.max(agent.period.saturating_sub(pause / 2));
            agent.begun = begun;
        }
        agent.sessions += 1;
        agent.last = now;
        for (sum, bytes) in agent.bytes.iter_mut().zip(record.report.bytes) {
            *sum += bytes;
        }
        if std::mem::take(&mut agent.is_silent) {
            self.come_back.push(ip);
        }
    }

    fn make_room(&mut self) {
        let age = |ip: &IpAddr, agent: &Agent| (agent.last, *ip);
        let mut ages: Vec<_> = self.known.iter().map(|(ip, agent)| age(ip, agent)).collect();
        // Many may have been seen in the same moment.
        let (_, &mut youngest, _) = ages.select_nth_unstable(FORGOTTEN_AT_ONCE);
        self.forget(|ip, agent| age(ip, agent) < youngest);
    }

    fn forget(&mut self, gone: impl Fn(&IpAddr, &Agent) -> bool) {
        let before = self.known.len();
        self.known.retain(|ip, agent| !gone(ip, agent));
        self.forgotten += (before - self.known.len()) as u64;
    }

    /// Looks who is overdue, when it is time, and with the workers' answers who is silent. `ask` asks
    /// them.
    pub(super) fn look(
        &mut self,
        now: Instant,
        ask: impl FnOnce() -> Vec<Receiver<Vec<SessionView>>>,
    ) {
        if let Some(mut asked) = self.asked.take() {
            if asked.hear() {
                self.settle(&asked.there, now);
            } else if now.saturating_duration_since(asked.at) < ANSWER_PATIENCE {
                self.asked = Some(asked);
            }
            return;
        }
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_EVERY) {
            return;
        }
        self.looked = Some(now);
        self.forget(|_, agent| now.saturating_duration_since(agent.last) > GONE_AFTER);
        if self.known.values().any(|agent| !agent.is_silent && agent.is_overdue(now)) {
            self.asked = Some(Asked { at: now, waiting: ask(), there: HashSet::new() });
        }
    }

    /// Of those who are overdue, the ones with a session are there, and the others silent.
    fn settle(&mut self, there: &HashSet<IpAddr>, now: Instant) {
        for (ip, agent) in &mut self.known {
            if there.contains(ip) {
                agent.last = now;
                if std::mem::take(&mut agent.is_silent) {
                    self.come_back.push(*ip);
                }
            } else if !agent.is_silent && agent.is_overdue(now) {
                agent.is_silent = true;
                self.fallen_silent.push(*ip);
            }
        }
    }

    /// Who has fallen silent, and who has come back, since this was last asked: for the log.
    pub(super) fn news(&mut self, now: Instant) -> [Option<String>; 2] {
        let silent = std::mem::take(&mut self.fallen_silent);
        let back = std::mem::take(&mut self.come_back);
        let since = |ip: &IpAddr| {
            let agent = self.known.get(ip)?;
            let since = span(now.saturating_duration_since(agent.last));
            let usual = span(agent.period);
            Some(format!("{} (seen {since} ago, usually every {usual})", address(ip)))
        };
        let silent =
            named(&silent, "agents fallen silent", |ip| since(ip).unwrap_or_else(|| address(ip)));
        [silent, named(&back, "agents back", address)]
    }

    pub(super) fn status(&self, now: Instant) -> AgentsStatus {
        let silent = self.known.values().filter(|agent| agent.is_silent).count();
        let mut shown = self.all(now);
        shown.retain(|agent| agent.silent);
        shown.truncate(SHOWN);
        AgentsStatus {
            seen: self.known.len() as u64,
            silent: silent as u64,
            forgotten: self.forgotten,
            silent_agents: shown,
        }
    }

    /// All of them, the silent ones first, and of these who was seen last.
    pub(super) fn all(&self, now: Instant) -> Vec<AgentStatus> {
        let mut all: Vec<(&IpAddr, &Agent)> = self.known.iter().collect();
        all.sort_by_key(|(ip, agent)| {
            (!agent.is_silent, now.saturating_duration_since(agent.last), **ip)
        });
        let told = |(ip, agent): (&IpAddr, &Agent)| AgentStatus {
            address: address(ip),
            silent: agent.is_silent,
            seen_seconds_ago: now.saturating_duration_since(agent.last).as_secs(),
            period_seconds: agent.period.as_secs(),
            sessions: agent.sessions,
            bytes_to_backend: agent.bytes[0],
            bytes_to_client: agent.bytes[1],
        };
        all.into_iter().map(told).collect()
    }
}

/// `agents fallen silent: 10.0.0.7, 10.0.0.8 and 3 more`.
fn named(ips: &[IpAddr], what: &str, name: impl Fn(&IpAddr) -> String) -> Option<String> {
    const NAMED: usize = 5;
    let names: Vec<_> = ips.iter().take(NAMED).map(name).collect();
    let more = match ips.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!ips.is_empty()).then(|| format!("{what}: {}{more}", names.join(", ")))
}

/// A table of agents, for people.
pub(super) fn table(agents: &[AgentStatus]) -> String {
    let mut table = Table::new(&[
        "AGENT",
        "STATE",
        ">SEEN",
        ">USUALLY EVERY",
        ">SESSIONS",
        ">SENT",
        ">RECEIVED",
    ]);
    for agent in agents {
        table.row([
            agent.address.clone(),
            if agent.silent { "silent" } else { "heard" }.to_owned(),
            format!("{} ago", span(Duration::from_secs(agent.seen_seconds_ago))),
            span(Duration::from_secs(agent.period_seconds)),
            grouped(agent.sessions),
            size(agent.bytes_to_backend),
            size(agent.bytes_to_client),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::metrics::{CloseReason, Queued, Report};
    use crate::op::ListenerId;

    fn record(ip: &str, lasted: Duration) -> SessionRecord {
        let mut report = Report::unserved(CloseReason::Completed, 1, lasted);
        report.bytes = [100, 10];
        SessionRecord {
            listener: ListenerId(0),
            client: (ip.parse::<IpAddr>().unwrap(), 40_000).into(),
            server: None,
            queued: Queued::default(),
            asked: None,
            links: None,
            report,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Workers that have these sessions.
    fn workers(there: &[&str]) -> Vec<Receiver<Vec<SessionView>>> {
        let view = |ip: &&str| SessionView {
            place: crate::metrics::SessionPlace { index: 0, generation: 0 },
            listener: ListenerId(0),
            client: (ip.parse::<IpAddr>().unwrap(), 1).into(),
            server: None,
            progress: crate::metrics::Progress {
                age: SECOND,
                idle: SECOND,
                left: None,
                bytes: [0; 2],
                held: [0; 2],
                state: "relaying",
            },
        };
        let (answer, answered) = sync_channel(1);
        answer.send(there.iter().map(view).collect()).unwrap();
        vec![answered]
    }

    /// Looks until what was asked is answered.
    fn look(agents: &mut Agents, now: Instant, there: &[&str]) -> [Option<String>; 2] {
        agents.looked = None;
        agents.look(now, || workers(there));
        agents.look(now, || unreachable!("it has asked"));
        agents.news(now)
    }

    /// Three reports at once, every 15 seconds.
    fn regular(agents: &mut Agents, ip: &str, from: Instant, rounds: u32) -> Instant {
        for round in 0..rounds {
            for report in 0..3 {
                let now = from + round * 15 * SECOND + report * SECOND / 10;
                agents.note(&record(ip, SECOND / 20), now);
            }
        }
        from + rounds * 15 * SECOND
    }

    #[test]
    fn who_comes_no_more_is_silent_after_three_periods_and_back_when_he_comes() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        regular(&mut agents, "10.0.0.8", start, 20);
        let end = regular(&mut agents, "10.0.0.7", start, 10);
        assert_eq!(look(&mut agents, end + 40 * SECOND, &[]), [None, None], "not yet a minute");
        let [silent, back] = look(&mut agents, end + 60 * SECOND, &[]);
        let silent = silent.expect("one is silent");
        assert!(silent.starts_with("agents fallen silent: 10.0.0.7 (seen 1m"), "{silent}");
        assert!(silent.contains("usually every 14s"), "{silent}");
        assert_eq!(back, None);
        let status = agents.status(end + 60 * SECOND);
        assert_eq!((status.seen, status.silent), (2, 1));
        assert_eq!(status.silent_agents[0].address, "10.0.0.7");
        assert_eq!(status.silent_agents[0].sessions, 30);
        assert_eq!(status.silent_agents[0].bytes_to_backend, 3000);
        agents.note(&record("10.0.0.7", SECOND), end + 70 * SECOND);
        let [_, back] = agents.news(end + 70 * SECOND);
        assert_eq!(back.as_deref(), Some("agents back: 10.0.0.7"));
        assert_eq!(agents.status(end).silent, 0);
    }

    #[test]
    fn who_keeps_a_session_is_not_silent() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        let end = regular(&mut agents, "10.0.0.7", start, 10);
        let later = end + 3600 * SECOND;
        assert_eq!(look(&mut agents, later, &["10.0.0.7"]), [None, None]);
        assert_eq!(agents.status(later).silent, 0);
        // And it is seen when it ends: the time since then counts.
        assert_eq!(look(&mut agents, later + 50 * SECOND, &[]), [None, None]);
        assert!(look(&mut agents, later + 70 * SECOND, &[])[0].is_some());
    }

    #[test]
    fn a_worker_that_does_not_answer_calls_nobody_silent() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        let end = regular(&mut agents, "10.0.0.7", start, 10) + 600 * SECOND;
        let (_asked, answered) = sync_channel::<Vec<SessionView>>(1);
        agents.look(end, || vec![answered]);
        agents.look(end + SECOND, || unreachable!("it waits"));
        agents.look(end + 3 * SECOND, || unreachable!("it gives up first"));
        assert_eq!(agents.news(end), [None, None]);
        assert!(agents.asked.is_none());
    }

    #[test]
    fn who_came_once_or_irregularly_is_not_missed() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        agents.note(&record("10.0.0.7", SECOND), start);
        // Every hour.
        for hour in 0..5 {
            agents.note(&record("10.0.0.8", SECOND), start + hour * 3600 * SECOND);
        }
        let after = start + 6 * 3600 * SECOND;
        assert_eq!(look(&mut agents, after, &[]), [None, None]);
        agents.looked = None;
        agents.look(start + 40 * 3600 * SECOND, || workers(&[]));
        assert_eq!(agents.status(after).seen, 0, "a day later they are forgotten");
        assert_eq!(agents.status(after).forgotten, 2);
    }

    #[test]
    fn a_host_of_ipv6_is_one_and_memory_is_bounded() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        agents.note(&record("2001:db8::1", SECOND), start);
        agents.note(&record("2001:db8::2", SECOND), start);
        agents.note(&record("::ffff:10.0.0.7", SECOND), start);
        let names: Vec<_> = agents.all(start).into_iter().map(|agent| agent.address).collect();
        assert_eq!(names, ["10.0.0.7", "2001:db8::/64"]);
        for number in 0..3 * KNOWN_MAX {
            let ip = format!("10.{}.{}.{}", 1 + number / 65_536, number / 256 % 256, number % 256);
            // All of them at once.
            agents.note(&record(&ip, SECOND), start + SECOND);
        }
        assert!(agents.known.len() <= KNOWN_MAX, "{}", agents.known.len());
        assert!(agents.known.len() >= KNOWN_MAX - FORGOTTEN_AT_ONCE);
        let status = agents.status(start);
        assert_eq!(status.forgotten + status.seen, 3 * KNOWN_MAX as u64 + 2);
    }
}
