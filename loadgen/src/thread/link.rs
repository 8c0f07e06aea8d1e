//! A lane's connection: made, spoken over, closed.

use super::{Seat, Shared, place_number};
use crate::agent::Event;
use crate::clock::Nanos;
use crate::failure::Failure;
use crate::io::{self, Bytes, Stream};
use crate::payload::Request;
use crate::proxy::{self, Answer};
use crate::tls::{self, Heard, Talk};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// Makes a connection; the stream is in its seat from the start, so that the end can reach it.
pub(super) async fn connect<S: Stream>(
    shared: &Shared<S>,
    seat: &Seat<S>,
    deadline: Nanos,
    abortive: bool,
) -> Result<Link<S>, Event> {
    let target = shared.orders.target;
    let failed =
        |error: &std::io::Error| Event::Failed(Failure::of_connect(error), error.raw_os_error());
    let socket = io::socket(target, seat.source).map_err(|error| failed(&error))?;
    if abortive {
        // Closing it sends a reset.
        socket.set_linger(Some(Duration::ZERO)).map_err(|error| failed(&error))?;
    }
    let stream = Rc::new(S::dial(socket, target).map_err(|error| failed(&error))?);
    seat.stream.replace(Some(Rc::clone(&stream)));
    let mut connecting = std::pin::pin!(stream.connected());
    let outcome = match shared.within(&mut connecting, deadline).await {
        Some(Ok(())) => {
            let stream = Rc::clone(&stream);
            return Ok(Link { stream, reading: None, talk: None });
        }
        Some(Err(error)) => failed(&error),
        None => {
            stream.abort();
            let _ = connecting.await;
            Event::TimedOut
        }
    };
    seat.stream.replace(None);
    Err(outcome)
}

/// Closes a connection, if there is one, after its operation under way has completed.
pub(super) async fn hang_up<S: Stream>(shared: &Shared<S>, seat: &Seat<S>, link: Option<Link<S>>) {
    if let Some(Link { stream, reading: Some(reading), .. }) = link {
        stream.abort();
        let (_, buffer) = reading.await;
        shared.give_back(buffer);
    }
    // The last reference: dropping it closes the socket.
    seat.stream.replace(None);
}

/// A connection held by a lane.
pub(super) struct Link<S> {
    stream: Rc<S>,
    reading: Option<Reading>,
    /// The TLS over it, once it is begun.
    talk: Option<Box<Talk>>,
}

/// A read under way. It may begin while the agent waits, to notice the server's close, and then
/// receive the reply to the next request.
type Reading = Pin<Box<dyn Future<Output = (std::io::Result<()>, Vec<u8>)>>>;

impl<S: Stream> Link<S> {
    /// Waits for the next post, watching the connection.
    pub(super) async fn idle(&mut self, shared: &Shared<S>, place: usize, until: Nanos) -> Event {
        loop {
            let reading = self.reading(shared);
            tokio::select! {
                biased;
                () = shared.pacer.until(place_number(place), until) => return Event::Due,
                (_, buffer) = reading => {
                    self.reading = None;
                    let is_due = self.was_due(&buffer);
                    shared.give_back(buffer);
                    if !is_due {
                        return Event::HungUp;
                    }
                }
            }
        }
    }

    /// Whether what came while nothing was asked for is TLS's own affair, as the tickets are that
    /// follow a handshake. Anything else is not: Go's transport drops such a connection.
    fn was_due(&mut self, sealed: &[u8]) -> bool {
        let Some(talk) = self.talk.as_mut().filter(|_| !sealed.is_empty()) else { return false };
        let mut plain = Vec::new();
        talk.unwrap(sealed, &mut plain) == Ok(Heard::Bytes) && plain.is_empty()
    }

    /// Has the proxy open the way to the upstream.
    pub(super) async fn tunnel(&mut self, shared: &Shared<S>, deadline: Nanos) -> Event {
        let Some(request) = &shared.orders.tunnel else { return Event::Tunnelled };
        if let Err(event) = self.write(shared, request.to_vec(), deadline).await {
            return event;
        }
        let mut answer = Vec::new();
        loop {
            match self.read(shared, deadline).await {
                Event::Bytes(buffer) => {
                    answer.extend_from_slice(&buffer);
                    shared.give_back(buffer);
                }
                event => return event,
            }
            match proxy::answer(&answer) {
                Answer::Partial => {}
                Answer::Open => return Event::Tunnelled,
                Answer::Refused => return Event::Failed(Failure::ProtoProxyRefused, None),
            }
        }
    }

