//! The questions about names: at the start and at a reload, and for as long as the relay runs.

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, Dns, Server};
use crate::handover::{KnownNames, Location};

use super::Relay;
use super::names::{Change, Names, hosts};
use super::resolver::{self, Outcome};

/// How long a start or a reload waits for names that nothing is known of yet.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

type Answer = (String, Outcome);

/// Asks for the names of a configuration of which nothing is known. What is not answered in time is
/// asked again later.
///
/// # Errors
/// A line for each server that for sure has no address, or is the relay itself.
pub(super) async fn find(config: &Config, known: Names) -> Result<Names, Vec<String>> {
    let mut names = known;
    names.attend(config);
    let unknown = hosts(config).into_iter().filter(|host| !names.knows(host));
    let mut running = JoinSet::new();
    for host in unknown {
        running.spawn(ask(config.dns.clone(), host));
    }
    let deadline = Instant::now() + resolver::patience(&config.dns).min(PATIENCE_MAX);
    let mut refused = HashMap::new();
    while let Ok(Some(answer)) = timeout_at(deadline, running.join_next()).await {
        let Ok((host, outcome)) = answer else { continue };
        let outcome = elsewhere(config, &host, outcome);
        names.hear(&host, &outcome, &config.dns, Instant::now());
        if let Outcome::Absent { why, remedy } = outcome {
            refused.insert(host, format!("{why}; {remedy}"));
        }
    }
    let mut errors = Vec::new();
    for (number, place, host, _) in config.named() {
        let looped =
            || names.looped(config, host).map(|bind| format!("{}; {ELSEWHERE}", own(bind)));
        if let Some(why) = refused.get(host).cloned().or_else(looped) {
            let backend = &config.backends[number];
            let Server { name, address, .. } = &backend.servers[place];
            errors.push(format!("server {}/{name}: {address} {why}", backend.name));
        }
    }
    if errors.is_empty() { Ok(names) } else { Err(errors) }
}

const ELSEWHERE: &str = "write the address of the server behind the relay";

fn own(bind: SocketAddr) -> String {
    format!("is the relay itself, on {bind}")
}

/// The outcome, unless one of the addresses is the relay's own: sessions would come back for ever.
fn elsewhere(config: &Config, host: &str, outcome: Outcome) -> Outcome {
    let Outcome::Found { addresses, .. } = &outcome else { return outcome };
    match super::names::looped(config, host, addresses) {
        Some(bind) => Outcome::Absent { why: own(bind), remedy: ELSEWHERE },
        None => outcome,
    }
}

async fn ask(dns: Dns, host: String) -> Answer {
    let outcome = resolver::ask(dns, &host).await;
    (host, outcome)
}

/// The questions of a relay that runs.
#[derive(Debug)]
pub(super) struct Lookups {
    pub(super) names: Names,
    running: JoinSet<Answer>,
    /// Failed connects to each name's servers, when they were last looked at.
    failures: HashMap<String, u64>,
    /// What the parent knows.
    told: KnownNames,
}

impl Lookups {
    pub(super) fn new(names: Names) -> Self {
        Self { names, running: JoinSet::new(), failures: HashMap::new(), told: Vec::new() }
    }

    /// Asks for what it is time for.
    pub(super) fn on_tick(&mut self, config: &Config, relay: &impl Relay) {
        let now = Instant::now();
        self.look_at_failures(config, relay, now);
        for host in self.names.due(now) {
            self.running.spawn(ask(config.dns.clone(), host));
        }
    }

    /// Servers that have moved are noticed by connects that fail, long before a time to live is over.
    fn look_at_failures(&mut self, config: &Config, relay: &impl Relay, now: Instant) {
        let mut failures: HashMap<String, u64> = HashMap::new();
        for (backend, server, host, _) in config.named() {
            let count = relay.board(backend, server).connect_failures();
            match failures.get_mut(host) {
                Some(sum) => *sum += count,
                None => drop(failures.insert(host.to_owned(), count)),
            }
        }
        for (host, count) in &failures {
            if self.failures.get(host).is_some_and(|before| before < count) {
                self.names.hurry(host, now);
            }
        }
        self.failures = failures;
    }

    /// The next answer; never, while nothing is asked.
    pub(super) async fn answer(&mut self) -> Answer {
        loop {
            match self.running.join_next().await {
                Some(Ok(answer)) => return answer,
                // It panicked: the name stays as it is.
                Some(Err(_)) => {}
                None => pending().await,
            }
        }
    }

    /// What the next process is to know, if the parent has not been told yet.
    pub(super) fn untold(&mut self) -> Option<KnownNames> {
        let known = self.names.remembered();
        (self.told != known).then(|| {
            self.told.clone_from(&known);
            known
        })
    }

    /// Takes note of an answer, and says what it changes.
    pub(super) fn hear(&mut self, config: &Config, answer: Answer) -> Option<Heard> {
        let (host, outcome) = answer;
        let outcome = elsewhere(config, &host, outcome);
        let change = self.names.hear(&host, &outcome, &config.dns, Instant::now())?;
        let list = |addresses: &[Location]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        Some(match change {
            Change::Moved { from, to } if from.is_empty() => {
                Heard::Moved(format!("{host} is at {}", list(&to)))
            }
            Change::Moved { from, to } => {
                Heard::Moved(format!("{host} is at {} now, was at {}", list(&to), list(&from)))
            }
            Change::Recovered => Heard::Known(format!("{host} is answered for again")),
            Change::Failing(why) => Heard::Failing(self.names.complaint(&host, &why)),
        })
    }
}

/// What an answer means, in words for the log.
#[derive(Debug)]
pub(super) enum Heard {
    /// Servers have other addresses now.
    Moved(String),
    Known(String),
    Failing(String),
}
