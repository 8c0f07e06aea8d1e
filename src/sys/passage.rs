//! Passing connected sockets from one descriptor table to another (`SCM_RIGHTS`, unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    recvmsg, sendmsg,
};

/// The two ends of a passage: what is passed at the one is taken at the other, message by message.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn open() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Passes a pair of sockets under a number. The receiver has descriptors of its own for them; the
/// caller's stay the caller's.
///
/// # Errors
/// EAGAIN while the passage is full; EPIPE when nobody is at its other end; ETOOMANYREFS.
pub fn pass(through: BorrowedFd<'_>, number: u64, pair: [BorrowedFd<'_>; 2]) -> Result<(), Errno> {
    let number = number.to_ne_bytes();
    let rights = pair.map(|socket| socket.as_raw_fd());
    let rights = [ControlMessage::ScmRights(&rights)];
    let bytes = [IoSlice::new(&number)];
    sendmsg::<()>(through.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Takes the pair that comes next, and its number; `None` when there is none now. The descriptors are
/// close-on-exec.
///
/// # Errors
/// EMFILE when this table has no room for them: they are gone then.
pub fn take(from: BorrowedFd<'_>) -> Result<Option<(u64, [OwnedFd; 2])>, Errno> {
    let mut number = [0; size_of::<u64>()];
    let mut bytes = [IoSliceMut::new(&mut number)];
    let mut space = cmsg_space!([RawFd; 2]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let mut passed = Vec::new();
    match recvmsg::<()>(from.as_raw_fd(), &mut bytes, Some(&mut space), flags) {
        Err(Errno::EAGAIN) => return Ok(None),
        Err(errno) => return Err(errno),
        Ok(message) => {
            for part in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(numbers) = part {
                    passed.extend(numbers.into_iter().map(owned));
                }
            }
        }
    }
    match <[OwnedFd; 2]>::try_from(passed) {
        Ok(pair) => Ok(Some((u64::from_ne_bytes(number), pair))),
        // The kernel leaves out what the table has no room for.
        Err(_) => Err(Errno::EMFILE),
    }
}

/// Whether somebody may still pass something, or something that was passed has not been taken.
pub fn is_open(end: BorrowedFd<'_>) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    socket::recv(end.as_raw_fd(), &mut [0; size_of::<u64>()], flags) != Ok(0)
}

fn owned(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the message that was taken, and nobody else
    // knows its number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn pairs_arrive_under_their_numbers_and_in_order() {
        let (here, there) = open().unwrap();
        assert!(take(there.as_fd()).unwrap().is_none());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for number in [7u8, 8] {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            pass(here.as_fd(), number.into(), [client.as_fd(), server.as_fd()]).unwrap();
        }
        for number in [7u8, 8] {
            let (told, [client, server]) = take(there.as_fd()).unwrap().expect("it was passed");
            assert_eq!(told, u64::from(number));
            // The sender's descriptors are closed; the connection lives.
            TcpStream::from(client).write_all(&[number]).unwrap();
            let mut byte = [0];
            TcpStream::from(server).read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number]);
        }
        assert!(is_open(there.as_fd()));
        let last = here.try_clone().unwrap();
        drop(here);
        assert!(is_open(there.as_fd()));
        let here = last;
        drop(there);
        let pair = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(pass(here.as_fd(), 9, [pair.as_fd(), pair.as_fd()]), Err(Errno::EPIPE));
        assert!(!is_open(here.as_fd()));
    }
}
