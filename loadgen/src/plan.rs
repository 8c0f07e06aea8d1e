//! PURE: when each agent posts what. An open loop: the plan never looks at replies.

use crate::clock::{Nanos, SECOND};
use crate::dice::Dice;
use crate::profile::{
    COLLECTOR_PERIOD, COLLECTOR_RUN, COLLECTOR_SLEEP, Conduct, LATER_POSTS, Own, PROCESSES_EVERY,
    Post, Profile, STATSD_FLUSH,
};
use std::ops::Range;

/// What has piled up at each agent in a storm: an outage of three and a half minutes.
const BACKLOG: u32 = 60;
/// The v5 forwarder sends what has piled up at two a second, for ten seconds at most; what is left
/// comes with the next wave. It looks every five seconds.
const BACKLOG_PACE: Nanos = SECOND / 2;
const BACKLOG_WAVE: u32 = 20;
const WAVES_APART: Nanos = 20 * SECOND;
const FLUSH_TICK: Nanos = 5 * SECOND;

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
    /// How the agents' timers stand to each other.
    pub(crate) phases: Phases,
}

/// How timers stand to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Phases {
    /// Each begins somewhere in its period, and keeps it: agents that were started at any time.
    #[default]
    Uniform,
    /// Pauses are random, with the period as their mean: what queueing theory assumes.
    Poisson,
    /// All of all agents expire together, first at the end of the ramp: the worst case.
    Aligned,
}

impl Phases {
    /// The name as typed.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Poisson => "poisson",
            Self::Aligned => "aligned",
        }
    }
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

    /// How its agents wait when nothing is due.
    pub(crate) fn manners(&self) -> Manners {
        Manners { profile: self.profile, scale: Scale { speedup: self.speedup } }
    }

    /// How many lanes an agent has.
    pub(crate) fn lanes_of(&self, agent: u32) -> u8 {
        match self.profile {
            Profile::GoKeepalive => {
                1 + u8::from(self.dice(LaneId { agent, lane: 2 }).below(2) == 1)
            }
            Profile::Own(own) => own.lanes(),
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
        let aligned = self.phases == Phases::Aligned;
        let (begin, past) = match aligned {
            true => (self.ramp, 0),
            false => (spread(self.ramp, id.agent, self.agents), scale.of(2 * COLLECTOR_PERIOD)),
        };
        let pauses = Pauses { scale, poisson: self.phases == Phases::Poisson };
        let mut phase = |period| match self.phases {
            Phases::Aligned => begin,
            Phases::Uniform => begin + dice.below(scale.of(period)),
            Phases::Poisson => begin + pauses.after(period, &mut dice),
        };
        let timers = match self.profile {
            Profile::V5Churn | Profile::V5Proxy | Profile::Storm | Profile::Brownout => {
                let next_run = phase(COLLECTOR_PERIOD);
                let next_processes = next_run + phase(PROCESSES_EVERY) - begin;
                let next_statsd = phase(STATSD_FLUSH);
                Timers::V5 { next_run, later: [None; 2], next_statsd, next_processes }
            }
            Profile::GoKeepalive => Timers::Go {
                next: phase(COLLECTOR_SLEEP),
                post: if id.lane == 0 { Post::SERIES } else { Post::CHECK_RUN },
            },
            Profile::Hostile => Timers::Go { next: phase(COLLECTOR_SLEEP), post: Post::SERIES },
            Profile::Own(own) => {
                let posts = own.posts_of(id.lane);
                Timers::Own {
                    own,
                    next: posts.map(|(post, each)| (phase(each.every()), post)).collect(),
                }
            }
            Profile::Idle => {
                return Schedule {
                    timers: Timers::Never,
                    pauses,
                    dice,
                    past: 0,
                    first: Some(Due { at: begin, post: Post::INTAKE }),
                    backlog: None,
                };
            }
        };
        let backlog = (self.profile == Profile::Storm).then(|| {
            let tick = if aligned { 0 } else { dice.below(scale.of(FLUSH_TICK)) };
            Backlog { left: BACKLOG, next: self.ramp + tick }
        });
        let mut schedule = Schedule { timers, pauses, dice, past, first: None, backlog };
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
                digest = Dice::new(digest, due.at ^ (u64::from(due.post.0) << 56)).roll();
            }
        }
        digest
    }

    fn dice(&self, id: LaneId) -> Dice {
        Dice::new(self.seed, (u64::from(id.agent) << 8) | u64::from(id.lane))
    }
}

