//! PURE: seeded random numbers (SplitMix64), so that one seed always gives one plan.
//!
//! Own code because a crate's sequence may change with its version, and a plan must not.

/// A small generator; eight bytes, one per agent connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    /// A generator for one purpose (`stream`) under one seed; nearby streams are unrelated.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self { state: seed ^ stream.wrapping_mul(0xA24B_AED4_963E_E407) };
        dice.roll();
        dice
    }

    /// The next 64 random bits.
    pub(crate) fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`; zero when the limit is zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.roll()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A time with this mean, as from one event to the next of many that know nothing of each other;
    /// at most 30 times the mean.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "53 random bits; times of at most a month, positive"
    )]
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        let chance = (self.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        let times = -(1.0 - chance).ln();
        ((times.min(30.0) * mean as f64) as u64).max(1)
    }

    /// A number in `low..high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_stream_give_the_same_numbers() {
        let rolls = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            [dice.roll(), dice.roll(), dice.roll()]
        };
        assert_eq!(rolls(7, 1), rolls(7, 1));
        assert_ne!(rolls(7, 1), rolls(7, 2));
        assert_ne!(rolls(7, 1), rolls(8, 1));
    }

    #[test]
    fn exponential_times_have_their_mean_and_no_memory() {
        let mut dice = Dice::new(1, 1);
        let times: Vec<u64> = (0..100_000).map(|_| dice.exponential(1000)).collect();
        let mean = times.iter().sum::<u64>() / 100_000;
        assert!((990..1010).contains(&mean), "{mean}");
        // e^-1 of them are longer than the mean, e^-2 longer than twice that.
        let longer = |than| times.iter().filter(|&&time| time > than).count();
        assert!(longer(1000).abs_diff(36_788) < 600 && longer(2000).abs_diff(13_534) < 500);
    }

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut dice = Dice::new(1, 1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            let number = dice.between(5, 15);
            assert!((5..15).contains(&number));
            seen[usize::try_from(number - 5).unwrap()] = true;
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(dice.below(0), 0);
    }
}
