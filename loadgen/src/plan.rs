//! PURE: when each agent posts what. An open loop: the plan never looks at replies.
//!
//! The timers are those of the real agents. v5 (sts-agent, dd-agent 5): the collector sleeps
//! 15 s after each run (`DEFAULT_CHECK_FREQUENCY`) and posts three times per run, statsd posts
//! every 10 s (`DOGSTATSD_FLUSH_INTERVAL`). Go agents post every 15 s on connections they keep.

use crate::clock::{Nanos, SECOND};
use crate::dice::Dice;
use std::ops::Range;

/// Sleep between two collector runs, and flush interval of the Go agents.
const COLLECTOR_SLEEP: Nanos = 15 * SECOND;
/// How long a collector run takes.
const COLLECTOR_RUN: (Nanos, Nanos) = (3 * SECOND / 10, 2 * SECOND);
/// From run to run, on average.
const COLLECTOR_PERIOD: Nanos = COLLECTOR_SLEEP + (COLLECTOR_RUN.0 + COLLECTOR_RUN.1) / 2;
/// When the second and third post of a run follow the first.
const LATER_POSTS: (Nanos, Nanos) = (SECOND / 2, 5 * SECOND);
/// The statsd flush interval.
const STATSD_FLUSH: Nanos = 10 * SECOND;
/// How often the process table rides along with the intake post.
const PROCESSES_EVERY: Nanos = 60 * SECOND;

/// What has piled up at each agent in a storm: an outage of three and a half minutes.
const BACKLOG: u32 = 60;
/// The v5 forwarder sends what has piled up at two a second, for ten seconds at most; what is left
/// comes with the next wave. It looks every five seconds.
const BACKLOG_PACE: Nanos = SECOND / 2;
const BACKLOG_WAVE: u32 = 20;
const WAVES_APART: Nanos = 20 * SECOND;
const FLUSH_TICK: Nanos = 5 * SECOND;

/// How an agent behaves on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// sts-agent and dd-agent 5: a new connection for each POST, closed by the agent.
    V5Churn,
    /// Go agents: one or two connections held, a POST on each every 15 s.
    GoKeepalive,
    /// v5 agents after an outage: what has piled up goes out at 2/s in waves, from the end of the ramp.
    Storm,
    /// v5 agents while the upstream is slow: the sink that loadgen starts takes 5 to 19 s to
    /// answer and refuses a tenth.
    Brownout,
    /// Connections that say nothing after one POST: what a session costs in memory.
    Idle,
}

impl Profile {
    /// The name as typed.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::V5Churn => "v5-churn",
            Self::GoKeepalive => "go-keepalive",
            Self::Storm => "storm",
            Self::Brownout => "brownout",
            Self::Idle => "idle",
        }
    }

    /// Posts per second of one agent with unscaled timers, on average.
    pub(crate) fn posts_per_second(self) -> f64 {
        match self {
            // 3 posts in 15 s of sleep and 1.15 s of run on average, and one in 10 s.
            Self::V5Churn | Self::Storm | Self::Brownout => 3.0 / 16.15 + 0.1,
            // One and a half connections on average, each with a post in 15 s.
            Self::GoKeepalive => 1.5 / 15.0,
            Self::Idle => 0.0,
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
            Self::V5Churn | Self::Storm | Self::Brownout => false,
            Self::GoKeepalive | Self::Idle => true,
        }
    }

    /// Connections an agent holds open between posts, on average.
    pub(crate) fn held_connections(self) -> f64 {
        match self {
            Self::V5Churn | Self::Storm | Self::Brownout => 0.0,
            Self::GoKeepalive => 1.5,
            Self::Idle => 1.0,
        }
    }
}

/// What is posted. Bodies differ by kind, see `payload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Post {
    /// `/intake/`: host metadata and events, next to empty.
    Intake,
    /// `/intake/` with the process table, once a minute.
    IntakeProcesses,
    /// `/api/v1/series`: the metrics of a bare host.
    Series,
    /// `/api/v1/check_run`: the states of the checks.
    CheckRun,
    /// `/api/v1/series` by statsd: its own counters, not compressed.
    Statsd,
}

impl Post {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = 5;

    /// All kinds.
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Intake, Self::IntakeProcesses, Self::Series, Self::CheckRun, Self::Statsd];
}

