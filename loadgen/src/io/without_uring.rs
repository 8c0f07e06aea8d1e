//! What stands for io_uring in a build against musl: tokio-uring 0.5 does not compile there
//! (`msg_controllen` has another type). Nobody gets further than [`probe`].

use std::io;

/// Never made.
pub(crate) type UringStream = super::epoll::EpollStream;

/// Bytes that stay where they are.
pub(crate) trait IoBuf: 'static {}
impl IoBuf for &'static [u8] {}
impl IoBuf for Vec<u8> {}

pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the agents may use io_uring: never.
pub(crate) fn probe() -> Result<(), String> {
    Err("this loadgen is a static one, which has no io_uring; that of the package has".to_owned())
}
