//! Streams on tokio-uring.
//!
//! tokio-uring's own connect makes its socket itself and cannot bind a source address; its open
//! door for other operations (`UnsubmittedOneshot`) takes our Connect instead.

use super::{Bytes, Stream};
use io_uring_06 as io_uring;
use socket2::{SockAddr, Socket};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
pub(crate) use tokio_uring::buf::IoBuf;
use tokio_uring::net::TcpStream;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// Entries of a thread's submission queue; tokio-uring submits when it is full or nothing is left
/// to run.
const SUBMISSIONS: u32 = 1024;
/// Entries of its completion queue; more than this many at once are kept by the kernel, slower.
const COMPLETIONS: u32 = 16 * 1024;

/// A tokio-uring stream and where it goes.
pub(crate) struct UringStream {
    stream: TcpStream,
    to: SocketAddr,
}

impl Stream for UringStream {
    fn dial(socket: Socket, to: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::from_std(socket.into()), to })
    }

    async fn connected(self: &Rc<Self>) -> io::Result<()> {
        let address = Box::new(SockAddr::from(self.to));
        let fd = io_uring::types::Fd(self.stream.as_raw_fd());
        let entry = io_uring::opcode::Connect::new(fd, address.as_ptr().cast(), address.len());
        // The address and the socket live in the operation until the kernel is done with them.
        let kept = Dialling { _address: address, _stream: Rc::clone(self) };
        UnsubmittedOneshot::new(kept, Outcome, entry.build()).submit().await
    }

    async fn read(self: Rc<Self>, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let (result, buffer) = self.stream.read(buffer).await;
        (result.map(drop), buffer)
    }

    async fn write_all<B: Bytes>(self: &Rc<Self>, bytes: B) -> io::Result<()> {
        self.stream.write_all(bytes).await.0
    }

    fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn abort(&self) {
        // A socket that is not connected any more has nothing to shut down.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// What a Connect in flight needs to stay where it is.
struct Dialling {
    _address: Box<SockAddr>,
    _stream: Rc<UringStream>,
}

/// Turns a completion into a result.
struct Outcome;

impl OneshotOutputTransform for Outcome {
    type Output = io::Result<()>;
    type StoredData = Dialling;

    fn transform_oneshot_output(self, _: Dialling, entry: io_uring::cqueue::Entry) -> Self::Output {
        match entry.result() {
            errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
            _ => Ok(()),
        }
    }
}

/// The settings of a thread's ring.
fn builder() -> tokio_uring::Builder {
    let mut ring = tokio_uring::uring_builder();
    // The loop looks at the ring each time round, so the kernel need not interrupt it.
    ring.setup_cqsize(COMPLETIONS).setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(SUBMISSIONS).uring_builder(&ring);
    builder
}

/// A runtime for the calling thread.
pub(crate) fn runtime() -> io::Result<tokio_uring::Runtime> {
    tokio_uring::Runtime::new(&builder())
}

/// Whether this host lets us use io_uring, with what the agents need.
///
/// Asked first because tokio-uring panics where the ring is barred.
///
/// # Errors
/// The reason, in words.
pub(crate) fn probe() -> Result<(), String> {
    use io_uring::{IoUring, Probe, opcode};
    let mut settings = IoUring::builder();
    settings.setup_cqsize(COMPLETIONS).setup_coop_taskrun().setup_single_issuer();
    let ring: IoUring = settings.build(SUBMISSIONS).map_err(|error| {
        match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is barred here (kernel.io_uring_disabled, or a container's seccomp filter)"
                .to_owned()
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring".to_owned(),
        _ => format!("io_uring cannot be set up: {error}"),
    }
    })?;
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    probed.map_err(|error| format!("io_uring cannot be asked for its operations: {error}"))?;
    let needed = [
        ("connect", opcode::Connect::CODE),
        ("read", opcode::Read::CODE),
        ("write", opcode::Write::CODE),
    ];
    match needed.into_iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(format!("this kernel's io_uring has no {name}")),
        None => Ok(()),
    }
}
