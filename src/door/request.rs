//! What a web proxy is asked for: the head of a request, read strictly. PURE.
//!
//! httparse does the parsing. What it lets pass and others read otherwise is refused here: lines that
//! end in LF alone, control characters, folded lines, a second `Host`, a length beside chunks. A host
//! is judged in one spelling only: what some resolver would take for an address (`127.1`, `0x7f000001`,
//! a trailing dot, an escape) is no name here (reference: WHATWG URL, "ends in a number").

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::password::{Credentials, PASSWORD_BYTES_MAX, USER_BYTES_MAX};

/// The longest head, and the most lines in it. Agents send some 500 bytes in a dozen lines.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
pub const HEAD_LINES_MAX: usize = 64;
/// The longest method: twice those that are registered with IANA.
const METHOD_BYTES_MAX: usize = 32;
/// The longest name of a host (RFC 1035 section 2.3.4) and of one of its parts.
const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// What the bytes that have come so far are.
#[derive(Debug)]
pub enum Parsed {
    /// The beginning of a head.
    More,
    /// A head of so many bytes; what follows is no part of it.
    Head { bytes: usize, request: Request },
    /// No request that a proxy takes, and why: constant words.
    Bad(&'static str),
}

/// Who asks for what.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub target: Target,
    pub host: Host,
    pub port: u16,
    pub credentials: Option<Credentials>,
}

/// How the destination is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `CONNECT host:port`: bytes both ways.
    Tunnel,
    /// `POST http://host/path`: this request, by this proxy.
    Plain,
}

/// A destination's host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// In small letters.
    Name(String),
    /// An IPv4 address that was written as a mapped one is IPv4 here.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Reads the head at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    if let Err(why) = plain_lines(bytes) {
        return Parsed::Bad(why);
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() < HEAD_BYTES_MAX { Parsed::More } else { Parsed::Bad(TOO_LONG) };
    };
    let end = end + 4;
    if end > HEAD_BYTES_MAX {
        return Parsed::Bad(TOO_LONG);
    }
    match read(&bytes[..end]) {
        Ok(request) => Parsed::Head { bytes: end, request },
        Err(why) => Parsed::Bad(why),
    }
}

const TOO_LONG: &str = "the head of the request is longer than 8 KiB or has more than 64 lines\n";
const MALFORMED: &str = "this is no request of HTTP/1.0 or HTTP/1.1\n";
const NOT_FOR_A_PROXY: &str = "this is a proxy: ask it with CONNECT host:port or with \
                               http://host/path\n";
const NO_DESTINATION: &str = "the destination is not a host and a port from 1 to 65535: a name in \
                              letters, digits, dots and hyphens, or an address in its usual form\n";

/// Whether all lines so far, up to the first empty one, end in CR LF and have no control characters.
fn plain_lines(bytes: &[u8]) -> Result<(), &'static str> {
    let mut line = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        match byte {
            b'\n' if before == Some(b'\r') => {
                if line == 1 {
                    // An empty line: the end, unless it is the first.
                    return if at > 1 { Ok(()) } else { Err(MALFORMED) };
                }
                line = 0;
                continue;
            }
            b'\n' => return Err(MALFORMED),
            _ if before == Some(b'\r') => return Err(MALFORMED),
            b'\r' | b'\t' => {}
            0..=31 | 127 => return Err(MALFORMED),
            _ => {}
        }
        line += 1;
    }
    Ok(())
}

fn read(head: &[u8]) -> Result<Request, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEAD_LINES_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(status) if status.is_complete() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
        _ => return Err(MALFORMED),
    }
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return Err(MALFORMED) };
    if method.len() > METHOD_BYTES_MAX {
        return Err(MALFORMED);
    }
    let target = if method == "CONNECT" { Target::Tunnel } else { Target::Plain };
    let authority = match target {
        Target::Tunnel => path,
        Target::Plain => authority(path)?,
    };
    let (host, port) = destination(authority, target)?;
    let credentials = judge(parsed.headers, target, parsed.version == Some(0))?;
    Ok(Request { method: method.to_owned(), target, host, port, credentials })
}

