//! One end of a connection, played: sends its stream, checks every byte that comes, and finishes as
//! its part says.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::plan::{Finish, Part, Start};
use super::stream::{self, Dice};

/// Without a byte for so long, an end counts as hung.
const STALL: Duration = Duration::from_secs(25);
/// How often a blocked call looks at what the other half of its end has come to.
const GLANCE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(3);

/// How an end's own stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Fin,
    Reset,
    Close,
    Silent,
    Error(ErrorKind),
    Stuck,
}

/// How the other's stream ended, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Fin,
    Error(ErrorKind),
    /// This end broke off itself.
    BrokeOff,
    Nothing,
}

/// What an end came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub sent: u64,
    pub ended: Ended,
    pub received: u64,
    pub seen: Seen,
    /// The first offset where another byte came than was sent.
    pub wrong_at: Option<u64>,
    pub lasted: Duration,
}

/// What the two halves of an end know of each other.
#[derive(Default)]
struct Common {
    received: AtomicU64,
    peer_ended: AtomicBool,
    /// The receiving half is over, whatever the reason.
    deaf: AtomicBool,
    break_off: AtomicBool,
}

/// Plays `part` on `stream`. `header` goes out before all else.
pub fn play(stream: TcpStream, part: &Part, header: &[u8], keys: [u64; 2]) -> Report {
    let begun = Instant::now();
    let common = Common::default();
    let _ = stream.set_read_timeout(Some(GLANCE));
    let _ = stream.set_write_timeout(Some(GLANCE));
    let [key_out, key_in] = keys;
    let (sent, ended, (received, seen, wrong_at)) = thread::scope(|scope| {
        let receiving = thread::Builder::new().stack_size(256 * 1024);
        let (common, stream) = (&common, &stream);
        let receiver = receiving.spawn_scoped(scope, move || {
            let result = receive(stream, part, key_in, common);
            common.deaf.store(true, SeqCst);
            result
        });
        let (sent, ended) = send(stream, part, header, key_out, common);
        let received = receiver.expect("a thread can be started").join();
        (sent, ended, received.expect("the receiving half does not panic"))
    });
    let broke_off = common.break_off.load(SeqCst);
    let (ended, seen) = match (broke_off, part.finish) {
        (true, Finish::CloseAtReceived(_)) => (Ended::Close, Seen::BrokeOff),
        (true, _) => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            (Ended::Reset, Seen::BrokeOff)
        }
        // The kernel tells of a reset once: if the sending half heard it, the other reads an end.
        (false, _) => match (&ended, &seen) {
            (Ended::Error(kind), Seen::Fin) => (ended.clone(), Seen::Error(*kind)),
            _ => (ended, seen),
        },
    };
    Report { sent, ended, received, seen, wrong_at, lasted: begun.elapsed() }
}

fn send(stream: &TcpStream, part: &Part, header: &[u8], key: u64, common: &Common) -> (u64, Ended) {
    let mut sent = 0;
    match send_all(stream, part, header, key, common, &mut sent) {
        Ok(ended) => (sent, ended),
        Err(error) if error.kind() == ErrorKind::TimedOut => (sent, Ended::Stuck),
        Err(error) => (sent, Ended::Error(error.kind())),
    }
}

fn send_all(
    stream: &TcpStream,
    part: &Part,
    header: &[u8],
    key: u64,
    common: &Common,
    sent: &mut u64,
) -> io::Result<Ended> {
    if !write_all(stream, header, common)? {
        return Ok(Ended::Silent);
    }
    await_that(common, || match part.start {
        Start::Now => true,
        Start::AfterBytes(bytes) => common.received.load(SeqCst) >= bytes,
        Start::AfterEnd => common.peer_ended.load(SeqCst),
    });
    let total = match part.finish {
        Finish::ResetAtSent(bytes) => bytes.min(part.bytes),
        _ => part.bytes,
    };
    let mut dice = Dice::new(key, 1);
    let mut buffer = vec![0; part.piece_bytes_max as usize];
    let mut held = part.hold.is_zero();
    while *sent < total {
        let limit = (total - *sent).min(part.piece_bytes_max);
        let limit = if held { limit } else { limit.min((part.bytes / 2).max(1)) };
        let piece = &mut buffer[..limit as usize];
        stream::fill(key, *sent, piece);
        let urgent = part.urgent_one_in > 0 && dice.one_in(part.urgent_one_in);
        let (plain, last) = piece.split_at(piece.len() - usize::from(urgent));
        if !write_all(stream, plain, common)? || !write_urgent(stream, last, common)? {
            return Ok(Ended::Silent);
        }
        *sent += limit;
        if !held && *sent >= part.bytes / 2 {
            held = true;
            thread::sleep(part.hold);
        }
        if !part.piece_gap.is_zero() {
            thread::sleep(part.piece_gap);
        }
    }
    finish(stream, part, common)
}