/// One planned exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// The intended start; all latency counts from here.
    pub(crate) at: Nanos,
    /// What is posted.
    pub(crate) post: Post,
}

/// One connection's worth of an agent: its posts follow each other, never overlap.
///
/// A v5 agent is one lane (its forwarder posts one at a time), a Go agent one or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneId {
    /// The agent, from zero.
    pub(crate) agent: u32,
    /// The lane within the agent, from zero.
    pub(crate) lane: u8,
}

/// All that decides who posts what when.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of agents.
    pub(crate) agents: u32,
    /// How they behave.
    pub(crate) profile: Profile,
    /// Decides all phases, jitters and bodies.
    pub(crate) seed: u64,
    /// Agents start spread over this time; what is due in it is warm-up.
    pub(crate) ramp: Nanos,
    /// The measured time after the ramp.
    pub(crate) duration: Nanos,
    /// Agents' timers run this many times faster than in life.
    pub(crate) speedup: f64,
    /// All timers of all agents expire together, first at the end of the ramp.
    pub(crate) synchronised: bool,
}

impl Plan {
    /// When the last exchange is due, exclusive.
    pub(crate) fn end(&self) -> Nanos {
        self.ramp + self.duration
    }

    /// The measured window.
    pub(crate) fn window(&self) -> Range<Nanos> {
        self.ramp..self.end()
    }

    /// Planned exchanges per second of all agents together, on average.
    pub(crate) fn rate(&self) -> f64 {
        let backlog = match self.profile {
            Profile::Storm => f64::from(BACKLOG) / (self.duration as f64 / SECOND as f64),
            _ => 0.0,
        };
        f64::from(self.agents) * (self.profile.posts_per_second() * self.speedup + backlog)
    }

    /// The most of them in a second.
    pub(crate) fn peak_rate(&self) -> f64 {
        match self.profile {
            Profile::Storm => f64::from(self.agents) * (SECOND / BACKLOG_PACE) as f64,
            _ => self.rate(),
        }
    }

    /// When an agent posts again what has failed.
    pub(crate) fn retries(&self) -> Retries {
        Retries { profile: self.profile, scale: Scale { speedup: self.speedup } }
    }

    /// How many lanes an agent has.
    pub(crate) fn lanes_of(&self, agent: u32) -> u8 {
        match self.profile {
            Profile::GoKeepalive => {
                1 + u8::from(self.dice(LaneId { agent, lane: 2 }).below(2) == 1)
            }
            _ => 1,
        }
    }

    /// All lanes of the agents `first`, `first + step`, and so on.
    pub(crate) fn lanes(&self, first: u32, step: u32) -> impl Iterator<Item = LaneId> + '_ {
        let agents = (first..self.agents).step_by(usize::try_from(step.max(1)).unwrap_or(1));
        agents.flat_map(|agent| (0..self.lanes_of(agent)).map(move |lane| LaneId { agent, lane }))
    }

    /// The endless schedule of one lane, in order of time.
    ///
    /// Agents are met in mid-life: their timers began one period before they are switched on, so
    /// that the load is steady from the end of the ramp on. Synchronised ones all start afresh.
    pub(crate) fn schedule(&self, id: LaneId) -> Schedule {
        let mut dice = self.dice(id);
        let scale = Scale { speedup: self.speedup };
        let (begin, past) = match self.synchronised {
            true => (self.ramp, 0),
            false => (spread(self.ramp, id.agent, self.agents), scale.of(2 * COLLECTOR_PERIOD)),
        };
        let mut phase = |period| match self.synchronised {
            true => begin,
            false => begin + dice.below(scale.of(period)),
        };
        let timers = match self.profile {
            Profile::V5Churn | Profile::Storm | Profile::Brownout => {
                let next_run = phase(COLLECTOR_PERIOD);
                let next_processes = next_run + phase(PROCESSES_EVERY) - begin;
                let next_statsd = phase(STATSD_FLUSH);
                Timers::V5 { next_run, later: [None; 2], next_statsd, next_processes }
            }
            Profile::GoKeepalive => Timers::Go {
                next: phase(COLLECTOR_SLEEP),
                post: if id.lane == 0 { Post::Series } else { Post::CheckRun },
            },
            Profile::Idle => {
                return Schedule {
                    timers: Timers::Never,
                    scale,
                    dice,
                    past: 0,
                    first: Some(Due { at: begin, post: Post::Intake }),
                    backlog: None,
                };
            }
        };
        let backlog = (self.profile == Profile::Storm).then(|| {
            let tick = if self.synchronised { 0 } else { dice.below(scale.of(FLUSH_TICK)) };
            Backlog { left: BACKLOG, next: self.ramp + tick }
        });
        let mut schedule = Schedule { timers, scale, dice, past, first: None, backlog };
        let mut due = schedule.advance();
        while due.at < begin {
            due = schedule.advance();
        }
        schedule.first = Some(due);
        schedule
    }

    /// A fingerprint of the plan: equal for equal seeds and settings, whatever the thread count.
    pub(crate) fn digest(&self) -> u64 {
        const POSTS_PER_LANE: usize = 16;
        let mut digest = Dice::new(self.seed, self.ramp ^ self.duration).roll();
        for id in self.lanes(0, 1) {
            for due in self.schedule(id).take(POSTS_PER_LANE) {
                digest = Dice::new(digest, due.at ^ ((due.post as u64) << 60)).roll();
            }
        }
        digest
    }

    fn dice(&self, id: LaneId) -> Dice {
        Dice::new(self.seed, (u64::from(id.agent) << 8) | u64::from(id.lane))
    }
}

