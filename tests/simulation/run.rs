//! One seed, from its first turn to its last.

use std::sync::mpsc;
use std::sync::{Arc, mpsc::Sender};
use std::time::Duration;

use fanin::backend::board::Room;
use fanin::metrics::{Counters, SessionRecord};
use fanin::op::ListenerId;
use fanin::session::CloseReason;
use fanin::worker::{Command, Setup, Turn, Worker};

use crate::checker::Checker;
use crate::faults::{Fault, Faults, Random, Seen, Sight};
use crate::kernel::SimEngine;
use crate::network::Network;
use crate::workload::{Ending, Mail, SECOND, Scenario};

/// Once all is calm everything ends within this time: the longest timers of the workload are 60 s.
const CALM_MAX: u64 = 75 * SECOND;
/// And within so many turns.
const CALM_TURNS_MAX: u64 = 200_000;
/// No run takes more turns: a worker that spins is caught.
const TURNS_MAX: u64 = 2_000_000;
/// Nor does time stand still for more turns than this.
const TURNS_WITHOUT_TIME_MAX: u64 = 10_000;

pub(crate) struct Run {
    seed: u64,
    scenario: Scenario,
    random: Random,
    faults: Faults,
    stations: Vec<Station>,
    turns: u64,
}

struct Taken {
    boards: Vec<u32>,
    quotas: Vec<u32>,
}

/// A worker, and what the world knows of it.
struct Station {
    worker: Worker<SimEngine>,
    counters: Arc<Counters>,
    records: rtrb::Consumer<SessionRecord>,
    /// Records taken, and by reason.
    taken: u64,
    reasons: [u64; CloseReason::COUNT],
    over: bool,
    /// Since when all is calm, and the turns since then.
    calm_since: Option<u64>,
    calm_turns: u64,
    /// Told to end.
    dismissed: bool,
    /// By listener: since when it could have accepted.
    idle_since: Vec<Option<u64>>,
}