/// How long an agent waits for another reason than its timers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    profile: Profile,
    scale: Scale,
}

impl Manners {
    /// How long it pauses in the midst of a hostile exchange.
    pub(crate) fn pause(self, conduct: Conduct) -> Nanos {
        self.scale.of(conduct.pause())
    }

    /// How long its forwarder waits after so many failures of one post.
    ///
    /// v5: 20 s for each failure, 90 s at most, no jitter (`transaction.py` of dd-agent). Go: 2 s,
    /// doubled each time, 64 s at most (`blocked_endpoints.go` of datadog-agent).
    pub(crate) fn after(self, failures: u32) -> Nanos {
        self.scale.of(match self.profile.is_v5() {
            true => (20 * SECOND).saturating_mul(failures.into()).min(90 * SECOND),
            false => (2 * SECOND) << failures.saturating_sub(1).min(5),
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

/// How long timers pause.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    scale: Scale,
    poisson: bool,
}

impl Pauses {
    /// Until a timer of this period expires again.
    fn after(self, period: Nanos, dice: &mut Dice) -> Nanos {
        let mean = self.scale.of(period);
        if self.poisson { dice.exponential(mean) } else { mean }
    }
}

/// The posts of one lane, endless and in order of time.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    timers: Timers,
    pauses: Pauses,
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
    /// When each post of the lane is next due.
    Own {
        own: &'static Own,
        next: Box<[(Nanos, Post)]>,
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
        let pause = if wave_is_over { self.pauses.scale.of(WAVES_APART) } else { BACKLOG_PACE };
        self.backlog = Some(Backlog { left: left - 1, next: next + pause });
        Due { at: next, post: Post::SERIES }
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
        let Self { timers, pauses, dice, .. } = self;
        let scale = pauses.scale;
        match timers {
            Timers::Never => Due { at: Nanos::MAX, post: Post::INTAKE },
            Timers::Go { next, post } => {
                let due = Due { at: *next, post: *post };
                *next += pauses.after(COLLECTOR_SLEEP, dice);
                due
            }
            Timers::Own { own, next } => loop {
                let Some((at, post)) = next.iter_mut().min_by_key(|(at, _)| *at) else {
                    return Due { at: Nanos::MAX, post: Post::INTAKE };
                };
                let each = own.post(*post);
                let due = Due { at: *at, post: *post };
                *at += pauses.after(each.every(), dice) + dice.below(scale.of(each.think()));
                if each.is_sent(dice) {
                    return due;
                }
            },
            Timers::V5 { next_run, later, next_statsd, next_processes } => {
                let earliest_later = later[0].map_or(Nanos::MAX, |due| due.at);
                if let Some(due) = later[0].filter(|d| d.at <= (*next_run).min(*next_statsd)) {
                    *later = [later[1], None];
                    due
                } else if *next_statsd <= (*next_run).min(earliest_later) {
                    let due = Due { at: *next_statsd, post: Post::STATSD };
                    *next_statsd += pauses.after(STATSD_FLUSH, dice);
                    due
                } else {
                    let at = *next_run;
                    let mut follow = || at + scale.of(dice.between(LATER_POSTS.0, LATER_POSTS.1));
                    let (one, two) = (follow(), follow());
                    *later = [
                        Some(Due { at: one.min(two), post: Post::SERIES }),
                        Some(Due { at: one.max(two), post: Post::CHECK_RUN }),
                    ];
                    let run = dice.between(COLLECTOR_RUN.0, COLLECTOR_RUN.1);
                    *next_run = at + pauses.after(COLLECTOR_SLEEP + run, dice);
                    if at < *next_processes {
                        return Due { at, post: Post::INTAKE };
                    }
                    *next_processes = at + scale.of(PROCESSES_EVERY);
                    Due { at, post: Post::INTAKE_PROCESSES }
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
            phases: Phases::Uniform,
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
            let manners = Plan { profile, speedup: 2.0, ..plan() }.manners();
            [1, 2, 4, 5, 6, 9].map(|failures| manners.after(failures) / (SECOND / 2))
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
        assert!(count(Post::INTAKE_PROCESSES) <= minutes + 1);
        assert!(count(Post::INTAKE_PROCESSES) >= 2);
        let runs = count(Post::INTAKE) + count(Post::INTAKE_PROCESSES);
        assert!(count(Post::SERIES).abs_diff(runs) <= 1);
        assert!(count(Post::CHECK_RUN).abs_diff(runs) <= 1);
    }

    #[test]
    fn phases_are_spread_over_the_period_unless_synchronised() {
        let first = |plan: &Plan| -> Vec<Nanos> {
            plan.lanes(0, 1).map(|id| plan.schedule(id).next().unwrap().at).collect()
        };
        let spread = first(&Plan { ramp: 0, ..plan() });
        let early = spread.iter().filter(|&&at| at < SECOND).count();
        assert!((150..350).contains(&early), "{early} of 1000 in the first second");
        let together = first(&Plan { phases: Phases::Aligned, ..plan() });
        assert!(together.iter().all(|&at| at == 5 * SECOND));
    }

    #[test]
    fn poisson_pauses_keep_the_rate_and_vary_as_chance_does() {
        let plan = Plan { phases: Phases::Poisson, profile: Profile::GoKeepalive, ..plan() };
        let mut each_second = [0_u64; 120];
        for due in all_due(&plan).iter().filter(|due| due.at >= plan.ramp) {
            each_second[usize::try_from((due.at - plan.ramp) / SECOND).unwrap()] += 1;
        }
        let mean = f64::from(u32::try_from(each_second.iter().sum::<u64>()).unwrap()) / 120.0;
        let off = |&count: &u64| (f64::from(u32::try_from(count).unwrap()) - mean).powi(2);
        let variance = each_second.iter().map(off).sum::<f64>() / 120.0;
        assert!((mean / plan.rate() - 1.0).abs() < 0.03, "{mean} of {}", plan.rate());
        // Of counts that know nothing of each other the variance is the mean.
        assert!((0.6..1.5).contains(&(variance / mean)), "{variance} of {mean}");
    }

    #[test]
    fn an_own_profile_posts_as_its_file_says() {
        let file = std::env::temp_dir().join(format!("loadgen-own-{}.toml", std::process::id()));
        let text = "connections = 2\nkeeps = true\n[[post]]\nevery = \"4s\"\nthink = \"2s\"\n\
            [[post]]\nevery = \"1s\"\nshare = 0.25\nconnection = 2\n";
        std::fs::write(&file, text).unwrap();
        let profile = Profile::typed(file.to_str().unwrap());
        std::fs::remove_file(&file).unwrap();
        let plan = Plan { profile: profile.unwrap(), agents: 200, ..plan() };
        let mut counts = [0_u32; 2];
        for id in plan.lanes(0, 1) {
            let due = plan.schedule(id).take_while(|due| due.at < plan.end());
            for due in due.filter(|due| due.at >= plan.ramp) {
                assert_eq!(due.post.0, id.lane, "each on its own connection");
                counts[usize::from(id.lane)] += 1;
            }
        }
        // 200 agents for 120 s: one in 5 s, and a quarter of one in 1 s.
        assert!(counts[0].abs_diff(4800) < 100 && counts[1].abs_diff(6000) < 200, "{counts:?}");
        assert!((plan.rate() - 90.0).abs() < 0.1, "{}", plan.rate());
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
