//! A connection as a door sees it: bytes, and when they moved.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::sys::socket;

/// Bytes taken from the kernel at one time.
const PIECE: usize = 16 * 1024;

/// What is known of a connection beside the bytes in it. Whoever speaks over the [`Wire`] owns it;
/// others look on.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    /// When a byte moved last.
    moved: Cell<Instant>,
    turn: Cell<Turn>,
    /// Since when the peer takes nothing of what is to be sent.
    blocked: Cell<Option<Instant>>,
}

/// Whose turn it is on an agent's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The agent says what it wants, since then.
    Asking(Instant),
    /// Nobody has said anything, since then.
    Idle(Instant),
    /// A request is being carried out.
    Ours,
}

impl Line {
    /// Begins with the agent's turn.
    pub(super) fn new(stream: TcpStream) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            stream,
            moved: Cell::new(now),
            turn: Cell::new(Turn::Asking(now)),
            blocked: Cell::new(None),
        })
    }

    /// The head of a request has been read.
    pub(super) fn begin(&self) {
        self.turn.set(Turn::Ours);
    }

    /// The answer has been given away.
    pub(super) fn rest(&self) {
        self.turn.set(Turn::Idle(Instant::now()));
    }

    /// Whether neither a request nor a part of one is here.
    pub(super) fn is_resting(&self) -> bool {
        matches!(self.turn.get(), Turn::Idle(_))
    }

    /// When the agent has taken too long: for a whole head since its beginning, however many bytes of
    /// it come; without a request, or without taking what it is sent, for `idle`.
    pub(super) fn due(&self, head: Duration, idle: Duration) -> Option<Instant> {
        let turn = match self.turn.get() {
            Turn::Asking(since) => Some(since + head),
            Turn::Idle(since) => Some(since + idle),
            Turn::Ours => None,
        };
        let blocked = self.blocked.get().map(|since| since + idle);
        [turn, blocked].into_iter().flatten().min()
    }

    /// When a byte moved last.
    pub(super) fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// Whether a connection on which nothing is expected is as it should be. Bytes, the end of the
    /// stream and errors all mean that the peer is about to leave.
    pub(super) fn is_quiet(&self) -> bool {
        socket::is_quiet(self.stream.as_fd())
    }

    /// Has the coming end be a reset: nobody shall take what was cut for whole.
    pub(super) fn cut(&self) {
        socket::reset_on_close(self.stream.as_fd());
    }

    fn note_moved(&self) {
        let now = Instant::now();
        self.moved.set(now);
        if let Turn::Idle(_) = self.turn.get() {
            self.turn.set(Turn::Asking(now));
        }
    }
}

/// The bytes of a [`Line`].
#[derive(Debug)]
pub(super) struct Wire {
    line: Rc<Line>,
    /// What has been read of it already.
    before: Bytes,
}

impl Wire {
    pub(super) fn new(line: Rc<Line>) -> Self {
        Self::after(Bytes::new(), line)
    }

    /// One of which these bytes have been read already: they come first.
    pub(super) const fn after(before: Bytes, line: Rc<Line>) -> Self {
        Self { line, before }
    }

    fn poll_send(
        &self,
        context: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Line { stream, moved, blocked, .. } = &*self.line;
        loop {
            if stream.poll_write_ready(context)?.is_pending() {
                blocked.set(blocked.get().or_else(|| Some(Instant::now())));
                return Poll::Pending;
            }
            match send(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    moved.set(Instant::now());
                    blocked.set(None);
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let bytes = self.before.len().min(into.remaining());
            into.put_slice(&self.before.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let line = &*self.line;
        loop {
            ready!(line.stream.poll_read_ready(context))?;
            let room = into.remaining().min(PIECE);
            match line.stream.try_read(into.initialize_unfilled_to(room)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    if bytes > 0 {
                        line.note_moved();
                    }
                    into.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peer that is gone needs no FIN.
        let _ = socket::shutdown_write(self.line.stream.as_fd());
        Poll::Ready(Ok(()))
    }
}
