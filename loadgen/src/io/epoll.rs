//! Streams on plain tokio, for hosts where io_uring is barred.

use super::{Bytes, Stream};
use socket2::{SockRef, Socket};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

/// A tokio stream.
#[derive(Debug)]
pub(crate) struct EpollStream(tokio::net::TcpStream);

impl Stream for EpollStream {
    fn dial(socket: Socket, to: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Connect before tokio sees the socket: an unconnected one reports a hang-up, and tokio
        // never forgets that.
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        tokio::net::TcpStream::from_std(socket.into()).map(Self)
    }

    async fn connected(self: &Rc<Self>) -> io::Result<()> {
        self.0.writable().await?;
        self.0.take_error()?.map_or(Ok(()), Err)
    }

    async fn read(self: Rc<Self>, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        loop {
            if let Err(error) = self.0.readable().await {
                return (Err(error), buffer);
            }
            match self.0.try_read_buf(&mut buffer) {
                Ok(_) => return (Ok(()), buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Err(error), buffer),
            }
        }
    }

    async fn write_all<B: Bytes>(self: &Rc<Self>, bytes: B) -> io::Result<()> {
        let mut bytes = bytes.as_ref();
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(Shutdown::Write)
    }

    fn abort(&self) {
        // A socket that is not connected any more has nothing to shut down.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}
