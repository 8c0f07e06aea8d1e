//! `loadgen sink`: the upstream. Answers like StackState's intake and verifies every body.
//!
//! Each thread has its own descriptor table and its own SO_REUSEPORT listener for each address,
//! so that it can hold as many connections as RLIMIT_NOFILE allows, per thread.

mod http;
pub(crate) mod identity;

use crate::clock::{Clock, nanos};
use crate::dice::Dice;
use crate::exit::{Error, SUCCESS};
use crate::payload::hex_md5;
use http::{Parsed, Request};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::ready;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Connections that the kernel may hold for us; more are refused by somaxconn anyway.
const BACKLOG: i32 = 4096;
/// What a request is read with; longer ones grow their buffer.
const READ_BUFFER: usize = 4096;

/// The first byte of a TLS connection: a record of the kind handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What a sink is to do.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where it listens; port 0 lets the kernel choose.
    pub(crate) listen: Vec<SocketAddr>,
    /// When it answers.
    pub(crate) manners: Manners,
    /// How many threads serve.
    pub(crate) threads: usize,
    /// Where its certificate is, or is to be made, if it speaks TLS as well.
    pub(crate) tls: Option<PathBuf>,
    /// Whether it goes on when its parent process ends.
    pub(crate) stay: bool,
}

/// When a sink answers: late, not at all for a while, or with a refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// How long it waits before each answer, at least and at most.
    pub(crate) delay: [Duration; 2],
    /// Answers nothing for so long, as often as that: from its start on.
    pub(crate) stall: Option<[Duration; 2]>,
    /// The share of answers that are a 503.
    pub(crate) busy: f64,
}

impl Manners {
    /// How long an answer waits that could be given at `now`, by the clock of the sink.
    fn wait(&self, now: Duration, dice: &mut Dice) -> Duration {
        let [least, most] = self.delay;
        let delay = Duration::from_nanos(dice.between(nanos(least), nanos(most)));
        let stalled = self.stall.map_or(Duration::ZERO, |[length, every]| {
            let within = Duration::from_nanos(nanos(now) % nanos(every).max(1));
            length.saturating_sub(within)
        });
        delay + stalled
    }

    fn is_busy(&self, dice: &mut Dice) -> bool {
        const PARTS: u64 = 1_000_000;
        #[expect(clippy::cast_precision_loss, reason = "a part of a million")]
        let share = dice.below(PARTS) as f64 / PARTS as f64;
        share < self.busy
    }
}

/// What all conversations of a sink share.
struct Shared {
    manners: Manners,
    clock: Clock,
    counts: Counts,
    tls: Option<TlsAcceptor>,
}

/// What a sink has seen; shown at `/__counts`.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    open: AtomicU64,
    posts: AtomicU64,
    gets: AtomicU64,
    body_bytes: AtomicU64,
    intact: AtomicU64,
    unverified: AtomicU64,
    digest_mismatches: AtomicU64,
    bad_requests: AtomicU64,
    cut_requests: AtomicU64,
    busy: AtomicU64,
    handshakes: AtomicU64,
    bad_handshakes: AtomicU64,
}

impl Counts {
    fn to_json(&self) -> String {
        serde_json::json!({
            "schema": "loadgen-sink/1",
            "connections": self.connections.load(Relaxed),
            "open": self.open.load(Relaxed),
            "posts": self.posts.load(Relaxed),
            "gets": self.gets.load(Relaxed),
            "body_bytes": self.body_bytes.load(Relaxed),
            "intact": self.intact.load(Relaxed),
            "unverified": self.unverified.load(Relaxed),
            "digest_mismatches": self.digest_mismatches.load(Relaxed),
            "bad_requests": self.bad_requests.load(Relaxed),
            "cut_requests": self.cut_requests.load(Relaxed),
            "busy": self.busy.load(Relaxed),
            "handshakes": self.handshakes.load(Relaxed),
            "bad_handshakes": self.bad_handshakes.load(Relaxed),
        })
        .to_string()
    }
}

/// Serves until SIGTERM, SIGINT, or the end of the parent process.
///
/// # Errors
/// When an address cannot be listened on.
pub(crate) fn serve(settings: &Settings) -> Result<u8, Error> {
    if !settings.stay {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)
            .map_err(|errno| Error::System(format!("cannot be tied to the parent: {errno}")))?;
    }
    let (runtime, ending) = prepare_end()?;
    let mut bound = Vec::new();
    for &address in &settings.listen {
        let listener = listen(address).map_err(|error| cannot_listen(address, &error))?;
        let local = local_address(&listener).map_err(|error| cannot_listen(address, &error))?;
        bound.push((local, listener));
    }
    let addresses: Vec<_> = bound.iter().map(|(address, _)| *address).collect();
    let tls =
        settings.tls.as_deref().map(|folder| identity::load(folder, &addresses)).transpose()?;
    let tls = tls.map(TlsAcceptor::from);
    let shared = Arc::new(Shared {
        manners: settings.manners,
        clock: Clock::starting_in(Duration::ZERO),
        counts: Counts::default(),
        tls,
    });
    for _ in 1..settings.threads.max(1) {
        let mut listeners = Vec::new();
        for (address, _) in &bound {
            listeners.push(listen(*address).map_err(|error| cannot_listen(*address, &error))?);
        }
        spawn(listeners, Arc::clone(&shared))?;
    }
    let listeners = bound.into_iter().map(|(_, listener)| listener).collect();
    spawn(listeners, shared)?;
    for address in addresses {
        // Whoever reads this may have gone; that is no reason to stop serving.
        let _ = writeln!(io::stdout(), "sink listens on {address}");
    }
    let _ = io::stdout().flush();
    runtime.block_on(ending);
    Ok(SUCCESS)
}

