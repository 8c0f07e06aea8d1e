//! Who comes in, and what becomes of a connection: taken while there is a place, else left in the
//! kernel's queue; served until it is over, takes too long, or the door ends.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

use crate::gate::Quota;
use crate::gate::rules::Rules;
use crate::gate::sources::{Entry, Ticket};
use crate::metrics::CloseReason;
use crate::op::Time;
use crate::sys::{process, socket};

use super::forward::{Origin, To};
use super::head::{HEAD_BYTES_MAX, HEAD_LINES_MAX};
use super::plan::Door;
use super::wire::{Line, Wire};
use super::{Forwarder, Phase, Route, proxy};

/// How long the head of a request may take from its first byte, or the first one from the accept,
/// however many bytes of it come meanwhile.
pub(super) const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// What a head and the pieces of a body are read into.
const BUFFER_BYTES_MAX: usize = 4 * HEAD_BYTES_MAX;
/// How soon it is looked again for a place: another thread's connection may have ended, and nobody
/// tells.
const PAUSE_FOR_PLACE: Duration = Duration::from_millis(16);
/// How long accepting rests when the kernel lacks descriptors or memory.
const PAUSE_FOR_KERNEL: Duration = Duration::from_millis(100);
/// How long connections are still taken after a drain has begun: long enough to empty any queue.
const UNLISTEN_MAX: Duration = Duration::from_secs(1);

/// Takes connections until the door ends; who waits in the queue then is still served.
pub(super) async fn listen(
    forwarder: Rc<Forwarder>,
    route: usize,
    listener: OwnedFd,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener.into())?;
    let mut phase = forwarder.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = listener.accept() => accepted,
        };
        if admit(&forwarder, route, accepted).await.is_err() {
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
                () = sleep(PAUSE_FOR_KERNEL) => {}
            }
        }
    }
    let enough = Instant::now() + UNLISTEN_MAX;
    while Instant::now() < enough && *phase.borrow() != Phase::Stopping {
        let look = poll_fn(|context| Poll::Ready(listener.poll_accept(context)));
        let Poll::Ready(accepted) = look.await else { break };
        if admit(&forwarder, route, accepted).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The kernel lacks something for a connection.
struct Lacking;

/// Serves who may come in, as soon as there is a place; resets who may not.
async fn admit(
    forwarder: &Rc<Forwarder>,
    route: usize,
    accepted: io::Result<(TcpStream, SocketAddr)>,
) -> Result<(), Lacking> {
    let (stream, client) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw);
            if errno.is_some_and(socket::is_of_one_connection) {
                return Ok(());
            }
            // EINVAL: an administrator has it listen no more, which is no failure.
            if errno != Some(Errno::EINVAL) {
                forwarder.counters.accept_failures.add(1);
            }
            return Err(Lacking);
        }
    };
    let plan = forwarder.plan();
    let Route { rules, traffic, .. } = &plan.routes[route];
    forwarder.counters.accepted.add(1);
    traffic.accepted();
    if !rules.permit(client.ip()) {
        forwarder.counters.denied.add(1);
        traffic.denied();
        socket::reset_on_close(stream.as_fd());
        return Ok(());
    }
    let counted = match rules.count(client.ip(), Time::from_micros(process::monotonic_micros())) {
        Entry::Counted(ticket) => Some(Counted { ticket: Some(ticket), rules: Arc::clone(rules) }),
        Entry::Uncounted => None,
        Entry::Refused => {
            forwarder.counters.source_limited.add(1);
            traffic.source_limited();
            socket::reset_on_close(stream.as_fd());
            return Ok(());
        }
    };
    let place = loop {
        match Place::take(forwarder, route) {
            Some(place) => break place,
            None if *forwarder.phase.borrow() == Phase::Stopping => return Ok(()),
            None => {
                forwarder.lobby.make_room();
                sleep(PAUSE_FOR_PLACE).await;
            }
        }
    };
    let door = plan.routes[route].door.clone();
    let (forwarder, held) = (Rc::clone(forwarder), Held { place, counted });
    match door {
        Door::Agent => {
            let to = To::Servers;
            spawn_local(async move {
                converse(&forwarder, route, held, stream, client, to, Vec::new()).await;
            })
        }
        Door::Proxy { .. } => spawn_local(proxy::attend(forwarder, route, held, stream, client)),
    };
    Ok(())
}

