//! A client's first bytes, where they are looked at before a server is chosen, and the PROXY protocol's
//! header, versions 1 and 2 (proxy-protocol.txt of HAProxy, sections 2.1 and 2.2): the first bytes of a
//! client that speaks for others, and of a connection to a server that wants to know whose it is. PURE.
//!
//! A load balancer in front of the relay says in it whose connection this is. What it says is believed
//! only of those who are listed, which is the worker's affair; here it is only read. Whatever is not
//! exactly a header is refused: guessing would let bytes of a stream pass for an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::op::{Flow, Op, Outcome, ProxyVersion, SessionKey, Side, Slot, Time};

use super::flow::Sink;
use super::hello::{self, HELLO_BYTES_MAX, Hello};
use super::{CloseReason, Ops, Phase, Session, Step};

/// The longest header that is read: what fits into the smallest segment that every host takes (RFC
/// 1122 section 3.3.3), and so comes in one piece (section 2.2 of the protocol).
pub const HEADER_BYTES_MAX: usize = 536;

/// How long a PROXY header may take: it comes with the first segment, or one retransmission later.
pub const GREETING_MAX: Duration = Duration::from_secs(3);
/// How long the first message of a TLS client may take before it goes where those go that name no host:
/// what HAProxy's manual recommends for `tcp-request inspect-delay`.
pub const HELLO_MAX: Duration = Duration::from_secs(5);
/// The longest header of version 1, with its line end (section 2.1).
const LINE_BYTES_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    More,
    /// A header of so many bytes; what follows is the stream's.
    Header { bytes: usize, client: Option<SocketAddr> },
    /// No header.
    Bad,
}

/// The header that tells a server whose connection this is, and at which address of the relay it came
/// in.
pub fn header(version: ProxyVersion, client: SocketAddr, relay: SocketAddr) -> Vec<u8> {
    let ips = match (client.ip().to_canonical(), relay.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(relay)) => Ok((client, relay)),
        // Of two families neither can be said in the other's terms, but both in those of IPv6.
        (client, relay) => Err((in_v6(client), in_v6(relay))),
    };
    let ports = (client.port(), relay.port());
    match (version, ips) {
        (ProxyVersion::V1, Ok((client, relay))) => {
            format!("PROXY TCP4 {client} {relay} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        (ProxyVersion::V1, Err((client, relay))) => {
            format!("PROXY TCP6 {client} {relay} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        (ProxyVersion::V2, Ok((client, relay))) => {
            binary_header(0x21, 0x11, &[&client.octets()[..], &relay.octets()].concat(), ports)
        }
        (ProxyVersion::V2, Err((client, relay))) => {
            binary_header(0x21, 0x21, &[&client.octets()[..], &relay.octets()].concat(), ports)
        }
    }
}

/// The header of a connection that the relay makes for itself, such as a check.
pub fn own_header(version: ProxyVersion) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyVersion::V2 => [&SIGNATURE[..], &[0x20, 0x00, 0, 0]].concat(),
    }
}

fn in_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn binary_header(command: u8, family: u8, ips: &[u8], ports: (u16, u16)) -> Vec<u8> {
    // Two addresses and two ports, 36 bytes at most.
    let length = u16::try_from(ips.len() + 4).unwrap_or_default();
    let ports = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), ips, &ports].concat()
}

/// Reads the header at the beginning of `bytes`.
///
/// `client` is who is behind the load balancer; `None` where it speaks for itself (`LOCAL`: a health
/// check, whatever address stands behind it) or does not know (`UNKNOWN`, `AF_UNSPEC`, `AF_UNIX`).
pub fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::More,
        Some(b'P') => parse_line(bytes),
        Some(b'\r') => parse_binary(bytes),
        Some(_) => Parsed::Bad,
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.
fn parse_line(bytes: &[u8]) -> Parsed {
    const BEGINNING: &[u8] = b"PROXY ";
    let common = bytes.len().min(BEGINNING.len());
    if bytes[..common] != BEGINNING[..common] {
        return Parsed::Bad;
    }
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    // The first line feed ends it, or nothing does.
    let Some(feed) = line.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Parsed::More } else { Parsed::Bad };
    };
    let end = feed - 1;
    if line[end] != b'\r' {
        return Parsed::Bad;
    }
    match std::str::from_utf8(&line[BEGINNING.len()..end]).ok().and_then(line_client) {
        Some(client) => Parsed::Header { bytes: end + 2, client },
        None => Parsed::Bad,
    }
}

