//! PURE: one lane of an agent. Takes the time and what happened, returns what to do next.
//!
//! No sockets, no clock, no random numbers, no waiting: `thread` does what is asked and reports
//! back. The same machine serves both profiles; they differ in the plan and in who closes.
//!
//! ```text
//!             Due                 Connected          Sent             reply complete
//!   Waiting ───────> Connecting ─(Shaking)─> Sending ────> Receiving ───────────────┐
//!      ^  └── Due, connection held ────────────^              v5: Close ─> Closing ─┤
//!      └────────────────────────────────────────────────────────────────────────────┘
//! ```

use crate::clock::Nanos;
use crate::failure::Failure;
use crate::payload::{Library, Request};
use crate::plan::{Due, LaneId, Manners, Plan, Schedule};
use crate::profile::{Conduct, Profile};
use crate::recorder::{Recorder, Timing};
use crate::reply::{Reply, Step};
use std::collections::VecDeque;

/// Failed posts that an agent keeps for another attempt; beyond them the oldest is lost.
const KEPT_MAX: usize = 100;

/// What happened since the last step.
#[derive(Debug)]
pub(crate) enum Event {
    /// The run begins.
    Begin,
    /// The awaited moment is here.
    Due,
    /// A held connection was closed by the server, or spoke out of turn, while the agent waited.
    HungUp,
    /// The connection stands.
    Connected,
    /// The way through the proxy is open.
    Tunnelled,
    /// Its TLS stands.
    Shaken,
    /// The request is written.
    Sent,
    /// The FIN is.
    Finished,
    /// Bytes of the reply.
    Bytes(Vec<u8>),
    /// The server ended the stream.
    Eof,
    /// The operation failed.
    Failed(Failure, Option<i32>),
    /// The operation's deadline passed; it has been given up.
    TimedOut,
    /// The connection is closed.
    Closed,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Act {
    /// Wait for a moment, watching the held connection if there is one.
    Wait { until: Nanos },
    /// Make a connection.
    ///
    /// An abortive one ends with a reset when it is closed.
    Connect { deadline: Nanos, abortive: bool },
    /// Have the proxy at its end open a way to the upstream.
    Tunnel { deadline: Nanos },
    /// Shake hands over the connection.
    Handshake { deadline: Nanos },
    /// Write a whole request.
    Send { request: &'static Request, deadline: Nanos },
    /// Wait for a moment, and read nothing meanwhile.
    Ignore { until: Nanos },
    /// Say that nothing more will be sent.
    Finish,
    /// Read once.
    Receive { deadline: Nanos },
    /// Close the connection.
    Close,
    /// Nothing more, ever; close the connection if one is held.
    End,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting,
    Connecting(Exchange),
    Tunnelling(Exchange),
    Shaking(Exchange),
    Sending(Exchange),
    /// Hostile: silent, or deaf.
    Pausing(Exchange),
    /// Hostile: cutting its own request short.
    Finishing(Exchange),
    Receiving(Exchange),
    Closing,
    Ended,
}

/// Where a lane stands, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Phase {
    Waiting,
    Connecting,
    Shaking,
    Sending,
    Pausing,
    Receiving,
    Closing,
    Ended,
}

impl Phase {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of an exchange.
    pub(crate) const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Connecting,
        Self::Shaking,
        Self::Sending,
        Self::Pausing,
        Self::Receiving,
        Self::Closing,
        Self::Ended,
    ];

    /// Position in a table of counts.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The word on the screen.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::Shaking => "shaking hands",
            Self::Sending => "sending",
            Self::Pausing => "pausing",
            Self::Receiving => "receiving",
            Self::Closing => "closing",
            Self::Ended => "ended",
        }
    }
}

/// An exchange under way.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    timing: Timing,
    request: &'static Request,
    spoke: bool,
    attempt: Attempt,
    /// How it misbehaves, if it does.
    conduct: Option<Conduct>,
}

/// A post and how often it has failed.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    due: Due,
    failures: u32,
}

/// What has to be done on a new connection before it can be used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// A proxy is to open a tunnel.
    pub(crate) has_proxy: bool,
    /// TLS is to be set up.
    pub(crate) has_tls: bool,
}

