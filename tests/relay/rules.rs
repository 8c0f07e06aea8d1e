//! Who may come in, and how fast.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};

use crate::support::relay::Relay;
use crate::support::{Folder, PATIENCE, await_that, peers};

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

/// What a session's line in the log must hold, after a greeting of these bytes.
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";

#[test]
fn a_proxy_header_of_a_listed_source_is_believed_however_it_is_cut() {
    let server = peers::echo();
    let binary = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..],
        &[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb],
    ]
    .concat();
    for engine in ENGINES {
        for splice in ["auto", "always"] {
            let lines = "proxy_from = [\"127.0.0.1\"]";
            let folder = Folder::new("rules-proxy");
            let file = format!(
                "[global]\nsplice = \"{splice}\"\nengine = \"{engine}\"\n[[listener]]\n\
                 bind = [\"127.0.0.1:0\"]\n{lines}\n[[backend.b.server]]\naddress = \"{}\"\n",
                server.address
            );
            let mut relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
            for header in [HEADER, &binary] {
                let all = [header, b"hello"].concat();
                for size in [1, 7, header.len(), all.len()] {
                    let mut client = peers::connect(relay.address());
                    client.set_nodelay(true).unwrap();
                    for piece in all.chunks(size) {
                        client.write_all(piece).unwrap();
                    }
                    let mut answer = [0; 5];
                    client.read_exact(&mut answer).unwrap();
                    assert_eq!(&answer, b"hello");
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                    assert_eq!(client.read(&mut answer).unwrap(), 0);
                    relay.await_line("192.0.2.1:56324");
                }
            }
        }
    }
}

#[test]
fn who_is_not_listed_cannot_speak_for_others_and_who_is_must() {
    let server = peers::echo();
    for engine in ENGINES {
        let mut relay =
            relay("rules-spoof", engine, "proxy_from = [\"127.0.0.1\"]", server.address);
        // Not listed: not even without a header.
        assert!(!is_served("127.0.0.2", relay.address()));
        let mut spoof = connect_from("127.0.0.2", relay.address()).unwrap();
        let _ = spoof.write_all(&[HEADER, b"ping"].concat());
        // The reset may have been told to the write already.
        assert!(!matches!(spoof.read(&mut [0; 1]), Ok(1)));
        // Listed, without a header, or with half of one.
        assert!(!is_served("127.0.0.1", relay.address()));
        relay.await_line("bad_greeting");
        let mut late = connect_from("127.0.0.1", relay.address()).unwrap();
        late.write_all(&HEADER[..10]).unwrap();
        assert!(late.read(&mut [0; 1]).is_err());
        relay.await_line("greeting_timeout");
        assert_eq!(server.accepted(), 0);
    }
}

#[test]
fn a_source_at_its_limit_is_refused_and_others_are_served() {
    let server = peers::echo();
    for engine in ENGINES {
        let relay = relay("rules-source", engine, "per_source = { sessions = 5 }", server.address);
        let connect = || {
            let mut stream = connect_from("127.0.0.2", relay.address())?;
            stream.write_all(b"ping")?;
            stream.read_exact(&mut [0; 4])?;
            Ok::<_, std::io::Error>(stream)
        };
        let there: Vec<_> = (0..5).map(|_| connect().unwrap()).collect();
        for _ in 0..10 {
            assert!(connect().is_err());
        }
        assert!(is_served("127.0.0.3", relay.address()));
        assert_eq!(relay.status()["total"]["source_limited"], 10);
        drop(there);
        await_that("its places are free again", || connect().is_ok());
    }
}

#[test]
fn a_rate_limits_who_comes_too_fast_by_the_address_that_the_header_names() {
    let server = peers::echo();
    for engine in ENGINES {
        let lines = "proxy_from = [\"127.0.0.0/8\"]\nper_source = { rate = \"3/1h\" }";
        let mut relay = relay("rules-rate", engine, lines, server.address);
        let greeted = |source: &str| {
            let mut stream = peers::try_connect(relay.address())?;
            write!(stream, "PROXY TCP4 {source} 198.51.100.1 56324 443\r\nping")?;
            stream.read_exact(&mut [0; 4])
        };
        let served = |source: &str| (0..6).filter(|_| greeted(source).is_ok()).count();
        assert_eq!((served("192.0.2.1"), served("192.0.2.2")), (3, 3));
        relay.await_line("source_limit");
    }
}

#[test]
fn haproxy_in_front_tells_whom_it_speaks_for() {
    let server = peers::echo();
    for (engine, option) in ENGINES.into_iter().zip(["send-proxy", "send-proxy-v2"]) {
        let mut relay =
            relay("rules-haproxy", engine, "proxy_from = [\"127.0.0.1\"]", server.address);
        let folder = Folder::new("rules-haproxy-cfg");
        let front = peers::nobody();
        let text = format!(
            "defaults\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
             listen a\n bind {front}\n server s {} {option}\n",
            relay.address()
        );
        let file = folder.write("front.cfg", &text);
        let mut command = std::process::Command::new("haproxy");
        command.args(["-db", "-f", file.to_str().unwrap()]);
        let mut haproxy = command.spawn().expect("haproxy; scripts/test installs it");
        await_that("HAProxy serves", || is_served("127.0.0.9", front));
        relay.await_line("127.0.0.9:");
        haproxy.kill().unwrap();
        haproxy.wait().unwrap();
    }
}