/// The client in what follows `PROXY `; `None` if that is malformed.
fn line_client(rest: &str) -> Option<Option<SocketAddr>> {
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = rest.split(' ');
    let family = words.next()?;
    let (source, destination) = (words.next()?, words.next()?);
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _) = (ip(source)?, ip(destination)?);
    let (port, _) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then_some(Some(SocketAddr::new(source, port)))
}

/// A decimal number without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (text.len() == 1 || !text.starts_with('0'))).then(|| text.parse().ok())?
}

/// Version 2: the signature, two nibbles of version and command, two of family and transport, the
/// length of what follows: addresses, then TLVs, which are passed over.
fn parse_binary(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Parsed::Bad;
    }
    if bytes.get(12).is_some_and(|command| !matches!(command, 0x20 | 0x21)) {
        return Parsed::Bad;
    }
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Parsed::More };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let total = FIXED_BYTES + length;
    if total > HEADER_BYTES_MAX {
        return Parsed::Bad;
    }
    let is_local = fixed[12] == 0x20;
    // The addresses must be there even if nobody looks at them: a short block is a forgery.
    let block = match fixed[13] {
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        0x00 => 0,
        _ if is_local => 0,
        _ => return Parsed::Bad,
    };
    if length < block && !is_local {
        return Parsed::Bad;
    }
    let Some(addresses) = bytes.get(FIXED_BYTES..total) else { return Parsed::More };
    let client = if is_local { None } else { binary_client(fixed[13], addresses) };
    Parsed::Header { bytes: total, client }
}

fn binary_client(family: u8, block: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes([*block.get(at)?, *block.get(at + 1)?]));
    match family {
        0x11 => {
            let source: [u8; 4] = block.get(..4)?.try_into().ok()?;
            Some(SocketAddr::new(source.into(), port(8)?))
        }
        0x21 => {
            let source: [u8; 16] = block.get(..16)?.try_into().ok()?;
            Some(SocketAddr::new(source.into(), port(32)?))
        }
        _ => None,
    }
}

/// What a client's first bytes are looked at for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expects {
    /// A PROXY header, which is for us, and without which nobody is let in.
    pub header: bool,
    /// The first message of TLS, which goes on as it came.
    pub hello: bool,
}

/// What a client's first bytes have said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Who is behind a client that speaks for another.
    pub client: Option<SocketAddr>,
    /// The host that a TLS client asks for.
    pub name: Option<String>,
}

impl Session {
    /// A session for a client that has just been adopted and whose first bytes are looked at: it is
    /// dialled for when they have said what they are to say.
    pub fn greet(key: SessionKey, expects: Expects, now: Time, ops: &mut Ops) -> (Self, Step) {
        let max = if expects.header { GREETING_MAX } else { HELLO_MAX };
        let mut session = Self::new(key, Phase::Greeting { until: now + max, expects }, now);
        session.flows[Flow::ToBackend.index()].greet(key, ops);
        (session, Step::Continue)
    }

