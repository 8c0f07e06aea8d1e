//! The far end: answers each request of the agreed size with an answer of the agreed size, or
//! sends or discards without end. One thread, epoll through mio, edge triggered.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::cli;
use crate::error::Error;
use crate::http;
use crate::scenario::{Kind, Work};
use crate::stream::{Buffers, CHUNK_BYTES, Went};

/// Connections that wait to be accepted; more than any scenario opens at once.
const BACKLOG: i32 = 4096;
/// Tokens below this are listeners.
const FIRST_CONNECTION: usize = 16;

struct Server {
    work: Work,
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffers: Buffers,
    /// Bulk streams whose turn was over while there was more to do.
    again: Vec<usize>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the request that is coming in; of its body, where it has a head.
    received: usize,
    /// Its head, where it has one.
    head: Vec<u8>,
    /// Bytes of answers that could not be sent yet.
    owed: usize,
}

/// Listens, prints its addresses as one line of JSON, serves until it is ended.
///
/// # Errors
/// When it cannot listen or wait.
pub(crate) fn serve(arguments: &cli::Server) -> Result<(), Error> {
    let mut server = Server::new(arguments).map_err(Error::at("server"))?;
    let addresses = server.addresses().map_err(Error::at("server"))?;
    println!("{}", serde_json::to_string(&addresses).map_err(Error::at("server"))?);
    std::io::stdout().flush().map_err(Error::at("server"))?;
    server.run().map_err(Error::at("server"))
}

impl Server {
    fn new(arguments: &cli::Server) -> std::io::Result<Self> {
        let work = arguments.work.clone();
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        let several = (1..=work.addresses).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
        for at in arguments.at.map_or(several, |one| vec![one]) {
            let address = SocketAddr::from((at, 0));
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM.nonblocking().cloexec(),
                None,
            )?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            // Inherited by what is accepted: no call per connection.
            socket.set_tcp_nodelay(true)?;
            let mut listener = TcpListener::from_std(socket.into());
            let token = Token(listeners.len());
            poll.registry().register(&mut listener, token, Interest::READABLE)?;
            listeners.push(listener);
        }
        Ok(Self {
            work,
            poll,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            buffers: Buffers::new(),
            again: Vec::new(),
        })
    }

    fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    fn run(&mut self) -> std::io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let limit = (!self.again.is_empty()).then_some(std::time::Duration::ZERO);
            match self.poll.poll(&mut events, limit) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for index in std::mem::take(&mut self.again) {
                self.turn(index, false);
            }
            for event in &events {
                match event.token().0 {
                    listener if listener < FIRST_CONNECTION => self.accept(listener)?,
                    token => self.turn(token - FIRST_CONNECTION, event.is_read_closed()),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> std::io::Result<()> {
        // Until it would block. Any other error is of the connection, not of the listener.
        while let Ok((mut stream, _)) = self.listeners[listener].accept() {
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.registry().register(
                &mut stream,
                Token(index + FIRST_CONNECTION),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            self.connections[index] =
                Some(Connection { stream, received: 0, head: Vec::new(), owed: 0 });
        }
        Ok(())
    }

    /// One connection's turn; ends it when it has ended.
    fn turn(&mut self, index: usize, closed: bool) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let went = if self.work.kind == Kind::Forward {
            answer_in_http(&self.buffers, connection, &self.work)
        } else if self.work.kind.is_bulk() {
            flow(&mut self.buffers, connection, self.work.kind)
        } else {
            answer(&mut self.buffers, connection, &self.work, closed)
        };
        match went {
            Went::Blocked => {}
            Went::Turn => self.again.push(index),
            Went::Ended => {
                self.connections[index] = None;
                self.free.push(index);
            }
        }
    }
}

fn flow(buffers: &mut Buffers, connection: &mut Connection, kind: Kind) -> Went {
    let mut ignored = 0;
    let mut went = Went::Blocked;
    if kind != Kind::BulkDown {
        went = buffers.drink(&connection.stream, &mut ignored);
    }
    if kind != Kind::BulkUp && went != Went::Ended {
        let sent = buffers.pour(&mut connection.stream, &mut ignored);
        went = if went == Went::Blocked || sent == Went::Ended { sent } else { went };
    }
    went
}

/// Edge triggered, so one receive is enough unless it was full or the end may have come with
/// the bytes.
fn answer(buffers: &mut Buffers, connection: &mut Connection, work: &Work, closed: bool) -> Went {
    loop {
        match buffers.discard(&connection.stream) {
            Ok(None) => break,
            Ok(Some(0)) | Err(_) => return Went::Ended,
            Ok(Some(bytes)) => {
                connection.received += bytes;
                if !closed && bytes < CHUNK_BYTES {
                    break;
                }
            }
        }
    }
    while connection.received >= work.request_bytes {
        connection.received -= work.request_bytes;
        connection.owed += work.response_bytes;
    }
    if connection.owed > 0 {
        match buffers.send(&mut connection.stream, connection.owed.min(1 << 20)) {
            Ok(bytes) => connection.owed -= bytes,
            Err(_) => return Went::Ended,
        }
    }
    Went::Blocked
}

/// What a proxy forwards has a head of its own making: it is read, and answered with one.
fn answer_in_http(buffers: &Buffers, connection: &mut Connection, work: &Work) -> Went {
    let mut piece = [0; 8192];
    loop {
        match connection.stream.read(&mut piece) {
            Ok(0) => return Went::Ended,
            Ok(bytes) => {
                let before = connection.head.len();
                connection.head.extend_from_slice(&piece[..bytes]);
                match http::head_bytes(&connection.head) {
                    // What is behind the head is of the body, and nothing of it is looked at.
                    Some(head) if connection.received == 0 => {
                        connection.received = connection.head.len() - head;
                    }
                    Some(_) => connection.received += connection.head.len() - before,
                    None => {}
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => return Went::Ended,
        }
    }
    if http::head_bytes(&connection.head).is_none() || connection.received < work.request_bytes {
        return Went::Blocked;
    }
    (connection.received, connection.head) = (0, Vec::new());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", work.response_bytes);
    // An empty socket takes both whole.
    let sent = connection.stream.write_all(head.as_bytes());
    match sent.and_then(|()| buffers.send(&mut connection.stream, work.response_bytes)) {
        Ok(_) => Went::Blocked,
        Err(_) => Went::Ended,
    }
}
