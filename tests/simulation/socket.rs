//! A fake TCP socket of the relay, with the peer at its far end.
//!
//! Bytes are offsets: the peer's stream is `0..arrived`, of which the relay has taken a prefix; what
//! the relay sends must be the other peer's stream from its start, without a gap.
//!
//! Errors follow Linux (tcp_reset(), tcp_recvmsg(), tcp_sendmsg()). A reset in CLOSE_WAIT, that is
//! after the peer's FIN and before ours, leaves EPIPE in the socket, any other leaves ECONNRESET.
//! Whoever asks first takes the error; after that a read finds the end of the stream and a write
//! EPIPE. What had arrived can be read before the error is seen, and after a FIN reading never
//! fails. What we had written is gone with the reset.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use fanin::op::{CloseHow, Outcome, SessionKey, Side};
use nix::errno::Errno;

/// What the peer does next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Send(u64),
    /// Microseconds.
    Wait(u64),
    /// Goes on when it has read so many bytes in all.
    AwaitBytes(u64),
    /// Goes on when it has read the relay's FIN.
    AwaitEnd,
    Read(Reading),
    /// Ends its stream, and reads on.
    End,
    /// close(2): with bytes unread a reset, else a FIN, and a reset for whatever still comes.
    Close,
    Reset,
    /// The network between us is gone: retransmissions time out.
    Fail,
}

/// How the peer takes what we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Eagerly,
    /// So many bytes every so many microseconds.
    Slowly {
        bytes: u64,
        every: u64,
    },
    NotAtAll,
}

/// What else follows from something that was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Parked operations should be tried again.
    pub(crate) wake: bool,
    /// The connection failed: a watcher would be told.
    pub(crate) failed: bool,
    /// Go on with the script in so many microseconds.
    pub(crate) act_in: Option<u64>,
    /// The script may have waited for this.
    pub(crate) poke: bool,
    /// Let the peer read in so many microseconds.
    pub(crate) read_in: Option<u64>,
    /// The peer answers with a reset.
    pub(crate) answer_reset: bool,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) owner: Option<(SessionKey, Side)>,
    script: VecDeque<Act>,
    reading: Reading,
    /// Our send buffer and the peer's receive window together, in bytes.
    window: u64,
    pub(crate) arrived: u64,
    pub(crate) taken: u64,
    pub(crate) peer_ended: bool,
    pub(crate) sent: u64,
    read: u64,
    /// Nothing went in any more, and there is not enough room yet to say so: Linux wakes a writer only
    /// when a good part of the queue has gone (tcp_stream_memory_free()).
    full: bool,
    pub(crate) we_ended: bool,
    /// The peer's program has let go of the connection.
    peer_closed: bool,
    error: Option<Errno>,
    pub(crate) dead: bool,
    pub(crate) closed: Option<CloseHow>,
    read_due: bool,
    /// The script waits for time to pass.
    resting: bool,
}

impl Socket {
    pub(crate) const fn new(script: VecDeque<Act>, reading: Reading, window: u64) -> Self {
        Self {
            owner: None,
            script,
            reading,
            window,
            arrived: 0,
            taken: 0,
            peer_ended: false,
            sent: 0,
            read: 0,
            full: false,
            we_ended: false,
            peer_closed: false,
            error: None,
            dead: false,
            closed: None,
            read_due: false,
            resting: false,
        }
    }

    /// read(2) of up to `bytes_max`, or `None` if it would block.
    pub(crate) fn pull(&mut self, bytes_max: u64) -> Option<Outcome> {
        let bytes = (self.arrived - self.taken).min(bytes_max);
        if let Some(moved) = NonZeroU32::new(u32::try_from(bytes).expect("moves are small")) {
            self.taken += bytes;
            return Some(Outcome::Moved(moved));
        }
        if self.peer_ended {
            return Some(Outcome::EndOfStream);
        }
        match self.error.take() {
            Some(errno) => Some(Outcome::Failed(errno)),
            None => self.dead.then_some(Outcome::EndOfStream),
        }
    }

    /// write(2) of up to `bytes_max`, or `None` if it would block.
    pub(crate) fn push(&mut self, bytes_max: u64) -> Option<(Outcome, Effects)> {
        assert!(!self.we_ended, "a write after our FIN");
        if self.dead {
            let errno = self.error.take().unwrap_or(Errno::EPIPE);
            return Some((Outcome::Failed(errno), Effects::default()));
        }
        let room = self.window - (self.sent - self.read);
        self.full = if self.full { room < self.window.div_ceil(2) } else { room == 0 };
        if self.full {
            return None;
        }
        let bytes = room.min(bytes_max);
        let moved = NonZeroU32::new(u32::try_from(bytes).expect("moves are small"))?;
        self.sent += bytes;
        let effects = Effects { answer_reset: self.peer_closed, ..self.schedule_reading() };
        Some((Outcome::Moved(moved), effects))
    }

