//! PURE: the requests that agents send, and the answers of the intake.

use crate::reply::ECHO_HEADER;
use httparse::Status;

/// Largest body; the intake takes 3 MB.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// Largest head.
const HEAD_MAX: usize = 64 * 1024;
/// Most header lines.
const HEADERS_MAX: usize = 64;

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// GET, POST.
    pub(super) method: &'a str,
    /// Path and query.
    pub(super) path: &'a str,
    /// The Content-MD5 that came with it, 32 hexadecimal digits.
    pub(super) digest: Option<&'a [u8]>,
    /// The body.
    pub(super) body: &'a [u8],
    /// Whether the agent wants the connection kept.
    pub(super) keeps: bool,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// Not a whole request yet.
    Partial,
    /// A request and its length.
    Complete(Request<'a>, usize),
    /// Nothing we take: the status to answer, and why.
    Bad(u16, &'static str),
}

/// Looks at the bytes of a connection.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) if bytes.len() > HEAD_MAX => return Parsed::Bad(431, "head too large"),
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Bad(400, "not an HTTP request"),
    };
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version)
    else {
        return Parsed::Bad(400, "not an HTTP request");
    };
    let value = |name: &str| {
        let header = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        header.map(|h| h.value)
    };
    let text = |name: &str| value(name).and_then(|v| std::str::from_utf8(v).ok());
    if value("transfer-encoding").is_some() {
        return Parsed::Bad(411, "a Content-Length is needed");
    }
    let length = match text("content-length").map(|v| v.trim().parse::<usize>()) {
        None => 0,
        Some(Ok(length)) if length <= BODY_MAX => length,
        Some(Ok(_)) => return Parsed::Bad(413, "body too large"),
        Some(Err(_)) => return Parsed::Bad(400, "Content-Length is no number"),
    };
    let Some(body) = bytes.get(head..head + length) else {
        return Parsed::Partial;
    };
    let connection = text("connection").unwrap_or_default().to_ascii_lowercase();
    let keeps = match version {
        1 => !connection.contains("close"),
        _ => connection.contains("keep-alive"),
    };
    let digest = value("content-md5");
    Parsed::Complete(Request { method, path, digest, body, keeps }, head + length)
}

/// The bytes of an answer with a JSON body.
pub(super) fn answer(status: u16, body: &str, keeps: bool, echo: Option<&[u8; 32]>) -> String {
    let reason = match status {
        200 => "OK",
        202 => "Accepted",
        411 => "Length Required",
        413 => "Payload Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Bad Request",
    };
    let connection = if keeps { "keep-alive" } else { "close" };
    let echo = echo.map(|digest| format!("{ECHO_HEADER}: {}\r\n", String::from_utf8_lossy(digest)));
    format!(
        "HTTP/1.1 {status} {reason}\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         {}Connection: {connection}\r\n\r\n{body}",
        body.len(),
        echo.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &[u8] = b"POST /stsAgent/intake/?api_key=k HTTP/1.1\r\nContent-Length: 4\r\n\
        Content-Md5: 0123\r\nConnection: keep-alive\r\n\r\nbodyGET";

    #[test]
    fn a_request_is_complete_with_its_last_byte_and_not_before() {
        let length = POST.len() - 3;
        for cut in 0..length {
            assert_eq!(parse(&POST[..cut]), Parsed::Partial, "cut at {cut}");
        }
        let Parsed::Complete(request, consumed) = parse(POST) else { panic!("not complete") };
        assert_eq!((request.body, consumed), (&b"body"[..], length));
        assert_eq!(request.digest, Some(&b"0123"[..]));
        assert!(request.keeps);
    }

    #[test]
    fn what_cannot_be_taken_is_refused_with_the_reason() {
        assert!(matches!(parse(b"\x16\x03\x01\x02\x00"), Parsed::Bad(400, _)));
        let huge = b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n";
        assert!(matches!(parse(huge), Parsed::Bad(413, _)));
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(parse(chunked), Parsed::Bad(411, _)));
    }

    #[test]
    fn an_answer_is_a_reply_that_agents_understand() {
        use crate::reply::{Reply, Step};
        let digest = [b'a'; 32];
        let text = answer(202, r#"{"status":"ok"}"#, true, Some(&digest));
        let Step::Done(done) = Reply::default().push(text.as_bytes()) else { panic!("{text}") };
        assert_eq!((done.status, done.keeps, done.echo), (202, true, Some(digest)));
        assert!(text.len() < 300, "replies of the intake are small: {}", text.len());
    }
}
