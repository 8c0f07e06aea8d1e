//! A worker's copy buffers: the one used last is lent next, since it is still in cache.

use crate::sys::pages::Pages;

/// Bytes of one buffer. Only pages that are written to exist, so a small message costs one.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Empty buffers that are kept; more are given back to the kernel.
const FREE_MAX: usize = 256;
/// With so many lent, thousands of slow readers are about: a flow may fill [`BYTES_WHEN_MANY`] only,
/// so that 10,000 of them hold 160 MB and not 640 MB.
const MANY: u64 = 256;
/// What a peer of ours lends each flow at any time.
const BYTES_WHEN_MANY: usize = 16 * 1024;

/// The pool.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Vec<Pages>,
    lent: u64,
    /// Times no buffer could be had.
    pub(super) missed: u64,
}

impl Buffers {
    /// A buffer; `None` when the kernel has no memory.
    pub(super) fn borrow(&mut self) -> Option<Pages> {
        let buffer = self.free.pop().or_else(|| Pages::map(BUFFER_BYTES).ok());
        match buffer {
            Some(_) => self.lent += 1,
            None => self.missed += 1,
        }
        buffer
    }

    /// How many bytes of the buffer lent last may be filled.
    pub(super) const fn room(&self) -> usize {
        if self.lent > MANY { BYTES_WHEN_MANY } else { BUFFER_BYTES }
    }

    pub(super) fn give_back(&mut self, buffer: Pages) {
        self.lent -= 1;
        if self.free.len() < FREE_MAX {
            self.free.push(buffer);
        }
    }

    /// Buffers with bytes inside.
    pub(super) const fn used(&self) -> u64 {
        self.lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_given_less_room_while_many_hold_buffers() {
        let mut buffers = Buffers::default();
        let mut lent: Vec<_> = (0..MANY).map(|_| buffers.borrow().unwrap()).collect();
        assert_eq!((buffers.room(), buffers.used()), (BUFFER_BYTES, MANY));
        lent.push(buffers.borrow().unwrap());
        assert_eq!(buffers.room(), BYTES_WHEN_MANY);
        buffers.give_back(lent.pop().unwrap());
        assert_eq!(buffers.room(), BUFFER_BYTES);
    }
}