/// The host and port in `http://host:port/path`.
fn authority(target: &str) -> Result<&str, &'static str> {
    const SCHEME: &str = "http://";
    let is_http = target.get(..SCHEME.len()).is_some_and(|it| it.eq_ignore_ascii_case(SCHEME));
    if !is_http {
        return Err(match target.split_once("://") {
            Some(_) => "only http is forwarded; ask for https with CONNECT host:port\n",
            None => NOT_FOR_A_PROXY,
        });
    }
    let rest = &target[SCHEME.len()..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[end..].contains('#') {
        return Err(MALFORMED);
    }
    Ok(&rest[..end])
}

fn destination(authority: &str, target: Target) -> Result<(Host, u16), &'static str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inside) => {
            let (address, rest) = inside.split_once(']').ok_or(NO_DESTINATION)?;
            let address: Ipv6Addr = address.parse().map_err(|_| NO_DESTINATION)?;
            (Host::Address(IpAddr::V6(address).to_canonical()), rest)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            (host(&authority[..end])?, &authority[end..])
        }
    };
    let port = match (rest.strip_prefix(':'), target) {
        (Some(digits), _) => port(digits)?,
        (None, Target::Plain) if rest.is_empty() => 80,
        _ => return Err(NO_DESTINATION),
    };
    Ok((host, port))
}

fn host(text: &str) -> Result<Host, &'static str> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label =
        |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(letters);
    let last = text.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if text.len() > HOST_BYTES_MAX || number || !text.split('.').all(label) {
        return Err(NO_DESTINATION);
    }
    Ok(Host::Name(text.to_ascii_lowercase()))
}

/// A decimal number without sign or leading zeros.
fn port(digits: &str) -> Result<u16, &'static str> {
    let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().ok_or(NO_DESTINATION)
}

/// What must not stand in the headers, and the credentials that do.
fn judge(
    headers: &[httparse::Header<'_>],
    target: Target,
    old: bool,
) -> Result<Option<Credentials>, &'static str> {
    let all = |name: &'static str| {
        headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    let (lengths, codings) = (all("content-length").count(), all("transfer-encoding").count());
    if all("host").count() > 1 || all("proxy-authorization").count() > 1 {
        return Err("a header that may stand there once stands there twice\n");
    }
    if target == Target::Tunnel && lengths + codings > 0 {
        return Err("CONNECT has no body\n");
    }
    if lengths + codings > 1 || (codings > 0 && old) {
        return Err("a body has one length, or is sent in chunks\n");
    }
    // What is not exactly Basic says nothing of who it is, and is told what to say.
    Ok(all("proxy-authorization").next().and_then(|header| credentials(header.value)))
}

/// A head that was read, without the credentials in it.
pub fn without_credentials(head: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"proxy-authorization:";
    let is_secret =
        |line: &&[u8]| line.get(..NAME.len()).is_some_and(|it| it.eq_ignore_ascii_case(NAME));
    head.split_inclusive(|&byte| byte == b'\n')
        .filter(|line| !is_secret(line))
        .flatten()
        .copied()
        .collect()
}

