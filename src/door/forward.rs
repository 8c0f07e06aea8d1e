//! The way of a request to a server and of its answer back.
//!
//! A request is given to a connection once. Until hyper has taken it, it is whole and may go elsewhere:
//! the server was not connected, its TLS was not accepted, or a kept connection turned out to have
//! ended. From then on it may have reached the server, and is never sent again.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use nix::errno::Errno;
use tokio::time::{sleep, sleep_until, timeout};

use crate::backend::{Call, Choice, ServerId, backoff};
use crate::metrics::CloseReason;
use crate::op::Side;
use crate::sys::process;

use super::answers::{self, Failure};
use super::body::{Answer, Progress, Upload};
use super::dial::{self, NotConnected};
use super::kept::Connection;
use super::plan::Backend;
use super::story::Story;
use super::wire::Line;
use super::{Forwarder, head};

/// A request and where it came from.
pub(super) struct Origin {
    pub(super) forwarder: Rc<Forwarder>,
    /// Index into the plan's routes.
    pub(super) route: usize,
    pub(super) client: SocketAddr,
    pub(super) line: Rc<Line>,
    pub(super) to: To,
}

/// Where requests of a connection go.
pub(super) enum To {
    /// To the servers of the listener's backend.
    Servers,
    /// Where they say, which has been judged.
    Named(Named),
}

/// A destination that a client has named.
pub(super) struct Named {
    /// At least one.
    pub(super) addresses: Vec<SocketAddr>,
    /// The `Host` of the request.
    pub(super) host: HeaderValue,
    /// The same, for records.
    pub(super) authority: String,
}

/// What has become of a request that was given to a connection.
enum Given {
    Answered(Response<Incoming>),
    /// The connection had ended before it took it.
    Back(Request<Upload>),
    Lost(Failure),
}

/// Why an attempt came to nothing; the request is whole.
struct Missed {
    reason: CloseReason,
    request: Request<Upload>,
}

impl Origin {
    /// Answers a request, by a server or, where none can be had, by itself.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let Self { forwarder, route, client, line, to } = self;
        line.begin();
        if matches!(to, To::Servers) && answers::is_status(&request) {
            return answers::status(forwarder, *route, request.uri(), line);
        }
        let (head, body) = request.into_parts();
        let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
        let path = match to {
            To::Servers => head::told(&head.uri),
            To::Named(named) => format!("http://{}{}", named.authority, head::told(&head.uri)),
        };
        let mut story = Story::new(forwarder, *route, *client, &head.method, path);
        let (prefix, body_max, idle) = {
            let plan = forwarder.plan();
            let route = &plan.routes[*route];
            (plan.backends[route.backend].prefix.clone(), route.body_max, route.client_idle)
        };
        let head = match head::onward(head, &prefix, body_max) {
            Ok(head) => head,
            Err(refused) => {
                story.ends(CloseReason::BadRequest);
                story.status(refused.status);
                return answers::refuse(refused, line);
            }
        };
        let (body, progress) = Upload::new(body, body_max, idle);
        story.uploads(Rc::clone(&progress));
        let forwarded = match to {
            To::Servers => self.forward(&mut story, head, body, &progress).await,
            To::Named(named) => self.forward_to(named, &mut story, head, body, &progress).await,
        };
        let mut response = match forwarded {
            Ok((response, connection)) => {
                story.answered(connection);
                story.status(response.status());
                self.pass_back(response, story)
            }
            Err(failure) => {
                story.ends(failure.reason);
                let response = match to {
                    To::Named(_) if failure.is_unreachable() => answers::unreachable(line),
                    _ => failure.response(line),
                };
                story.status(response.status());
                response
            }
        };
        // Whoever reads lengths and chunks otherwise than we do shall not find requests behind a body
        // that end elsewhere for him; and a door that is to end asks for no more.
        if chunked || forwarder.is_ending() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    fn pass_back(&self, response: Response<Incoming>, story: Story) -> Response<Answer> {
        let idle = self.backend(|backend| backend.server_idle);
        let (mut head, body) = response.into_parts();
        head::strip(&mut head.headers);
        Response::from_parts(head, Answer::of_server(body, idle, story, Rc::clone(&self.line)))
    }

    fn backend<T>(&self, of: impl FnOnce(&Backend) -> T) -> T {
        let plan = self.forwarder.plan();
        of(&plan.backends[plan.routes[self.route].backend])
    }

