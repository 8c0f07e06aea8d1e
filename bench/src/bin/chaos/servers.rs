//! The servers behind the relay: one that always listens, and some that refuse for a while now and
//! then. Each connection's header says which plan it belongs to.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::end::{self, Report};
use super::plan::Part;
use super::stream::Dice;

pub const HEADER_BYTES: usize = 24;
const MAGIC: u64 = 0x6368_616f_7366_616e;

/// What a connection says first: that it is one of ours, which one, and the same again so that a
/// changed byte is seen.
pub fn header(id: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    for (place, word) in [MAGIC, id, !id].into_iter().enumerate() {
        bytes[8 * place..][..8].copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// The key of one direction's stream.
pub fn key(id: u64, to_server: bool) -> u64 {
    (id << 1 | u64::from(to_server)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// A server's part in a connection that is under way.
pub struct Expected {
    pub part: Part,
    pub report: Sender<Report>,
}

/// Connections that clients have begun and no server has seen yet.
#[derive(Default)]
pub struct Desk {
    expected: Mutex<HashMap<u64, Expected>>,
    issued: AtomicU64,
    /// Times a listener has been closed, counted before and after.
    pub closings: AtomicU64,
    /// Oracle violations seen by servers alone.
    pub strange: Mutex<Vec<String>>,
    pub over: AtomicBool,
}

impl Desk {
    pub fn expect(&self, expected: Expected) -> u64 {
        let id = self.issued.fetch_add(1, SeqCst);
        self.expected.lock().expect("no holder panics").insert(id, expected);
        id
    }

    /// Takes a connection off the desk; `None` when a server has it.
    pub fn take(&self, id: u64) -> Option<Expected> {
        self.expected.lock().expect("no holder panics").remove(&id)
    }

    fn complain(&self, what: String) {
        self.strange.lock().expect("no holder panics").push(what);
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let mut bytes = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match stream.read(&mut bytes[filled..]) {
                // A connection without a byte.
                Ok(0) if filled == 0 => return,
                Ok(0) => return self.complain(format!("a clean end after {filled} header bytes")),
                Ok(n) => filled += n,
                Err(_) => return,
            }
        }
        let word = |place: usize| {
            u64::from_be_bytes(bytes[8 * place..][..8].try_into().expect("eight bytes"))
        };
        let id = word(1);
        if bytes != header(id) || id >= self.issued.load(SeqCst) {
            return self.complain(format!("a header of nobody's: {bytes:02x?}"));
        }
        // Not on the desk: its client broke off before anybody saw it.
        let Some(expected) = self.take(id) else { return };
        if expected.part.receive_buffer > 0 {
            let _ = SockRef::from(&stream).set_recv_buffer_size(expected.part.receive_buffer);
        }
        let report = end::play(stream, &expected.part, &[], [key(id, false), key(id, true)]);
        let _ = expected.report.send(report);
    }
}

/// A listener whose accept gives up after a while, so that its thread can look around.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket.into())
}

/// Serves on `address` until all is over; `refuses` makes it close its listener now and then.
pub fn run(desk: &Arc<Desk>, address: SocketAddr, mut refuses: Option<Dice>) -> io::Result<()> {
    let mut listener = listen(address)?;
    let mut change = next_change(&mut refuses);
    while !desk.over.load(SeqCst) {
        if Instant::now() > change {
            desk.closings.fetch_add(1, SeqCst);
            drop(listener);
            desk.closings.fetch_add(1, SeqCst);
            let dice = refuses.as_mut().expect("only one that refuses ever changes");
            thread::sleep(Duration::from_millis(dice.between(200, 3000)));
            listener = listen(address)?;
            change = next_change(&mut refuses);
        }
        if let Ok((stream, _)) = listener.accept() {
            let desk = Arc::clone(desk);
            let small = thread::Builder::new().stack_size(256 * 1024);
            small.spawn(move || desk.serve(stream))?;
        }
    }
    Ok(())
}

fn next_change(refuses: &mut Option<Dice>) -> Instant {
    let far = 1_000_000_000;
    let wait = refuses.as_mut().map_or(far, |dice| dice.between(2000, 9000));
    Instant::now() + Duration::from_millis(wait)
}
