//! Active checks: whether a server can be connected to, and what it answers, asked before a session
//! has to find out.
//!
//! One task a server, on the control thread. What is found is the server's, on its board, and all
//! workers see it; a server that is down is passed over while there is another, and is the last resort
//! when there is none, since a check may be wrong and a client has nothing to lose.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Check, Config, HttpCheck};
use crate::op::ProxyVersion;
use crate::session::greeting;

use super::log::rfc3339;
use super::names::Addresses;

/// Bytes of an answer that are looked at: a status line and no more.
const ANSWER_BYTES_MAX: u64 = 512;

/// One server, by its index and that of its backend.
pub(super) type Place = (usize, usize);

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) place: Place,
    /// Which round of checks it belongs to: a reload begins another.
    round: u64,
    took: Duration,
    http_status: Option<u16>,
    /// Why it failed, if it did.
    failure: Option<Failure>,
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// HAProxy's word for it (management guide, 9.1: `check_status`).
    code: &'static str,
    why: String,
}

/// What is known of a server that is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    pub up: bool,
    /// Since when, and in seconds.
    pub since: String,
    pub seconds: u64,
    /// Checks in a row that spoke against the state, of how many that change it.
    pub against: u16,
    pub changes_at: u16,
    /// Of the last check: HAProxy's word, what it took in milliseconds, why it failed.
    pub code: &'static str,
    pub millis: u64,
    /// The status of HTTP that it was answered with, where that is asked for.
    pub http_status: Option<u16>,
    pub failure: Option<String>,
    /// The address and the port that are checked, where they are others than the server's.
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    /// Checks in a row that bring it up, and that take it down.
    pub rise: u16,
    pub fall: u16,
    /// Checks that failed, times it went down, and how long it was down, so far.
    pub failures: u64,
    pub downs: u64,
    pub down_seconds: u64,
}

/// What a verdict changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Up,
    Down(String),
}

/// How the checks of a server go: what it is taken for, and how many in a row speak against that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streak {
    up: bool,
    against: u16,
}

impl Streak {
    /// Taken for up until it is found down, as HAProxy does it.
    const START: Self = Self { up: true, against: 0 };

    /// So many in a row change the state.
    const fn changes_at(self, check: &Check) -> u16 {
        if self.up { check.fall } else { check.rise }
    }

    /// Whether another check changes the state.
    const fn hear(&mut self, check: &Check, passed: bool) -> bool {
        self.against = if passed == self.up { 0 } else { self.against + 1 };
        let changes = self.against >= self.changes_at(check);
        if changes {
            *self = Self { up: !self.up, against: 0 };
        }
        changes
    }

    /// How long it is to the next check: sooner while the state may be about to change.
    fn pause(self, check: &Check) -> Duration {
        let other = match self {
            Self { up: true, against: 0 } => None,
            Self { up: false, against: 0 } => check.down_interval,
            _ => check.fast_interval,
        };
        other.unwrap_or(check.interval)
    }
}

/// What is known of one server. PURE.
#[derive(Clone, Debug)]
struct State {
    streak: Streak,
    since: Instant,
    since_wall: SystemTime,
    last: Option<Verdict>,
    failures: u64,
    downs: u64,
    down: Duration,
}

