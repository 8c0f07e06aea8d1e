//! Pipes: the kernel memory that `splice(2)` moves bytes through.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// Both ends of a pipe and what it really holds.
#[derive(Debug)]
pub struct Pipe {
    /// The end that bytes come out of.
    pub reader: OwnedFd,
    /// The end that bytes go into.
    pub writer: OwnedFd,
    /// The capacity in bytes that the kernel granted, if every fragment filled a page.
    pub bytes: u32,
}

/// Makes a pipe and asks for `bytes` of capacity. The kernel may refuse to enlarge it (EPERM past
/// `fs.pipe-user-pages-soft` or over `fs.pipe-max-size`); then it keeps the size it came with, so
/// read [`Pipe::bytes`].
///
/// # Errors
/// EMFILE, ENFILE or ENOMEM: no pipe could be made.
pub fn open(bytes: u32) -> Result<Pipe, Errno> {
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    let granted = match fcntl(&writer, FcntlArg::F_SETPIPE_SZ(wanted)) {
        Ok(granted) => granted,
        Err(_) => fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?,
    };
    Ok(Pipe { reader, writer, bytes: u32::try_from(granted).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_tells_its_real_capacity() {
        assert_eq!(open(64 * 1024).unwrap().bytes, 64 * 1024);
        // Far over any pipe-max-size: refused, and what is left is what pipe2 gave.
        let refused = open(1 << 30).unwrap().bytes;
        assert!((4096..1 << 30).contains(&refused), "{refused}");
    }
}
