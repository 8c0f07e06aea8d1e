//! The web proxy door: who asks for a connection or a request to somewhere is read, judged and
//! connected here, and then is a worker's (CONNECT) or served by hyper (absolute URIs).
//!
//! ```text
//! head (strict, in time) ── log-in ── destination, its addresses ── connect ──┬── 200, to a worker
//!       in the lobby ────────────┘                                            └── one request by hyper
//! ```
//!
//! The head is looked at where it lies in the kernel, and only its own bytes are taken from there: what
//! a client sends behind it stays until a worker or hyper reads it, and goes nowhere if the client is
//! turned away.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use hyper::header::HeaderValue;
use nix::errno::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use crate::metrics::{Asked, CloseReason, RequestLine};
use crate::op::Time;
use crate::sys::{process, socket};
use crate::worker::Tunnel;

use super::accept::{Counted, HEAD_PATIENCE, Held, converse};
use super::destinations::Standing;
use super::dial;
use super::forward::{Named, To};
use super::lane::Lane;
use super::lookups::Answer;
use super::plan::Ways;
use super::request::{HEAD_BYTES_MAX, Host, Parsed, Request, Target, parse, without_credentials};
use super::users::Login;
use super::{Forwarder, Phase};

/// What a client is told whose tunnel stands (RFC 9110 section 9.3.6).
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// How long a password may wait to be checked, and be.
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long, and how much, a client that is turned away may go on sending before it is cut off: long
/// enough to read the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 64 * 1024;

/// A client until it is served or has been turned away.
struct Caller {
    forwarder: Rc<Forwarder>,
    route: usize,
    client: SocketAddr,
    came: Instant,
    opened: Time,
}

/// What a client has asked for, and may have.
struct Granted {
    head: Zeroizing<Vec<u8>>,
    request: Request,
    /// Where it leads, at least one.
    addresses: Vec<SocketAddr>,
}

/// Why a client is turned away, and what it is told.
struct Refusal {
    reason: CloseReason,
    /// None for those who have not begun to speak, or are not there any more.
    answer: Option<(u16, &'static str)>,
    line: RequestLine,
    attempts: u16,
}

impl Refusal {
    fn new(reason: CloseReason, status: u16, why: &'static str) -> Self {
        Self { answer: Some((status, why)), ..Self::silent(reason) }
    }

    fn silent(reason: CloseReason) -> Self {
        Self { reason, answer: None, line: RequestLine::default(), attempts: 0 }
    }

    fn to(self, request: &Request) -> Self {
        Self { line: told(request), ..self }
    }
}

/// What is told of a request: where it wants to go, and nothing of its path.
fn told(request: &Request) -> RequestLine {
    let Request { method, target, host, port, .. } = request;
    let scheme = if *target == Target::Tunnel { "" } else { "http://" };
    RequestLine { method: method.clone(), path: format!("{scheme}{host}:{port}"), status: None }
}

/// Serves a client that has just come through a web proxy door.
pub(super) async fn attend(
    forwarder: Rc<Forwarder>,
    route: usize,
    held: Held,
    stream: TcpStream,
    client: SocketAddr,
) {
    let opened = Time::from_micros(process::monotonic_micros());
    let mut phase = forwarder.phase.subscribe();
    let caller = Caller { forwarder, route, client, came: Instant::now(), opened };
    tokio::select! {
        // What is cut has to end as such: who is served hears of the end himself.
        biased;
        () = caller.serve(stream, held) => {}
        // What it held is dropped, which ends it.
        _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {}
    }
}

impl Caller {
    async fn serve(&self, stream: TcpStream, held: Held) {
        let granted = match self.judge(&stream).await {
            Ok(granted) => granted,
            Err(refusal) => return self.turn_away(stream, refusal).await,
        };
        match granted.request.target {
            Target::Tunnel => self.tunnel(stream, held, granted).await,
            Target::Plain => self.request(stream, held, granted).await,
        }
    }

