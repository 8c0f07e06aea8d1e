//! PURE: what agents say to a web proxy on their way.
//!
//! With `proxy_host` set, the v5 forwarder's curl client posts an absolute URI to the proxy, and for an
//! HTTPS upstream opens a tunnel with CONNECT first; in both cases it keeps the connection (`ddagent.py`,
//! tornado's `curl_httpclient.py`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::Status;

/// Most header lines of a proxy's answer.
const HEADERS_MAX: usize = 64;
/// Longest answer to a CONNECT.
const ANSWER_MAX: usize = 64 * 1024;

/// A proxy on the way, from the agents' side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Whom the agents mean to reach, `HOST:PORT`.
    pub(crate) upstream: String,
    /// `Proxy-Authorization: Basic ...` with its line end, or nothing.
    authorization: String,
}

impl Proxy {
    /// A proxy that wants `user`, `NAME:PASSWORD`, if anybody.
    pub(crate) fn new(upstream: String, user: Option<&str>) -> Self {
        let authorization = user.map_or_else(String::new, |user| {
            format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(user))
        });
        Self { upstream, authorization }
    }

    /// The request that opens a tunnel.
    pub(crate) fn connect(&self) -> Vec<u8> {
        let Self { upstream, authorization } = self;
        format!(
            "CONNECT {upstream} HTTP/1.1\r\nHost: {upstream}\r\n{authorization}\
             User-Agent: StackState Agent/5.17.2\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        )
        .into_bytes()
    }

    /// A target of a request in absolute form.
    pub(crate) fn absolute(&self, path: &str) -> String {
        format!("http://{}{path}", self.upstream)
    }

    /// Header lines of a request in absolute form.
    pub(crate) fn lines(&self) -> String {
        format!("{}Proxy-Connection: Keep-Alive\r\n", self.authorization)
    }
}

/// What a proxy has answered to a CONNECT so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not all of it is here.
    Partial,
    /// The tunnel stands, and nothing has come through it.
    Open,
    /// No tunnel.
    Refused,
}

/// Reads an answer to a CONNECT. The server at the far end speaks second, so nothing may follow it.
pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(Status::Partial) if bytes.len() < ANSWER_MAX => Answer::Partial,
        Ok(Status::Complete(length))
            if length == bytes.len() && response.code.is_some_and(|code| code / 100 == 2) =>
        {
            Answer::Open
        }
        _ => Answer::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_curl() {
        let proxy = Proxy::new("intake.example.com:443".to_owned(), Some("agent:secret"));
        let connect = String::from_utf8(proxy.connect()).unwrap();
        assert!(connect.starts_with("CONNECT intake.example.com:443 HTTP/1.1\r\n"), "{connect}");
        assert!(
            connect.contains("\r\nProxy-Authorization: Basic YWdlbnQ6c2VjcmV0\r\n"),
            "{connect}"
        );
        assert!(connect.ends_with("\r\n\r\n"));
        assert_eq!(proxy.absolute("/x?y"), "http://intake.example.com:443/x?y");
    }

    #[test]
    fn only_a_whole_answer_of_2xx_opens_a_tunnel() {
        let open = b"HTTP/1.1 200 Connection established\r\n\r\n";
        assert_eq!(answer(open), Answer::Open);
        for cut in 0..open.len() {
            assert_eq!(answer(&open[..cut]), Answer::Partial, "{cut}");
        }
        assert_eq!(answer(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), Answer::Refused);
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\nhello"), Answer::Refused);
        assert_eq!(answer(b"SSH-2.0-nonsense\r\n"), Answer::Refused);
    }
}
