//! Moves bytes on non-blocking sockets, for the far end and the near end alike.
//!
//! What is received is thrown away in the kernel (`MSG_TRUNC` on TCP copies nothing), so that load
//! and servers stay lighter than the relay between them.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;

use mio::net::TcpStream;
use socket2::SockRef;

/// Most bytes in one receive, and in one send of a bulk stream.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks per stream and turn, so that no stream starves the others.
const CHUNKS_PER_TURN: usize = 4;

/// What is sent from and received into.
#[derive(Debug)]
pub(crate) struct Buffers {
    outgoing: Vec<u8>,
    /// Never written to: `MSG_TRUNC` only takes its length.
    incoming: Vec<MaybeUninit<u8>>,
}

/// How far it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Went {
    /// Until the socket would block.
    Blocked,
    /// Until its turn was over; there may be more.
    Turn,
    /// The stream has ended or failed.
    Ended,
}

impl Buffers {
    /// Buffers for one thread.
    pub(crate) fn new() -> Self {
        // Varied bytes: a relay that compressed or skipped zeros would not be faster for it.
        let outgoing = (0..CHUNK_BYTES.max(1 << 20)).map(|n| (n % 251).to_le_bytes()[0]).collect();
        Self { outgoing, incoming: vec![MaybeUninit::uninit(); CHUNK_BYTES] }
    }

    /// Sends up to `bytes` (at most 1 MiB); zero when it would block.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn send(&self, stream: &mut TcpStream, bytes: usize) -> io::Result<usize> {
        loop {
            match stream.write(&self.outgoing[..bytes]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if would_block(&error) => return Ok(0),
                other => return other,
            }
        }
    }

    /// Receives once and throws away; nothing when it would block, zero at the end of the stream.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn discard(&mut self, stream: &TcpStream) -> io::Result<Option<usize>> {
        let socket = SockRef::from(stream);
        loop {
            match socket.recv_with_flags(&mut self.incoming, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if would_block(&error) => return Ok(None),
                other => return other.map(Some),
            }
        }
    }

    /// Sends without end, for one turn; adds to `sent`.
    pub(crate) fn pour(&self, stream: &mut TcpStream, sent: &mut u64) -> Went {
        for _ in 0..CHUNKS_PER_TURN {
            match self.send(stream, CHUNK_BYTES) {
                Ok(0) => return Went::Blocked,
                Ok(bytes) => *sent += bytes as u64,
                Err(_) => return Went::Ended,
            }
        }
        Went::Turn
    }

    /// Discards what comes, for one turn; adds to `received`.
    pub(crate) fn drink(&mut self, stream: &TcpStream, received: &mut u64) -> Went {
        for _ in 0..CHUNKS_PER_TURN {
            match self.discard(stream) {
                Ok(None) => return Went::Blocked,
                Ok(Some(0)) | Err(_) => return Went::Ended,
                Ok(Some(bytes)) => *received += bytes as u64,
            }
        }
        Went::Turn
    }
}

/// Not connected yet is not writable yet.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
