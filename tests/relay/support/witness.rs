//! The oracle of the fault tests. Each direction of a session carries a sequence that only its key
//! makes, and whoever receives it checks every byte at its offset. A stream is *whole* when all of
//! it came and then a FIN, or it is *cut*: an exact prefix and then an error. Anything else (a gap,
//! a repeat, a foreign byte, a FIN on a cut stream, a session that comes twice, silence) is a
//! complaint, and fails the test.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use super::peers::{self, Server};
use super::{PATIENCE, await_that};

/// The first bytes of the way up: the key, and how many bytes each direction carries after them.
const HEAD: usize = 24;
const PIECE: usize = 12_000;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    Cut,
}

/// What a receiver saw.
enum Got {
    Whole,
    Cut,
    /// A FIN too early. The kernel tells of a reset once: if the sending half of the same socket
    /// was told, the receiving half reads what looks like a FIN.
    EarlyFin(String),
}

/// What one session is to carry.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub up: u64,
    pub down: u64,
}

/// Servers that know what every session has to bring, and what became of each.
#[derive(Clone)]
pub struct Witness {
    pub servers: Vec<Server>,
    ledger: Arc<Ledger>,
}

#[derive(Default)]
struct Ledger {
    open: AtomicUsize,
    ends: Mutex<HashMap<u64, End>>,
    complaints: Mutex<Vec<String>>,
}

/// What became of some sessions.
#[derive(Debug)]
pub struct Tally {
    pub whole: usize,
    /// One direction at least was cut, as one of the ends saw it.
    pub cut: usize,
}

