//! As much of HTTP as both ends of a web proxy need. PURE.

use std::net::SocketAddr;

use crate::scenario::{Kind, Work};

/// The bytes of a head, if it is there whole.
pub(crate) fn head_bytes(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Whether the head of an answer says that all is well.
pub(crate) fn is_well(head: &[u8]) -> bool {
    matches!(head.get(..12), Some(b"HTTP/1.1 200" | b"HTTP/1.0 200"))
}

/// What a web proxy is asked first.
pub(crate) fn question(work: &Work, to: SocketAddr) -> Vec<u8> {
    let agent = "User-Agent: bench\r\n";
    match work.kind {
        Kind::Tunnel => format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{agent}\r\n"),
        Kind::Forward => format!(
            "POST http://{to}/ HTTP/1.1\r\nHost: {to}\r\n{agent}Content-Length: {}\r\n\r\n",
            work.request_bytes
        ),
        _ => String::new(),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_there_whole_or_not_at_all() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(head_bytes(answer), Some(answer.len() - 2));
        assert_eq!(head_bytes(&answer[..answer.len() - 3]), None);
        assert!(is_well(answer) && !is_well(b"HTTP/1.1 403 Forbidden\r\n\r\n") && !is_well(b""));
    }
}
