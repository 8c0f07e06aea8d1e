//! The algorithms that pick a server, each a plain function. PURE.

/// A server as an algorithm sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Share relative to the others; zero never has its turn.
    pub weight: u16,
    /// Credit gathered: grows by the weight each time, falls by the sum when chosen.
    pub credit: i64,
}

/// Smooth weighted round robin (nginx's, of 2012): of those that `may` be chosen, the one with the
/// most credit. Servers of weight 5, 1, 1 come as a a b a c a a, not a a a a a b c.
pub fn round_robin(turns: &mut [Turn], may: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut sum = 0;
    for index in 0..turns.len() {
        if turns[index].weight == 0 || !may(index) {
            continue;
        }
        turns[index].credit += i64::from(turns[index].weight);
        sum += i64::from(turns[index].weight);
        if best.is_none_or(|best| turns[index].credit > turns[best].credit) {
            best = Some(index);
        }
    }
    let best = best?;
    turns[best].credit -= sum;
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u16]) -> Vec<Turn> {
        weights.iter().map(|&weight| Turn { weight, credit: 0 }).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        let mut turns = turns(&[1, 1, 1]);
        let order: Vec<_> = (0..6).filter_map(|_| round_robin(&mut turns, |_| true)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn weights_are_kept_and_spread_out() {
        let mut turns = turns(&[5, 1, 1]);
        let order: Vec<_> = (0..7).filter_map(|_| round_robin(&mut turns, |_| true)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn one_that_was_left_out_does_not_catch_up() {
        let mut turns = turns(&[1, 1]);
        for _ in 0..100 {
            assert_eq!(round_robin(&mut turns, |index| index == 0), Some(0));
        }
        let order: Vec<_> = (0..4).filter_map(|_| round_robin(&mut turns, |_| true)).collect();
        assert_eq!(order.iter().filter(|&&index| index == 1).count(), 2, "{order:?}");
    }

    #[test]
    fn nobody_is_chosen_where_nobody_may_be() {
        assert_eq!(round_robin(&mut turns(&[1, 1]), |_| false), None);
        assert_eq!(round_robin(&mut turns(&[0]), |_| true), None);
        assert_eq!(round_robin(&mut [], |_| true), None);
    }
}
