//! Whether io_uring can do here what the engine needs, tried for real.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;

use crate::sys::ring::{Patience, Ring};
use crate::sys::{process, socket};

/// Long enough for a byte to cross a socket pair on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the engine cannot run here, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// io_uring_setup(2) is forbidden.
    #[error(
        "io_uring_setup is not permitted ({}); set it to 0 with `sysctl kernel.io_uring_disabled=0`, \
         or allow io_uring in the container's seccomp profile",
        disabled()
    )]
    Forbidden,
    /// The kernel was built without it.
    #[error("this kernel has no io_uring; Linux 6.1 or newer built with CONFIG_IO_URING has")]
    Absent,
    /// Something that the engine needs is missing.
    #[error("this kernel's io_uring lacks {0}; Linux 6.1 or newer has it")]
    Lacking(&'static str),
    /// A multishot receive did not do what it should.
    #[error("a trial of multishot receive failed ({0}); Linux 6.1 or newer passes it")]
    Trial(String),
    /// It takes memory that counts as locked.
    #[error(
        "io_uring_setup was given no memory (ENOMEM), most often because RLIMIT_MEMLOCK is too low: \
         raise it with `ulimit -l 8192`, or under systemd with LimitMEMLOCK=8M"
    )]
    NoMemory,
    /// The kernel refused for another reason.
    #[error("io_uring_setup failed: {0}")]
    Refused(io::Error),
}

/// Sets a ring up, asks for features and operations, and receives a byte with it.
///
/// # Errors
/// What is wanting.
pub fn probe() -> Result<(), Unfit> {
    let mut ring = Ring::new().map_err(unfit)?;
    if let Some(name) = ring.missing().map_err(unfit)? {
        return Err(Unfit::Lacking(name));
    }
    receive(&mut ring).map_err(Unfit::Trial)
}

fn unfit(error: io::Error) -> Unfit {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => Unfit::Forbidden,
        Some(Errno::ENOSYS) => Unfit::Absent,
        Some(Errno::ENOMEM) => Unfit::NoMemory,
        Some(Errno::EINVAL) => Unfit::Lacking("single-issuer rings with deferred task work"),
        _ => Unfit::Refused(error),
    }
}

fn receive(ring: &mut Ring) -> Result<(), String> {
    let pair = socket::pair().map_err(|errno| errno.to_string())?;
    ring.recv_all(pair.0.as_fd(), 7);
    let mut answers = Vec::new();
    // The receive must wait, as it will have to on nonblocking sockets.
    ring.enter(Patience::None, &mut answers).map_err(|error| error.to_string())?;
    socket::send(pair.1.as_fd(), b"x").map_err(|errno| errno.to_string())?;
    ring.enter(Patience::Answer(Some(PATIENCE)), &mut answers)
        .map_err(|error| error.to_string())?;
    let [answer] = answers[..] else { return Err(format!("{} answers", answers.len())) };
    let good = answer.word == 7 && answer.result == Ok(1) && answer.buffer.is_some();
    if good && answer.more { Ok(()) } else { Err(format!("{answer:?}")) }
}

fn disabled() -> String {
    process::io_uring_disabled().map_or_else(
        || "by a seccomp filter".to_owned(),
        |value| format!("kernel.io_uring_disabled is {value}"),
    )
}
