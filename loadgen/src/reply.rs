//! PURE: reads one HTTP reply from whatever pieces the network hands over.

use httparse::Status;

/// Largest reply that an agent reads; intake replies are below 300 bytes.
const REPLY_MAX: usize = 256 * 1024;
/// Most header lines that a reply may carry.
const HEADERS_MAX: usize = 64;

/// The header in which `loadgen sink` names the request that it answers.
pub(crate) const ECHO_HEADER: &str = "X-Request-MD5";

/// A complete reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// The HTTP status.
    pub(crate) status: u16,
    /// True when the server will take another request on this connection.
    pub(crate) keeps: bool,
    /// The digest of the request's body as the server saw it, when it says so.
    pub(crate) echo: Option<[u8; 32]>,
}

/// What is known after another piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not complete yet.
    More,
    /// Complete.
    Done(Done),
    /// No HTTP reply, or one beyond all measure.
    Bad,
}

/// A reply being read. Empty, and without memory of its own, between replies.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    partial: Vec<u8>,
}

impl Reply {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Step {
        let step = if self.partial.is_empty() {
            judge(bytes, false)
        } else {
            self.partial.extend_from_slice(bytes);
            judge(&self.partial, false)
        };
        match step {
            Step::More if self.partial.len() > REPLY_MAX => Step::Bad,
            Step::More => {
                if self.partial.is_empty() {
                    self.partial = bytes.to_vec();
                }
                Step::More
            }
            _ => {
                self.partial = Vec::new();
                step
            }
        }
    }

    /// The stream ended: complete only if the reply's end is the stream's end.
    pub(crate) fn end(&mut self) -> Step {
        judge(&std::mem::take(&mut self.partial), true)
    }
}

fn judge(bytes: &[u8], ended: bool) -> Step {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) => return Step::More,
        Err(_) => return Step::Bad,
    };
    let (Some(status), Some(version)) = (response.code, response.version) else {
        return Step::Bad;
    };
    let value = |name: &str| {
        let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        header.and_then(|h| std::str::from_utf8(h.value).ok())
    };
    let says =
        |name, token: &str| value(name).is_some_and(|v| v.to_ascii_lowercase().contains(token));
    let echo = value(ECHO_HEADER).and_then(|v| v.as_bytes().try_into().ok());
    let keeps = match version {
        1 => !says("connection", "close"),
        _ => says("connection", "keep-alive"),
    };
    let body = &bytes[head..];
    let complete = if status == 204 || status == 304 {
        Some(true)
    } else if says("transfer-encoding", "chunked") {
        chunks_end(body)
    } else if let Some(length) = value("content-length") {
        length.trim().parse::<usize>().ok().map(|length| body.len() >= length)
    } else {
        let done = Done { status, keeps: false, echo };
        return if ended { Step::Done(done) } else { Step::More };
    };
    match complete {
        Some(true) => Step::Done(Done { status, keeps: keeps && !ended, echo }),
        Some(false) => Step::More,
        None => Step::Bad,
    }
}

/// Whether the chunked body is complete; nothing when it is no chunked body.
fn chunks_end(mut body: &[u8]) -> Option<bool> {
    loop {
        match httparse::parse_chunk_size(body) {
            Err(_) => return None,
            Ok(Status::Partial) => return Some(false),
            // The last chunk is followed by one empty line; agents' upstreams send no trailers.
            Ok(Status::Complete((head, 0))) => return Some(body.len() >= head + 2),
            Ok(Status::Complete((head, size))) => {
                let next = usize::try_from(size).ok()?.checked_add(head + 2)?;
                match body.get(next..) {
                    Some(rest) => body = rest,
                    None => return Some(false),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nokay";

    fn status_and_keeps(step: Step) -> (u16, bool) {
        match step {
            Step::Done(done) => (done.status, done.keeps),
            other => panic!("not complete: {other:?}"),
        }
    }

    #[test]
    fn a_reply_is_complete_however_it_is_cut() {
        for cut in 0..OK.len() {
            let mut reply = Reply::default();
            if cut > 0 {
                assert_eq!(reply.push(&OK[..cut]), Step::More, "cut at {cut}");
            }
            assert_eq!(status_and_keeps(reply.push(&OK[cut..])), (202, true), "cut at {cut}");
            assert!(reply.partial.capacity() == 0, "memory is given back");
        }
    }

    #[test]
    fn chunked_replies_end_with_the_last_chunk() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nokay\r\n0\r\n\r\n";
        for cut in 1..text.len() {
            let mut reply = Reply::default();
            assert_eq!(reply.push(&text[..cut]), Step::More, "cut at {cut}");
            assert_eq!(status_and_keeps(reply.push(&text[cut..])), (200, true));
        }
    }

    #[test]
    fn the_server_says_whether_it_keeps_the_connection() {
        let of = |text: &str| status_and_keeps(Reply::default().push(text.as_bytes()));
        let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(of(closing), (200, false));
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(of(old), (200, false));
        assert_eq!(of("HTTP/1.1 204 No Content\r\n\r\n"), (204, true));
    }

    #[test]
    fn a_reply_without_length_ends_with_the_stream_and_a_cut_one_does_not() {
        let mut open = Reply::default();
        assert_eq!(open.push(b"HTTP/1.1 200 OK\r\n\r\nbody"), Step::More);
        assert_eq!(status_and_keeps(open.end()), (200, false));
        let mut cut = Reply::default();
        assert_eq!(cut.push(&OK[..OK.len() - 1]), Step::More);
        assert_eq!(cut.end(), Step::More);
        assert_eq!(Reply::default().end(), Step::More);
    }

    #[test]
    fn noise_is_no_reply() {
        assert_eq!(Reply::default().push(b"SSH-2.0-OpenSSH_9.2\r\n"), Step::Bad);
        let bad = b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n";
        assert_eq!(Reply::default().push(bad), Step::Bad);
    }
}