impl Witness {
    /// So many servers on loopback.
    pub fn new(servers: usize) -> Self {
        Self::on((0..servers).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()))
    }

    pub fn on(listeners: impl IntoIterator<Item = TcpListener>) -> Self {
        let ledger = Arc::new(Ledger::default());
        let server = |listener| {
            let ledger = Arc::clone(&ledger);
            Server::on(listener, move |stream| ledger.serve(&stream))
        };
        Self { servers: listeners.into_iter().map(server).collect(), ledger }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// How a connection is served, for a server that is made later.
    pub fn treat(&self) -> impl Fn(TcpStream) + Send + Sync + 'static {
        let ledger = Arc::clone(&self.ledger);
        move |stream| ledger.serve(&stream)
    }

    /// Runs so many sessions at once through `relay`, and checks everything.
    #[track_caller]
    pub fn run(&self, relay: SocketAddr, sessions: usize, load: Load) -> Tally {
        let ends = Self::sessions(relay, sessions, load);
        self.settle();
        self.judge(ends)
    }

    /// The same while others are under way and may be for long.
    #[track_caller]
    pub fn run_beside(&self, relay: SocketAddr, sessions: usize, load: Load) -> Tally {
        let ends = Self::sessions(relay, sessions, load);
        await_that("the servers see the end of these", || {
            let seen = self.ledger.ends.lock().unwrap();
            ends.iter().all(|(key, end)| *end != Ok(End::Whole) || seen.contains_key(key))
        });
        self.judge(ends)
    }

    fn sessions(relay: SocketAddr, sessions: usize, load: Load) -> Vec<(u64, Result<End, String>)> {
        let keys: Vec<u64> = (0..sessions).map(|_| key()).collect();
        thread::scope(|scope| {
            let session = |key| scope.spawn(move || (key, session(relay, key, load)));
            let running: Vec<_> = keys.into_iter().map(session).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[track_caller]
    fn judge(&self, ends: Vec<(u64, Result<End, String>)>) -> Tally {
        let seen = self.ledger.ends.lock().unwrap();
        let mut tally = Tally { whole: 0, cut: 0 };
        let mut complaints = self.ledger.complaints.lock().unwrap().clone();
        for (key, end) in ends {
            match (end, seen.get(&key)) {
                (Ok(End::Whole), Some(End::Whole)) => tally.whole += 1,
                (Ok(_), _) => tally.cut += 1,
                (Err(complaint), _) => complaints.push(complaint),
            }
        }
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        tally
    }

    /// Waits until the servers have seen every session's end.
    #[track_caller]
    pub fn settle(&self) {
        await_that("the servers see the end", || self.ledger.open.load(SeqCst) == 0);
    }
}

impl Ledger {
    fn serve(&self, stream: &TcpStream) {
        self.open.fetch_add(1, SeqCst);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        if let Err(complaint) = self.witness(stream) {
            self.complaints.lock().unwrap().push(format!("server: {complaint}"));
        }
        self.open.fetch_sub(1, SeqCst);
    }

    fn witness(&self, mut stream: &TcpStream) -> Result<(), String> {
        let mut head = [0; HEAD];
        if let Err(error) = stream.read_exact(&mut head) {
            return cut_by(&error).map(drop);
        }
        let word = |n: usize| u64::from_be_bytes(head[n * 8..][..8].try_into().unwrap());
        let (key, up, down) = (word(0), word(1), word(2));
        let ends = both(stream, !key, down, || receive(stream, key, up));
        let end = ends.map_err(|complaint| format!("{key:x}: {complaint}"))?;
        match self.ends.lock().unwrap().insert(key, end) {
            None => Ok(()),
            Some(_) => Err(format!("{key:x} came twice")),
        }
    }
}

/// One session as the client sees it.
pub fn session(relay: SocketAddr, key: u64, load: Load) -> Result<End, String> {
    match peers::try_connect(relay) {
        Ok(stream) => converse(&stream, key, load),
        Err(error) => cut_by(&error),
    }
}

/// The same on a connection that is there.
pub fn converse(stream: &TcpStream, key: u64, load: Load) -> Result<End, String> {
    match begin(stream, key, load) {
        Ok(()) => finish(stream, key, load),
        Err(error) => cut_by(&error).map_err(|complaint| format!("client {key:x}: {complaint}")),
    }
}

/// Says what the session is to carry; its server begins to send.
pub fn begin(mut stream: &TcpStream, key: u64, load: Load) -> std::io::Result<()> {
    let mut head = Vec::new();
    for word in [key, load.up, load.down] {
        head.extend(word.to_be_bytes());
    }
    stream.write_all(&head)
}

/// Carries a session that has begun to its end.
pub fn finish(stream: &TcpStream, key: u64, load: Load) -> Result<End, String> {
    let end = both(stream, key, load.up, || receive(stream, !key, load.down));
    end.map_err(|complaint| format!("client {key:x}: {complaint}"))
}

/// A key that no other session has.
pub fn key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    mix(NEXT.fetch_add(1, SeqCst))
}

/// Sends while it receives.
fn both(
    stream: &TcpStream,
    key: u64,
    bytes: u64,
    receive: impl FnOnce() -> Result<Got, String>,
) -> Result<End, String> {
    thread::scope(|scope| {
        let small = thread::Builder::new().stack_size(64 * 1024);
        let sent = small.spawn_scoped(scope, || send(stream, key, bytes)).unwrap();
        let received = receive()?;
        match (received, sent.join().unwrap()?) {
            (Got::Whole, End::Whole) => Ok(End::Whole),
            (Got::EarlyFin(complaint), End::Whole) => Err(complaint),
            (Got::Whole | Got::Cut | Got::EarlyFin(_), _) => Ok(End::Cut),
        }
    })
}

fn send(mut stream: &TcpStream, key: u64, bytes: u64) -> Result<End, String> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < bytes {
        let size = 1 + mix(key ^ at) % PIECE as u64;
        let piece = &mut piece[..size.min(bytes - at) as usize];
        fill(key, at, piece);
        if let Err(error) = stream.write_all(piece) {
            return cut_by(&error);
        }
        at += piece.len() as u64;
    }
    // Where that fails the connection is gone, and the receiving half says why.
    let _ = stream.shutdown(Shutdown::Write);
    Ok(End::Whole)
}

fn receive(mut stream: &TcpStream, key: u64, bytes: u64) -> Result<Got, String> {
    let (mut got, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let size = match stream.read(&mut got) {
            Ok(0) if at == bytes => return Ok(Got::Whole),
            Ok(0) => return Ok(Got::EarlyFin(format!("a FIN after {at} of {bytes} bytes"))),
            Ok(size) => size,
            Err(error) => return cut_by(&error).map(|_| Got::Cut),
        };
        fill(key, at, &mut expected[..size]);
        if at + size as u64 > bytes || got[..size] != expected[..size] {
            return Err(format!("foreign bytes between {at} and {}", at + size as u64));
        }
        at += size as u64;
    }
}

/// What an error says of a stream: cut, if it is one that a peer or a network gives.
fn cut_by(error: &std::io::Error) -> Result<End, String> {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(End::Cut),
        ErrorKind::UnexpectedEof => Err("a FIN before the head was whole".into()),
        ErrorKind::WouldBlock => Err(format!("nothing for {PATIENCE:?}")),
        _ => Err(error.to_string()),
    }
}

/// The bytes of a sequence from an offset on.
fn fill(key: u64, from: u64, bytes: &mut [u8]) {
    for (at, byte) in (from..).zip(bytes) {
        *byte = (mix(key.wrapping_add(at / 8)) >> (at % 8 * 8)) as u8;
    }
}

/// The finisher of splitmix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
