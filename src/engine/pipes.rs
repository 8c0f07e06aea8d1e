//! A worker's pipes: bounded, opened when first needed, borrowed only while bytes are inside.

use crate::sys::pipe::{self, Pipe};

use super::PIPE_BYTES_USEFUL;

/// After a pipe could not be had, so many wishes are turned down before the kernel is asked again.
const REST_AFTER_FAILURE: u32 = 1024;

/// The pool. A pipe in it is empty, always: one that holds bytes is closed instead.
#[derive(Debug)]
pub(super) struct Pipes {
    free: Vec<Pipe>,
    open: u32,
    open_max: u32,
    bytes: u32,
    rest: u32,
    /// Times no pipe could be had.
    pub(super) missed: u64,
    /// Pipes given up because the kernel granted too little.
    pub(super) small: u64,
}

impl Pipes {
    pub(super) const fn new(open_max: u32, bytes: u32) -> Self {
        Self { free: Vec::new(), open: 0, open_max, bytes, rest: 0, missed: 0, small: 0 }
    }

    /// An empty pipe; `None` means to copy.
    pub(super) fn borrow(&mut self) -> Option<Pipe> {
        let pipe = self.free.pop().or_else(|| self.open_one());
        self.missed += u64::from(pipe.is_none());
        pipe
    }

    /// Takes a pipe back, which holds `held` bytes.
    pub(super) fn give_back(&mut self, pipe: Pipe, held: u32) {
        if held == 0 {
            self.free.push(pipe);
        } else {
            self.open -= 1;
        }
    }

    /// Pipes that exist.
    pub(super) fn open(&self) -> u64 {
        self.open.into()
    }

    /// Pipes that are lent.
    pub(super) fn used(&self) -> u64 {
        u64::from(self.open) - self.free.len() as u64
    }

    fn open_one(&mut self) -> Option<Pipe> {
        if self.open >= self.open_max {
            return None;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        match pipe::open(self.bytes) {
            Ok(pipe) if pipe.bytes >= PIPE_BYTES_USEFUL => {
                self.open += 1;
                Some(pipe)
            }
            Ok(_) => {
                self.small += 1;
                self.rest = REST_AFTER_FAILURE;
                None
            }
            Err(_) => {
                self.rest = REST_AFTER_FAILURE;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_bounded_and_lends_again_what_comes_back_empty() {
        let mut pipes = Pipes::new(2, PIPE_BYTES_USEFUL);
        let (one, two) = (pipes.borrow().unwrap(), pipes.borrow().unwrap());
        assert!(pipes.borrow().is_none());
        assert_eq!((pipes.open(), pipes.used(), pipes.missed), (2, 2, 1));
        pipes.give_back(one, 0);
        pipes.give_back(two, 5);
        assert_eq!((pipes.open(), pipes.used()), (1, 0), "the dirty one is closed");
        assert!(pipes.borrow().is_some());
    }

    #[test]
    fn a_pool_of_none_always_says_copy() {
        assert!(Pipes::new(0, PIPE_BYTES_USEFUL).borrow().is_none());
    }
}