    /// Looks for a server until one takes the request, or attempts are used up.
    async fn forward(
        &self,
        story: &mut Story,
        head: Parts,
        body: Upload,
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Option<Connection>), Failure> {
        let mut request = Request::from_parts(head, body);
        let mut failed: Option<(ServerId, CloseReason)> = None;
        let mut paused = false;
        loop {
            let why = failed.map_or(CloseReason::NoServer, |(_, reason)| reason);
            if story.attempts >= self.backend(|backend| backend.attempts_max) {
                return Err(Failure::unsent(why));
            }
            let avoid = failed.map(|(server, _)| server).filter(|_| !std::mem::take(&mut paused));
            let choice = self.choose(failed.map(|(server, _)| server), avoid);
            let Some(choice) = choice else { return Err(Failure::unsent(why)) };
            if avoid == Some(choice.server) {
                self.forwarder.backends.borrow_mut().release_unconnected(choice.server);
                let random = self.forwarder.roll();
                sleep(backoff::again(story.attempts.into(), random)).await;
                paused = true;
                continue;
            }
            self.note_attempt(story, failed.map(|(server, _)| server), choice.server);
            match self.attempt(story, choice, request, progress).await {
                Ok((Given::Answered(response), connection)) => {
                    return Ok((response, Some(connection)));
                }
                Ok((Given::Lost(failure), _)) => return Err(failure),
                // A kept connection had ended: that was no attempt. The place is given back already.
                Ok((Given::Back(whole), _)) => {
                    story.attempts -= 1;
                    request = whole;
                }
                Err(missed) => {
                    failed = Some((choice.server, missed.reason));
                    request = missed.request;
                }
            }
        }
    }

    /// Gives the request to the destination that it names, over a connection of its own.
    async fn forward_to(
        &self,
        named: &Named,
        story: &mut Story,
        head: Parts,
        body: Upload,
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Option<Connection>), Failure> {
        let mut request = Request::from_parts(head, body);
        request.headers_mut().insert(header::HOST, named.host.clone());
        let plan = self.forwarder.plan();
        let backend = &plan.backends[plan.routes[self.route].backend];
        let failure = |errno| Failure::unsent(CloseReason::of_connect(errno));
        let stream = match dial::any(&self.forwarder, backend, &named.addresses).await {
            Ok((stream, _, attempts)) => {
                story.attempts = attempts;
                stream
            }
            Err((attempts, errno)) => {
                story.attempts = attempts;
                return Err(failure(errno));
            }
        };
        let (mut sender, line) = dial::alone(stream).await.map_err(failure)?;
        story.connected();
        match self.give(&mut sender, &line, request, progress).await {
            Given::Answered(response) => Ok((response, None)),
            Given::Back(_) => Err(Failure::unsent(CloseReason::ServerGone)),
            Given::Lost(failure) => Err(failure),
        }
    }

    fn choose(&self, failed: Option<ServerId>, avoid: Option<ServerId>) -> Option<Choice> {
        let plan = self.forwarder.plan();
        let number = plan.routes[self.route].backend;
        let Backend { algorithm, redispatch, .. } = plan.backends[number];
        let call = Call {
            algorithm,
            client: self.client.ip(),
            lot: self.forwarder.roll(),
            now: process::monotonic_micros(),
        };
        let mut backends = self.forwarder.backends.borrow_mut();
        match failed {
            Some(server) if !redispatch && backends.known(server).is_some() => {
                backends.choose_again(number, server, &call)
            }
            _ => backends.choose(number, avoid, &call),
        }
    }

    fn note_attempt(&self, story: &mut Story, failed: Option<ServerId>, server: ServerId) {
        let Forwarder { backends, counters, .. } = &*self.forwarder;
        let backends = backends.borrow();
        let board = backends.board(server);
        story.at(server, board);
        if story.attempts > 1 {
            counters.retries.add(1);
            board.retried();
        }
        if let Some(left) = failed.filter(|left| *left != server)
            && let Some(left) = backends.known(left)
        {
            counters.redispatches.add(1);
            left.left();
        }
    }