/// What a connection holds while it is here.
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) counted: Option<Counted>,
}

/// Where a connection's source is counted.
pub(super) struct Counted {
    ticket: Option<Ticket>,
    rules: Arc<Rules>,
}

impl Counted {
    /// Whoever gets the ticket gives it back.
    pub(super) const fn hand_over(&mut self) -> Option<Ticket> {
        self.ticket.take()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.rules.discount(self.ticket);
    }
}

/// A connection's place: among the doors', in the process and in its listener.
pub(super) struct Place {
    forwarder: Rc<Forwarder>,
    doors: Arc<Quota>,
    /// Those in the process and in the listener, unless they are a worker's by now.
    beyond: Option<[Arc<Quota>; 2]>,
}

impl Place {
    fn take(forwarder: &Rc<Forwarder>, route: usize) -> Option<Self> {
        let ours = Arc::clone(&forwarder.plan().routes[route].quota);
        let (process, doors) = (Arc::clone(&forwarder.process), Arc::clone(&forwarder.places));
        let quotas = [&process, &doors, &ours];
        for taken in 0..quotas.len() {
            if !quotas[taken].acquire() {
                quotas[..taken].iter().for_each(|quota| quota.release());
                return None;
            }
        }
        forwarder.came();
        Some(Self { forwarder: Rc::clone(forwarder), doors, beyond: Some([process, ours]) })
    }

    /// The places in the process and in the listener are a worker's from now on.
    pub(super) fn hand_over(mut self) {
        self.beyond = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.doors.release();
        self.beyond.iter().flatten().for_each(|quota| quota.release());
        self.forwarder.went();
    }
}

/// How a connection has ended.
enum End {
    Over(hyper::Result<()>),
    TooLong,
    Stopped,
}

/// Serves a connection to its end, of which `before` has been read already. Towards destinations that
/// it names itself, it serves one request.
pub(super) async fn converse(
    forwarder: &Rc<Forwarder>,
    route: usize,
    held: Held,
    stream: TcpStream,
    client: SocketAddr,
    to: To,
    before: Vec<u8>,
) {
    let line = Line::new(stream);
    let wire = Wire::after(before.into(), Rc::clone(&line));
    let keeps = matches!(to, To::Servers);
    let forwarder = Rc::clone(forwarder);
    let origin =
        Origin { forwarder: Rc::clone(&forwarder), route, client, line: Rc::clone(&line), to };
    let origin = Rc::new(origin);
    let service = service_fn(move |request| {
        let origin = Rc::clone(&origin);
        async move { Ok::<_, Infallible>(origin.answer(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            .max_headers(HEAD_LINES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            // An agent that has said all that it has to say still gets its answer.
            .half_close(true)
            .keep_alive(keeps)
            .serve_connection(TokioIo::new(wire), service)
    );
    let mut timer = pin!(sleep_until(Instant::now() + HEAD_PATIENCE));
    let over = poll_fn(|context| {
        if let Poll::Ready(over) = connection.as_mut().poll(context) {
            return Poll::Ready(End::Over(over));
        }
        let idle = forwarder.plan().routes[route].client_idle;
        let Some(due) = line.due(HEAD_PATIENCE, idle) else { return Poll::Pending };
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context).map(|()| End::TooLong)
    });
    let mut phase = forwarder.phase.subscribe();
    let end = tokio::select! {
        end = over => end,
        _ = phase.wait_for(|phase| *phase == Phase::Stopping) => End::Stopped,
    };
    match end {
        End::Over(Ok(())) => {}
        End::Over(Err(error)) => {
            if error.is_parse() {
                let reason = CloseReason::BadRequest;
                forwarder.turned_away(route, client, reason, None, 0, Duration::ZERO);
            }
            // What hyper says to a request that it cannot read is whole; an answer that was cut is not.
            if !error.is_parse() && !error.is_incomplete_message() {
                line.cut();
            }
        }
        End::TooLong | End::Stopped if line.is_resting() => {}
        End::TooLong | End::Stopped => line.cut(),
    }
    drop(held);
}