    /// What [`Op::Greet`] came to; `bytes` is all that the engine holds.
    pub fn on_greeting(
        &mut self,
        outcome: Outcome,
        bytes: &[u8],
        now: Time,
        ops: &mut Ops,
    ) -> (Step, Said) {
        let Phase::Greeting { mut expects, .. } = self.phase else {
            unreachable!("a greeting is heard once")
        };
        let (key, mut said) = (self.key, Said::default());
        let flow = &mut self.flows[Flow::ToBackend.index()];
        match outcome {
            Outcome::Moved(more) => flow.on_greeted(more),
            Outcome::Failed(errno) => {
                flow.end_pull();
                return (self.refuse(CloseReason::of_broken(Side::Client, errno), ops), said);
            }
            // The end of its stream comes again, where it is passed on; or its time is up.
            _ => {
                flow.end_pull();
                let step = match expects.header {
                    true => self.refuse(CloseReason::BadGreeting, ops),
                    false => self.begin_dialling(ops),
                };
                return (step, said);
            }
        }
        let mut rest = bytes;
        if expects.header {
            match parse(&bytes[..bytes.len().min(HEADER_BYTES_MAX)]) {
                Parsed::More if bytes.len() < HEADER_BYTES_MAX => {
                    flow.greet(key, ops);
                    return (Step::Continue, said);
                }
                Parsed::Header { bytes: length, client } => {
                    flow.skip(u32::try_from(length).unwrap_or(u32::MAX), key, ops);
                    said.client = client;
                    rest = &bytes[length..];
                    expects.header = false;
                    self.phase = Phase::Greeting { until: now + HELLO_MAX, expects };
                }
                Parsed::More | Parsed::Bad => {
                    return (self.refuse(CloseReason::BadGreeting, ops), said);
                }
            }
        }
        if expects.hello {
            match hello::parse(rest) {
                Hello::More if rest.len() < HELLO_BYTES_MAX => {
                    flow.greet(key, ops);
                    return (Step::Continue, said);
                }
                Hello::Name(name) => said.name = Some(name),
                Hello::More | Hello::Nameless => {}
            }
        }
        (self.begin_dialling(ops), said)
    }

    fn begin_dialling(&mut self, ops: &mut Ops) -> Step {
        self.phase = Phase::Waiting { until: self.opened };
        self.flows[Flow::ToBackend.index()].proceed(self.key, Sink::Dialled, ops);
        Step::Dial { failed: None }
    }

    fn refuse(&mut self, reason: CloseReason, ops: &mut Ops) -> Step {
        self.begin_close(reason, ops);
        Step::Continue
    }

    /// The greeting takes too long. Without a header nobody is let in; without a first message of TLS the
    /// client goes where those go that name no host, once nothing is being received for it.
    pub(super) fn give_greeting_up(&mut self, expects: Expects, now: Time, ops: &mut Ops) {
        if expects.header {
            return self.begin_close(CloseReason::GreetingTimeout, ops);
        }
        self.phase = Phase::Greeting { until: now + HELLO_MAX, expects };
        ops.push(Op::Cancel { session: self.key, slot: Slot::Pull(Flow::ToBackend) });
    }