/// One lane: exchanges one after another, on one connection at a time.
#[derive(Debug)]
pub(crate) struct Lane {
    id: LaneId,
    keeps: bool,
    is_hostile: bool,
    way: Way,
    schedule: Schedule,
    next: Due,
    manners: Manners,
    /// Failed posts, the one due first in front.
    kept: VecDeque<Attempt>,
    state: State,
    reply: Reply,
    linked: bool,
    begun: bool,
    answered: bool,
    posts: u32,
    end: Nanos,
    timeout: Nanos,
    free_at: Nanos,
    library: &'static Library,
}

impl Lane {
    /// A lane at the beginning of its plan. `timeout` bounds one exchange from its start.
    pub(crate) fn new(
        plan: &Plan,
        id: LaneId,
        way: Way,
        timeout: Nanos,
        library: &'static Library,
    ) -> Self {
        let mut schedule = plan.schedule(id);
        let next = schedule.advance();
        Self {
            id,
            keeps: plan.profile.keeps_connections(),
            is_hostile: plan.profile == Profile::Hostile,
            way,
            schedule,
            next,
            manners: plan.manners(),
            kept: VecDeque::new(),
            state: State::Waiting,
            reply: Reply::default(),
            linked: false,
            begun: false,
            answered: false,
            posts: 0,
            end: plan.end(),
            timeout,
            free_at: 0,
            library,
        }
    }

    /// Where it stands.
    pub(crate) fn phase(&self) -> Phase {
        match self.state {
            State::Waiting => Phase::Waiting,
            State::Connecting(_) | State::Tunnelling(_) => Phase::Connecting,
            State::Shaking(_) => Phase::Shaking,
            State::Sending(_) | State::Finishing(_) => Phase::Sending,
            State::Pausing(_) => Phase::Pausing,
            State::Receiving(_) => Phase::Receiving,
            State::Closing => Phase::Closing,
            State::Ended => Phase::Ended,
        }
    }

    /// True when the plan has this agent do anything before the end. An agent is its first lane.
    pub(crate) fn agent_is_due(&self) -> bool {
        self.id.lane == 0 && self.next.at < self.end
    }

    /// Moves the end of the plan forward; what is due later is not done and not counted.
    pub(crate) fn end_at(&mut self, end: Nanos) {
        self.end = self.end.min(end);
    }

    /// The next thing to do, now that `event` has happened.
    pub(crate) fn step(&mut self, now: Nanos, event: &Event, record: &mut Recorder) -> Act {
        match (self.state, event) {
            (State::Waiting, Event::Begin | Event::Due) => self.settle(now, record),
            (State::Waiting, Event::HungUp) => self.close(record),
            (State::Connecting(exchange), Event::Connected) => {
                self.linked = true;
                record.connected(exchange.timing, now);
                if !self.way.has_proxy {
                    return self.shake(exchange);
                }
                self.state = State::Tunnelling(exchange);
                Act::Tunnel { deadline: self.deadline(exchange) }
            }
            (State::Tunnelling(exchange), Event::Tunnelled) => self.shake(exchange),
            (State::Shaking(exchange), Event::Shaken) => {
                record.shaken(exchange.timing, now);
                self.send(exchange)
            }
            (State::Tunnelling(exchange) | State::Shaking(exchange), Event::Eof) => {
                self.fail(now, exchange, Failure::IoEofEarly, None, record)
            }
            (State::Sending(exchange), Event::Sent) => self.sent(now, exchange, record),
            (State::Pausing(exchange), Event::Due) => match exchange.conduct {
                Some(Conduct::SlowReader) => self.receive(exchange),
                _ => self.done(now, exchange, record),
            },
            // Whoever gives up on half a head does what is right.
            (State::Pausing(exchange), Event::HungUp) => self.done(now, exchange, record),
            (State::Finishing(exchange), Event::Finished) => self.receive(exchange),
            (
                State::Receiving(exchange @ Exchange { conduct: Some(Conduct::CutBody), .. }),
                Event::Bytes(_) | Event::Eof | Event::Failed(Failure::IoReset, _),
            ) => self.done(now, exchange, record),
            (State::Receiving(exchange), Event::Bytes(bytes)) => {
                self.read(now, exchange, bytes, record)
            }
            (State::Receiving(exchange), Event::Eof) => match self.reply.end() {
                Step::Done(done) => self.judge(now, exchange, Step::Done(done), record),
                Step::More | Step::Bad => {
                    self.fail(now, exchange, Failure::IoEofEarly, None, record)
                }
            },
            (
                State::Connecting(exchange)
                | State::Tunnelling(exchange)
                | State::Shaking(exchange)
                | State::Sending(exchange)
                | State::Finishing(exchange)
                | State::Receiving(exchange),
                Event::Failed(why, errno),
            ) => self.fail(now, exchange, *why, *errno, record),
            (State::Connecting(exchange), Event::TimedOut) => {
                self.fail(now, exchange, Failure::ConnectTimeout, None, record)
            }
            (
                State::Tunnelling(exchange)
                | State::Shaking(exchange)
                | State::Sending(exchange)
                | State::Receiving(exchange),
                Event::TimedOut,
            ) => self.fail(now, exchange, Failure::TimeReplyTimeout, None, record),
            (State::Closing, Event::Closed) => {
                self.free_at = now;
                self.settle(now, record)
            }
            (State::Ended, _) => Act::End,
            (state, event) => unreachable!("{event:?} while {state:?}"),
        }
    }