    /// Gives the request to a server that has a place for it: over a kept connection, else over a new
    /// one.
    async fn attempt(
        &self,
        story: &mut Story,
        choice: Choice,
        mut request: Request<Upload>,
        progress: &Progress,
    ) -> Result<(Given, Connection), Missed> {
        let Self { forwarder, .. } = self;
        let board = std::sync::Arc::clone(forwarder.backends.borrow().board(choice.server));
        let Some(manner) = self.backend(|backend| backend.manner(&board).cloned()) else {
            // A reload has taken it away since it was chosen.
            forwarder.backends.borrow_mut().release_unconnected(choice.server);
            story.leave();
            return Err(Missed { reason: CloseReason::NoServer, request });
        };
        request.headers_mut().insert(header::HOST, manner.host.clone());
        let plan = forwarder.plan();
        let kept = forwarder.kept.borrow_mut().take(&board, choice.address, &plan);
        if let Some(mut connection) = kept {
            board.reused();
            story.established();
            let Connection { sender, line, .. } = &mut connection;
            let given = self.give(sender, line, request, progress).await;
            if matches!(given, Given::Back(_)) {
                forwarder.backends.borrow_mut().release(choice.server);
                story.leave();
            }
            return Ok((given, connection));
        }
        let (patience, source) = self.backend(|backend| {
            (backend.connect, backend.source_for(choice.address, forwarder.roll()))
        });
        forwarder.counters.connect_attempts.add(1);
        let began = tokio::time::Instant::now();
        let dialled = dial::dial(&board, choice.address, source, &manner);
        let dialled =
            timeout(patience, dialled).await.unwrap_or(Err(NotConnected::Tcp(Errno::ETIMEDOUT)));
        match dialled {
            Ok(mut connection) => {
                story.connected();
                forwarder.backends.borrow_mut().on_connected(choice.server, Some(began.elapsed()));
                let Connection { sender, line, .. } = &mut connection;
                match self.give(sender, line, request, progress).await {
                    Given::Back(request) => {
                        forwarder.backends.borrow_mut().release(choice.server);
                        story.leave();
                        Err(Missed { reason: CloseReason::ServerGone, request })
                    }
                    given => Ok((given, connection)),
                }
            }
            Err(why) => {
                story.leave();
                Err(Missed { reason: self.miss(choice.server, why), request })
            }
        }
    }

    /// What a failed attempt to connect means for the server, and for the request if it was the last.
    fn miss(&self, server: ServerId, why: NotConnected) -> CloseReason {
        let Forwarder { backends, counters, .. } = &*self.forwarder;
        let reason = match &why {
            NotConnected::Tcp(errno) => CloseReason::of_connect(*errno),
            NotConnected::Tls(_) => CloseReason::TlsFailed,
        };
        if let NotConnected::Tls(why) = why {
            let name = backends.borrow().board(server).name().to_owned();
            self.forwarder.complain(name, why);
        }
        let mut backends = backends.borrow_mut();
        if matches!(reason, CloseReason::NoPort | CloseReason::NoResources) {
            backends.release_unconnected(server);
        } else {
            counters.connect_failures.add(1);
            let now = process::monotonic_micros();
            backends.on_connect_failed(server, now, self.forwarder.roll());
        }
        reason
    }

    /// Gives the request to a connection and waits for the head of the answer. The server is given up
    /// when nothing moves on its connection while it, and not the agent, is waited for.
    async fn give(
        &self,
        sender: &mut SendRequest<Upload>,
        line: &Line,
        request: Request<Upload>,
        progress: &Progress,
    ) -> Given {
        let idle = self.backend(|backend| backend.server_idle);
        let began = tokio::time::Instant::now();
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        let answered = loop {
            let due = line.moved().max(began) + idle;
            tokio::select! {
                answered = answer.as_mut() => break answered,
                () = sleep_until(due) => {
                    if progress.waits.get() {
                        // The agent's own limit ends this.
                        sleep(idle.min(LOOK_AGAIN)).await;
                    } else if line.moved().max(began) + idle <= tokio::time::Instant::now() {
                        return Given::Lost(Failure::sent(CloseReason::ServerIdle));
                    }
                }
            }
        };
        match answered {
            // Nobody has asked for another protocol.
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Given::Lost(Failure::sent(CloseReason::ServerFailed))
            }
            Ok(response) => Given::Answered(response),
            Err(mut error) => match error.take_message() {
                Some(request) => Given::Back(request),
                None => Given::Lost(lost(error.error(), progress)),
            },
        }
    }
}

/// How often it is looked whose turn it is, while it is the agent's.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why a request that may have reached the server has no answer.
fn lost(error: &hyper::Error, progress: &Progress) -> Failure {
    if let Some(fault) = progress.fault.get() {
        return Failure::of_upload(fault);
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(errno) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Failure::sent(CloseReason::of_broken(Side::Backend, Errno::from_raw(errno)));
        }
        cause = inner.source();
    }
    Failure::sent(if error.is_parse() {
        CloseReason::ServerFailed
    } else {
        CloseReason::ServerGone
    })
}
