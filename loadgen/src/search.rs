//! PURE: the search for the most agents that meet the objectives.
//!
//! From the start upwards by half until a trial fails, then halving the gap until it is small enough,
//! then the lower bound is confirmed by whole trials, of which none may fail (reference: TRex's
//! NDR search, RFC 2544's bisection; the confirmation answers both their criticisms, that one short
//! trial proves little). A trial in which the generator was the limit says nothing: it is made
//! again, and when that does not help the search goes on below it and says so.

use serde::Serialize;

/// Invalid trials of one number of agents before it is taken for the generator's ceiling.
const TRIES: u32 = 2;

/// Where it searches, and how closely.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Tried first.
    pub(crate) from: u32,
    /// Never passed.
    pub(crate) most: u32,
    /// The gap between the bounds at the end, as a share of the lower one.
    pub(crate) precision: f64,
    /// Whole trials that must pass.
    pub(crate) confirm: u32,
}

/// How a trial went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// All objectives were met.
    Passed,
    /// An objective was missed.
    Failed,
    /// The generator could not offer the load.
    Invalid,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A short trial.
    Try(u32),
    /// A whole one.
    Confirm(u32),
    /// The search is over.
    Done,
}

/// Why more agents than the result could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Upper {
    /// The target missed the objectives there.
    Target(u32),
    /// The generator could not offer that: the target may carry more.
    Generator(u32),
    /// No more were to be tried.
    Most(u32),
}

/// The search.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    bounds: Bounds,
    /// Numbers that passed, the greatest last.
    passed: Vec<u32>,
    upper: Option<Upper>,
    confirmed: u32,
    invalid: u32,
}

impl Search {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, passed: Vec::new(), upper: None, confirmed: 0, invalid: 0 }
    }

    /// The most agents that passed so far.
    pub(crate) fn lower(&self) -> Option<u32> {
        self.passed.last().copied()
    }

    /// Why not more.
    pub(crate) fn upper(&self) -> Upper {
        self.upper.unwrap_or(Upper::Most(self.bounds.most))
    }

    /// Whether the result was confirmed as often as was asked.
    pub(crate) fn is_confirmed(&self) -> bool {
        !self.passed.is_empty() && self.confirmed >= self.bounds.confirm
    }

    /// The next trial.
    pub(crate) fn step(&self) -> Step {
        let Some(lower) = self.lower() else {
            return match self.upper.map(Upper::agents) {
                None => Step::Try(self.bounds.from),
                Some(upper) if upper > 1 => Step::Try(upper / 2),
                Some(_) => Step::Done,
            };
        };
        let confirm = if self.is_confirmed() { Step::Done } else { Step::Confirm(lower) };
        match self.upper {
            None if lower >= self.bounds.most => confirm,
            None => Step::Try((lower + (lower / 2).max(1)).min(self.bounds.most)),
            Some(upper) => {
                let gap = upper.agents() - lower;
                if f64::from(gap) <= (f64::from(lower) * self.bounds.precision).max(1.0) {
                    confirm
                } else {
                    Step::Try(lower + gap / 2)
                }
            }
        }
    }

    /// The trial that [`Search::step`] asked for went so.
    pub(crate) fn note(&mut self, verdict: Verdict) {
        let step = self.step();
        let (Step::Try(agents) | Step::Confirm(agents)) = step else { return };
        if verdict == Verdict::Invalid {
            self.invalid += 1;
            if self.invalid < TRIES {
                return;
            }
        }
        self.invalid = 0;
        match (verdict, step) {
            (Verdict::Passed, Step::Confirm(_)) => self.confirmed += 1,
            (Verdict::Passed, _) => {
                self.passed.push(agents);
                self.confirmed = 0;
            }
            (Verdict::Failed, _) => self.limit(Upper::Target(agents)),
            (Verdict::Invalid, _) => self.limit(Upper::Generator(agents)),
        }
    }

    fn limit(&mut self, upper: Upper) {
        self.passed.retain(|&passed| passed < upper.agents());
        self.confirmed = 0;
        self.upper = Some(upper);
    }
}

impl Upper {
    /// The number itself.
    pub(crate) const fn agents(self) -> u32 {
        let (Self::Target(agents) | Self::Generator(agents) | Self::Most(agents)) = self;
        agents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { from: 1000, most: 100_000, precision: 0.03, confirm: 3 };

    /// Searches a target that behaves so; the search and the number of trials.
    fn search(bounds: Bounds, mut target: impl FnMut(u32, bool) -> Verdict) -> (Search, u32) {
        let mut search = Search::new(bounds);
        for trials in 0..100 {
            match search.step() {
                Step::Done => return (search, trials),
                Step::Try(agents) => search.note(target(agents, false)),
                Step::Confirm(agents) => search.note(target(agents, true)),
            }
        }
        panic!("it does not end: {search:?}");
    }

    fn up_to(most: u32) -> impl Fn(u32, bool) -> Verdict {
        move |agents, _| if agents <= most { Verdict::Passed } else { Verdict::Failed }
    }

    #[test]
    fn it_comes_within_the_precision_from_either_side() {
        for most in [1, 2, 7, 999, 1000, 1001, 4321, 99_999] {
            let (search, trials) = search(BOUNDS, up_to(most));
            let lower = search.lower().unwrap();
            assert!(lower <= most && search.is_confirmed(), "{most}: {search:?}");
            assert!(
                f64::from(most - lower) <= (f64::from(lower) * 0.03).max(1.0),
                "{most}: {lower}"
            );
            assert!(trials < 30, "{most}: {trials}");
        }
    }

    #[test]
    fn what_carries_all_that_may_be_tried_is_confirmed_there() {
        let (search, _) = search(BOUNDS, up_to(u32::MAX));
        assert_eq!((search.lower(), search.upper()), (Some(100_000), Upper::Most(100_000)));
    }

    #[test]
    fn what_carries_nobody_has_no_result() {
        let (search, _) = search(BOUNDS, |_, _| Verdict::Failed);
        assert_eq!((search.lower(), search.upper()), (None, Upper::Target(1)));
        assert!(!search.is_confirmed());
    }

    #[test]
    fn a_generator_at_its_limit_is_asked_again_and_then_named() {
        let mut unlucky = true;
        let (search, _) = search(BOUNDS, |agents, _| match agents {
            // Once for an outside reason, always beyond its own ceiling.
            1500 if std::mem::take(&mut unlucky) => Verdict::Invalid,
            5000.. => Verdict::Invalid,
            _ => Verdict::Passed,
        });
        let lower = search.lower().unwrap();
        assert!((4850..5000).contains(&lower), "{lower}");
        assert!(matches!(search.upper(), Upper::Generator(_)));
    }

    #[test]
    fn a_number_that_is_not_confirmed_is_given_up_for_a_lower_one() {
        let (search, _) = search(BOUNDS, |agents, whole| match (agents, whole) {
            (..=4000, _) | (4001..=5000, false) => Verdict::Passed,
            _ => Verdict::Failed,
        });
        let lower = search.lower().unwrap();
        assert!((3880..=4000).contains(&lower), "{lower}");
        assert!(search.is_confirmed());
    }
}
