//! One timer a session: a hashed wheel over the places of the table. PURE: time is an argument.
//!
//! Setting, clearing and firing cost the same however many timers there are, and a session without
//! traffic costs nothing between two ticks: there is no periodic pass over the table. Deadlines
//! further off than one turn of the wheel stay in their slot for as many turns as it takes.

use std::time::Duration;

use crate::op::Time;

/// The coarseness: a timer fires at most this much late, and never early. The shortest deadlines
/// are connect time-outs of a second or so.
pub const TICK: Duration = Duration::from_millis(16);
const TICK_MICROS: u64 = 16_000;
/// One turn is 16.4 s; idle timers of 120 s are looked at eight times in their life.
const SLOTS: usize = 1024;

/// Slots in a word of [`Timers::occupied`].
const WORD: usize = u64::BITS as usize;

const NONE: u32 = u32::MAX;

/// Timers by the index of their session.
#[derive(Debug)]
pub struct Timers {
    /// The first timer of each slot's list.
    slots: Box<[u32; SLOTS]>,
    /// A bit for each slot that has one: a relay that is nearly idle would otherwise read a thousand
    /// empty slots each turn to find out how long it may sleep.
    occupied: [u64; SLOTS / WORD],
    nodes: Vec<Node>,
    /// Ticks up to this one have been fired.
    fired: u64,
    armed: usize,
}

/// A link in the list of a slot.
#[derive(Clone, Copy, Debug)]
struct Node {
    previous: u32,
    next: u32,
    /// The tick at which it fires; zero is not armed.
    due: u64,
}

impl Timers {
    /// A wheel with nothing on it.
    pub fn new() -> Self {
        let (slots, occupied) = (Box::new([NONE; SLOTS]), [0; SLOTS / WORD]);
        Self { slots, occupied, nodes: Vec::new(), fired: 0, armed: 0 }
    }