/// Says how to see it again, should the run end in a panic.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed; to see it again:");
            eprintln!(
                "    FANIN_SIM_SEED={seed} cargo test --test simulation -- replay --nocapture"
            );
        }
    }
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut faults = Faults::swarm(&mut random);
        let scenario = Scenario::new(&mut random, &mut faults);
        let mut run = Self { seed, scenario, random, faults, stations: Vec::new(), turns: 0 };
        for index in 0..run.scenario.workers {
            let station = run.station(index);
            run.stations.push(station);
        }
        run
    }

    fn station(&mut self, index: u16) -> Station {
        let scenario = &self.scenario;
        let mail = scenario.mail(&mut self.random, &mut self.faults);
        let (sender, mailbox): (Sender<Command>, _) = mpsc::channel();
        let (producer, records) = rtrb::RingBuffer::new(scenario.records_max);
        let listeners = scenario.quotas.len();
        let plan = Arc::clone(&scenario.plans[0]);
        let span = (scenario.start, scenario.calm_at);
        let dice = Random::new(self.random.next());
        let mut faults = self.faults.clone();
        faults.seen = Seen::default();
        let engine = SimEngine::new(
            Checker::new(index, scenario.workers, Arc::clone(&plan)),
            Network::new(index, listeners, scenario.traffic, span),
            (scenario.plans.clone(), scenario.boards.clone()),
            sender,
            mail,
            (dice, faults),
            span,
        );
        let counters = Arc::new(Counters::default());
        let setup = Setup {
            index,
            workers: scenario.workers,
            sessions_max: scenario.sessions_max,
            spares_max: 0,
            plan,
            quota: Arc::clone(&scenario.quota),
            counters: Arc::clone(&counters),
            mailbox,
            records: producer,
            seed: self.random.next(),
        };
        Station {
            worker: Worker::new(engine, setup),
            counters,
            records,
            taken: 0,
            reasons: [0; CloseReason::COUNT],
            over: false,
            calm_since: None,
            calm_turns: 0,
            dismissed: false,
            idle_since: vec![None; listeners],
        }
    }

    /// Runs and returns what happened, in words.
    pub(crate) fn log(mut self) -> Vec<String> {
        for station in &mut self.stations {
            station.worker.engine_mut().log = Some(Vec::new());
        }
        // Also when it fails: then above all.
        let log = Shown(self);
        log.finish()
    }

    pub(crate) fn seen(mut self) -> Seen {
        self.go();
        let mut seen = self.faults.seen.clone();
        for station in &mut self.stations {
            let engine = station.worker.engine_mut();
            seen.add(&engine.faults.seen);
            seen.add(&engine.checker.seen);
        }
        seen
    }

    fn go(&mut self) {
        let _announce = Announce(self.seed);
        let mut stood_still = 0;
        while let Some(next) = self.next() {
            let before = self.now(next);
            self.conduct(next);
            self.turn(next);
            self.turns += 1;
            stood_still = if self.now(next) == before { stood_still + 1 } else { 0 };
            assert!(stood_still < TURNS_WITHOUT_TIME_MAX, "the worker spins");
            assert!(self.turns < TURNS_MAX, "there is no end");
        }
        self.check_end();
    }

    fn now(&mut self, station: usize) -> u64 {
        self.stations[station].worker.engine_mut().now()
    }

    /// Whose turn it is: the one who lives furthest in the past.
    fn next(&mut self) -> Option<usize> {
        let alive: Vec<_> =
            (0..self.stations.len()).filter(|index| !self.stations[*index].over).collect();
        alive.into_iter().min_by_key(|index| self.now(*index))
    }

    /// What the world does to a worker before its turn.
    fn conduct(&mut self, index: usize) {
        let scenario = &self.scenario;
        let station = &mut self.stations[index];
        let sessions = station.worker.sessions();
        let engine = station.worker.engine_mut();
        if !engine.is_calm() && engine.now() >= scenario.calm_at {
            engine.calm();
            station.calm_since = Some(engine.now());
            scenario.all_quotas().for_each(|quota| quota.resize(10_000));
        }
        let Some(calm_since) = station.calm_since else {
            let dice = &mut self.random;
            if self.turns.is_multiple_of(64) && self.faults.strikes(Fault::Resize, dice) {
                let limit = u32::try_from(dice.below(20)).expect("few");
                let at = dice.index(scenario.quotas.len() + 1);
                scenario.all_quotas().skip(at).take(1).for_each(|quota| quota.resize(limit));
            }
            if self.turns.is_multiple_of(8)
                && sessions > 0
                && let Some(mail) = scenario.departure(dice, &mut self.faults)
            {
                engine.send(mail);
            }
            return;
        };
        station.calm_turns += 1;
        let soon = engine.now() - calm_since < CALM_MAX && station.calm_turns < CALM_TURNS_MAX;
        assert!(soon, "{sessions} sessions never end");
        if sessions == 0 && engine.checker.waiting() == 0 && !station.dismissed {
            station.dismissed = true;
            engine.send(match scenario.ending {
                Ending::Drain => Mail::Drain { grace: Duration::from_secs(5) },
                Ending::Stop => Mail::Stop,
                Ending::MailboxGone => Mail::Gone,
            });
        }
    }

    fn turn(&mut self, index: usize) {
        let before = self.taken();
        let turn = self.stations[index].worker.turn().expect("the fake kernel never fails");
        self.stations[index].hear(self.scenario.records_max > 2);
        self.stations[index].check(&self.scenario);
        self.check_places(&before);
        let station = &mut self.stations[index];
        if turn == Turn::Over {
            station.over = true;
            assert_eq!(station.worker.sessions(), 0, "the worker left sessions behind");
            station.worker.engine_mut().checker.on_over();
        }
        assert!(station.over || !station.worker.engine_mut().is_stuck, "nothing happens any more");
    }

    /// Places taken: at each server, through each listener, in the process.
    fn taken(&self) -> Taken {
        Taken {
            boards: self.scenario.boards.iter().map(|board| board.sessions()).collect(),
            quotas: self.scenario.all_quotas().map(|quota| quota.taken()).collect(),
        }
    }

    /// Every place that is taken is taken by somebody, and no more than there are.
    fn check_places(&mut self, before: &Taken) {
        for (quota, before) in self.scenario.all_quotas().zip(&before.quotas) {
            let (now, limit) = (quota.taken(), quota.limit());
            assert!(now <= limit.max(*before), "{now} places of {limit} are taken");
        }
        let checkers: Vec<_> = self
            .stations
            .iter_mut()
            .map(|station| &*station.worker.engine_mut())
            .map(|engine| &engine.checker)
            .collect();
        let sessions: usize = checkers.iter().map(|checker| checker.sessions()).sum();
        assert_eq!(self.scenario.quota.taken() as usize, sessions, "places in the process");
        for (listener, quota) in (0..).map(ListenerId).zip(&self.scenario.quotas) {
            let sessions: usize =
                checkers.iter().map(|checker| checker.sessions_of(listener)).sum();
            assert_eq!(quota.taken() as usize, sessions, "places of {listener:?}");
        }
        let plans = checkers.iter().map(|checker| &checker.plan);
        let members: Vec<_> = plans
            .flat_map(|plan| plan.backends.iter().flat_map(|backend| &backend.members))
            .collect();
        for (board, before) in self.scenario.boards.iter().zip(&before.boards) {
            let same = members.iter().filter(|member| Arc::ptr_eq(&member.board, board));
            let maxconn = same.map(|member| member.room.sessions.unwrap_or(u32::MAX)).max();
            let now = board.sessions();
            // A plan that came in this turn may have lowered it after the server was chosen.
            let grown = now > *before && !checkers.iter().any(|checker| checker.just_replaced());
            assert!(!grown || maxconn.is_none_or(|most| now <= most), "{} overflows", board.name());
        }
        let taken: u32 = self.scenario.boards.iter().map(|board| board.sessions()).sum();
        let at_servers: usize = checkers.iter().map(|checker| checker.sessions_at_servers()).sum();
        assert_eq!(taken as usize, at_servers, "places at servers");
    }

    fn check_end(&mut self) {
        for quota in self.scenario.all_quotas() {
            assert_eq!(quota.taken(), 0, "places of the process or a listener are not given back");
        }
        let mut failures = 0;
        let mut established = 0;
        let mut bytes = [0; 2];
        for station in &mut self.stations {
            let totals = station.worker.engine_mut().checker.totals;
            failures += totals.connect_failures;
            established += totals.established;
            bytes.iter_mut().zip(totals.bytes).for_each(|(sum, bytes)| *sum += bytes);
        }
        let boards = &self.scenario.boards;
        assert_eq!(boards.iter().map(|board| board.connect_failures()).sum::<u64>(), failures);
        assert_eq!(
            boards.iter().map(|board| board.read().sessions_total).sum::<u64>(),
            established
        );
        assert_eq!(boards.iter().map(|board| board.read().bytes_to_server).sum::<u64>(), bytes[0]);
        assert_eq!(
            boards.iter().map(|board| board.read().bytes_from_server).sum::<u64>(),
            bytes[1]
        );
        for queue in self.scenario.queues() {
            assert_eq!(queue.places.taken(), 0, "places to wait in are not given back");
        }
        for board in boards {
            let room = Room { connecting: Some(1), ..Room::default() };
            assert!(board.has_room(room), "{} is being connected to for ever", board.name());
            assert_eq!(board.sessions(), 0, "places at {} were not given back", board.name());
        }
    }
}

