//! Sees to it that no second instance joins in silence: with SO_REUSEPORT the kernel would share
//! the agents between two relays, and neither would know.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::supervisor::StartError;
use crate::sys::socket;

/// io_uring gives its sockets back after the process has gone: a relay that follows another on the
/// same address allows for that.
const TEARDOWN_PATIENCE: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// Held for as long as the relay listens: a name in the abstract namespace, which belongs to the
/// network namespace just as the port does, and vanishes with the process.
#[derive(Debug)]
pub(super) struct Claim(UnixListener);

impl AsRawFd for Claim {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Claim {
    /// A claim that this process inherited.
    fn from(inherited: OwnedFd) -> Self {
        Self(inherited.into())
    }
}

/// Claims an address for this process. `None` is port 0: the kernel will choose one that nobody has.
///
/// # Errors
/// When another instance has claimed it.
pub(super) fn claim(address: SocketAddr) -> Result<Option<Claim>, StartError> {
    if address.port() == 0 {
        return Ok(None);
    }
    patiently(|| lock(address)).map(Some).map_err(|errno| match errno {
        Errno::EADDRINUSE => StartError::SecondInstance { address },
        errno => StartError::Bind { address, errno },
    })
}

/// Makes sure that no other program listens on an address that is about to be bound.
///
/// # Errors
/// When one does, or it cannot be bound.
pub(super) fn is_free(address: SocketAddr) -> Result<(), StartError> {
    patiently(|| socket::bind_alone(address)).map_err(|errno| StartError::Bind { address, errno })
}

fn lock(address: SocketAddr) -> Result<Claim, Errno> {
    let errno =
        |error: std::io::Error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    let name = UnixAddr::from_abstract_name(format!("fanin/listen/{address}")).map_err(errno)?;
    UnixListener::bind_addr(&name).map(Claim).map_err(errno)
}

#[expect(
    clippy::disallowed_methods,
    reason = "before any worker starts: the clock and the wait are those of the start-up"
)]
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let deadline = Instant::now() + TEARDOWN_PATIENCE;
    loop {
        match attempt() {
            Err(Errno::EADDRINUSE) if Instant::now() < deadline => {
                std::thread::sleep(RETRY_EVERY);
            }
            result => return result,
        }
    }
}