    /// Shakes hands over the new connection.
    pub(super) async fn shake(&mut self, shared: &Shared<S>, deadline: Nanos) -> Event {
        let trust = shared.orders.trust.as_ref();
        let mut talk = match trust.map(|trust| trust.talk()).transpose() {
            Ok(Some(talk)) => Box::new(talk),
            Ok(None) => return Event::Shaken,
            Err(error) => return Event::Failed(tls::failure(&error), None),
        };
        loop {
            let bytes = talk.outgoing();
            if !bytes.is_empty()
                && let Err(event) = self.write(shared, bytes, deadline).await
            {
                return event;
            }
            if !talk.is_shaking() {
                self.talk = Some(talk);
                return Event::Shaken;
            }
            let buffer = match self.read(shared, deadline).await {
                Event::Bytes(buffer) => buffer,
                event => return event,
            };
            // The server speaks second: nothing of the reply can be in it.
            let heard = talk.unwrap(&buffer, &mut Vec::new());
            shared.give_back(buffer);
            match heard {
                Ok(Heard::Bytes) => {}
                Ok(Heard::End) => return Event::Eof,
                Err(error) => {
                    // The alert that tells the peer why; it may have gone.
                    let _ = self.write(shared, talk.outgoing(), deadline).await;
                    return Event::Failed(tls::failure(&error), None);
                }
            }
        }
    }

    /// Sends a FIN.
    pub(super) fn finish(&self) -> Event {
        match self.stream.finish() {
            Ok(()) => Event::Finished,
            Err(error) => Event::Failed(Failure::of_io(&error), error.raw_os_error()),
        }
    }

    pub(super) async fn send(
        &mut self,
        shared: &Shared<S>,
        request: &'static Request,
        deadline: Nanos,
    ) -> Event {
        let written = match &mut self.talk {
            None => self.write(shared, request.bytes.as_slice(), deadline).await,
            Some(talk) => {
                let sealed = talk.wrap(&request.bytes);
                self.write(shared, sealed, deadline).await
            }
        };
        written.map_or_else(|event| event, |()| Event::Sent)
    }

    pub(super) async fn receive(&mut self, shared: &Shared<S>, deadline: Nanos) -> Event {
        loop {
            let event = self.read(shared, deadline).await;
            let Some(talk) = &mut self.talk else { return event };
            let Event::Bytes(sealed) = event else { return event };
            let mut plain = shared.buffer();
            let heard = talk.unwrap(&sealed, &mut plain);
            shared.give_back(sealed);
            if !plain.is_empty() {
                return Event::Bytes(plain);
            }
            shared.give_back(plain);
            match heard {
                Ok(Heard::Bytes) => {}
                Ok(Heard::End) => return Event::Eof,
                Err(error) => return Event::Failed(tls::failure(&error), None),
            }
        }
    }

    /// Writes all of it; what happened instead.
    async fn write(
        &self,
        shared: &Shared<S>,
        bytes: impl Bytes,
        deadline: Nanos,
    ) -> Result<(), Event> {
        let mut writing = std::pin::pin!(self.stream.write_all(bytes));
        match shared.within(&mut writing, deadline).await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Event::Failed(Failure::of_io(&error), error.raw_os_error())),
            None => {
                self.stream.abort();
                let _ = writing.await;
                Err(Event::TimedOut)
            }
        }
    }

    /// Reads once, whatever comes.
    async fn read(&mut self, shared: &Shared<S>, deadline: Nanos) -> Event {
        let reading = self.reading(shared);
        let Some((result, buffer)) = shared.within(reading, deadline).await else {
            // `hang_up` follows: it aborts and awaits the read.
            return Event::TimedOut;
        };
        self.reading = None;
        match result {
            Ok(()) if buffer.is_empty() => {
                shared.give_back(buffer);
                Event::Eof
            }
            Ok(()) => Event::Bytes(buffer),
            Err(error) => {
                shared.give_back(buffer);
                Event::Failed(Failure::of_io(&error), error.raw_os_error())
            }
        }
    }

    fn reading(&mut self, shared: &Shared<S>) -> &mut Reading {
        let stream = &self.stream;
        self.reading.get_or_insert_with(|| Box::pin(Rc::clone(stream).read(shared.buffer())))
    }
}