fn finish(stream: &TcpStream, part: &Part, common: &Common) -> io::Result<Ended> {
    match part.finish {
        Finish::Fin => {}
        Finish::FinAfterBytes(bytes) => {
            await_that(common, || common.received.load(SeqCst) >= bytes);
        }
        Finish::ResetAtSent(_) => {
            common.break_off.store(true, SeqCst);
            return Ok(Ended::Reset);
        }
        Finish::ResetAtReceived(_) | Finish::CloseAtReceived(_) | Finish::Silent => {
            return Ok(Ended::Silent);
        }
    }
    match stream.shutdown(Shutdown::Write) {
        Ok(()) => Ok(Ended::Fin),
        Err(error) => Err(error),
    }
}

/// Waits until `condition` holds or waiting is pointless.
fn await_that(common: &Common, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + STALL;
    while !condition()
        && !common.deaf.load(SeqCst)
        && !common.break_off.load(SeqCst)
        && Instant::now() < deadline
    {
        thread::sleep(PAUSE);
    }
}

/// False when this end broke off meanwhile.
fn write_all(stream: &TcpStream, bytes: &[u8], common: &Common) -> io::Result<bool> {
    write_by(bytes, common, |bytes| (&mut &*stream).write(bytes))
}

fn write_urgent(stream: &TcpStream, bytes: &[u8], common: &Common) -> io::Result<bool> {
    write_by(bytes, common, |bytes| SockRef::from(stream).send_out_of_band(bytes))
}

fn write_by(
    mut bytes: &[u8],
    common: &Common,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<bool> {
    let mut deadline = Instant::now() + STALL;
    while !bytes.is_empty() {
        if common.break_off.load(SeqCst) {
            return Ok(false);
        }
        match write(bytes) {
            Ok(n) => {
                bytes = &bytes[n..];
                deadline = Instant::now() + STALL;
            }
            Err(error) if is_pause(&error) && Instant::now() < deadline => {}
            Err(error) if is_pause(&error) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn receive(stream: &TcpStream, part: &Part, key: u64, common: &Common) -> (u64, Seen, Option<u64>) {
    let mut received = 0;
    let mut wrong_at = None;
    let mut buffer = vec![0; part.read_bytes_max];
    let mut expected = vec![0; part.read_bytes_max];
    let mut deadline = Instant::now() + STALL;
    thread::sleep(part.read_delay);
    let seen = loop {
        if let Finish::ResetAtReceived(limit) | Finish::CloseAtReceived(limit) = part.finish
            && received >= limit
        {
            common.break_off.store(true, SeqCst);
        }
        if common.break_off.load(SeqCst) {
            break Seen::BrokeOff;
        }
        match (&mut &*stream).read(&mut buffer) {
            Ok(0) => {
                common.peer_ended.store(true, SeqCst);
                break await_verdict(stream, part);
            }
            Ok(n) => {
                stream::fill(key, received, &mut expected[..n]);
                if wrong_at.is_none() && buffer[..n] != expected[..n] {
                    let at = buffer.iter().zip(&expected).position(|(a, b)| a != b);
                    wrong_at = at.map(|at| received + at as u64);
                }
                received += n as u64;
                common.received.store(received, SeqCst);
                deadline = Instant::now() + STALL;
                thread::sleep(part.read_gap);
            }
            Err(error) if is_pause(&error) => {
                if Instant::now() > deadline {
                    break Seen::Nothing;
                }
            }
            Err(error) => break Seen::Error(error.kind()),
        }
    };
    (received, seen, wrong_at)
}

/// The other's stream has ended. An end that is to be silent goes on waiting to be told more.
fn await_verdict(stream: &TcpStream, part: &Part) -> Seen {
    if part.finish != Finish::Silent {
        return Seen::Fin;
    }
    let deadline = Instant::now() + STALL;
    while Instant::now() < deadline {
        if let Ok(Some(error)) = stream.take_error() {
            return Seen::Error(error.kind());
        }
        thread::sleep(GLANCE);
    }
    Seen::Nothing
}