/// The main thread's runtime, and a future that ends with SIGTERM or SIGINT.
///
/// It has to come before the threads: tokio's signal handling has one pipe for the process, which
/// must exist when they take copies of the descriptor table.
fn prepare_end() -> Result<(tokio::runtime::Runtime, impl Future<Output = ()>), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let system = |error: io::Error| Error::System(format!("cannot listen to signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system)?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    drop(guard);
    let ending = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    Ok((runtime, ending))
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Error {
    Error::System(format!(
        "the sink cannot listen on {address}: {error}; give a free address of this host, or \
         port 0 for any free port"
    ))
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn local_address(listener: &Socket) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("not an IP address"))
}

fn spawn(listeners: Vec<Socket>, shared: Arc<Shared>) -> Result<(), Error> {
    let body = move || {
        // Signals are the main thread's: a handler here would write to a number of its table.
        // Without a table of its own the thread shares the process's: less room, no harm.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            let accepting = listeners
                .into_iter()
                .map(|listener| tokio::task::spawn_local(accept(listener, Arc::clone(&shared))));
            for task in accepting.collect::<Vec<_>>() {
                let _ = task.await;
            }
        });
    };
    let thread = std::thread::Builder::new().name("sink".to_owned()).spawn(body);
    thread.map(drop).map_err(|error| Error::System(format!("cannot start a thread: {error}")))
}

async fn accept(listener: Socket, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener.into()) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let number = shared.counts.connections.fetch_add(1, Relaxed);
                shared.counts.open.fetch_add(1, Relaxed);
                let shared = Arc::clone(&shared);
                tokio::task::spawn_local(async move {
                    // An agent may vanish at any moment; that is its affair.
                    let _ = welcome(stream, number, &shared).await;
                    shared.counts.open.fetch_sub(1, Relaxed);
                });
            }
            // Out of descriptors, or the agent went while queued: give others time to close.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection, over TLS if that is what it begins with.
async fn welcome(stream: TcpStream, number: u64, shared: &Shared) -> io::Result<()> {
    let Some(tls) = &shared.tls else { return converse(stream, number, shared).await };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || first[0] != TLS_HANDSHAKE {
        return converse(stream, number, shared).await;
    }
    match tls.accept(stream).await {
        Ok(stream) => {
            shared.counts.handshakes.fetch_add(1, Relaxed);
            converse(stream, number, shared).await
        }
        Err(error) => {
            shared.counts.bad_handshakes.fetch_add(1, Relaxed);
            Err(error)
        }
    }
}

/// Answers the requests of one connection.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    number: u64,
    shared: &Shared,
) -> io::Result<()> {
    let Shared { manners, clock, counts, .. } = shared;
    let mut dice = Dice::new(0, number);
    let mut buffer = Vec::new();
    loop {
        match http::parse(&buffer) {
            Parsed::Partial => {
                if read(&mut stream, &mut buffer).await? == 0 {
                    counts.cut_requests.fetch_add(u64::from(!buffer.is_empty()), Relaxed);
                    return Ok(());
                }
            }
            Parsed::Bad(status, why) => {
                counts.bad_requests.fetch_add(1, Relaxed);
                let answer = http::answer(status, &format!("{{\"error\":\"{why}\"}}"), false, None);
                return stream.write_all(answer.as_bytes()).await;
            }
            Parsed::Complete(request, length) => {
                let (mut answer, keeps) = answer(&request, counts);
                if request.method == "POST" && manners.is_busy(&mut dice) {
                    counts.busy.fetch_add(1, Relaxed);
                    answer = http::answer(503, r#"{"error":"busy"}"#, keeps, None);
                }
                let wait = manners.wait(Duration::from_nanos(clock.now()), &mut dice);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                stream.write_all(answer.as_bytes()).await?;
                if !keeps {
                    return Ok(());
                }
                // An idle connection holds no memory; agents rarely pipeline.
                buffer = buffer.split_off(length);
                if buffer.is_empty() {
                    buffer = Vec::new();
                }
            }
        }
    }
}

fn answer(request: &Request<'_>, counts: &Counts) -> (String, bool) {
    if request.method != "POST" {
        counts.gets.fetch_add(1, Relaxed);
        let body = match request.path {
            "/__counts" => counts.to_json(),
            _ => r#"{"valid":true}"#.to_owned(),
        };
        return (http::answer(200, &body, request.keeps, None), request.keeps);
    }
    counts.posts.fetch_add(1, Relaxed);
    counts.body_bytes.fetch_add(request.body.len() as u64, Relaxed);
    let digest = hex_md5(request.body);
    match request.digest {
        Some(claimed) if claimed.eq_ignore_ascii_case(&digest) => {
            counts.intact.fetch_add(1, Relaxed);
        }
        Some(_) => {
            counts.digest_mismatches.fetch_add(1, Relaxed);
            let body = r#"{"error":"the body does not match its Content-MD5"}"#;
            return (http::answer(400, body, request.keeps, Some(&digest)), request.keeps);
        }
        None => {
            counts.unverified.fetch_add(1, Relaxed);
        }
    }
    // As the intake does: metrics are accepted for later, /intake/ is done at once.
    let status = if request.path.contains("/api/v1/") { 202 } else { 200 };
    let body = r#"{"status":"ok"}"#;
    (http::answer(status, body, request.keeps, Some(&digest)), request.keeps)
}

/// Reads once; an idle connection holds no buffer meanwhile.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> io::Result<usize> {
    std::future::poll_fn(|context| {
        let mut space = [std::mem::MaybeUninit::uninit(); READ_BUFFER];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        into.extend_from_slice(buffer.filled());
        std::task::Poll::Ready(Ok(buffer.filled().len()))
    })
    .await
}
