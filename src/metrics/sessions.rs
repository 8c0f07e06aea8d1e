//! What is told of a session that goes on.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::backend::board::Board;
use crate::op::ListenerId;
pub use crate::session::Progress;

/// A session that goes on.
#[derive(Debug)]
pub struct SessionView {
    pub place: SessionPlace,
    pub listener: ListenerId,
    pub client: SocketAddr,
    /// Where it is, or is being connected to.
    pub server: Option<Arc<Board>>,
    pub progress: Progress,
}

/// Which session of a worker it is: its place, and which of the place's tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPlace {
    pub index: usize,
    pub generation: u32,
}

/// The bits of a generation that the name of a session has room for: it is not for ever, as no pointer
/// of HAProxy's is.
const GENERATION_BITS: u32 = 29;
const INDEX_BITS: u32 = 24;

impl SessionPlace {
    /// A word for it among all workers; never 0.
    pub const fn name(self, worker: u16) -> u64 {
        let generation = (self.generation & ((1 << GENERATION_BITS) - 1)) as u64;
        (worker as u64 + 1) << (GENERATION_BITS + INDEX_BITS)
            | (self.index as u64) << GENERATION_BITS
            | generation
    }

    /// The worker and the place of a word made by [`Self::name`].
    pub fn named(word: u64) -> Option<(u16, Self)> {
        let worker = (word >> (GENERATION_BITS + INDEX_BITS)).checked_sub(1)?;
        let index = word >> GENERATION_BITS & ((1 << INDEX_BITS) - 1);
        let generation = word & ((1 << GENERATION_BITS) - 1);
        Some((
            u16::try_from(worker).ok()?,
            Self {
                index: usize::try_from(index).ok()?,
                generation: u32::try_from(generation).ok()?,
            },
        ))
    }

    /// Whether it names the tenant with this generation, as far as its name tells.
    pub const fn is_of(self, generation: u32) -> bool {
        (self.generation ^ generation) & ((1 << GENERATION_BITS) - 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_the_worker_and_the_place() {
        for (worker, index, generation) in [(0, 0, 0), (1023, (1 << 24) - 1, u32::MAX), (7, 99, 3)]
        {
            let name = SessionPlace { index, generation }.name(worker);
            let (found, place) = SessionPlace::named(name).unwrap();
            assert_eq!((found, place.index), (worker, index));
            assert!(place.is_of(generation) && !place.is_of(generation ^ 1));
        }
        assert_eq!(SessionPlace::named(1), None);
    }
}