    /// Makes the timer fire at `at` or up to a tick later, instead of whenever it would have.
    pub fn set(&mut self, index: usize, at: Time) {
        self.clear(index);
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node { previous: NONE, next: NONE, due: 0 });
        }
        let due = tick_after(at).max(self.fired + 1);
        let slot = slot_of(due);
        let index = place(index);
        let head = self.slots[slot];
        self.nodes[index as usize] = Node { previous: NONE, next: head, due };
        if head != NONE {
            self.nodes[head as usize].previous = index;
        }
        self.slots[slot] = index;
        self.occupied[slot / WORD] |= 1 << (slot % WORD);
        self.armed += 1;
    }

    /// Like [`Timers::set`], but only if that is earlier than what is set.
    pub fn bring_forward(&mut self, index: usize, at: Time) {
        let due = self.nodes.get(index).map_or(0, |node| node.due);
        if due == 0 || tick_after(at) < due {
            self.set(index, at);
        }
    }

    /// Takes the timer off. Without effect when it is not set.
    pub fn clear(&mut self, index: usize) {
        let Some(&Node { previous, next, due }) = self.nodes.get(index) else { return };
        if due == 0 {
            return;
        }
        match previous {
            NONE => {
                let slot = slot_of(due);
                self.slots[slot] = next;
                if next == NONE {
                    self.occupied[slot / WORD] &= !(1 << (slot % WORD));
                }
            }
            _ => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        self.nodes[index].due = 0;
        self.armed -= 1;
    }

    /// Takes off every timer that is due at `now` and appends its index to `due`.
    pub fn expire(&mut self, now: Time, due: &mut Vec<usize>) {
        let current = now.as_micros() / TICK_MICROS;
        if self.armed == 0 {
            self.fired = self.fired.max(current);
            return;
        }
        // After a long stop one turn of the wheel meets every slot.
        let from = (self.fired + 1).max((current + 1).saturating_sub(SLOTS as u64));
        for tick in from..=current {
            let mut index = self.slots[slot_of(tick)];
            while index != NONE {
                let node = self.nodes[index as usize];
                if node.due <= current {
                    self.clear(index as usize);
                    due.push(index as usize);
                }
                index = node.next;
            }
        }
        self.fired = self.fired.max(current);
    }

    /// When [`Timers::expire`] may next have something to do. May be earlier than the next timer
    /// (one turn of the wheel at most), never later.
    pub fn next(&self) -> Option<Time> {
        if self.armed == 0 {
            return None;
        }
        let first = slot_of(self.fired + 1);
        let slot = self.occupied_from(first).or_else(|| self.occupied_from(0))?;
        let ahead = (slot + SLOTS - first) % SLOTS;
        Some(Time::from_micros((self.fired + 1 + ahead as u64) * TICK_MICROS))
    }

    /// The first slot with a timer, from `slot` to the end of the wheel.
    fn occupied_from(&self, slot: usize) -> Option<usize> {
        let (word, bit) = (slot / WORD, slot % WORD);
        let rest = self.occupied[word] >> bit;
        if rest != 0 {
            return Some(slot + rest.trailing_zeros() as usize);
        }
        let found = (word + 1..SLOTS / WORD).find(|&word| self.occupied[word] != 0)?;
        Some(found * WORD + self.occupied[found].trailing_zeros() as usize)
    }

    /// Timers that are set.
    pub const fn armed(&self) -> usize {
        self.armed
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

/// The first tick that is not before `at`.
const fn tick_after(at: Time) -> u64 {
    at.as_micros().div_ceil(TICK_MICROS)
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS")]
const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

fn place(index: usize) -> u32 {
    u32::try_from(index).expect("indices are below SessionKey::INDEX_LIMIT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    fn expired(timers: &mut Timers, millis: u64) -> Vec<usize> {
        let mut due = Vec::new();
        timers.expire(at(millis), &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn fires_never_early_and_at_most_a_tick_late() {
        for deadline in [1u64, 15, 16, 17, 999, 16_384, 120_000, 3_600_000] {
            let mut timers = Timers::new();
            timers.set(3, at(deadline));
            let mut fired_at = None;
            // Every millisecond near the deadline, and none before.
            for now in deadline.saturating_sub(40)..=deadline + 17 {
                if expired(&mut timers, now) == [3] {
                    fired_at = Some(now);
                    break;
                }
            }
            let fired_at = fired_at.unwrap();
            assert!((deadline..=deadline + 16).contains(&fired_at), "{deadline}: {fired_at}");
        }
    }

    #[test]
    fn next_leads_to_the_deadline_without_spinning() {
        let mut timers = Timers::new();
        timers.set(0, at(120_000));
        let mut looks = 0;
        let now = loop {
            let now = timers.next().unwrap();
            let mut due = Vec::new();
            timers.expire(now, &mut due);
            looks += 1;
            if due == [0] {
                break now;
            }
        };
        assert!(looks <= 9, "{looks} looks");
        assert!(now >= at(120_000) && now <= at(120_016));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn clear_takes_it_off_and_the_others_stay() {
        let mut timers = Timers::new();
        for index in 0..4 {
            timers.set(index, at(100));
        }
        timers.clear(1);
        timers.clear(3);
        timers.clear(3);
        timers.clear(99);
        assert_eq!(timers.armed(), 2);
        assert_eq!(expired(&mut timers, 200), [0, 2]);
        assert_eq!(timers.armed(), 0);
    }

    #[test]
    fn a_timer_in_the_past_fires_at_the_next_tick() {
        let mut timers = Timers::new();
        assert!(expired(&mut timers, 5000).is_empty());
        timers.set(7, at(10));
        assert!(expired(&mut timers, 5000).is_empty());
        assert_eq!(expired(&mut timers, 5016), [7]);
    }

    #[test]
    fn bring_forward_only_goes_earlier() {
        let mut timers = Timers::new();
        timers.bring_forward(0, at(1000));
        timers.bring_forward(0, at(2000));
        timers.bring_forward(0, at(500));
        assert!(expired(&mut timers, 490).is_empty());
        assert_eq!(expired(&mut timers, 520), [0]);
        assert!(expired(&mut timers, 5000).is_empty());
    }

    #[test]
    fn a_long_stop_fires_everything_that_came_due() {
        let mut timers = Timers::new();
        for index in 0..100 {
            timers.set(index, at(index as u64 * 777));
        }
        assert_eq!(expired(&mut timers, 1_000_000).len(), 100);
    }

    /// Against the plainest model there is: a list of deadlines.
    #[test]
    fn agrees_with_a_plain_list_under_random_use() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut timers = Timers::new();
        let mut model = [None::<u64>; 64];
        let mut now = 0;
        for _ in 0..100_000 {
            let index = (next() % 64) as usize;
            match next() % 4 {
                0 => {
                    let deadline = now + next() % 200_000;
                    timers.set(index, at(deadline));
                    model[index] = Some(deadline.div_ceil(16).max(now / 16 + 1));
                }
                1 => {
                    timers.clear(index);
                    model[index] = None;
                }
                _ => {
                    now += next() % 300;
                    let due = expired(&mut timers, now);
                    let expected: Vec<_> = (0..64)
                        .filter(|&index| model[index].is_some_and(|tick| tick <= now / 16))
                        .collect();
                    assert_eq!(due, expected, "at {now}");
                    for index in due {
                        model[index] = None;
                    }
                }
            }
            assert_eq!(timers.armed(), model.iter().flatten().count());
            // The slot of a timer that is turns away is looked at once a turn.
            let ahead = |due: &u64| (due - now / 16 - 1) % SLOTS as u64 + 1;
            let first = model.iter().flatten().map(|due| (now / 16 + ahead(due)) * 16_000).min();
            assert_eq!(timers.next().map(Time::as_micros), first, "at {now}");
        }
    }
}