    /// Ends the run here: what is under way or overdue is counted with its age.
    pub(crate) fn cut(&mut self, now: Nanos, record: &mut Recorder) {
        match self.state {
            State::Ended => return,
            State::Waiting | State::Closing => {}
            // Silence is all that was wanted.
            State::Pausing(exchange) => self.succeed(now, exchange, record),
            State::Connecting(exchange)
            | State::Tunnelling(exchange)
            | State::Shaking(exchange)
            | State::Sending(exchange)
            | State::Finishing(exchange)
            | State::Receiving(exchange) => {
                record.failed(exchange.timing, now, Failure::TimeUnanswered, None);
            }
        }
        while self.next.at < self.end.min(now) {
            record.unsent(self.next.at, now);
            self.next = self.schedule.advance();
        }
        self.finish(record);
    }

    /// Between exchanges: begin the next, wait for it, or end.
    fn settle(&mut self, now: Nanos, record: &mut Recorder) -> Act {
        self.state = State::Waiting;
        let again = self.kept.front().map_or(Nanos::MAX, |kept| kept.due.at);
        let soonest = self.next.at.min(again);
        let wake = soonest.min(self.end);
        if now < wake {
            return Act::Wait { until: wake };
        }
        if soonest >= self.end {
            self.finish(record);
            return Act::End;
        }
        let kept = if again < self.next.at { self.kept.pop_front() } else { None };
        let attempt = kept.unwrap_or_else(|| {
            let due = std::mem::replace(&mut self.next, self.schedule.advance());
            Attempt { due, failures: 0 }
        });
        self.begin(now, attempt, record)
    }

    /// Keeps a failed post for another attempt.
    fn keep(&mut self, now: Nanos, attempt: Attempt) {
        let Attempt { due: Due { post, .. }, failures } = attempt;
        let failures = failures + 1;
        let due = Due { at: now + self.manners.after(failures), post };
        let place = self.kept.partition_point(|kept| kept.due.at <= due.at);
        self.kept.insert(place, Attempt { due, failures });
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
    }

    fn begin(&mut self, now: Nanos, attempt: Attempt, record: &mut Recorder) -> Act {
        let due = attempt.due;
        let timing = Timing { intended: due.at, began: now };
        record.began(timing, due.at.max(self.free_at), attempt.failures > 0);
        if !self.begun {
            self.begun = true;
            record.agents_begun += u64::from(self.id.lane == 0);
        }
        let number = self.id.agent.wrapping_add(self.posts);
        let conduct = self.is_hostile.then(|| Conduct::of(number));
        let post = conduct.map_or(due.post, Conduct::post);
        let request = self.library.pick(post, number);
        self.posts = self.posts.wrapping_add(1);
        let exchange = Exchange { timing, request, spoke: false, attempt, conduct };
        if self.linked {
            return self.send(exchange);
        }
        self.state = State::Connecting(exchange);
        let abortive = conduct == Some(Conduct::ResetAfterHead);
        Act::Connect { deadline: self.deadline(exchange), abortive }
    }

