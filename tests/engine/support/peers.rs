//! Clients and servers of the relay.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver as Inbox, Sender as Outbox, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, Builder};

use fanin::op::Flow;
use nix::libc::linger;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

use super::oracle::{Got, HELLO_BYTES, Receiver, Sender, Sent, Total, judge_whole};
use super::{PATIENCE, await_some};

/// Hundreds of them run at a time.
const STACK_BYTES: usize = 128 * 1024;

/// A server that treats each connection alike, on a thread of its own, and keeps what came of it.
pub struct Server<R> {
    pub address: SocketAddr,
    outcomes: Mutex<Outcomes<R>>,
    ended: Arc<AtomicBool>,
    /// Connections that its threads have.
    open: Arc<AtomicUsize>,
}

type Outcome<R> = (u64, thread::Result<R>);

/// Those on their way, and those that nobody has asked for yet.
type Outcomes<R> = (Inbox<Outcome<R>>, HashMap<u64, thread::Result<R>>);

impl<R: Send + 'static> Server<R> {
    /// Reads each connection's number and calls `treat` with it.
    pub fn new(treat: impl Fn(u64, &TcpStream) -> R + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), treat)
    }

    pub fn on(
        listener: TcpListener,
        treat: impl Fn(u64, &TcpStream) -> R + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        // The 128 of the standard library overflow while its thread waits for a processor: the kernel drops
        // what does not fit, and asks again after 1 s and after 3 s.
        socket::listen(&listener, Backlog::MAXALLOWABLE).unwrap();
        let (ended, open) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (outbox, inbox) = channel();
        let (end, having, treat) = (Arc::clone(&ended), Arc::clone(&open), Arc::new(treat));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(SeqCst) {
                    return;
                }
                let (treat, outbox) = (Arc::clone(&treat), outbox.clone());
                having.fetch_add(1, SeqCst);
                let having = Arc::clone(&having);
                let body = move || {
                    serve(&stream, &*treat, &outbox);
                    drop(stream);
                    having.fetch_sub(1, SeqCst);
                };
                Builder::new().stack_size(STACK_BYTES).spawn(body).unwrap();
            }
        });
        Self { address, outcomes: Mutex::new((inbox, HashMap::new())), ended, open }
    }

    /// Waits until it has closed all that it accepted: what the relay is to do within a time begins when
    /// its peers have done their part, and on a busy machine hundreds of threads take a while.
    #[track_caller]
    pub fn await_idle(&self) {
        await_some("the server has closed", || (self.open.load(SeqCst) == 0).then_some(()));
    }

    /// What came of a connection, once it has been treated.
    #[track_caller]
    pub fn outcome(&self, number: u64) -> R {
        let mut outcomes = self.outcomes.lock().unwrap();
        let (inbox, kept) = &mut *outcomes;
        let outcome = await_some(&format!("the server is done with {number}"), || {
            kept.extend(inbox.try_iter());
            kept.remove(&number)
        });
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<R> Drop for Server<R> {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        // Wakes the one who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve<R>(
    stream: &TcpStream,
    treat: &(impl Fn(u64, &TcpStream) -> R + ?Sized),
    outbox: &Outbox<Outcome<R>>,
) {
    prepare(stream);
    let mut hello = [0; HELLO_BYTES as usize];
    if (&mut &*stream).read_exact(&mut hello).is_err() {
        // It went away without a word.
        return;
    }
    let number = u64::from_le_bytes(hello);
    let outcome = catch_unwind(AssertUnwindSafe(|| treat(number, stream)));
    let _ = outbox.send((number, outcome));
}

/// A client's connection, with a time limit on everything it does.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    prepare(&stream);
    stream
}

/// The same where the relay may reset it before it knows that it is connected.
#[track_caller]
pub fn connect_or_reset(address: SocketAddr) -> Option<TcpStream> {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(stream) => {
            prepare(&stream);
            Some(stream)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            None
        }
    }
}

fn prepare(stream: &TcpStream) {
    // A peer that is reset at once cannot be told anything any more.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
}

/// The same with buffers so small from the start. One that is made smaller afterwards has told a larger
/// window than it has room: what is beyond is dropped, acknowledgements with it (`TCPRcvQDrop`), and a
/// stream under load waits for time-outs of the kernel's that double each time.
pub fn connect_small(address: SocketAddr, bytes: usize) -> TcpStream {
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    shrink(&socket, bytes);
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

/// Makes a socket's buffers so small (the kernel doubles what it is told, and has a least size).
pub fn shrink(socket: &impl AsFd, bytes: usize) {
    setsockopt(socket, sockopt::SndBuf, &bytes).unwrap();
    setsockopt(socket, sockopt::RcvBuf, &bytes).unwrap();
}

/// Makes the coming close a reset.
pub fn reset_on_close(stream: &TcpStream) {
    let at_once = linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &at_once).unwrap();
}

/// The two streams of one end of a connection: the one it sends and the one it receives.
pub type Talk = (Sent, Got);

/// Sends and receives at the same time.
pub fn talk(send: impl FnOnce() -> Sent + Send, receive: impl FnOnce() -> Got + Send) -> Talk {
    thread::scope(|scope| {
        let builder = Builder::new().stack_size(STACK_BYTES);
        let sending = builder.spawn_scoped(scope, send).unwrap();
        let got = receive();
        let sent = sending.join().unwrap_or_else(|panic| resume_unwind(panic));
        (sent, got.beside(&sent))
    })
}

/// A client's mouth and ear.
pub fn client(stream: &TcpStream, number: u64) -> (Sender<'_>, Receiver<'_>) {
    (Sender::new(stream, number, Flow::ToBackend), Receiver::new(stream, number, Flow::ToClient, 0))
}

/// A server's mouth and ear; the number has been read.
pub fn server(stream: &TcpStream, number: u64) -> (Sender<'_>, Receiver<'_>) {
    (
        Sender::new(stream, number, Flow::ToClient),
        Receiver::new(stream, number, Flow::ToBackend, HELLO_BYTES),
    )
}

/// Judges both streams of a connection to which nothing may happen.
#[track_caller]
pub fn judge_both_whole(client: Talk, server: Talk) -> Total {
    [judge_whole(client.0, server.1), judge_whole(server.0, client.1)].into_iter().sum()
}

/// A server that answers every byte with a byte of its own, as they come, and ends when it is told
/// the end.
pub fn answering() -> Server<Talk> {
    Server::new(answer)
}

/// What [`answering`] does.
pub fn answer(number: u64, stream: &TcpStream) -> Talk {
    let (mut sender, mut receiver) = server(stream, number);
    sender.send(HELLO_BYTES);
    while let Some(bytes) = receiver.receive_once(usize::MAX) {
        sender.send(bytes as u64);
    }
    let got = receiver.receive_all();
    (sender.finish(), got)
}

/// A server that sends `bytes` and the end while it receives to the end.
pub fn bulk(bytes: u64) -> Server<Talk> {
    Server::new(move |number, stream| {
        let (mut sender, mut receiver) = server(stream, number);
        talk(
            move || {
                sender.send(bytes);
                sender.finish()
            },
            move || receiver.receive_all(),
        )
    })
}

/// A listener with so small socket buffers.
pub fn small_listener(bytes: usize) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    shrink(&listener, bytes);
    listener
}

/// Runs clients `0..count`, each on a thread of its own, and adds up what they came to.
pub fn all(count: u64, one: impl Fn(u64) -> Total + Sync) -> Total {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|number| {
                let one = &one;
                let builder = Builder::new().stack_size(STACK_BYTES);
                builder.spawn_scoped(scope, move || one(number)).unwrap()
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .sum()
    })
}
