//! Servers and clients named by what they do.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use super::{PATIENCE, await_some};

/// A server that treats each connection alike, on a thread of its own.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    pub fn new(treat: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), treat)
    }

    pub fn on(listener: TcpListener, treat: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, treat) = (Arc::clone(&accepted), Arc::new(treat));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, SeqCst);
                let treat = Arc::clone(&treat);
                // Small stacks: some tests have a thousand of these.
                let small = thread::Builder::new().stack_size(64 * 1024);
                small.spawn(move || treat(stream)).unwrap();
            }
        });
        Self { address, accepted }
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

/// Sends back what comes, and ends when the other side has.
pub fn echo() -> Server {
    Server::new(echoed)
}

/// What [`echo`] does with a connection.
pub fn echoed(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// Says its name to whoever connects, and ends.
pub fn name(name: &'static str) -> Server {
    Server::new(move |mut stream| {
        let _ = stream.write_all(name.as_bytes());
    })
}

/// A port of loopback where nobody listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Listeners on two addresses that have one port. One that is free on the first may be taken on the second.
pub fn on_one_port(addresses: [&str; 2]) -> [TcpListener; 2] {
    await_some("a port that is free on both", || {
        let first = TcpListener::bind((addresses[0], 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        TcpListener::bind((addresses[1], port)).ok().map(|second| [first, second])
    })
}

/// A listener that answers no SYN any more: its queue is full. Whoever connects waits.
pub struct Deaf {
    pub address: SocketAddr,
    listener: TcpListener,
    /// They fill the queue.
    queued: Vec<TcpStream>,
}

impl Deaf {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_millis(200);
        let connect = || TcpStream::connect_timeout(&address, patience).ok();
        let queued = std::iter::from_fn(connect).collect();
        Self { address, listener, queued }
    }

    /// Answers again from now on; who has waited is heard at the next SYN, a second later at most.
    pub fn hear(self, treat: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        listen(&self.listener, Backlog::new(128).unwrap()).unwrap();
        for _ in &self.queued {
            self.listener.accept().unwrap();
        }
        Server::on(self.listener, treat)
    }
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
    drop(stream);
}

/// HTTP/1.1 with kept connections: `/` is "hello", `/bytes/N` is N bytes of a known pattern.
pub fn http() -> Server {
    Server::new(|stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while answer(&mut reader, &stream).is_some() {}
    })
}

fn answer(reader: &mut impl std::io::BufRead, mut stream: &TcpStream) -> Option<()> {
    let mut request = String::new();
    reader.read_line(&mut request).ok().filter(|&n| n > 0)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&n| n > 0)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
    let path = request.split(' ').nth(1)?;
    let size = path.strip_prefix("/bytes/").and_then(|size| size.parse().ok());
    let length = size.unwrap_or(5);
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").ok()?;
    match size {
        Some(size) => pattern(size, |bytes| stream.write_all(bytes).ok()),
        None => stream.write_all(b"hello").ok(),
    }
}

/// Bytes that a repeat, a gap or a swap would change: blocks that carry their own number.
pub fn pattern(size: u64, mut take: impl FnMut(&[u8]) -> Option<()>) -> Option<()> {
    const BLOCK: usize = 64 * 1024;
    let mut block: Vec<u8> =
        (0..BLOCK as u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut left = size;
    let mut number: u64 = 0;
    while left > 0 {
        block[..8].copy_from_slice(&number.to_be_bytes());
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        take(&block[..n])?;
        left -= n as u64;
        number += 1;
    }
    Some(())
}

/// A client's connection, with a time limit on everything it does.
pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap()
}

/// The same; a reset may come before the connection has been looked at.
pub fn try_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends, ends its stream, and returns everything that comes back.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = try_connect(address)?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