/// How an agent's forwarder posts again what has failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retries {
    profile: Profile,
    scale: Scale,
}

impl Retries {
    /// How long it waits after so many failures of one post.
    ///
    /// v5: 20 s for each failure, 90 s at most, no jitter (`transaction.py` of dd-agent). Go: 2 s,
    /// doubled each time, 64 s at most (`blocked_endpoints.go` of datadog-agent).
    pub(crate) fn after(self, failures: u32) -> Nanos {
        self.scale.of(match self.profile.keeps_connections() {
            false => (20 * SECOND).saturating_mul(failures.into()).min(90 * SECOND),
            true => (2 * SECOND) << failures.saturating_sub(1).min(5),
        })
    }
}

/// The moment of `place` when `count` things are spread evenly over `span`.
fn spread(span: Nanos, place: u32, count: u32) -> Nanos {
    let moment = u128::from(span) * u128::from(place) / u128::from(count.max(1));
    Nanos::try_from(moment).unwrap_or(span)
}

/// Shortens the agents' times.
#[derive(Clone, Copy, Debug)]
struct Scale {
    speedup: f64,
}

impl Scale {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "periods of seconds, divided by a positive number, lose less than a nanosecond"
    )]
    fn of(self, period: Nanos) -> Nanos {
        ((period as f64 / self.speedup) as Nanos).max(1)
    }
}

/// The posts of one lane, endless and in order of time.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    timers: Timers,
    scale: Scale,
    dice: Dice,
    /// How far the timers' time is ahead of the run's.
    past: Nanos,
    /// The next post by the timers, when it is known already.
    first: Option<Due>,
    backlog: Option<Backlog>,
}

/// What has piled up during an outage and is still to go out.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    left: u32,
    next: Nanos,
}

#[derive(Clone, Debug)]
enum Timers {
    V5 {
        next_run: Nanos,
        later: [Option<Due>; 2],
        next_statsd: Nanos,
        next_processes: Nanos,
    },
    Go {
        next: Nanos,
        post: Post,
    },
    /// Nothing more is ever due.
    Never,
}

impl Iterator for Schedule {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        Some(self.advance())
    }
}

impl Schedule {
    /// The next post; there is always one.
    pub(crate) fn advance(&mut self) -> Due {
        let due = self.first.take().unwrap_or_else(|| self.advance_timers());
        let piled_up = self.backlog.filter(|backlog| backlog.left > 0 && backlog.next <= due.at);
        let Some(Backlog { left, next }) = piled_up else { return due };
        self.first = Some(due);
        let wave_is_over = (left - 1).is_multiple_of(BACKLOG_WAVE);
        let pause = if wave_is_over { self.scale.of(WAVES_APART) } else { BACKLOG_PACE };
        self.backlog = Some(Backlog { left: left - 1, next: next + pause });
        Due { at: next, post: Post::Series }
    }