    async fn judge(&self, stream: &TcpStream) -> Result<Granted, Refusal> {
        let Self { forwarder, client, came, .. } = self;
        let guest = forwarder.lobby.enter(client.ip(), forwarder.lobby_places(self.route));
        let late = |head: &[u8]| match head {
            [] => Refusal::silent(CloseReason::GreetingTimeout),
            _ => Refusal::new(
                CloseReason::GreetingTimeout,
                408,
                "the request did not come in time\n",
            ),
        };
        // As long as it can be: what grows leaves copies behind.
        let mut head = Zeroizing::new(Vec::with_capacity(HEAD_BYTES_MAX));
        let read = tokio::select! {
            read = timeout_at(*came + HEAD_PATIENCE, read_head(stream, &mut head)) => read.ok(),
            () = guest.dismissed() => return Err(Refusal::silent(CloseReason::GreetingTimeout)),
        };
        let request = read.ok_or_else(|| late(&head))??;
        let logged_in = tokio::select! {
            logged_in = timeout(LOGIN_PATIENCE, self.log_in(&request)) => logged_in,
            () = guest.dismissed() => return Err(Refusal::silent(CloseReason::GreetingTimeout)),
        };
        let busy = |_| Refusal::new(CloseReason::LoginFailed, 503, BUSY);
        let logged_in = logged_in.map_err(busy).and_then(|logged_in| logged_in);
        logged_in.map_err(|refusal| refusal.to(&request))?;
        drop(guest);
        let addresses = tokio::select! {
            addresses = self.addresses(&request) => addresses,
            () = failed(stream) => Err(Refusal::silent(CloseReason::ClientReset)),
        };
        let addresses = addresses.map_err(|refusal| refusal.to(&request))?;
        Ok(Granted { head, request, addresses })
    }

    async fn log_in(&self, request: &Request) -> Result<(), Refusal> {
        const MISSING: &str =
            "this proxy wants a name and a password: Proxy-Authorization: Basic\n";
        let refuse = |status, why| Err(Refusal::new(CloseReason::LoginFailed, status, why));
        let plan = self.forwarder.plan();
        if plan.ways.users.is_empty() {
            return Ok(());
        }
        let Some(said) = &request.credentials else { return refuse(407, MISSING) };
        let now = || Time::from_micros(process::monotonic_micros());
        let logins = &self.forwarder.logins;
        match logins.check(&plan.ways.users, said, self.client.ip(), now).await {
            Login::Passed => Ok(()),
            Login::Failed => refuse(407, "the name or the password is wrong\n"),
            Login::TooMany => refuse(429, "too many log-ins from this address; try in a minute\n"),
            Login::Busy => refuse(503, BUSY),
        }
    }

