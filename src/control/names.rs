//! What is known of the names in a configuration, and when to ask again. No clock, no network: the
//! loop says what time it is and what was answered.
//!
//! A name that had addresses keeps the last good ones whatever comes: no answer, a bad answer and "no
//! such name" all happen to zones that are being mended, and the servers are mostly where they were.
//! What changes is used for new connections; established ones stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Config, Dns, ServerAddress};
use crate::handover::{KnownNames, Location};

use super::resolver::Outcome;
use super::status::NameStatus;

/// A question that failed is asked again after the first of these, and then after twice as long each
/// time up to `ttl_max`: the minutes after a boot are when an answer is missed most.
const AGAIN_FIRST: Duration = Duration::from_secs(1);

/// While connects fail a name is asked for no more often than this: well within the time in which a
/// session tries again (875 ms at the least, with the default of three retries).
const HURRIED_MIN: Duration = Duration::from_millis(500);

/// The addresses of every server; none for one whose name nobody has answered for yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<Vec<Vec<SocketAddr>>>);

impl Addresses {
    /// Of one server, by its index and that of its backend.
    pub fn of(&self, backend: usize, server: usize) -> &[SocketAddr] {
        &self.0[backend][server]
    }
}

/// The names and what is known of each.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, Name>);

#[derive(Clone, Debug, Default)]
struct Name {
    /// The last good answer.
    addresses: Vec<Location>,
    /// When it was asked for last, and when to ask again; `None` is at once.
    asked: Option<Instant>,
    next: Option<Instant>,
    /// A question is under way.
    asking: bool,
    /// Questions in a row that came to nothing, and why the last did.
    failures: u32,
    failure: Option<String>,
}

/// What an answer changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Other addresses than before.
    Moved { from: Vec<Location>, to: Vec<Location> },
    /// The first of failures in a row.
    Failing(String),
    /// It is answered again, as before.
    Recovered,
}

impl Names {
    /// What an earlier process had learnt.
    pub fn recall(known: KnownNames) -> Self {
        let name = |(host, addresses)| (host, Name { addresses, ..Name::default() });
        Self(known.into_iter().map(name).collect())
    }

    /// What a later process is to know.
    pub fn remembered(&self) -> KnownNames {
        let known = self.0.iter().filter(|(_, name)| !name.addresses.is_empty());
        known.map(|(host, name)| (host.clone(), name.addresses.clone())).collect()
    }

    /// Takes the names of a configuration for those that count. What is known of the others is
    /// forgotten.
    pub(super) fn attend(&mut self, config: &Config) {
        let wanted = hosts(config);
        self.0.retain(|host, _| wanted.contains(host));
        for host in wanted {
            self.0.entry(host).or_default();
        }
    }

