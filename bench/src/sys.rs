//! The one call of the kernel that no library makes for us.

#![expect(unsafe_code, reason = "this file exists so that no other one needs it")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

/// A network device of this thread's namespace, whose packets are read from and written to the file.
/// The kernel gives a TUN device no offloads, so each packet is whole, small and checked.
///
/// # Errors
/// Without /dev/net/tun, or without CAP_NET_ADMIN.
pub(crate) fn tun(name: &str) -> io::Result<File> {
    let mut open = OpenOptions::new();
    let file = open.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    let flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or_default();
    let request =
        libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call; the descriptor is
    // the file's.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