    /// Whether the client's first bytes are still awaited, for [`Session::on_greeting`].
    pub const fn is_greeting(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (client, relay) in
            [("192.0.2.7:40000", "10.0.0.1:3834"), ("[2001:db8::7]:40000", "[2001:db8::1]:3834")]
        {
            let address = |text: &str| text.parse::<SocketAddr>().unwrap();
            let (client, relay) = (address(client), address(relay));
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let bytes = super::header(version, client, relay);
                let expected = Parsed::Header { bytes: bytes.len(), client: Some(client) };
                assert_eq!(parse(&bytes), expected, "{version:?} {bytes:?}");
            }
        }
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let bytes = own_header(version);
            assert_eq!(parse(&bytes), Parsed::Header { bytes: bytes.len(), client: None });
        }
    }

    #[test]
    fn headers_are_those_of_the_protocols_text() {
        let (client, relay) =
            ("192.0.2.7:40000".parse().unwrap(), "10.0.0.1:3834".parse().unwrap());
        let line = super::header(ProxyVersion::V1, client, relay);
        assert_eq!(line, b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 3834\r\n");
        let binary = super::header(ProxyVersion::V2, client, relay);
        let block = [192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 0x0e, 0xfa];
        assert_eq!(binary, [&SIGNATURE[..], &[0x21, 0x11, 0, 12], &block].concat());
        let mixed = super::header(ProxyVersion::V1, "[2001:db8::7]:1".parse().unwrap(), relay);
        assert_eq!(mixed, b"PROXY TCP6 2001:db8::7 ::ffff:10.0.0.1 1 3834\r\n");
        let mapped =
            super::header(ProxyVersion::V1, "[::ffff:192.0.2.7]:40000".parse().unwrap(), relay);
        assert_eq!(mapped, line);
    }

    fn v4_block() -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 1][..], &56324u16.to_be_bytes(), &443u16.to_be_bytes()]
            .concat()
    }

    fn header(bytes: usize, client: &str) -> Parsed {
        Parsed::Header { bytes, client: Some(client.parse().unwrap()) }
    }

    /// Headers, with a stream behind each.
    fn good() -> Vec<(Vec<u8>, Parsed)> {
        let line = |text: &str| [text.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        let mut v6 = Ipv6Addr::LOCALHOST.octets().repeat(2);
        v6.extend([0xdc, 0x04, 0x01, 0xbb]);
        let tlv = [&v4_block()[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        let none = |bytes| Parsed::Header { bytes, client: None };
        vec![
            (
                line("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"),
                header(45, "192.0.2.1:56324"),
            ),
            (line("PROXY TCP6 ::1 2001:db8::1 1 65535\r\n"), header(36, "[::1]:1")),
            (line("PROXY UNKNOWN\r\n"), none(15)),
            (line("PROXY UNKNOWN ffff::1 ::1 1 2\r\n"), none(31)),
            (binary(0x21, 0x11, &v4_block()), header(28, "192.0.2.1:56324")),
            (binary(0x21, 0x11, &tlv), header(34, "192.0.2.1:56324")),
            (binary(0x21, 0x21, &v6), header(52, "[::1]:56324")),
            // A forged address behind LOCAL is not believed.
            (binary(0x20, 0x11, &v4_block()), none(28)),
            (binary(0x20, 0x00, &[]), none(16)),
            (binary(0x21, 0x00, &[1, 2, 3]), none(19)),
            (binary(0x21, 0x31, &[0; 216]), none(232)),
            (
                binary(0x21, 0x11, &[&v4_block()[..], &[0; 508]].concat()),
                header(536, "192.0.2.1:56324"),
            ),
        ]
    }

    #[test]
    fn headers_of_both_versions_are_read_and_the_stream_begins_behind_them() {
        for (bytes, expected) in good() {
            assert_eq!(parse(&bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn however_a_header_is_cut_it_is_the_same() {
        for (mut bytes, expected) in good() {
            bytes.extend(b"stream");
            let Parsed::Header { bytes: length, client } = expected else { unreachable!() };
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Parsed::More, "{cut} of {}", bytes.escape_ascii());
            }
            assert_eq!(parse(&bytes), Parsed::Header { bytes: length, client });
        }
    }

    #[test]
    fn what_is_not_exactly_a_header_is_refused() {
        let line = |text: &str| text.as_bytes().to_vec();
        for bytes in [
            line("GET / HTTP/1.1\r\n"),
            line("PROXY\r\n"),
            line("PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n"),
            line("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n"),
            line("PROXY TCP4 192.0.2.1  198.51.100.1 56324 443\r\n"),
            line("PROXY TCP4 ::1 ::1 56324 443\r\n"),
            line("PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n"),
            line("PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n"),
            line("PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n"),
            line("PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n"),
            line("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n"),
            line("PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n"),
            line("PROXY UNKNOWNS\r\n"),
            line(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(100))),
            b"\r\n\r\n\0\r\nQUIT\t".to_vec(),
            binary(0x11, 0x11, &v4_block()),
            binary(0x22, 0x11, &v4_block()),
            binary(0x21, 0x12, &v4_block()),
            binary(0x21, 0x11, &v4_block()[..11]),
            binary(0x21, 0x21, &v4_block()),
            binary(0x21, 0x11, &[0; 521]),
        ] {
            assert_eq!(parse(&bytes), Parsed::Bad, "{}", bytes.escape_ascii());
        }
    }
}
