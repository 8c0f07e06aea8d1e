//! Received buffers that wait to be pulled: a queue a side, linked through one table, since a
//! buffer is in one queue at a time. No memory is taken for an event.

use std::num::NonZeroU32;

use crate::sys::ring::BUFFERS;

const NONE: u16 = u16::MAX;
const _: () = assert!(BUFFERS < NONE);

/// The links of all queues: for each buffer the next one, and its bytes.
#[derive(Debug)]
pub(super) struct Links(Vec<(u16, Option<NonZeroU32>)>);

impl Default for Links {
    fn default() -> Self {
        Self(vec![(NONE, None); usize::from(BUFFERS)])
    }
}

/// One side's queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inbox {
    first: u16,
    last: u16,
    len: u16,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

impl Inbox {
    pub(super) fn push(&mut self, buffer: u16, bytes: NonZeroU32, links: &mut Links) {
        links.0[usize::from(buffer)] = (NONE, Some(bytes));
        if self.len == 0 {
            self.first = buffer;
        } else {
            links.0[usize::from(self.last)].0 = buffer;
        }
        self.last = buffer;
        self.len += 1;
    }

    pub(super) fn pop(&mut self, links: &mut Links) -> Option<(u16, NonZeroU32)> {
        let buffer = (self.len > 0).then_some(self.first)?;
        let (next, bytes) = links.0[usize::from(buffer)];
        self.first = next;
        self.len -= 1;
        Some((buffer, bytes?))
    }

    pub(super) const fn len(&self) -> u16 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_keep_their_order_and_do_not_mix() {
        let mut links = Links::default();
        let (mut one, mut two) = (Inbox::default(), Inbox::default());
        let bytes = |n: u16| NonZeroU32::new(u32::from(n) + 100).unwrap();
        for n in 0..10 {
            let queue = if n % 2 == 0 { &mut one } else { &mut two };
            queue.push(n, bytes(n), &mut links);
        }
        for n in 0..10 {
            let queue = if n % 2 == 0 { &mut one } else { &mut two };
            assert_eq!(queue.pop(&mut links), Some((n, bytes(n))));
        }
        assert_eq!((one.pop(&mut links), two.len()), (None, 0));
        one.push(3, bytes(3), &mut links);
        assert_eq!(one.pop(&mut links), Some((3, bytes(3))));
    }
}
