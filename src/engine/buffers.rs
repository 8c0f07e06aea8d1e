//! A worker's copy buffers: the one used last is lent next, since it is still in cache.

use crate::sys::pages::Pages;

/// Bytes of one buffer. Only pages that are written to exist, so a small message costs one.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Empty buffers that are kept; more are given back to the kernel.
const FREE_MAX: usize = 256;

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