impl State {
    fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            streak: Streak::START,
            since: now,
            since_wall: wall,
            last: None,
            failures: 0,
            downs: 0,
            down: Duration::ZERO,
        }
    }

    fn hear(
        &mut self,
        check: &Check,
        verdict: &Verdict,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Change> {
        self.last = Some(verdict.clone());
        let failed = verdict.failure.as_ref();
        self.failures += u64::from(failed.is_some());
        if !self.streak.hear(check, failed.is_none()) {
            return None;
        }
        self.turned(now, wall);
        Some(failed.map_or(Change::Up, |failure| Change::Down(failure.why.clone())))
    }

    /// It is up now, or down, and was not.
    fn turned(&mut self, now: Instant, wall: SystemTime) {
        if self.streak.up {
            self.down += now - self.since;
        } else {
            self.downs += 1;
        }
        (self.since, self.since_wall) = (now, wall);
    }

    /// It is taken for up, or for down.
    fn turn(&mut self, up: bool, now: Instant, wall: SystemTime) {
        let before = std::mem::replace(&mut self.streak, Streak { up, against: 0 });
        if before.up != up {
            self.turned(now, wall);
        }
    }

    fn health(&self, check: &Check, now: Instant) -> Health {
        let seconds = (now - self.since).as_secs();
        let failure = self.last.as_ref().and_then(|last| last.failure.as_ref());
        let passed = if check.http.is_some() { "L7OK" } else { "L4OK" };
        Health {
            up: self.streak.up,
            since: rfc3339(self.since_wall),
            seconds,
            against: self.streak.against,
            changes_at: self.streak.changes_at(check),
            code: match (&self.last, failure) {
                (None, _) => "INI",
                (_, Some(failure)) => failure.code,
                _ => passed,
            },
            millis: self
                .last
                .as_ref()
                .map_or(0, |last| u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX)),
            http_status: self.last.as_ref().and_then(|last| last.http_status),
            failure: failure.map(|failure| failure.why.clone()),
            address: check.address,
            port: check.port,
            rise: check.rise,
            fall: check.fall,
            failures: self.failures,
            downs: self.downs,
            down_seconds: self.down.as_secs() + if self.streak.up { 0 } else { seconds },
        }
    }
}

/// Who a server is, over reloads.
type Identity = (String, String, String);

/// The checks of a configuration.
#[derive(Debug)]
pub(super) struct Prober {
    states: HashMap<Identity, State>,
    /// Servers, by the names of their backends and their own, whose checks somebody has stopped.
    paused: HashSet<(String, String)>,
    /// The tasks of this round, and where their verdicts come in.
    tasks: Vec<AbortHandle>,
    round: u64,
    verdicts: (mpsc::UnboundedSender<Verdict>, mpsc::UnboundedReceiver<Verdict>),
}

impl Prober {
    pub(super) fn new() -> Self {
        Self {
            states: HashMap::new(),
            paused: HashSet::new(),
            tasks: Vec::new(),
            round: 0,
            verdicts: mpsc::unbounded_channel(),
        }
    }

    /// Checks the servers of a configuration at these addresses from now on, in the place of those
    /// before. What was known of a server that stays is known on.
    pub(super) fn attend(&mut self, config: &Config, addresses: &Addresses) {
        self.end();
        self.round += 1;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut states = HashMap::new();
        let checked = checked(config);
        let count = u32::try_from(checked.len()).unwrap_or(u32::MAX).max(1);
        for ((place, identity, check), nth) in checked.into_iter().zip(0u32..) {
            let state = self.states.remove(&identity).unwrap_or_else(|| State::new(now, wall));
            let streak = state.streak;
            let paused = self.paused.contains(&(identity.0.clone(), identity.1.clone()));
            states.insert(identity, state);
            if paused {
                continue;
            }
            let task = Task {
                place,
                round: self.round,
                addresses: addresses.of(place.0, place.1).to_vec(),
                introduce: config.backends[place.0].servers[place.1].send_proxy,
                // Spread over the interval, so that they do not all come at once.
                first: check.interval * nth / count,
                check: check.clone(),
                streak,
                verdicts: self.verdicts.0.clone(),
            };
            self.tasks.push(tokio::spawn(task.run()).abort_handle());
        }
        self.states = states;
    }

    /// Stops the checks of a server, or has them go on, from the next [`Prober::attend`] on.
    pub(super) fn pause(&mut self, config: &Config, place: Place, paused: bool) {
        let Some(((backend, server, _), _)) = identify(config, place) else { return };
        match paused {
            true => drop(self.paused.insert((backend, server))),
            false => drop(self.paused.remove(&(backend, server))),
        }
    }

    /// All checks go on.
    pub(super) fn resume(&mut self) {
        self.paused.clear();
    }

    /// Takes a server for up or down, as if its checks had found that; whether it is checked. Holds from
    /// the next [`Prober::attend`] on, until checks find otherwise.
    pub(super) fn force(&mut self, config: &Config, place: Place, up: bool) -> bool {
        let known = identify(config, place);
        let Some(state) = known.and_then(|(identity, _)| self.states.get_mut(&identity)) else {
            return false;
        };
        state.turn(up, Instant::now(), SystemTime::now());
        true
    }