impl Station {
    /// Takes the records of this turn and shows them to the checker.
    fn hear(&mut self, all: bool) {
        let checker = &mut self.worker.engine_mut().checker;
        let dropped = self.counters.records_dropped.value();
        while let Ok(record) = self.records.pop() {
            self.taken += 1;
            self.reasons[record.report.reason.index()] += 1;
            checker.on_record(&record);
        }
        if !all {
            checker.forget_ended();
        }
        assert_eq!(self.taken + dropped, checker.totals.ended, "one record for each session");
        checker.end_turn();
    }

    /// The counters say what happened, and nobody waits for what there is.
    fn check(&mut self, scenario: &Scenario) {
        let sessions = self.worker.sessions();
        let engine = self.worker.engine_mut();
        let (checker, counters) = (&engine.checker, &self.counters);
        let totals = &checker.totals;
        assert_eq!(sessions, checker.sessions());
        assert!(sessions <= scenario.sessions_max as usize, "{sessions} sessions");
        let counts = counters.read();
        assert_eq!(counts.sessions, sessions as u64, "sessions");
        assert_eq!(counts.accepted, totals.accepted, "accepted");
        assert_eq!(counts.accept_failures, totals.accept_failures, "accept failures");
        assert_eq!(counts.refused, totals.refused, "refused");
        assert_eq!(counts.sessions_total, totals.adopted, "sessions so far");
        assert_eq!(counts.connect_attempts, totals.attempts, "attempts");
        assert_eq!(counts.connect_failures, totals.connect_failures, "failed attempts");
        assert_eq!(counts.retries, totals.retries, "retries");
        let redispatches = totals.redispatches..=totals.redispatches + totals.redispatches_perhaps;
        assert!(redispatches.contains(&counts.redispatches), "redispatches: {counts:?}");
        assert_eq!(counts.port_conflicts, totals.port_conflicts, "port conflicts");
        assert_eq!(counts.listeners_paused, engine.network.paused(), "paused listeners");
        assert_eq!(counts.ended.iter().sum::<u64>(), totals.ended, "ended");
        let all_told = counts.records_dropped == 0;
        assert!(!all_told || counts.ended == self.reasons, "counters and records disagree");
        let room = sessions < scenario.sessions_max as usize
            && scenario.quota.taken() < scenario.quota.limit();
        let now = engine.now();
        let mut waited = false;
        for (at, quota) in scenario.quotas.iter().enumerate() {
            let listener = ListenerId(u16::try_from(at).expect("few listeners"));
            let room = room && quota.taken() < quota.limit();
            let waiting = checker.waiting_for(listener);
            assert!(!room || waiting == 0, "{waiting} wait for {listener:?} while there is room");
            waited |= waiting > 0;
            let asleep = room && !engine.network.is_accepting(listener);
            let since = self.idle_since[at].filter(|_| asleep && !checker.is_ending());
            let late = checker.is_asleep(since);
            assert!(!late || scenario.workers > 1, "{listener:?} sleeps while there is room");
            self.idle_since[at] = if asleep { since.or(Some(now)) } else { None };
        }
        if waited {
            engine.checker.seen.sight(Sight::WaitedForPlace);
        }
    }
}

/// A run that shows its log if it fails.
struct Shown(Run);

impl Shown {
    fn finish(mut self) -> Vec<String> {
        self.0.go();
        self.take()
    }

    fn take(&mut self) -> Vec<String> {
        let logs = self.0.stations.iter_mut().map(|station| &mut station.worker);
        logs.filter_map(|worker| worker.engine_mut().log.take()).flatten().collect()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.take();
            println!("{}", log.join("\n"));
        }
    }
}
