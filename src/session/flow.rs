//! One direction of a session. Written once, used twice.

use std::num::NonZeroU32;

use crate::op::{Flow, Op, SessionKey, Slot};

use super::Ops;

/// Where a direction stands.
///
/// ```text
/// Open ──end of stream──▶ Ending ──FIN passed on──▶ Ended
/// ```
///
/// A direction whose sink has closed is *cut*: what still comes is thrown away until the end of the
/// stream, so that unread bytes do not turn our close into a reset that destroys what the source
/// has not read yet (RFC 2525 section 2.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Bytes may come.
    Open,
    /// The source ended its stream, and the sink is not connected yet to be told.
    Ending,
    /// Nothing more comes, and the sink was told so if it could be.
    Ended,
}

/// What stands at the far end of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    /// A backend that is not connected yet: bytes that come before are held.
    Dialled,
    Connected,
    /// Connected, and the other direction is over: the close that follows says the same as a
    /// shutdown would.
    ClosedNext,
}

/// One direction: what was pulled, what is held, what was pushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowState {
    flow: Flow,
    stage: Stage,
    cut: bool,
    pulling: bool,
    /// What is pulled comes behind what is held.
    greeting: bool,
    pushing: bool,
    /// Bytes pulled and not yet pushed; they are in the engine's keeping.
    held: u32,
    /// Bytes that the sink's socket has taken.
    delivered: u64,
    /// Bytes thrown away since the sink closed.
    discarded: u64,
}

impl FlowState {
    pub(super) const fn new(flow: Flow) -> Self {
        Self {
            flow,
            stage: Stage::Open,
            cut: false,
            pulling: false,
            greeting: false,
            pushing: false,
            held: 0,
            delivered: 0,
            discarded: 0,
        }
    }

    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) const fn held(&self) -> u32 {
        self.held
    }

    pub(super) const fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Whether the engine has an operation of this direction in its hands.
    pub(super) const fn in_flight(&self) -> bool {
        self.pulling || self.pushing
    }

    /// Whether the sink has not yet taken what is held for it.
    pub(super) const fn is_pushing(&self) -> bool {
        self.pushing
    }

    /// Whether there are bytes that the sink has not taken.
    pub(super) const fn holds(&self) -> bool {
        self.held > 0
    }

    /// Whether the source has ended its stream and all of it was passed on or thrown away.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Whether the sink closed before the end of the stream.
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Asks for whatever moves this direction on.
    pub(super) fn proceed(&mut self, key: SessionKey, sink: Sink, ops: &mut Ops) {
        let flow = self.flow;
        match self.stage {
            Stage::Ended => {}
            Stage::Ending => {
                assert_eq!(self.held, 0, "the end of a stream is seen when nothing is held");
                if sink == Sink::Connected {
                    ops.push(Op::Shutdown { session: key, side: flow.sink() });
                }
                if sink != Sink::Dialled {
                    self.stage = Stage::Ended;
                }
            }
            Stage::Open if self.held > 0 => {
                if sink != Sink::Dialled && !self.pushing {
                    ops.push(Op::Push { session: key, flow });
                    self.pushing = true;
                }
            }
            Stage::Open => {
                if !self.pulling {
                    assert_eq!(self.held, 0, "pulled only when nothing is held (op rule 2)");
                    ops.push(Op::Pull { session: key, flow });
                    self.pulling = true;
                }
            }
        }
    }

    /// Asks for the client's first bytes, or for more of them.
    pub(super) fn greet(&mut self, key: SessionKey, ops: &mut Ops) {
        ops.push(Op::Greet { session: key });
        (self.pulling, self.greeting) = (true, true);
    }

    /// More of the client's first bytes have come.
    pub(super) fn on_greeted(&mut self, bytes: NonZeroU32) {
        self.end_pull();
        self.held += bytes.get();
    }

    /// Throws away the first bytes of what is held: they were for us.
    pub(super) fn skip(&mut self, bytes: u32, key: SessionKey, ops: &mut Ops) {
        assert!(bytes <= self.held, "skipped {bytes} of {} held bytes", self.held);
        ops.push(Op::Skip { session: key, bytes });
        self.discarded += u64::from(bytes);
        self.held -= bytes;
    }

    pub(super) fn on_pulled(&mut self, bytes: NonZeroU32, key: SessionKey, ops: &mut Ops) {
        self.end_pull();
        self.held = bytes.get();
        if self.cut {
            self.discard(key, ops);
        }
    }

    pub(super) fn on_pushed(&mut self, bytes: NonZeroU32) {
        self.end_push();
        assert!(bytes.get() <= self.held, "pushed {bytes} of {} held bytes", self.held);
        self.held -= bytes.get();
        self.delivered += u64::from(bytes.get());
    }

    pub(super) fn on_end_of_stream(&mut self) {
        self.end_pull();
        self.stage = if self.cut { Stage::Ended } else { Stage::Ending };
    }

    /// The sink has closed in order and takes no more. True if that cuts the stream: it had not come
    /// to its end.
    pub(super) fn cut(&mut self, key: SessionKey, ops: &mut Ops) -> bool {
        if self.stage != Stage::Open || self.pushing {
            // With a push in flight, the push will tell.
            return false;
        }
        self.cut = true;
        if self.held > 0 {
            self.discard(key, ops);
        }
        true
    }

    fn discard(&mut self, key: SessionKey, ops: &mut Ops) {
        ops.push(Op::Discard { session: key, flow: self.flow });
        self.discarded += u64::from(self.held);
        self.held = 0;
    }

    pub(super) fn end_pull(&mut self) {
        assert!(self.pulling, "a pull completed that was not asked for");
        (self.pulling, self.greeting) = (false, false);
    }

    pub(super) fn end_push(&mut self) {
        assert!(self.pushing, "a push completed that was not asked for");
        self.pushing = false;
    }

    /// Asks for the early end of what is in flight.
    pub(super) fn cancel(&self, key: SessionKey, ops: &mut Ops) {
        if self.pulling {
            ops.push(Op::Cancel { session: key, slot: Slot::Pull(self.flow) });
        }
        if self.pushing {
            ops.push(Op::Cancel { session: key, slot: Slot::Push(self.flow) });
        }
    }

    pub(super) fn check_invariants(&self) {
        let pulls_well = self.greeting || !self.pulling || self.held == 0;
        debug_assert!(pulls_well, "pulling while {} are held", self.held);
        debug_assert!(!self.pushing || self.held > 0, "pushing nothing");
        debug_assert!(self.stage == Stage::Open || self.held == 0, "held after the end");
    }
}