    /// Where the destination leads, as far as it may.
    async fn addresses(&self, request: &Request) -> Result<Vec<SocketAddr>, Refusal> {
        const DENIED: &str = "this destination is not allowed here; [proxy] allow of the relay's \
                              configuration names those that are\n";
        const INWARD: &str = "this destination leads to addresses that are not allowed here\n";
        let denied = |why| Refusal::new(CloseReason::DestinationDenied, 403, why);
        let Request { host, port, .. } = request;
        let plan = self.forwarder.plan();
        if let Some(addresses) = plan.routes[self.route].server(host, *port) {
            let nowhere = || Refusal::new(CloseReason::NoServer, 503, NO_ADDRESS);
            let addresses =
                addresses.iter().copied().filter(|address| !is_own(&plan.ways, *address));
            let addresses: Vec<_> = addresses.collect();
            return if addresses.is_empty() { Err(nowhere()) } else { Ok(addresses) };
        }
        let Ways { destinations, .. } = &*plan.ways;
        let standing = destinations.standing(host, *port);
        if !destinations.is_of_interest(host, standing) {
            return Err(denied(DENIED));
        }
        let found = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.resolve(name).await?,
        };
        let addresses = found.into_iter().map(|ip| SocketAddr::new(ip, *port));
        let permitted: Vec<_> =
            addresses.filter(|address| may_connect(&plan.ways, *address, standing)).collect();
        match (permitted.is_empty(), host) {
            (false, _) => Ok(permitted),
            (true, Host::Name(_)) => Err(denied(INWARD)),
            (true, Host::Address(_)) => Err(denied(DENIED)),
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Refusal> {
        let asker = self.forwarder.plan().ways.asker.clone();
        let no = |status, why| Err(Refusal::new(CloseReason::NoServer, status, why));
        match self.forwarder.lookups.find(name, &asker).await {
            Answer::Found { addresses, .. } => Ok(addresses),
            Answer::Absent => no(502, "the name of the destination has no address\n"),
            Answer::Unanswered => no(504, "no name server has told where the destination is\n"),
        }
    }

    /// Connects, and gives both connections to a worker.
    async fn tunnel(&self, mut stream: TcpStream, held: Held, granted: Granted) {
        let Granted { request, addresses, .. } = granted;
        let connected = tokio::select! {
            connected = self.connect(&addresses) => connected,
            () = failed(&stream) => Err(Refusal::silent(CloseReason::ClientReset)),
        };
        let (server, address, attempts) = match connected {
            Ok(connected) => connected,
            Err(refusal) => return self.turn_away(stream, refusal.to(&request)).await,
        };
        let line = RequestLine { status: Some(200), ..told(&request) };
        let reason = match timeout(LINGER, stream.write_all(ESTABLISHED)).await {
            Ok(Ok(())) => {
                self.forwarder.traffic(self.route).answered(200);
                match self.pass([&stream, &server], address, attempts, line.clone(), held).await {
                    Ok(()) => return,
                    Err(_) => CloseReason::NoResources,
                }
            }
            _ => CloseReason::ClientGone,
        };
        for socket in [&stream, &server] {
            socket::reset_on_close(socket.as_fd());
        }
        self.tell(reason, line, attempts);
    }

    /// Gives both connections, and all that is held for them, to a worker: the first that takes them.
    async fn pass(
        &self,
        pair: [&TcpStream; 2],
        address: SocketAddr,
        attempts: u16,
        request: RequestLine,
        held: Held,
    ) -> Result<(), Errno> {
        let Held { place, mut counted } = held;
        let mut failed = Errno::EPIPE;
        for lane in Lane::by_load(&self.forwarder.lanes) {
            match lane.pass(pair.map(|socket| socket.as_fd())).await {
                Ok(number) => {
                    lane.join(Tunnel {
                        number,
                        listener: self.forwarder.listener(self.route),
                        client: self.client,
                        address,
                        ticket: counted.as_mut().and_then(Counted::hand_over),
                        opened: self.opened,
                        attempts,
                        asked: Box::new(Asked::Request(request)),
                    });
                    place.hand_over();
                    return Ok(());
                }
                Err(errno) => failed = errno,
            }
        }
        Err(failed)
    }

    /// Has hyper serve the one request whose head has been read.
    async fn request(&self, stream: TcpStream, held: Held, granted: Granted) {
        let Granted { head, request: Request { host, port, .. }, addresses } = granted;
        let authority = if port == 80 { host.to_string() } else { format!("{host}:{port}") };
        // A host's name and an address hold nothing that a header must not.
        let Ok(value) = HeaderValue::try_from(&authority) else { return };
        let to = To::Named(Named { addresses, host: value, authority });
        let Self { forwarder, route, client, .. } = self;
        let head = without_credentials(&head);
        converse(forwarder, *route, held, stream, *client, to, head).await;
    }

    /// Connects to one of these addresses, each in its turn; the last one's failure counts.
    async fn connect(
        &self,
        addresses: &[SocketAddr],
    ) -> Result<(TcpStream, SocketAddr, u16), Refusal> {
        let Self { forwarder, route, .. } = self;
        let plan = forwarder.plan();
        let backend = &plan.backends[plan.routes[*route].backend];
        let (attempts, failed) = match dial::any(forwarder, backend, addresses).await {
            Ok(connected) => return Ok(connected),
            Err(missed) => missed,
        };
        let reason = CloseReason::of_connect(failed);
        let refusal = match reason {
            CloseReason::ConnectTimeout => {
                Refusal::new(reason, 504, "the destination could not be reached in time\n")
            }
            CloseReason::NoPort | CloseReason::NoResources => Refusal::new(
                reason,
                503,
                "the relay has no socket for the destination; try again\n",
            ),
            _ => Refusal::new(reason, 502, "the destination could not be connected to\n"),
        };
        Err(Refusal { attempts, ..refusal })
    }

    /// Answers, and sees to it that the answer is read.
    async fn turn_away(&self, mut stream: TcpStream, refusal: Refusal) {
        let Refusal { reason, answer, line, attempts } = refusal;
        let status = answer.map(|(status, _)| status);
        self.tell(reason, RequestLine { status, ..line }, attempts);
        let Some((status, why)) = answer else {
            if !matches!(reason, CloseReason::ClientGone | CloseReason::ClientReset) {
                socket::reset_on_close(stream.as_fd());
            }
            return;
        };
        self.forwarder.traffic(self.route).answered(status);
        let _ = timeout(LINGER, async {
            stream.write_all(&answer_bytes(status, why)).await?;
            stream.shutdown().await?;
            let mut rest = (&mut stream).take(LINGER_BYTES_MAX as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        })
        .await;
    }

    fn tell(&self, reason: CloseReason, line: RequestLine, attempts: u16) {
        let asked = (!line.method.is_empty()).then(|| Box::new(Asked::Request(line)));
        let (client, time) = (self.client, self.came.elapsed());
        self.forwarder.turned_away(self.route, client, reason, asked, attempts, time);
    }
}

const BUSY: &str = "too many passwords wait to be checked; try again\n";
const NO_ADDRESS: &str = "the relay does not know yet where this server is\n";

/// Ends when a client's connection has failed. That it has said all that it has to say is no failure.
async fn failed(stream: &TcpStream) {
    while !stream.ready(Interest::ERROR).await.is_ok_and(|ready| ready.is_error()) {}
}

/// Whether a connection may be made to this address.
fn may_connect(ways: &Ways, address: SocketAddr, standing: Standing) -> bool {
    ways.destinations.permit(address, standing) && !is_own(ways, address)
}

/// Whether the relay itself listens there: nothing but loops is to be had.
fn is_own(ways: &Ways, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ways.own.iter().any(|own| {
        own.port() == address.port()
            && (own.ip().to_canonical() == ip
                || (own.ip().is_unspecified() && socket::bind_alone((ip, 0).into()).is_ok()))
    })
}

/// Reads a head, and not a byte of what follows it. What has come of it so far stands in `head`.
async fn read_head(stream: &TcpStream, head: &mut Zeroizing<Vec<u8>>) -> Result<Request, Refusal> {
    let gone = |_| Refusal::silent(CloseReason::ClientGone);
    let mut window = Zeroizing::new([0; HEAD_BYTES_MAX]);
    loop {
        let seen = stream.peek(&mut window[..]).await.map_err(gone)?;
        if seen == 0 {
            return Err(Refusal::silent(CloseReason::ClientGone));
        }
        let before = head.len();
        head.extend_from_slice(&window[..seen]);
        match parse(head) {
            Parsed::Head { bytes, request } => {
                take(stream, &mut window[..bytes - before]).map_err(gone)?;
                head.truncate(bytes);
                return Ok(request);
            }
            Parsed::Bad(why) => return Err(Refusal::new(CloseReason::BadRequest, 400, why)),
            Parsed::More => take(stream, &mut window[..seen]).map_err(gone)?,
        }
    }
}

/// Takes so many bytes that have been seen.
fn take(stream: &TcpStream, mut into: &mut [u8]) -> std::io::Result<()> {
    while !into.is_empty() {
        match stream.try_read(into)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            taken => into = &mut into[taken..],
        }
    }
    Ok(())
}

fn answer_bytes(status: u16, why: &str) -> Vec<u8> {
    let (phrase, more) = match status {
        400 => ("Bad Request", ""),
        403 => ("Forbidden", ""),
        407 => (
            "Proxy Authentication Required",
            "Proxy-Authenticate: Basic realm=\"fanin\", charset=\"UTF-8\"\r\n",
        ),
        408 => ("Request Timeout", ""),
        429 => ("Too Many Requests", "Retry-After: 60\r\n"),
        502 => ("Bad Gateway", ""),
        503 => ("Service Unavailable", "Retry-After: 1\r\n"),
        _ => ("Gateway Timeout", ""),
    };
    let length = why.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nCache-Control: no-store\r\n{more}Connection: close\r\n\r\n{why}"
    )
    .into_bytes()
}
