//! Bodies on their way: a piece at a time, none held longer than the other side takes to take it.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::story::Story;
use super::wire::Line;

/// What a body came to, where that is not its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is longer than it may be.
    TooLong,
    /// Nothing came for too long.
    Stalled,
    /// Whoever sent it is gone, or has sent nonsense.
    Cut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the body is too long",
            Self::Stalled => "the body did not go on",
            Self::Cut => "the body was cut",
        })
    }
}

impl Error for Fault {}

/// How far the body of a request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: Cell<u64>,
    pub(super) fault: Cell<Option<Fault>>,
    /// The agent is waited for, not the server.
    pub(super) waits: Cell<bool>,
}

/// The body of a request, on its way to a server.
#[derive(Debug)]
pub(super) struct Upload {
    body: Incoming,
    bytes_max: u64,
    patience: Patience,
    progress: Rc<Progress>,
}

impl Upload {
    pub(super) fn new(body: Incoming, bytes_max: u64, idle: Duration) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress::default());
        let patience = Patience::new(idle);
        (Self { body, bytes_max, patience, progress: Rc::clone(&progress) }, progress)
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            self.progress.waits.set(polled.is_pending());
            let Poll::Ready(frame) = polled else {
                ready!(self.patience.poll(context));
                return self.fail(Fault::Stalled);
            };
            self.patience.renew();
            let Some(frame) = frame else { return Poll::Ready(None) };
            let Ok(frame) = frame else { return self.fail(Fault::Cut) };
            // Fields behind the body are left out (RFC 9110 section 6.5.1 allows it).
            let Ok(bytes) = frame.into_data() else { continue };
            let so_far = self.progress.bytes.get() + bytes.len() as u64;
            if so_far > self.bytes_max {
                return self.fail(Fault::TooLong);
            }
            self.progress.bytes.set(so_far);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, on its way to an agent.
#[derive(Debug)]
pub(super) struct Answer {
    source: Source,
    /// The agent's turn begins when this is gone.
    _turn: TurnOver,
}

#[derive(Debug)]
enum Source {
    /// From here, at once.
    Own(Full<Bytes>),
    /// From a server.
    Server(Box<Download>),
}

#[derive(Debug)]
struct TurnOver(Rc<Line>);

impl Drop for TurnOver {
    fn drop(&mut self) {
        self.0.rest();
    }
}

/// The body of a server's answer, and what is told of the exchange when it is over.
#[derive(Debug)]
pub(super) struct Download {
    body: Incoming,
    patience: Patience,
    story: Story,
}

impl Answer {
    /// An answer of our own.
    pub(super) fn own(text: impl Into<Bytes>, line: Rc<Line>) -> Self {
        Self { source: Source::Own(Full::new(text.into())), _turn: TurnOver(line) }
    }

    /// A server's.
    pub(super) fn of_server(
        body: Incoming,
        idle: Duration,
        mut story: Story,
        line: Rc<Line>,
    ) -> Self {
        if body.is_end_stream() {
            story.complete();
        }
        let download = Download { body, patience: Patience::new(idle), story };
        Self { source: Source::Server(Box::new(download)), _turn: TurnOver(line) }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut self.source {
            Source::Own(body) => Pin::new(body)
                .poll_frame(context)
                .map(|frame| Some(frame?.map_err(|never| match never {}))),
            Source::Server(download) => download.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Server(download) => download.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Server(download) => download.body.size_hint(),
        }
    }
}

impl Download {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.patience.poll(context));
            self.story.cut_by_server(Fault::Stalled);
            return Poll::Ready(Some(Err(Fault::Stalled)));
        };
        self.patience.renew();
        match frame {
            None => self.story.complete(),
            Some(Ok(frame)) => {
                self.story.deliver(frame.data_ref().map_or(0, Bytes::len));
                // Nobody asks again where the length was known.
                if self.body.is_end_stream() {
                    self.story.complete();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(_)) => {
                self.story.cut_by_server(Fault::Cut);
                return Poll::Ready(Some(Err(Fault::Cut)));
            }
        }
        Poll::Ready(None)
    }
}

/// How long nothing may come. Its timer exists only while something is waited for.
#[derive(Debug)]
struct Patience {
    idle: Duration,
    running: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    const fn new(idle: Duration) -> Self {
        Self { idle, running: None }
    }

    fn renew(&mut self) {
        self.running = None;
    }

    /// Ready when it is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let sleep =
            self.running.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + idle)));
        sleep.as_mut().poll(context)
    }
}