/// Credentials that may be somebody's here.
fn credentials(value: &[u8]) -> Option<Credentials> {
    let fits = |said: &Credentials| {
        said.user.len() <= USER_BYTES_MAX && said.password.len() <= PASSWORD_BYTES_MAX
    };
    Credentials::basic(value).filter(fits)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;

    use super::*;

    fn head(line: &str, headers: &[&str]) -> Vec<u8> {
        let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        format!("{line}\r\n{lines}\r\n").into_bytes()
    }

    #[track_caller]
    fn good(bytes: &[u8]) -> Request {
        match parse(bytes) {
            Parsed::Head { bytes: end, request } => {
                assert_eq!(end, bytes.len());
                request
            }
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    #[track_caller]
    fn bad(bytes: &[u8]) -> &'static str {
        match parse(bytes) {
            Parsed::Bad(why) => why,
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    fn good_heads() -> Vec<Vec<u8>> {
        vec![
            head("CONNECT intake.example.com:443 HTTP/1.1", &["Host: intake.example.com:443"]),
            head("CONNECT intake.example.com:443 HTTP/1.0", &[]),
            head("CONNECT [2001:db8::7]:8443 HTTP/1.1", &["Host: x", "User-Agent: a b\tc"]),
            head("POST http://intake/api?x=1 HTTP/1.1", &["Host: intake", "Content-Length: 3"]),
            head("GET HTTP://Intake.Example.com HTTP/1.1", &["Host: y"]),
            head("PUT http://10.1.2.3:8080?q HTTP/1.0", &[]),
        ]
    }

    #[test]
    fn destinations_are_read_from_both_forms() {
        let destinations: Vec<_> = good_heads()
            .iter()
            .map(|bytes| good(bytes))
            .map(|it| (it.target, it.host.to_string(), it.port))
            .collect();
        let expected = [
            (Target::Tunnel, "intake.example.com", 443),
            (Target::Tunnel, "intake.example.com", 443),
            (Target::Tunnel, "[2001:db8::7]", 8443),
            (Target::Plain, "intake", 80),
            (Target::Plain, "intake.example.com", 80),
            (Target::Plain, "10.1.2.3", 8080),
        ]
        .map(|(target, host, port)| (target, host.to_owned(), port));
        assert_eq!(destinations, expected);
        let mapped = good(&head("CONNECT [::ffff:127.0.0.1]:443 HTTP/1.1", &[]));
        assert_eq!(mapped.host, Host::Address("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_head_is_the_same_however_it_comes_and_what_follows_is_no_part_of_it() {
        for bytes in good_heads() {
            for end in 0..bytes.len() {
                assert!(matches!(parse(&bytes[..end]), Parsed::More), "{end}");
            }
            let followed = [&bytes[..], b"\x16\x03\x01\0\n\nearly"].concat();
            assert!(
                matches!(parse(&followed), Parsed::Head { bytes: end, .. } if end == bytes.len())
            );
        }
    }

    #[test]
    fn spellings_that_others_read_otherwise_are_no_destinations() {
        for authority in [
            "127.1:443",
            "2130706433:443",
            "0x7f000001:443",
            "0x7f.0.0.1:443",
            "0177.0.0.1:443",
            "127.0.0.01:443",
            "127.0.0.1.:443",
            "localhost.:443",
            "example.com.:443",
            "[127.0.0.1]:443",
            "[::1%25lo]:443",
            "[::1%lo]:443",
            "::1:443",
            "[example.com]:443",
            "user@example.com:443",
            "user:pass@example.com:443",
            "example.com@127.0.0.1:443",
            "ex%61mple.com:443",
            "example.com%00.evil:443",
            "exa mple.com:443",
            "ex\u{e4}mple.com:443",
            "\u{ff11}27.0.0.1:443",
            "example..com:443",
            ".example.com:443",
            "example.com:0",
            "example.com:65536",
            "example.com:0443",
            "example.com:+443",
            "example.com:443:443",
            "example.com:443/",
            "example.com:",
            "example.com",
            ":443",
            "",
            "/",
            "*",
            "http://example.com:443",
            "[]:443",
            "[::1:443",
            "[::1]",
            "[::1]443",
            "a\\b:443",
        ] {
            bad(&head(&format!("CONNECT {authority} HTTP/1.1"), &["Host: x"]));
        }
        bad(&head(&format!("CONNECT {}:443 HTTP/1.1", "a".repeat(64)), &[]));
        bad(&head(&format!("CONNECT {}com:443 HTTP/1.1", "a.".repeat(126)), &[]));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        const LINE: &str = "CONNECT example.com:443 HTTP/1.1";
        for bytes in [
            b"CONNECT example.com:443 HTTP/1.1\n\n".to_vec(),
            b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\n\r\n".to_vec(),
            b"\r\nCONNECT example.com:443 HTTP/1.1\r\n\r\n".to_vec(),
            b"CONNECT example.com:443 HTTP/1.1\r\nA: \0\r\n\r\n".to_vec(),
            b"CONNECT example.com:443 HTTP/1.1\r\nA: \r b\r\n\r\n".to_vec(),
            head(LINE, &["Host: x", "Host: x"]),
            head(LINE, &["Content-Length: 0"]),
            head(LINE, &["Transfer-Encoding: chunked"]),
            head(LINE, &["A : b"]),
            head(LINE, &["A: b", " folded"]),
            head(LINE, &["no colon"]),
            head("CONNECT  example.com:443 HTTP/1.1", &[]),
            head("CONNECT example.com:443 HTTP/1.1 ", &[]),
            head("CONNECT example.com:443", &[]),
            head("CONNECT example.com:443 HTTP/2.0", &[]),
            head("CONNECT example.com:443 HTTP/1.2", &[]),
            head(&format!("{} http://x/ HTTP/1.1", "A".repeat(33)), &[]),
            head("connect example.com:443 HTTP/1.1", &[]),
            head("GET / HTTP/1.1", &["Host: x"]),
            head("OPTIONS * HTTP/1.1", &["Host: x"]),
            head("GET https://example.com/ HTTP/1.1", &["Host: x"]),
            head("GET ftp://example.com/ HTTP/1.1", &["Host: x"]),
            head("GET http://u:p@example.com/ HTTP/1.1", &["Host: x"]),
            head("GET http:///x HTTP/1.1", &["Host: x"]),
            head("POST http://x/ HTTP/1.1", &["Content-Length: 1", "Content-Length: 1"]),
            head("POST http://x/ HTTP/1.1", &["Content-Length: 1", "Transfer-Encoding: chunked"]),
            head("POST http://x/ HTTP/1.0", &["Transfer-Encoding: chunked"]),
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc".to_vec(),
        ] {
            bad(&bytes);
        }
        bad(&[b"GET http://x/".as_slice(), &[b'a'; HEAD_BYTES_MAX]].concat());
        bad(&head(LINE, &["A: b"; HEAD_LINES_MAX + 1]));
    }

    #[test]
    fn credentials_are_basic_and_strictly_so() {
        let with = |value: &str| {
            head("CONNECT x:443 HTTP/1.1", &[&format!("Proxy-Authorization: {value}")])
        };
        // agent:se:cret
        let said = good(&with("Basic YWdlbnQ6c2U6Y3JldA==")).credentials.unwrap();
        assert_eq!((said.user.as_str(), &said.password[..]), ("agent", &b"se:cret"[..]));
        assert!(!format!("{said:?}").contains("cret"));
        let said = good(&with("bAsIc   YTo=")).credentials.unwrap();
        assert_eq!((said.user.as_str(), said.password.len()), ("a", 0));
        assert!(good(&head("CONNECT x:443 HTTP/1.1", &[])).credentials.is_none());
        let long = BASE64.encode(&[b'a'; USER_BYTES_MAX + PASSWORD_BYTES_MAX + 2]);
        for value in [
            "Basic",
            "Basic ",
            "Basic YWdlbnQ",
            "Basic YWdlbnQ6c2U6Y3JldA",
            "Basic YWdlbnQ6c2U6Y3JldA=",
            "Basic YWdlbnQ6c2U6Y3Jld'==",
            "Basic YWdlbnQ=",
            "Basic YWdl bnQ6",
            "Basic gDp4",
            "Bearer YWdlbnQ6c2U6Y3JldA==",
            "YWdlbnQ6c2U6Y3JldA==",
            &format!("Basic {long}"),
        ] {
            assert!(good(&with(value)).credentials.is_none(), "{value}");
        }
        let said = with("Basic YTo=");
        assert_eq!(without_credentials(&said), b"CONNECT x:443 HTTP/1.1\r\n\r\n");
        let twice = ["Proxy-Authorization: Basic YTo="; 2];
        bad(&head("CONNECT x:443 HTTP/1.1", &twice));
    }
}
