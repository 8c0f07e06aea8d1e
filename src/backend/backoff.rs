//! How long to wait before another attempt. PURE.

use std::time::Duration;

/// Between two attempts at the same server: time for it to come back from a restart. Another server
/// is tried at once.
const AGAIN_BASE: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// How long to wait before the same server is tried again, after so many attempts.
pub fn again(attempts: u32, random: u32) -> Duration {
    delay(attempts, AGAIN_BASE, AGAIN_MAX, random)
}

/// Doubles from `base` with each attempt (the first is 1) up to `ceiling`, then takes off up to
/// half by `random`, so that those who failed together do not come back together.
pub fn delay(attempt: u32, base: Duration, ceiling: Duration, random: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let full = base.saturating_mul(1 << doublings).min(ceiling);
    full - full.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(5);

    #[test]
    fn doubles_up_to_the_ceiling() {
        assert_eq!(delay(1, BASE, CEILING, 0), BASE);
        assert_eq!(delay(2, BASE, CEILING, 0), BASE * 2);
        assert_eq!(delay(30, BASE, CEILING, 0), CEILING);
        assert_eq!(delay(u32::MAX, BASE, CEILING, 0), CEILING);
    }

    #[test]
    fn chance_takes_off_at_most_half() {
        assert_eq!(delay(2, BASE, CEILING, u32::MAX), BASE);
        let some = delay(2, BASE, CEILING, u32::MAX / 2);
        assert!(some > BASE && some < BASE * 2, "{some:?}");
    }
}
