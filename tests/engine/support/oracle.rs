//! The oracle: exactly once, or closed with an error.
//!
//! Byte `offset` of the stream of connection `number` in one direction is known to everybody. A
//! receiver checks each byte where it stands, so that a gap, a repeat, a swap or a byte of another
//! connection is seen at once; [`judge`] then compares how much was sent and received, and how it
//! ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::AddAssign;

use fanin::op::Flow;

/// Bytes of the connection's number, with which the client begins.
pub const HELLO_BYTES: u64 = 8;
const BLOCK: usize = 64 * 1024;

/// One stream's bytes.
#[derive(Clone, Copy, Debug)]
struct Script {
    number: u64,
    flow: Flow,
}

impl Script {
    /// The eight bytes from `word` times eight on. The client's first eight are its number, so that
    /// the server knows whom it hears.
    fn word(self, word: u64) -> [u8; 8] {
        if word == 0 && self.flow == Flow::ToBackend {
            return self.number.to_le_bytes();
        }
        // splitmix64: each output differs from every other in about half its bits.
        let stream = self.number * 2 + self.flow.index() as u64;
        let mut z = (stream << 40).wrapping_add(word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    fn fill(self, offset: u64, into: &mut [u8]) {
        let mut word = offset / 8;
        let skip = (offset % 8) as usize;
        let first = self.word(word);
        let head = into.len().min(8 - skip);
        into[..head].copy_from_slice(&first[skip..skip + head]);
        for chunk in into[head..].chunks_mut(8) {
            word += 1;
            chunk.copy_from_slice(&self.word(word)[..chunk.len()]);
        }
    }
}

/// What one end has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub number: u64,
    pub flow: Flow,
    pub bytes: u64,
    /// It ended its stream after them.
    pub whole: bool,
    /// The connection failed under it.
    pub failed: Option<ErrorKind>,
}

/// What one end has received, every byte checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    pub number: u64,
    pub flow: Flow,
    pub bytes: u64,
    pub end: End,
}

impl Got {
    /// What the same end has received that `sent`: where its sender was told of the reset, the kernel
    /// tells it nobody else, and the receiver sees an end. (After a FIN it would have been EPIPE.)
    pub fn beside(self, sent: &Sent) -> Self {
        match (sent.failed, self.end) {
            (Some(kind @ ErrorKind::ConnectionReset), End::Whole) => {
                Self { end: End::Cut(kind), ..self }
            }
            _ => self,
        }
    }
}

/// How a stream ended for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A FIN.
    Whole,
    /// An error.
    Cut(ErrorKind),
}

/// Sends a stream.
pub struct Sender<'a> {
    stream: &'a TcpStream,
    script: Script,
    offset: u64,
    block: Vec<u8>,
    failed: Option<ErrorKind>,
}

impl<'a> Sender<'a> {
    pub fn new(stream: &'a TcpStream, number: u64, flow: Flow) -> Self {
        let script = Script { number, flow };
        Self { stream, script, offset: 0, block: Vec::new(), failed: None }
    }

    /// Sends so many bytes, each `piece` with a call of its own. Stops where the connection fails.
    pub fn send_in(&mut self, bytes: u64, mut piece: impl FnMut() -> usize) -> &mut Self {
        let target = self.offset + bytes;
        while self.offset < target && self.failed.is_none() {
            let next = piece().clamp(1, BLOCK).min((target - self.offset) as usize);
            self.send_one(next, |mut stream, bytes| stream.write_all(bytes).map(|()| bytes.len()));
        }
        self
    }

    /// Sends so many bytes.
    pub fn send(&mut self, bytes: u64) -> &mut Self {
        self.send_in(bytes, || BLOCK)
    }

    /// Makes one call of the caller's choice with the next `bytes` bytes; it says how many it has
    /// taken.
    pub fn send_one(
        &mut self,
        bytes: usize,
        call: impl FnOnce(&TcpStream, &[u8]) -> std::io::Result<usize>,
    ) -> usize {
        if self.failed.is_some() {
            return 0;
        }
        self.block.resize(bytes.max(self.block.len()), 0);
        let block = &mut self.block[..bytes];
        self.script.fill(self.offset, block);
        match call(self.stream, block) {
            Ok(taken) => {
                self.offset += taken as u64;
                taken
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => {
                // Some of them may have gone out before.
                self.offset += bytes as u64;
                self.failed = Some(error.kind());
                0
            }
        }
    }

    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Ends the stream.
    pub fn finish(self) -> Sent {
        let whole = self.failed.is_none() && self.stream.shutdown(Shutdown::Write).is_ok();
        Sent { whole, ..self.cut() }
    }

    /// What was sent, of a stream that is ended in another way.
    pub const fn cut(&self) -> Sent {
        let Script { number, flow } = self.script;
        Sent { number, flow, bytes: self.offset, whole: false, failed: self.failed }
    }
}

/// Receives a stream and checks it.
pub struct Receiver<'a> {
    stream: &'a TcpStream,
    script: Script,
    offset: u64,
    end: Option<End>,
    block: Vec<u8>,
    expected: Vec<u8>,
}

impl<'a> Receiver<'a> {
    /// A receiver that has had the first `offset` bytes.
    pub fn new(stream: &'a TcpStream, number: u64, flow: Flow, offset: u64) -> Self {
        let script = Script { number, flow };
        Self { stream, script, offset, end: None, block: Vec::new(), expected: Vec::new() }
    }