    /// The names that it is time to ask for. They count as being asked for from now on.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let is_due = |name: &Name| !name.asking && name.next.is_none_or(|next| next <= now);
        let mut due = Vec::new();
        for (host, name) in self.0.iter_mut().filter(|(_, name)| is_due(name)) {
            name.asking = true;
            due.push(host.clone());
        }
        due
    }

    /// Connects to a name's addresses fail: it is asked for at once, or as soon as it may be again. A
    /// name server that has no answer is not asked more often for that.
    pub(super) fn hurry(&mut self, host: &str, now: Instant) {
        if let Some(name) = self.0.get_mut(host).filter(|name| name.failures == 0) {
            let soonest = name.asked.map_or(now, |asked| now.max(asked + HURRIED_MIN));
            name.next = name.next.map(|next| next.min(soonest));
        }
    }

    /// Takes note of an answer.
    pub(super) fn hear(
        &mut self,
        host: &str,
        outcome: &Outcome,
        dns: &Dns,
        now: Instant,
    ) -> Option<Change> {
        let name = self.0.get_mut(host)?;
        name.asking = false;
        name.asked = Some(now);
        let why = match outcome {
            Outcome::Found { addresses, ttl } => {
                name.next = Some(now + (*ttl).clamp(dns.ttl_min, dns.ttl_max));
                let failed = name.failure.take().is_some();
                name.failures = 0;
                let to = choose(&name.addresses, addresses, dns.addresses_max.into());
                let from = std::mem::replace(&mut name.addresses, to.clone());
                return match (from != to, failed) {
                    (true, _) => Some(Change::Moved { from, to }),
                    (false, true) => Some(Change::Recovered),
                    (false, false) => None,
                };
            }
            Outcome::Absent { why, .. } | Outcome::Unanswered { why } => why,
        };
        let pause = AGAIN_FIRST * 2u32.saturating_pow(name.failures.min(20));
        name.next = Some(now + pause.min(dns.ttl_max));
        name.failures = name.failures.saturating_add(1);
        let first = name.failure.replace(why.clone()).is_none();
        first.then(|| Change::Failing(why.clone()))
    }

    /// Whether there is a good answer.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.0.get(host).is_some_and(|name| !name.addresses.is_empty())
    }

    /// The addresses of every server of a configuration.
    pub fn addresses(&self, config: &Config) -> Addresses {
        let known = |name: &str, port: u16| -> Vec<SocketAddr> {
            let known = self.0.get(name).map(|name| name.addresses.as_slice());
            known.unwrap_or_default().iter().map(|at| at.with_port(port)).collect()
        };
        let of = |address: &ServerAddress| match address {
            ServerAddress::Ip(address) => vec![*address],
            ServerAddress::Name { host, port } => known(host, *port),
            ServerAddress::Service { name } => known(name, 0),
        };
        let backends = config.backends.iter();
        Addresses(
            backends
                .map(|backend| backend.servers.iter().map(|server| of(&server.address)).collect())
                .collect(),
        )
    }

    /// What is learnt of names that are new here is taken over; all are asked for again.
    pub(super) fn renew(&mut self, config: &Config, newer: Self) {
        for (host, name) in newer.0 {
            self.0.entry(host).or_insert(name);
        }
        self.attend(config);
        for name in self.0.values_mut() {
            name.next = None;
        }
    }

    /// The listening address that one of the known addresses of a host is.
    pub(super) fn looped(&self, config: &Config, host: &str) -> Option<SocketAddr> {
        looped(config, host, &self.0.get(host)?.addresses)
    }

    /// The names whose last question came to nothing, in words.
    pub(super) fn complaints(&self) -> Vec<String> {
        let failing = self.0.iter().filter_map(|(host, name)| Some((host, name.failure.as_ref()?)));
        failing.map(|(host, why)| self.complaint(host, why)).collect()
    }

    pub(super) fn complaint(&self, host: &str, why: &str) -> String {
        let rest = if self.knows(host) {
            "its last good addresses stay in use"
        } else {
            "its servers get no sessions until it is answered for"
        };
        format!("{host}: {why}; {rest}; it is asked for again")
    }

    pub(super) fn status(&self, now: Instant) -> Vec<NameStatus> {
        let status = |(host, name): (&String, &Name)| NameStatus {
            name: host.clone(),
            addresses: name.addresses.iter().map(ToString::to_string).collect(),
            asked_seconds_ago: name.asked.map(|asked| (now - asked).as_secs()),
            next_in_seconds: name.next.map_or(0, |next| next.duration_since(now).as_secs()),
            failure: name.failure.clone(),
        };
        self.0.iter().map(status).collect()
    }
}

/// The listening address that one of these addresses is, for a server that is called so: a loop
/// without end.
pub(super) fn looped(config: &Config, host: &str, addresses: &[Location]) -> Option<SocketAddr> {
    let mut met = config.named().filter(|(_, _, name, _)| *name == host);
    met.find_map(|(backend, _, _, port)| {
        addresses.iter().find_map(|at| config.loop_at(backend, at.with_port(port)))
    })
}

/// The names among the servers of a configuration, each once.
pub(super) fn hosts(config: &Config) -> Vec<String> {
    let hosts: BTreeSet<&str> = config.named().map(|(_, _, host, _)| host).collect();
    hosts.into_iter().map(str::to_owned).collect()
}