    fn shake(&mut self, exchange: Exchange) -> Act {
        if !self.way.has_tls {
            return self.send(exchange);
        }
        self.state = State::Shaking(exchange);
        Act::Handshake { deadline: self.deadline(exchange) }
    }

    fn send(&mut self, exchange: Exchange) -> Act {
        self.state = State::Sending(exchange);
        Act::Send { request: exchange.request, deadline: self.deadline(exchange) }
    }

    /// What follows what has been sent: the reply, or what a hostile agent does.
    fn sent(&mut self, now: Nanos, exchange: Exchange, record: &mut Recorder) -> Act {
        match exchange.conduct {
            None => self.receive(exchange),
            Some(conduct @ Conduct::HalfOpen) => {
                self.state = State::Pausing(exchange);
                Act::Wait { until: now + self.manners.pause(conduct) }
            }
            Some(conduct @ Conduct::SlowReader) => {
                self.state = State::Pausing(exchange);
                Act::Ignore { until: now + self.manners.pause(conduct) }
            }
            Some(Conduct::ResetAfterHead) => self.done(now, exchange, record),
            Some(Conduct::CutBody) => {
                self.state = State::Finishing(exchange);
                Act::Finish
            }
        }
    }

    /// A hostile exchange has come to its end, which is all that it wanted.
    fn done(&mut self, now: Nanos, exchange: Exchange, record: &mut Recorder) -> Act {
        self.succeed(now, exchange, record);
        self.close(record)
    }

    /// Counts an exchange that went as it should.
    fn succeed(&mut self, now: Nanos, exchange: Exchange, record: &mut Recorder) {
        record.answered(exchange.timing, now, exchange.request.bytes.len() as u64);
        self.free_at = now;
        if !self.answered {
            self.answered = true;
            record.agents_answered += u64::from(self.id.lane == 0);
        }
    }

    fn receive(&mut self, exchange: Exchange) -> Act {
        self.state = State::Receiving(exchange);
        Act::Receive { deadline: self.deadline(exchange) }
    }

    fn read(
        &mut self,
        now: Nanos,
        mut exchange: Exchange,
        bytes: &[u8],
        record: &mut Recorder,
    ) -> Act {
        if !exchange.spoke {
            exchange.spoke = true;
            record.first_byte(exchange.timing, now);
        }
        let step = self.reply.push(bytes);
        self.judge(now, exchange, step, record)
    }

    fn judge(&mut self, now: Nanos, exchange: Exchange, step: Step, record: &mut Recorder) -> Act {
        let done = match step {
            Step::More => return self.receive(exchange),
            Step::Bad => return self.fail(now, exchange, Failure::ProtoBadReply, None, record),
            Step::Done(done) => done,
        };
        if !(200..300).contains(&done.status) {
            return self.fail(now, exchange, Failure::ProtoBadStatus, None, record);
        }
        if done.echo.is_some_and(|echo| echo != exchange.request.digest) {
            return self.fail(now, exchange, Failure::ProtoBadReply, None, record);
        }
        self.succeed(now, exchange, record);
        // A v5 agent closes first although its request says keep-alive (tornado's
        // simple_httpclient); a Go agent keeps what the server keeps.
        if self.keeps && done.keeps { self.settle(now, record) } else { self.close(record) }
    }

    fn fail(
        &mut self,
        now: Nanos,
        exchange: Exchange,
        why: Failure,
        errno: Option<i32>,
        record: &mut Recorder,
    ) -> Act {
        record.failed(exchange.timing, now, why, errno);
        self.keep(now, exchange.attempt);
        self.reply = Reply::default();
        self.free_at = now;
        if self.linked { self.close(record) } else { self.settle(now, record) }
    }