    /// Ends all checks.
    pub(super) fn end(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// The next verdict.
    pub(super) async fn verdict(&mut self) -> Verdict {
        loop {
            // We hold a sender, so that it never ends.
            match self.verdicts.1.recv().await {
                Some(verdict) if verdict.round == self.round => return verdict,
                _ => {}
            }
        }
    }

    /// Takes note of a verdict, and says what it changes.
    pub(super) fn hear(&mut self, config: &Config, verdict: &Verdict) -> Option<Change> {
        let (identity, check) = identify(config, verdict.place)?;
        let state = self.states.get_mut(&identity)?;
        state.hear(check, verdict, Instant::now(), SystemTime::now())
    }

    /// What is known of a server, if it is checked.
    pub(super) fn health(&self, config: &Config, place: Place) -> Option<Health> {
        let (identity, check) = identify(config, place)?;
        Some(self.states.get(&identity)?.health(check, Instant::now()))
    }

    /// Whether a server may be up; one that is not checked may be.
    pub(super) fn is_up(&self, config: &Config, place: Place) -> bool {
        let known = identify(config, place).and_then(|(identity, _)| self.states.get(&identity));
        known.is_none_or(|state| state.streak.up)
    }
}

/// Every server of a configuration, in its order.
pub(super) fn places(config: &Config) -> impl Iterator<Item = Place> {
    let backends = config.backends.iter().enumerate();
    backends.flat_map(|(backend, of)| (0..of.servers.len()).map(move |server| (backend, server)))
}

fn checked(config: &Config) -> Vec<(Place, Identity, &Check)> {
    let checked = |place| {
        let (identity, check) = identify(config, place)?;
        Some((place, identity, check))
    };
    places(config).filter_map(checked).collect()
}

fn identify(config: &Config, (backend, server): Place) -> Option<(Identity, &Check)> {
    let backend = config.backends.get(backend)?;
    let server = backend.servers.get(server)?;
    let check = server.check.as_ref()?;
    Some(((backend.name.clone(), server.name.clone(), server.address.to_string()), check))
}

/// The checks of one server.
struct Task {
    place: Place,
    round: u64,
    addresses: Vec<SocketAddr>,
    introduce: Option<ProxyVersion>,
    first: Duration,
    check: Check,
    streak: Streak,
    verdicts: mpsc::UnboundedSender<Verdict>,
}

impl Task {
    async fn run(mut self) {
        sleep(self.first).await;
        let mut turn = 0;
        loop {
            let began = Instant::now();
            // Each of a name's addresses in its turn.
            let (http_status, failure) =
                match self.addresses.get(turn % self.addresses.len().max(1)) {
                    Some(address) => probe(&self.check, *address, self.introduce).await,
                    None => {
                        let why = "no address yet".to_owned();
                        (None, Some(Failure { code: "SOCKERR", why }))
                    }
                };
            turn += 1;
            self.streak.hear(&self.check, failure.is_none());
            let (place, round, took) = (self.place, self.round, began.elapsed());
            if self.verdicts.send(Verdict { place, round, took, http_status, failure }).is_err() {
                return;
            }
            sleep(self.streak.pause(&self.check).saturating_sub(took)).await;
        }
    }
}

/// One check, of a server that is to be told first whose a connection is, or not: the status that it was
/// answered with, and why it failed.
async fn probe(
    check: &Check,
    address: SocketAddr,
    introduce: Option<ProxyVersion>,
) -> (Option<u16>, Option<Failure>) {
    let (address, mut stream) = match connect(check, address, introduce).await {
        Ok(connected) => connected,
        Err(failure) => return (None, Some(failure)),
    };
    let Some(http) = &check.http else { return (None, None) };
    match timeout(check.timeout, ask(&mut stream, http, address)).await {
        Err(_) => (None, Some(late("L7TOUT", address, check.timeout))),
        Ok(Err(error)) => {
            (None, Some(Failure { code: "L7RSP", why: format!("{address}: {error}") }))
        }
        Ok(Ok(status)) if http.expects(status) => (Some(status), None),
        Ok(Ok(status)) => {
            let why = format!("{address}: GET {} is answered with {status}", http.path);
            (Some(status), Some(Failure { code: "L7STS", why }))
        }
    }
}

async fn connect(
    check: &Check,
    address: SocketAddr,
    introduce: Option<ProxyVersion>,
) -> Result<(SocketAddr, TcpStream), Failure> {
    // Elsewhere is another service, which expects no header (configuration manual, 5.2
    // "check-send-proxy").
    let elsewhere = check.port.is_some() || check.address.is_some();
    let introduction = introduce.filter(|_| !elsewhere).map(greeting::own_header);
    let ip = check.address.unwrap_or_else(|| address.ip());
    let address = SocketAddr::new(ip, check.port.unwrap_or_else(|| address.port()));
    let mut stream = match timeout(check.timeout, TcpStream::connect(address)).await {
        Err(_) => return Err(late("L4TOUT", address, check.timeout)),
        Ok(Err(error)) => {
            return Err(Failure { code: "L4CON", why: format!("{address}: {error}") });
        }
        Ok(Ok(stream)) => stream,
    };
    // The peer is not to keep a TIME_WAIT for us, nor we for it.
    let _ = stream.set_zero_linger();
    if let Some(header) = introduction {
        // A few bytes into an empty socket; a reset shows at the next step.
        let _ = stream.write_all(&header).await;
    }
    Ok((address, stream))
}

fn late(code: &'static str, address: SocketAddr, patience: Duration) -> Failure {
    Failure { code, why: format!("{address}: no answer within {} ms", patience.as_millis()) }
}

/// The status code with which a request is answered.
async fn ask(stream: &mut TcpStream, http: &HttpCheck, address: SocketAddr) -> io::Result<u16> {
    let host = http.host.clone().unwrap_or_else(|| address.to_string());
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fanin-check\r\nConnection: close\r\n\r\n",
        http.path
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX);
    while !answer.contains(&b'\n') && limited.read_buf(&mut answer).await? > 0 {}
    let line = String::from_utf8_lossy(&answer);
    let mut words = line.split_whitespace();
    let status = words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))
        .and_then(|_| words.next()?.parse().ok());
    status.ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rise: u16, fall: u16) -> Check {
        Check { rise, fall, ..Check::default() }
    }

    fn verdict(passed: bool) -> Verdict {
        let failure = (!passed).then(|| Failure { code: "L4CON", why: "refused".to_owned() });
        Verdict {
            place: (0, 0),
            round: 1,
            took: Duration::from_millis(3),
            http_status: None,
            failure,
        }
    }

    #[test]
    fn so_many_in_a_row_change_the_state_and_one_in_between_begins_anew() {
        let check = check(2, 3);
        let (mut now, wall) = (Instant::now(), SystemTime::now());
        let mut state = State::new(now, wall);
        let mut hear = |passed, now| state.hear(&check, &verdict(passed), now, wall);
        for passed in [false, false, true, false, false] {
            assert_eq!(hear(passed, now), None);
        }
        assert_eq!(hear(false, now), Some(Change::Down("refused".to_owned())));
        now += Duration::from_secs(7);
        assert_eq!(hear(true, now), None);
        assert_eq!(hear(false, now), None);
        assert_eq!(hear(true, now), None);
        assert_eq!(hear(true, now), Some(Change::Up));
        let health = state.health(&check, now + Duration::from_secs(1));
        assert_eq!((health.up, health.code, health.millis), (true, "L4OK", 3));
        assert_eq!((health.downs, health.down_seconds, health.failures), (1, 7, 6));
    }

    #[test]
    fn the_next_check_comes_sooner_while_the_state_may_change() {
        let seconds = Duration::from_secs;
        let check = Check {
            interval: seconds(2),
            fast_interval: Some(seconds(1)),
            down_interval: Some(seconds(5)),
            rise: 2,
            fall: 2,
            ..Check::default()
        };
        let mut streak = Streak::START;
        let next: Vec<u64> = [true, false, false, false, true, true]
            .map(|passed| {
                streak.hear(&check, passed);
                streak.pause(&check).as_secs()
            })
            .into();
        assert_eq!(next, [2, 1, 5, 5, 1, 2]);
    }
}
