//! Lines to a syslog server, a datagram each, as HAProxy sends them (configuration manual, section 8):
//! in the form of RFC 3164, `<PRI>Mon dd HH:MM:SS tag[pid]: ` and the line, or in that of RFC 5424.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

use crate::config::{SyslogForm, SyslogTarget};

use super::log::rfc3339;

/// The longest line that is sent whole; a server may take no more than 1024 bytes anyway (RFC 3164,
/// section 4.1), and most take eight times that.
const LINE_BYTES_MAX: usize = 8192;

/// What a reader is told before each line.
#[derive(Debug)]
pub(super) struct Frame {
    /// `None` is the journal, which notes the rest itself.
    pub(super) form: Option<SyslogForm>,
    pub(super) facility: u8,
    pub(super) tag: String,
    /// The name of this host.
    pub(super) host: String,
}

impl Frame {
    /// That of systemd's journal on a stream (sd-daemon(3)): a priority, without a facility.
    pub(super) const fn of_journal() -> Self {
        Self { form: None, facility: 0, tag: String::new(), host: String::new() }
    }

    /// How much a line matters, and to whom: `<PRI>`.
    pub(super) fn priority(&self, severity: u8) -> String {
        format!("<{}>", u16::from(self.facility) * 8 + u16::from(severity))
    }

    /// What follows that on all lines of one moment.
    pub(super) fn stamp(&self, now: SystemTime) -> String {
        let (tag, process) = (&self.tag, std::process::id());
        match self.form {
            None => String::new(),
            Some(SyslogForm::Rfc3164) => {
                format!("{} {tag}[{process}]: ", local(now).strftime("%b %e %H:%M:%S"))
            }
            // Without message identity and structured data (RFC 5424, section 6).
            Some(SyslogForm::Rfc5424) => {
                format!("1 {} {} {tag} {process} - - ", rfc3339(now), self.host)
            }
        }
    }
}

/// Whether the journal reads a stream: the variable names the device and the number of the file that it is
/// (systemd.exec(5), `JOURNAL_STREAM`).
pub(super) fn is_read_by_journal(stream: &impl AsFd) -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    nix::sys::stat::fstat(stream)
        .is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

/// A moment by the clock on this host's wall.
pub(super) fn local(time: SystemTime) -> jiff::ZonedDateTime {
    let stamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    stamp.to_zoned_datetime(jiff::tz::TimeZone::system())
}

/// A syslog server, as something that lines are written to.
#[derive(Debug)]
pub(super) struct Syslog {
    target: SyslogTarget,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Syslog {
    /// One that is not there yet is looked for again with each line.
    ///
    /// # Errors
    /// When there can be no socket at all.
    pub(super) fn open(target: SyslogTarget) -> io::Result<Self> {
        let socket = match &target {
            SyslogTarget::Socket(path) => {
                let socket = UnixDatagram::unbound()?;
                let _ = socket.connect(path);
                Socket::Unix(socket)
            }
            SyslogTarget::Udp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                let _ = socket.connect(address);
                Socket::Udp(socket)
            }
        };
        Ok(Self { target, socket })
    }

    fn send(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Unix(socket) => socket.send(line),
            Socket::Udp(socket) => socket.send(line),
        }
    }
}

impl Write for Syslog {
    /// Sends one line, and says how much of the text that was.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
        let line = &text[..end.min(LINE_BYTES_MAX)];
        if self.send(line).is_err() {
            // The server was started again, or a datagram before this one found nobody.
            *self = Self::open(self.target.clone())?;
            self.send(line)?;
        }
        Ok((end + 1).min(text.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Syslog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_that_of_the_rfc() {
        // local0.info is 134.
        let (tag, host) = ("haproxy".to_owned(), "relay-1".to_owned());
        let mut frame = Frame { form: Some(SyslogForm::Rfc3164), facility: 16, tag, host };
        let prefix = frame.priority(6) + &frame.stamp(SystemTime::UNIX_EPOCH);
        let (before, after) = prefix.split_once("haproxy[").unwrap();
        assert!(
            before.starts_with("<134>") && before.len() == "<134>Jan  1 00:00:00 ".len(),
            "{prefix}"
        );
        let process = std::process::id();
        assert_eq!(after, format!("{process}]: "));
        frame.form = Some(SyslogForm::Rfc5424);
        let prefix = frame.priority(6) + &frame.stamp(SystemTime::UNIX_EPOCH);
        let journal = Frame::of_journal();
        assert_eq!(journal.priority(4) + &journal.stamp(SystemTime::UNIX_EPOCH), "<4>");
        let expected = format!("<134>1 1970-01-01T00:00:00.000Z relay-1 haproxy {process} - - ");
        assert_eq!(prefix, expected);
    }

    #[test]
    fn lines_are_datagrams_and_a_server_that_comes_back_is_found_again() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let mut syslog = Syslog::open(SyslogTarget::Udp(address)).unwrap();
        syslog.write_all(b"one\ntwo\n").unwrap();
        let mut buffer = [0; 16];
        let mut next = |server: &UdpSocket| {
            let length = server.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!((next(&server), next(&server)), ("one".to_owned(), "two".to_owned()));
        drop(server);
        // The first finds nobody, and the second is told so.
        let _ = syslog.write_all(b"lost\n");
        let _ = syslog.write_all(b"lost\n");
        let server = UdpSocket::bind(address).unwrap();
        syslog.write_all(b"three\n").unwrap();
        assert_eq!(next(&server), "three");
    }
}