    fn close(&mut self, record: &mut Recorder) -> Act {
        debug_assert!(self.linked, "only an open connection is closed");
        self.linked = false;
        record.closed();
        self.state = State::Closing;
        Act::Close
    }

    fn finish(&mut self, record: &mut Recorder) {
        if self.linked {
            self.linked = false;
            record.closed();
        }
        self.state = State::Ended;
    }

    fn deadline(&self, exchange: Exchange) -> Nanos {
        exchange.timing.began + self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use crate::plan::Phases;

    const TIMEOUT: Nanos = 20 * SECOND;
    const REPLY: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok";

    /// One lane in virtual time.
    struct Driver {
        lane: Lane,
        record: Recorder,
        now: Nanos,
    }

    impl Driver {
        fn new(profile: Profile) -> Self {
            let plan = Plan {
                agents: 1,
                profile,
                seed: 1,
                ramp: 0,
                duration: 60 * SECOND,
                speedup: 1.0,
                phases: Phases::Aligned,
            };
            let library = Box::leak(Box::new(Library::new(profile, 1, "relay:1", None)));
            let lane =
                Lane::new(&plan, LaneId { agent: 0, lane: 0 }, Way::default(), TIMEOUT, library);
            Self { lane, record: Recorder::new(plan.window()), now: 0 }
        }

        /// Steps at `now`, some nanoseconds after the last step.
        fn step(&mut self, after: Nanos, event: Event) -> Act {
            self.now += after;
            self.lane.step(self.now, &event, &mut self.record)
        }

        /// At the next quarter of a minute.
        fn next_begins(&mut self) -> Act {
            self.now = self.now.next_multiple_of(15 * SECOND);
            self.step(0, Event::Due)
        }

        /// From a connection made to the reply awaited.
        fn until_receiving(&mut self) {
            assert!(matches!(self.step(1, Event::Connected), Act::Send { .. }));
            assert!(matches!(self.step(1, Event::Sent), Act::Receive { .. }));
        }

        fn failures(&self, kind: Failure) -> u64 {
            self.record.window.failures[kind.index()]
        }
    }

    #[test]
    fn a_v5_agent_closes_first_though_the_server_would_keep_the_connection() {
        let mut driver = Driver::new(Profile::V5Churn);
        assert!(matches!(driver.step(0, Event::Begin), Act::Connect { deadline: TIMEOUT, .. }));
        driver.until_receiving();
        assert!(matches!(driver.step(1, Event::Bytes(REPLY.to_vec())), Act::Close));
        // Synchronised: statsd's post was due at the same moment, and begins a new connection.
        assert!(matches!(driver.step(1, Event::Closed), Act::Connect { .. }));
        assert_eq!((driver.record.window.answered, driver.record.window.queued), (1, 1));
        assert_eq!(driver.record.window.connects, 1);
    }

    #[test]
    fn a_go_agent_keeps_its_connection_and_sends_on_it_again() {
        let mut driver = Driver::new(Profile::GoKeepalive);
        assert!(matches!(driver.step(0, Event::Begin), Act::Connect { .. }));
        driver.until_receiving();
        let act = driver.step(1, Event::Bytes(REPLY.to_vec()));
        assert!(matches!(act, Act::Wait { until } if until == 15 * SECOND), "{act:?}");
        assert!(matches!(driver.step(15 * SECOND, Event::Due), Act::Send { .. }));
        assert_eq!(driver.record.open, 1);
    }

    #[test]
    fn a_go_agent_reconnects_after_the_server_closed_while_it_waited() {
        let mut driver = Driver::new(Profile::GoKeepalive);
        driver.step(0, Event::Begin);
        driver.until_receiving();
        driver.step(1, Event::Bytes(REPLY.to_vec()));
        assert!(matches!(driver.step(SECOND, Event::HungUp), Act::Close));
        assert!(matches!(driver.step(1, Event::Closed), Act::Wait { .. }));
        assert!(matches!(driver.step(15 * SECOND, Event::Due), Act::Connect { .. }));
        assert_eq!(driver.record.window.failed(), 0, "no exchange was under way");
    }

    #[test]
    fn every_failure_ends_the_exchange_and_the_plan_goes_on() {
        let mut driver = Driver::new(Profile::V5Churn);
        driver.step(0, Event::Begin);
        // Each refusal is followed by whatever is due next.
        let refused = Event::Failed(Failure::ConnectRefused, Some(libc::ECONNREFUSED));
        assert!(matches!(driver.step(1, refused), Act::Connect { .. }));
        assert!(matches!(driver.step(1, Event::TimedOut), Act::Wait { .. }));
        assert!(matches!(driver.step(5 * SECOND, Event::Due), Act::Connect { .. }));
        driver.until_receiving();
        assert!(matches!(driver.step(1, Event::Eof), Act::Close));
        assert_eq!(driver.failures(Failure::ConnectRefused), 1);
        assert_eq!(driver.failures(Failure::ConnectTimeout), 1);
        assert_eq!(driver.failures(Failure::IoEofEarly), 1);
        assert_eq!(driver.record.errnos[&libc::ECONNREFUSED], 1);
        assert_eq!(driver.record.open, 0);
    }

    #[test]
    fn what_has_failed_is_posted_again_after_the_forwarders_pause() {
        let mut driver = Driver::new(Profile::GoKeepalive);
        driver.step(0, Event::Begin);
        let refused = || Event::Failed(Failure::ConnectRefused, Some(libc::ECONNREFUSED));
        let act = driver.step(1, refused());
        assert!(matches!(act, Act::Wait { until } if until == 2 * SECOND + 1), "{act:?}");
        assert!(matches!(driver.step(2 * SECOND, Event::Due), Act::Connect { .. }));
        let act = driver.step(1, refused());
        assert!(matches!(act, Act::Wait { until } if until == 6 * SECOND + 2), "{act:?}");
        assert!(matches!(driver.step(4 * SECOND, Event::Due), Act::Connect { .. }));
        driver.until_receiving();
        let act = driver.step(1, Event::Bytes(REPLY.to_vec()));
        assert!(matches!(act, Act::Wait { until } if until == 15 * SECOND), "done: {act:?}");
        let window = &driver.record.window;
        assert_eq!((window.begun, window.retried, window.answered, window.failed()), (3, 2, 1, 2));
    }

    #[test]
    fn hostile_exchanges_take_their_turns_and_end_as_they_should() {
        let mut driver = Driver::new(Profile::Hostile);
        let act = driver.step(0, Event::Begin);
        assert!(matches!(act, Act::Connect { abortive: false, .. }), "{act:?}");
        // Half a head, and silence until the other side gives up.
        driver.step(1, Event::Connected);
        let act = driver.step(1, Event::Sent);
        assert!(matches!(act, Act::Wait { until } if until == 10 * SECOND + 2), "{act:?}");
        assert!(matches!(driver.step(SECOND, Event::HungUp), Act::Close));
        assert!(matches!(driver.step(1, Event::Closed), Act::Wait { .. }));
        // A reply that lies unread for five seconds.
        let act = driver.next_begins();
        assert!(matches!(act, Act::Connect { abortive: false, .. }), "{act:?}");
        driver.step(1, Event::Connected);
        let act = driver.step(1, Event::Sent);
        assert!(
            matches!(act, Act::Ignore { until } if until == driver.now + 5 * SECOND),
            "{act:?}"
        );
        assert!(matches!(driver.step(5 * SECOND, Event::Due), Act::Receive { .. }));
        assert!(matches!(driver.step(1, Event::Bytes(REPLY.to_vec())), Act::Close));
        driver.step(1, Event::Closed);
        // A reset after the head.
        let act = driver.next_begins();
        assert!(matches!(act, Act::Connect { abortive: true, .. }), "{act:?}");
        driver.step(1, Event::Connected);
        assert!(matches!(driver.step(1, Event::Sent), Act::Close));
        driver.step(1, Event::Closed);
        // A FIN in mid-body, answered by an end.
        let act = driver.next_begins();
        assert!(matches!(act, Act::Connect { abortive: false, .. }), "{act:?}");
        driver.step(1, Event::Connected);
        assert!(matches!(driver.step(1, Event::Sent), Act::Finish));
        assert!(matches!(driver.step(1, Event::Finished), Act::Receive { .. }));
        assert!(matches!(driver.step(1, Event::Eof), Act::Close));
        assert_eq!((driver.record.window.answered, driver.record.window.failed()), (4, 0));
    }

    #[test]
    fn replies_that_are_not_ours_or_not_good_are_told_apart() {
        let replies: [(&[u8], Failure); 3] = [
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Failure::ProtoBadStatus),
            (b"noise\r\n\r\n", Failure::ProtoBadReply),
            (
                b"HTTP/1.1 200 OK\r\nX-Request-MD5: 0123456789abcdef0123456789abcdef\r\n\
                  Content-Length: 0\r\n\r\n",
                Failure::ProtoBadReply,
            ),
        ];
        for (reply, failure) in replies {
            let mut driver = Driver::new(Profile::GoKeepalive);
            driver.step(0, Event::Begin);
            driver.until_receiving();
            assert!(matches!(driver.step(1, Event::Bytes(reply.to_vec())), Act::Close));
            assert_eq!(driver.failures(failure), 1, "{}", failure.label());
        }
    }