/// At most so many of the addresses that were found, in an order that does not depend on the one in
/// which a name server happens to list them. Of more than that, those in use stay.
fn choose(before: &[Location], found: &[Location], most: usize) -> Vec<Location> {
    let mut chosen = found.to_vec();
    chosen.sort_unstable_by_key(|address| (!before.contains(address), *address));
    chosen.truncate(most);
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Overrides;

    fn config(servers: &[&str]) -> Config {
        let servers: Vec<ServerAddress> = servers.iter().map(|a| a.parse().unwrap()).collect();
        let listen = ["127.0.0.1:3834".parse().unwrap()];
        Config::from_flags(&listen, &servers, &Overrides::default()).expect("valid")
    }

    fn ips(last: &[u8]) -> Vec<Location> {
        last.iter().map(|last| Location::from(IpAddr::from([192, 0, 2, *last]))).collect()
    }

    fn found(last: &[u8], ttl: u64) -> Outcome {
        Outcome::Found { addresses: ips(last), ttl: Duration::from_secs(ttl) }
    }

    fn unanswered() -> Outcome {
        Outcome::Unanswered { why: "silence".to_owned() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// One name that is asked for at `now`.
    fn one(now: Instant) -> (Names, Config) {
        let config = config(&["a.example:443", "a.example:80", "192.0.2.7:1"]);
        let mut names = Names::default();
        names.attend(&config);
        assert_eq!(names.due(now), ["a.example"]);
        assert!(names.due(now).is_empty(), "it is being asked for");
        (names, config)
    }

    #[test]
    fn one_answer_is_every_port_s_and_addresses_stay_what_they_are() {
        let now = Instant::now();
        let (mut names, config) = one(now);
        let dns = Dns::default();
        assert!(names.addresses(&config).of(0, 0).is_empty());
        let change = names.hear("a.example", &found(&[2, 1], 60), &dns, now);
        assert_eq!(change, Some(Change::Moved { from: vec![], to: ips(&[1, 2]) }));
        let addresses = names.addresses(&config);
        assert_eq!(addresses.of(0, 0)[1], "192.0.2.2:443".parse().unwrap());
        assert_eq!(addresses.of(0, 1)[0], "192.0.2.1:80".parse().unwrap());
        assert_eq!(addresses.of(0, 2), ["192.0.2.7:1".parse().unwrap()]);
        assert_eq!(names.hear("a.example", &found(&[1, 2], 60), &dns, now), None, "another order");
    }

    #[test]
    fn the_time_to_live_is_kept_within_its_bounds() {
        let now = Instant::now();
        let (mut names, _) = one(now);
        let dns = Dns::default();
        for (ttl, asked_after) in [(0, dns.ttl_min), (60, 60 * SECOND), (86_400, dns.ttl_max)] {
            names.hear("a.example", &found(&[1], ttl), &dns, now);
            assert!(names.due(now + asked_after - SECOND).is_empty(), "{ttl}");
            assert_eq!(names.due(now + asked_after), ["a.example"], "{ttl}");
        }
    }

    #[test]
    fn the_last_good_answer_is_kept_whatever_comes_and_asked_for_again_ever_more_seldom() {
        let mut now = Instant::now();
        let (mut names, config) = one(now);
        let dns = Dns::default();
        names.hear("a.example", &found(&[1], 60), &dns, now);
        let known = names.addresses(&config);
        let absent = Outcome::Absent { why: "is gone".to_owned(), remedy: "" };
        let mut pause = AGAIN_FIRST;
        for round in 0..12 {
            let outcome = if round % 2 == 0 { unanswered() } else { absent.clone() };
            let change = names.hear("a.example", &outcome, &dns, now);
            assert_eq!(change.is_some(), round == 0, "the first failure alone is told");
            assert_eq!(names.addresses(&config), known);
            assert!(names.due(now + pause - Duration::from_millis(1)).is_empty());
            now += pause;
            assert_eq!(names.due(now), ["a.example"]);
            pause = (pause * 2).min(dns.ttl_max);
        }
        let change = names.hear("a.example", &found(&[1], 60), &dns, now);
        assert_eq!(change, Some(Change::Recovered));
    }

    #[test]
    fn failed_connects_have_it_asked_for_at_once_but_not_all_the_time() {
        let now = Instant::now();
        let (mut names, _) = one(now);
        let dns = Dns::default();
        names.hear("a.example", &found(&[1], 300), &dns, now);
        let soon = now + HURRIED_MIN / 2;
        names.hurry("a.example", soon);
        assert!(names.due(soon).is_empty(), "it was asked for just now");
        assert_eq!(names.due(now + HURRIED_MIN), ["a.example"], "that is not forgotten");
        names.hear("a.example", &found(&[1], 300), &dns, now + HURRIED_MIN);
        names.hurry("a.example", now + 2 * SECOND);
        assert_eq!(names.due(now + 2 * SECOND), ["a.example"]);
        // Nobody answers any more: twice a second for as long as connects fail would not mend that.
        names.hear("a.example", &unanswered(), &dns, now + 2 * SECOND);
        names.hurry("a.example", now + 2 * SECOND + HURRIED_MIN);
        assert!(names.due(now + 2 * SECOND + HURRIED_MIN).is_empty());
        assert_eq!(names.due(now + 2 * SECOND + AGAIN_FIRST), ["a.example"]);
    }

    #[test]
    fn of_too_many_addresses_those_in_use_stay() {
        let now = Instant::now();
        let (mut names, config) = one(now);
        let dns = Dns { addresses_max: 2, ..Dns::default() };
        names.hear("a.example", &found(&[9, 8], 60), &dns, now);
        names.hear("a.example", &found(&[1, 2, 3, 9], 60), &dns, now);
        let addresses = names.addresses(&config);
        let now_at: Vec<String> = addresses.of(0, 1).iter().map(ToString::to_string).collect();
        assert_eq!(now_at, ["192.0.2.1:80", "192.0.2.9:80"]);
    }

    #[test]
    fn what_one_process_knew_the_next_one_knows_and_asks_all_the_same() {
        let now = Instant::now();
        let (mut names, config) = one(now);
        names.hear("a.example", &found(&[1], 300), &Dns::default(), now);
        let mut next = Names::recall(names.remembered());
        next.attend(&config);
        assert_eq!(next.addresses(&config), names.addresses(&config));
        assert_eq!(next.due(now), ["a.example"]);
    }
}
