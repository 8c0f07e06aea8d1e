//! The head of a request: what is refused, and what of it goes on to a server. PURE.
//!
//! hyper reads it first: no folded lines, no blanks before a colon, no length that is not a number or
//! that contradicts another, no transfer coding that is not chunked, none at all in HTTP/1.0. What
//! is let through here is written anew by hyper, so a server never sees what an agent wrote but for names
//! and values. A request that has both a length and chunks is one of chunks (RFC 9112 section
//! 6.3), and nothing behind it on its connection is taken for another request.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode, Uri, Version};

/// The longest head, and the most lines in it. Agents send some 500 bytes in a dozen lines.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
pub const HEAD_LINES_MAX: usize = 64;
/// Of a path, what is told in a record.
const PATH_TOLD_BYTES_MAX: usize = 256;
/// The same of a method.
const METHOD_TOLD_BYTES_MAX: usize = 32;

/// What is between two neighbours alone (RFC 9110 section 7.6.1), whose credentials are for this relay,
/// or is answered here (`Expect`: the agent is told to go on when a server is there).
const BETWEEN_NEIGHBOURS: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
];
const PROXY_CONNECTION: &str = "proxy-connection";

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    /// For the agent, constant: nothing of the request is in it.
    pub why: &'static str,
}

const fn refused(status: StatusCode, why: &'static str) -> Refused {
    Refused { status, why }
}

/// The request as it goes to a server, but for its `Host`: the path behind `prefix`, and only headers
/// that are meant for the other end.
///
/// # Errors
/// What is wrong with it.
pub fn onward(mut head: Parts, prefix: &str, body_max: u64) -> Result<Parts, Refused> {
    judge(&head, body_max)?;
    let wanted = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    // An absolute URI may have a query and no path.
    let slash = if wanted.starts_with('/') { "" } else { "/" };
    let path = PathAndQuery::try_from(format!("{prefix}{slash}{wanted}"))
        .map_err(|_| refused(StatusCode::URI_TOO_LONG, "the path is too long\n"))?;
    head.uri = Uri::from(path);
    strip(&mut head.headers);
    let via = if head.version == Version::HTTP_10 { "1.0 fanin" } else { "1.1 fanin" };
    head.headers.append(header::VIA, HeaderValue::from_static(via));
    head.version = Version::HTTP_11;
    Ok(head)
}

fn judge(head: &Parts, body_max: u64) -> Result<(), Refused> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let Parts { method, uri, headers, .. } = head;
    if *method == Method::CONNECT || *method == Method::TRACE {
        let why = "this is a door for reports, which neither connects nor echoes\n";
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, why));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version != Version::HTTP_10) {
        return Err(refused(BAD, "a request has one Host\n"));
    }
    if !uri.path().starts_with('/') || leads_elsewhere(uri.path()) {
        return Err(refused(BAD, "a path begins with a slash and has no parts . or ..\n"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !chunked(coding)) || codings.next().is_some() {
        return Err(refused(StatusCode::NOT_IMPLEMENTED, "no transfer coding but chunked\n"));
    }
    if content_length(headers).is_some_and(|bytes| bytes > body_max) {
        return Err(TOO_LONG);
    }
    Ok(())
}

/// The body is longer than this listener takes.
pub(super) const TOO_LONG: Refused =
    refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than body_max of this listener\n");

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a server might find a path elsewhere than below the prefix, in whatever way it writes its
/// dots and slashes.
fn leads_elsewhere(path: &str) -> bool {
    let plain = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/")
        .replace('\\', "/");
    plain.split('/').any(|part| part == "." || part == "..")
}

/// Leaves out what is between two neighbours alone.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&BETWEEN_NEIGHBOURS) {
        headers.remove(name);
    }
    headers.remove(PROXY_CONNECTION);
}

/// Of a method, what is told: those that are registered have 17 letters at the most.
pub fn short(method: &Method) -> String {
    method.as_str().chars().take(METHOD_TOLD_BYTES_MAX).collect()
}

/// Of a request's target, what may be told: no query, in which agents put their key.
pub fn told(uri: &Uri) -> String {
    let path = uri.path();
    let end = (0..=PATH_TOLD_BYTES_MAX.min(path.len())).rev().find(|&at| path.is_char_boundary(at));
    path[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn head(target: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::post(target).header("Host", "relay:17123");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_prefix_stands_before_the_path_and_the_query_stays() {
        for (prefix, target, expected) in [
            ("", "/intake/?api_key=k", "/intake/?api_key=k"),
            ("/stsAgent", "/intake/?api_key=k", "/stsAgent/intake/?api_key=k"),
            ("/stsAgent", "/", "/stsAgent/"),
            ("/stsAgent", "http://relay:17123/api/v1/series?x", "/stsAgent/api/v1/series?x"),
            ("/stsAgent", "http://relay:17123", "/stsAgent/"),
            ("/stsAgent", "http://relay?x", "/stsAgent/?x"),
        ] {
            let onward = onward(head(target, &[]), prefix, 10).unwrap();
            assert_eq!(onward.uri.to_string(), expected);
        }
    }

    #[test]
    fn what_is_between_neighbours_stays_between_them() {
        let onward = onward(
            head(
                "/x",
                &[
                    ("Connection", "keep-alive, X-Mine"),
                    ("Connection", "x-other"),
                    ("X-Mine", "1"),
                    ("X-Other", "2"),
                    ("X-Theirs", "3"),
                    ("Keep-Alive", "timeout=5"),
                    ("Proxy-Connection", "keep-alive"),
                    ("Proxy-Authorization", "Basic c2VjcmV0"),
                    ("TE", "trailers"),
                    ("Trailer", "X"),
                    ("Upgrade", "h2c"),
                    ("Expect", "100-continue"),
                    ("Content-Length", "7"),
                ],
            ),
            "",
            10,
        );
        let headers = onward.unwrap().headers;
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "via", "x-theirs"]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let status = |head| onward(head, "/p", 10).err().map(|refused| refused.status.as_u16());
        for path in ["/../x", "/a/..", "/./x", "/%2e%2E/x", "/a%2f..%2Fx", "/.%2e/", "/..%5cx"] {
            assert_eq!(status(head(path, &[])), Some(400), "{path}");
        }
        for path in ["/.../x", "/a..b", "/.well-known/x", "/%2e%2ex"] {
            assert_eq!(status(head(path, &[])), None, "{path}");
        }
        assert_eq!(status(head("/x", &[("Host", "other")])), Some(400));
        assert_eq!(status(head("/x", &[("Transfer-Encoding", "gzip, chunked")])), Some(501));
        assert_eq!(status(head("/x", &[("Transfer-Encoding", "chunked")])), None);
        assert_eq!(status(head("/x", &[("Content-Length", "11")])), Some(413));
        for method in [Method::CONNECT, Method::TRACE] {
            let mut head = head("/x", &[]);
            head.method = method;
            assert_eq!(status(head), Some(405));
        }
        let mut without = head("/x", &[]);
        without.headers.remove("host");
        assert_eq!(status(without), Some(400));
    }

    #[test]
    fn a_key_in_a_query_is_not_told() {
        assert_eq!(told(&"/intake/?api_key=secret".parse().unwrap()), "/intake/");
        let long = format!("/{}", "x".repeat(1000));
        assert_eq!(told(&long.parse().unwrap()).len(), PATH_TOLD_BYTES_MAX);
    }
}