    #[test]
    fn what_waits_for_a_stalled_exchange_shows_the_stall_from_its_intended_time() {
        let mut driver = Driver::new(Profile::V5Churn);
        driver.step(0, Event::Begin);
        driver.until_receiving();
        // A reply after 9 s; statsd's post was due at 0 and can only begin now.
        assert!(matches!(driver.step(9 * SECOND, Event::Bytes(REPLY.to_vec())), Act::Close));
        assert!(matches!(driver.step(0, Event::Closed), Act::Connect { .. }));
        driver.until_receiving();
        driver.step(1, Event::Bytes(REPLY.to_vec()));
        assert!(driver.record.exchange.from_intended.min() >= 8_990_000);
        assert!(driver.record.exchange.from_send.min() < 10);
        assert_eq!(driver.record.send_lag.max(), 0, "the stall was not the generator's");
    }

    #[test]
    fn the_end_of_the_run_counts_what_is_under_way_and_what_is_overdue() {
        let mut driver = Driver::new(Profile::V5Churn);
        driver.step(0, Event::Begin);
        driver.until_receiving();
        driver.now = 12 * SECOND;
        driver.lane.end_at(driver.now);
        driver.lane.cut(driver.now, &mut driver.record);
        assert_eq!(driver.failures(Failure::TimeUnanswered), 1);
        // Statsd at 0 and 10 s, and the run's two later posts.
        assert_eq!(driver.failures(Failure::TimeUnsent), 4);
        assert_eq!(driver.record.exchange.from_intended.len(), 5, "with their age");
        assert_eq!(driver.record.open, 0);
        assert!(matches!(driver.step(0, Event::Eof), Act::End));
        driver.lane.cut(driver.now, &mut driver.record);
        assert_eq!(driver.record.window.failed(), 5, "a second cut counts nothing");
    }

    #[test]
    fn a_held_connection_lasts_until_the_plan_ends() {
        let mut driver = Driver::new(Profile::GoKeepalive);
        driver.step(0, Event::Begin);
        driver.until_receiving();
        for _ in 0..3 {
            driver.step(1, Event::Bytes(REPLY.to_vec()));
            driver.now = driver.now.next_multiple_of(15 * SECOND);
            assert!(matches!(driver.step(0, Event::Due), Act::Send { .. }));
            driver.step(1, Event::Sent);
        }
        let act = driver.step(1, Event::Bytes(REPLY.to_vec()));
        assert!(matches!(act, Act::Wait { until } if until == 60 * SECOND), "{act:?}");
        assert_eq!(driver.record.open, 1);
        driver.now = 60 * SECOND;
        assert!(matches!(driver.step(0, Event::Due), Act::End));
        assert_eq!((driver.record.open, driver.record.window.failed()), (0, 0));
    }
}
