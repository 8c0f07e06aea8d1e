//! Who may come in, and how fast.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};

use crate::support::relay::Relay;
use crate::support::{Folder, PATIENCE, peers};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

/// A relay on loopback whose listener has these lines.
fn relay(name: &str, engine: &str, lines: &str, server: SocketAddr) -> Relay {
    let folder = Folder::new(name);
    let file = format!(
        "[global]\nworkers = 2\nengine = \"{engine}\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n{lines}\n\
         [[backend.b.server]]\naddress = \"{server}\"\n"
    );
    Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()])
}

/// A connection from this address of loopback.
fn connect_from(source: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let fd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let SocketAddr::V4(to) = to else { panic!("{to} is not an IPv4 address") };
    let from = SocketAddrV4::new(source.parse().unwrap(), 0);
    socket::bind(fd.as_raw_fd(), &SockaddrIn::from(from))?;
    socket::connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether an echo came back.
fn is_served(source: &str, to: SocketAddr) -> bool {
    let ping = |mut stream: TcpStream| {
        stream.write_all(b"ping")?;
        stream.read_exact(&mut [0; 4])
    };
    connect_from(source, to).and_then(ping).is_ok()
}

#[test]
fn who_is_not_allowed_or_is_denied_is_reset_and_counted() {
    let server = peers::echo();
    let lines = "allow = [\"127.0.0.0/30\"]\ndeny = [\"127.0.0.2\", \"2001:db8::/32\"]";
    for engine in ENGINES {
        let relay = relay("rules-allow", engine, lines, server.address);
        for (source, served) in
            [("127.0.0.1", true), ("127.0.0.2", false), ("127.0.0.3", true), ("127.0.0.4", false)]
        {
            assert_eq!(is_served(source, relay.address()), served, "{source}");
        }
        assert_eq!(relay.status()["total"]["denied"], 2);
    }
}
