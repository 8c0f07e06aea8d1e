//! The bytes that are sent: keyed pseudo-random sequences, so that a receiver knows each byte from
//! the key and its offset, and a gap, a repeat or a stranger's byte cannot pass.

/// Seeded random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed ^ stream.wrapping_mul(0xA24B_AED4_963E_E407));
        dice.roll();
        dice
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    /// A size in `1..=high`, small ones as likely as large ones.
    pub fn size(&mut self, high: u64) -> u64 {
        let bits = 64 - high.leading_zeros();
        let limit = 1u64 << self.between(1, u64::from(bits));
        self.between(1, limit.min(high))
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.roll().is_multiple_of(n)
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Writes the bytes of the stream `key` from `offset` on.
pub fn fill(key: u64, offset: u64, out: &mut [u8]) {
    let word = |number: u64| mix(key ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
    let (mut number, skip) = (offset / 8, (offset % 8) as usize);
    let (head, rest) = out.split_at_mut(out.len().min((8 - skip) % 8));
    if !head.is_empty() {
        head.copy_from_slice(&word(number)[skip..skip + head.len()]);
        number += 1;
    }
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&word(number)[..chunk.len()]);
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let mut whole = vec![0; 1000];
        fill(7, 0, &mut whole);
        for at in 0..100 {
            for len in [0, 1, 5, 8, 9, 64, 100] {
                let mut part = vec![0; len];
                fill(7, at as u64, &mut part);
                assert_eq!(part, whole[at..at + len], "{len} from {at}");
            }
        }
        let mut other = vec![0; 1000];
        fill(8, 0, &mut other);
        assert_ne!(whole, other);
    }
}