    fn advance_timers(&mut self) -> Due {
        loop {
            let due = self.tick();
            if let Some(at) = due.at.checked_sub(self.past) {
                return Due { at, ..due };
            }
        }
    }

    /// The next post in the timers' own time.
    fn tick(&mut self) -> Due {
        let Self { timers, scale, dice, .. } = self;
        match timers {
            Timers::Never => Due { at: Nanos::MAX, post: Post::Intake },
            Timers::Go { next, post } => {
                let due = Due { at: *next, post: *post };
                *next += scale.of(COLLECTOR_SLEEP);
                due
            }
            Timers::V5 { next_run, later, next_statsd, next_processes } => {
                let earliest_later = later[0].map_or(Nanos::MAX, |due| due.at);
                if let Some(due) = later[0].filter(|d| d.at <= (*next_run).min(*next_statsd)) {
                    *later = [later[1], None];
                    due
                } else if *next_statsd <= (*next_run).min(earliest_later) {
                    let due = Due { at: *next_statsd, post: Post::Statsd };
                    *next_statsd += scale.of(STATSD_FLUSH);
                    due
                } else {
                    let at = *next_run;
                    let mut follow = || at + scale.of(dice.between(LATER_POSTS.0, LATER_POSTS.1));
                    let (one, two) = (follow(), follow());
                    *later = [
                        Some(Due { at: one.min(two), post: Post::Series }),
                        Some(Due { at: one.max(two), post: Post::CheckRun }),
                    ];
                    let run = dice.between(COLLECTOR_RUN.0, COLLECTOR_RUN.1);
                    *next_run = at + scale.of(COLLECTOR_SLEEP + run);
                    if at < *next_processes {
                        return Due { at, post: Post::Intake };
                    }
                    *next_processes = at + scale.of(PROCESSES_EVERY);
                    Due { at, post: Post::IntakeProcesses }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            agents: 1000,
            profile: Profile::V5Churn,
            seed: 1,
            ramp: 5 * SECOND,
            duration: 120 * SECOND,
            speedup: 1.0,
            synchronised: false,
        }
    }

    fn all_due(plan: &Plan) -> Vec<Due> {
        let lanes = plan.lanes(0, 1);
        let due = lanes.flat_map(|id| plan.schedule(id).take_while(|due| due.at < plan.end()));
        due.collect()
    }

    #[test]
    fn retries_come_as_the_forwarders_make_them() {
        let after = |profile| {
            let retries = Plan { profile, speedup: 2.0, ..plan() }.retries();
            [1, 2, 4, 5, 6, 9].map(|failures| retries.after(failures) / (SECOND / 2))
        };
        assert_eq!(after(Profile::V5Churn), [20, 40, 80, 90, 90, 90]);
        assert_eq!(after(Profile::GoKeepalive), [2, 4, 16, 32, 64, 64]);
    }

    #[test]
    fn a_storm_is_what_piled_up_in_waves_and_the_timers_besides() {
        let storm = Plan { profile: Profile::Storm, agents: 100, ..plan() };
        let due = all_due(&storm);
        let timers = all_due(&Plan { profile: Profile::V5Churn, ..storm.clone() });
        // Other dice, other jitters: the timers' own posts are as many but for a few.
        let more = due.len() - timers.len();
        assert!(more.abs_diff(100 * BACKLOG as usize) < 100, "{more}");
        let within = |from, to| {
            let moments = storm.ramp + from..storm.ramp + to;
            due.iter().filter(|due| moments.contains(&due.at)).count()
        };
        // 100 agents at two a second, after which there is calm.
        assert!((190..240).contains(&within(6 * SECOND, 7 * SECOND)));
        assert!(within(16 * SECOND, 17 * SECOND) < 60);
        assert!(within(35 * SECOND, 36 * SECOND) > 190, "the second wave");
    }

    #[test]
    fn an_idle_agent_speaks_once() {
        let idle = Plan { profile: Profile::Idle, agents: 50, ..plan() };
        assert_eq!(all_due(&idle).len(), 50);
        assert!(all_due(&idle).iter().all(|due| due.at < idle.ramp));
    }

    #[test]
    fn one_seed_gives_one_plan_and_another_seed_another() {
        assert_eq!(all_due(&plan()), all_due(&plan()));
        assert_eq!(plan().digest(), plan().digest());
        assert_ne!(plan().digest(), Plan { seed: 2, ..plan() }.digest());
        assert_ne!(plan().digest(), Plan { speedup: 2.0, ..plan() }.digest());
    }

    #[test]
    fn a_lane_posts_in_order_of_time() {
        for profile in [Profile::V5Churn, Profile::GoKeepalive] {
            let plan = Plan { profile, ..plan() };
            for id in plan.lanes(0, 1) {
                let due: Vec<_> = plan.schedule(id).take(50).collect();
                assert!(due.is_sorted_by_key(|due| due.at), "{id:?}: {due:?}");
            }
        }
    }

    #[test]
    fn the_planned_rate_is_the_rate_of_the_real_agents() {
        for profile in [Profile::V5Churn, Profile::GoKeepalive] {
            let plan = Plan { profile, ..plan() };
            let in_window = all_due(&plan).iter().filter(|d| d.at >= plan.ramp).count();
            let rate = f64::from(u32::try_from(in_window).unwrap()) / 120.0;
            assert!((rate / plan.rate() - 1.0).abs() < 0.02, "{rate} against {}", plan.rate());
        }
        assert!((plan().rate() - 285.8).abs() < 0.1);
    }

    #[test]
    fn the_load_is_steady_from_the_end_of_the_ramp_on() {
        let due = all_due(&plan());
        for second in [5, 6, 8, 15, 20, 60] {
            let window = second * SECOND..(second + 3) * SECOND;
            let count = due.iter().filter(|due| window.contains(&due.at)).count();
            let rate = f64::from(u32::try_from(count).unwrap()) / 3.0;
            assert!((rate / plan().rate() - 1.0).abs() < 0.1, "{rate} at {second} s");
        }
    }

    #[test]
    fn speeding_up_multiplies_the_rate_and_nothing_else() {
        let fast = Plan { speedup: 10.0, duration: 12 * SECOND, ..plan() };
        let in_window = all_due(&fast).iter().filter(|d| d.at >= fast.ramp).count();
        let rate = f64::from(u32::try_from(in_window).unwrap()) / 12.0;
        assert!((rate / plan().rate() - 10.0).abs() < 0.5, "{rate}");
    }

    #[test]
    fn a_run_posts_intake_first_and_processes_once_a_minute() {
        let due: Vec<_> = plan().schedule(LaneId { agent: 3, lane: 0 }).take(60).collect();
        let minutes = (due[59].at - due[0].at).div_ceil(60 * SECOND);
        let count = |post| u64::try_from(due.iter().filter(|d| d.post == post).count()).unwrap();
        assert!(count(Post::IntakeProcesses) <= minutes + 1);
        assert!(count(Post::IntakeProcesses) >= 2);
        let runs = count(Post::Intake) + count(Post::IntakeProcesses);
        assert!(count(Post::Series).abs_diff(runs) <= 1);
        assert!(count(Post::CheckRun).abs_diff(runs) <= 1);
    }

    #[test]
    fn phases_are_spread_over_the_period_unless_synchronised() {
        let first = |plan: &Plan| -> Vec<Nanos> {
            plan.lanes(0, 1).map(|id| plan.schedule(id).next().unwrap().at).collect()
        };
        let spread = first(&Plan { ramp: 0, ..plan() });
        let early = spread.iter().filter(|&&at| at < SECOND).count();
        assert!((150..350).contains(&early), "{early} of 1000 in the first second");
        let together = first(&Plan { synchronised: true, ..plan() });
        assert!(together.iter().all(|&at| at == 5 * SECOND));
    }

    #[test]
    fn threads_share_the_agents_without_loss_or_overlap() {
        let plan = Plan { profile: Profile::GoKeepalive, ..plan() };
        let all: Vec<_> = plan.lanes(0, 1).collect();
        let mut shared: Vec<_> = (0..3).flat_map(|first| plan.lanes(first, 3)).collect();
        shared.sort_by_key(|id| (id.agent, id.lane));
        assert_eq!(all, shared);
        assert!((1400..1600).contains(&all.len()));
    }
}
