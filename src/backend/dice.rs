//! Chance that decides nothing which must not be guessed: it spreads choices and pauses. PURE.

/// xorshift64 (Marsaglia, 2003).
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Any seed will do; the same one rolls the same.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// Thirty-two bits.
    pub fn roll(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap_or_default()
    }
}