    /// What the peer has taken so far.
    pub(crate) const fn acknowledged(&self) -> u64 {
        self.read
    }

    /// shutdown(SHUT_WR).
    pub(crate) fn end(&mut self) -> Effects {
        assert!(!self.we_ended, "a second FIN");
        self.we_ended = true;
        Effects { poke: true, ..Effects::default() }
    }

    /// close(2), with a zero linger for a reset.
    pub(crate) fn close(&mut self, how: CloseHow) {
        assert_eq!(self.closed, None, "a second close");
        self.closed = Some(how);
        self.script.clear();
    }

    /// What is left in the socket to be told to a watcher that no operation told it to.
    pub(crate) const fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }

    pub(crate) const fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Goes on with the script after a rest.
    pub(crate) fn wake_up(&mut self) -> Effects {
        self.resting = false;
        self.act()
    }

    /// Lets the peer act until it has to wait.
    pub(crate) fn act(&mut self) -> Effects {
        let mut effects = Effects::default();
        if self.resting {
            return effects;
        }
        while let Some(&act) = self.script.front() {
            if self.dead || self.closed.is_some() {
                self.script.clear();
                break;
            }
            match act {
                Act::AwaitBytes(bytes) if self.read < bytes => break,
                Act::AwaitEnd if !(self.we_ended && self.read == self.sent) => break,
                _ => {}
            }
            self.script.pop_front();
            match act {
                Act::Wait(micros) => {
                    self.resting = true;
                    effects.act_in = Some(micros);
                    break;
                }
                Act::AwaitBytes(_) | Act::AwaitEnd => {}
                Act::Send(bytes) => {
                    self.arrived += bytes;
                    effects.wake = true;
                }
                Act::Read(reading) => {
                    self.reading = reading;
                    effects.read_in = self.schedule_reading().read_in;
                }
                Act::End => {
                    self.peer_ended = true;
                    effects.wake = true;
                }
                Act::Close if self.read < self.sent => self.reset(&mut effects),
                Act::Close => {
                    self.peer_ended = true;
                    self.peer_closed = true;
                    effects.wake = true;
                    self.script.clear();
                }
                Act::Reset => self.reset(&mut effects),
                Act::Fail => self.fail(Errno::ETIMEDOUT, &mut effects),
            }
        }
        effects
    }

    /// The peer does this now, whatever its script says, and nothing after it.
    pub(crate) fn interrupt(&mut self, act: Act) -> Effects {
        if self.peer_ended && matches!(act, Act::End) || self.peer_closed {
            return Effects::default();
        }
        self.resting = false;
        self.script.clear();
        self.script.push_back(act);
        self.act()
    }

    /// The peer comes to its end, and reads whatever comes.
    pub(crate) fn calm(&mut self) -> Effects {
        self.resting = false;
        self.script.clear();
        self.script.push_back(Act::Read(Reading::Eagerly));
        if !self.peer_ended {
            self.script.push_back(Act::End);
        }
        self.act()
    }

    /// The peer answers bytes that came after its close(2).
    pub(crate) fn answer_reset(&mut self) -> Effects {
        let mut effects = Effects::default();
        if self.closed.is_none() && !self.dead {
            self.reset(&mut effects);
        }
        effects
    }

    /// The peer reads, as its turn has come.
    pub(crate) fn read(&mut self) -> Effects {
        self.read_due = false;
        if self.dead || self.peer_closed || self.closed == Some(CloseHow::Reset) {
            return Effects::default();
        }
        match self.reading {
            Reading::Eagerly => self.read = self.sent,
            Reading::Slowly { bytes, .. } => self.read = self.sent.min(self.read + bytes),
            Reading::NotAtAll => return Effects::default(),
        }
        let more = self.schedule_reading();
        Effects { wake: true, poke: true, ..more }
    }

    fn schedule_reading(&mut self) -> Effects {
        let read_in = match self.reading {
            Reading::NotAtAll => None,
            _ if self.read_due || self.read == self.sent => None,
            Reading::Eagerly => Some(20),
            Reading::Slowly { every, .. } => Some(every),
        };
        self.read_due |= read_in.is_some();
        Effects { read_in, ..Effects::default() }
    }

    fn reset(&mut self, effects: &mut Effects) {
        let errno =
            if self.peer_ended && !self.we_ended { Errno::EPIPE } else { Errno::ECONNRESET };
        self.fail(errno, effects);
    }

    fn fail(&mut self, errno: Errno, effects: &mut Effects) {
        self.dead = true;
        self.error = Some(errno);
        self.script.clear();
        effects.wake = true;
        effects.failed = true;
    }
}