    /// Reads once, up to `most` bytes; how many it had, or `None` at the end.
    pub fn receive_once(&mut self, most: usize) -> Option<usize> {
        if self.end.is_some() {
            return None;
        }
        let most = most.clamp(1, BLOCK);
        self.block.resize(most.max(self.block.len()), 0);
        let read = loop {
            match self.stream.read(&mut self.block[..most]) {
                // A ring that ends elsewhere in this process interrupts waits.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => self.end = Some(End::Whole),
            Ok(bytes) => {
                self.check(bytes);
                return Some(bytes);
            }
            Err(error) => {
                let kind = error.kind();
                assert_ne!(kind, ErrorKind::WouldBlock, "{self:?} hangs: nothing comes");
                self.end = Some(End::Cut(kind));
            }
        }
        None
    }

    fn check(&mut self, bytes: usize) {
        self.expected.resize(self.block.len(), 0);
        self.script.fill(self.offset, &mut self.expected[..bytes]);
        let pairs = self.block[..bytes].iter().zip(&self.expected[..bytes]);
        if let Some(at) = pairs.into_iter().position(|(got, expected)| got != expected) {
            panic!("{self:?}: the byte {at} further on is not the one that was sent");
        }
        self.offset += bytes as u64;
    }

    /// Receives exactly so many bytes.
    #[track_caller]
    pub fn receive(&mut self, bytes: u64) -> &mut Self {
        let target = self.offset + bytes;
        while self.offset < target {
            let left = usize::try_from(target - self.offset).unwrap_or(usize::MAX);
            assert!(self.receive_once(left).is_some(), "{self:?} ended before byte {target}");
        }
        self
    }

    /// Receives so many bytes, or fewer if the stream ends before.
    pub fn receive_up_to(&mut self, bytes: u64) {
        let target = self.offset + bytes;
        while self.offset < target {
            if self.receive_once((target - self.offset) as usize).is_none() {
                return;
            }
        }
    }

    /// Receives to the end, in pieces of these sizes.
    pub fn to_the_end_in(&mut self, mut most: impl FnMut() -> usize) -> Got {
        while self.receive_once(most()).is_some() {}
        self.got()
    }

    /// Receives to the end.
    pub fn to_the_end(&mut self) -> Got {
        self.to_the_end_in(|| BLOCK)
    }

    fn got(&self) -> Got {
        let Script { number, flow } = self.script;
        Got { number, flow, bytes: self.offset, end: self.end.expect("received to the end") }
    }
}

impl std::fmt::Debug for Receiver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Script { number, flow } = self.script;
        write!(f, "connection {number} {flow:?} at byte {} ({:?})", self.offset, self.end)
    }
}

/// Bytes of several streams, by [`Flow::index`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub sent: [u64; 2],
    pub got: [u64; 2],
}

impl AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        for flow in 0..2 {
            self.sent[flow] += other.sent[flow];
            self.got[flow] += other.got[flow];
        }
    }
}

impl std::iter::Sum for Total {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), |mut sum, total| {
            sum += total;
            sum
        })
    }
}

/// Compares both ends of one stream: whole, or a prefix and then an error.
#[track_caller]
pub fn judge(sent: Sent, got: Got) -> Total {
    assert_eq!((sent.number, sent.flow), (got.number, got.flow), "two ends of one stream");
    match got.end {
        End::Whole => {
            assert!(sent.whole, "a cut stream ended cleanly: {sent:?} {got:?}");
            assert_eq!(sent.bytes, got.bytes, "a stream ended early: {sent:?} {got:?}");
        }
        End::Cut(_) => assert!(got.bytes <= sent.bytes, "{sent:?} {got:?}"),
    }
    let mut total = Total::default();
    total.sent[sent.flow.index()] = sent.bytes;
    total.got[sent.flow.index()] = got.bytes;
    total
}

/// The same where nothing may go wrong.
#[track_caller]
pub fn judge_whole(sent: Sent, got: Got) -> Total {
    assert!(sent.whole && got.end == End::Whole, "cut: {sent:?} {got:?}");
    judge(sent, got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut_into_pieces() {
        let script = Script { number: 7, flow: Flow::ToBackend };
        let mut whole = [0; 200];
        script.fill(0, &mut whole);
        assert_eq!(whole[..8], 7u64.to_le_bytes());
        for from in 0..60 {
            let mut part = [0; 57];
            script.fill(from as u64, &mut part);
            assert_eq!(part, whole[from..from + 57]);
        }
        let mut other = [0; 200];
        Script { number: 7, flow: Flow::ToClient }.fill(0, &mut other);
        assert_ne!(whole[8..], other[8..]);
    }

    #[test]
    #[should_panic(expected = "not the one that was sent")]
    fn a_gap_is_seen() {
        let (one, two) = pair();
        let mut sender = Sender::new(&one, 1, Flow::ToClient);
        sender.send(100).send_one(1, |_, bytes| Ok(bytes.len()));
        sender.send(100);
        sender.finish();
        Receiver::new(&two, 1, Flow::ToClient, 0).to_the_end();
    }

    #[test]
    #[should_panic(expected = "ended early")]
    fn a_lost_tail_is_seen() {
        let (one, two) = pair();
        let mut sender = Sender::new(&one, 1, Flow::ToClient);
        sender.send(100).send_one(1, |_, bytes| Ok(bytes.len()));
        let sent = sender.finish();
        judge(sent, Receiver::new(&two, 1, Flow::ToClient, 0).to_the_end());
    }

    #[test]
    #[should_panic(expected = "a cut stream ended cleanly")]
    fn a_clean_end_of_a_cut_stream_is_seen() {
        let (one, two) = pair();
        let mut sender = Sender::new(&one, 1, Flow::ToClient);
        let sent = sender.send(100).cut();
        drop(one);
        judge(sent, Receiver::new(&two, 1, Flow::ToClient, 0).to_the_end());
    }
}
