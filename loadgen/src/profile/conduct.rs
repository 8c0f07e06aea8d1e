//! How hostile agents behave: what a relay meets sooner or later.

use super::Post;
use crate::clock::{Nanos, SECOND};

/// How long a connection is held in silence; with the time to connect, less than the pause between two
/// exchanges.
const SILENCE: Nanos = 10 * SECOND;
/// How long a reply lies unread.
const SLOTH: Nanos = 5 * SECOND;

/// What one exchange of a hostile agent does; they take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Conduct {
    /// Half a request's head, and then nothing, until the other side gives up or ten seconds are over.
    HalfOpen,
    /// A whole request, whose reply is read five seconds later.
    SlowReader,
    /// The head, and a reset.
    ResetAfterHead,
    /// Half of the body that was announced, and a FIN.
    CutBody,
}

impl Conduct {
    const ALL: [Self; 4] = [Self::HalfOpen, Self::SlowReader, Self::ResetAfterHead, Self::CutBody];

    /// Kinds of requests that they need.
    pub(super) const POSTS: u8 = 4;

    /// Whose turn it is.
    pub(crate) fn of(turn: u32) -> Self {
        Self::ALL[usize::try_from(turn % 4).unwrap_or_default()]
    }

    /// The conduct that a kind of request is for.
    pub(crate) fn of_post(post: Post) -> Self {
        Self::of(post.0.into())
    }

    /// The kind of request that it needs.
    pub(crate) fn post(self) -> Post {
        Post(self as u8)
    }

    /// How much of a request with a head of so many bytes is sent.
    pub(crate) fn part(self, head: usize, whole: usize) -> usize {
        match self {
            Self::HalfOpen => head / 2,
            Self::SlowReader => whole,
            Self::ResetAfterHead => head,
            Self::CutBody => head + (whole - head) / 2,
        }
    }

    /// How long it waits after what it has sent, with unscaled timers.
    pub(crate) fn pause(self) -> Nanos {
        match self {
            Self::HalfOpen => SILENCE,
            Self::SlowReader => SLOTH,
            Self::ResetAfterHead | Self::CutBody => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_turn_and_sends_its_part() {
        for turn in 0..8 {
            assert_eq!(Conduct::of_post(Conduct::of(turn).post()), Conduct::of(turn));
        }
        let parts = Conduct::ALL.map(|conduct| conduct.part(100, 300));
        assert_eq!(parts, [50, 300, 100, 200]);
    }
}
