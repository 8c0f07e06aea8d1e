//! What a door says itself: constant bodies, in which nothing of a request or a server is repeated.

use std::rc::Rc;

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};

use crate::metrics::CloseReason;

use super::Forwarder;
use super::body::{Answer, Fault};
use super::head::{Refused, TOO_LONG};
use super::wire::Line;

/// Why a request was not answered by a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: CloseReason,
    /// It may have reached a server.
    pub(super) sent: bool,
}

impl Failure {
    /// Before a byte of the request was sent.
    pub(super) const fn unsent(reason: CloseReason) -> Self {
        Self { reason, sent: false }
    }

    /// After it may have reached a server.
    pub(super) const fn sent(reason: CloseReason) -> Self {
        Self { reason, sent: true }
    }

    /// The agent's body came to this.
    pub(super) const fn of_upload(fault: Fault) -> Self {
        Self::sent(match fault {
            Fault::TooLong => CloseReason::BadRequest,
            Fault::Stalled => CloseReason::ClientIdle,
            Fault::Cut => CloseReason::ClientGone,
        })
    }

    /// Whether no connection could be made, however soon that was clear.
    pub(super) const fn is_unreachable(self) -> bool {
        use CloseReason::{ConnectFailed, ConnectRefused, ServerGone};
        !self.sent && matches!(self.reason, ConnectFailed | ConnectRefused | ServerGone)
    }

    /// What the agent is told: the kind of failure, what became of its request, and where to look.
    const fn answer(self) -> Refused {
        use CloseReason::{
            BadRequest, ClientGone, ClientIdle, ConnectTimeout, ServerIdle, TlsFailed,
        };
        let (status, why) = match (self.reason, self.sent) {
            (BadRequest, _) => return TOO_LONG,
            (ClientIdle | ClientGone, _) => {
                (StatusCode::REQUEST_TIMEOUT, "the body of the request did not come\n")
            }
            (TlsFailed, _) => (
                StatusCode::BAD_GATEWAY,
                "no TLS with the server: the request was not sent; the relay's log says why\n",
            ),
            (ConnectTimeout, _) => (
                StatusCode::GATEWAY_TIMEOUT,
                "no server could be reached in time: the request was not sent\n",
            ),
            (ServerIdle, _) => (
                StatusCode::GATEWAY_TIMEOUT,
                "the server did not answer in time: it may have got the request\n",
            ),
            (_, true) => (
                StatusCode::BAD_GATEWAY,
                "the server ended the connection without an answer: it may have got the request\n",
            ),
            (_, false) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no server can be reached: the request was not sent\n",
            ),
        };
        Refused { status, why }
    }

    /// The answer to the agent.
    pub(super) fn response(self, line: &Rc<Line>) -> Response<Answer> {
        refuse(self.answer(), line)
    }
}

/// The answer to a request whose destination cannot be connected to.
pub(super) fn unreachable(line: &Rc<Line>) -> Response<Answer> {
    const WHY: &str = "the destination could not be connected to: the request was not sent\n";
    refuse(Refused { status: StatusCode::BAD_GATEWAY, why: WHY }, line)
}

/// The answer to a request that goes no further. Nothing behind it on its connection is read.
pub(super) fn refuse(refused: Refused, line: &Rc<Line>) -> Response<Answer> {
    let mut response = text(refused.status, refused.why, line);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn text(
    status: StatusCode,
    body: impl Into<hyper::body::Bytes>,
    line: &Rc<Line>,
) -> Response<Answer> {
    let mut response = Response::new(Answer::own(body, Rc::clone(line)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether this is the question that the agents' forwarder answers itself.
pub(super) fn is_status<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && matches!(request.uri().path(), "/status" | "/status/")
}

/// The answer to it: 200 while a server is up and no more than `threshold` requests are under way, as
/// the forwarder counts what waits in its queue; else 503.
pub(super) fn status(
    forwarder: &Forwarder,
    route: usize,
    uri: &Uri,
    line: &Rc<Line>,
) -> Response<Answer> {
    let traffic = forwarder.traffic(route);
    traffic.answered_itself();
    let open = traffic.read().open();
    let (status, body) = match threshold(uri) {
        Err(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
        Ok(_) if !forwarder.is_up(route) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no server is up; requests under way: {open}\n"),
        ),
        Ok(Some(most)) if open > most => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("requests under way: {open}, more than {most}\n"),
        ),
        Ok(_) => (StatusCode::OK, format!("up; requests under way: {open}\n")),
    };
    text(status, body, line)
}

/// The number in `?threshold=N`; a negative one is none, as there.
fn threshold(uri: &Uri) -> Result<Option<u64>, &'static str> {
    let query = uri.query().unwrap_or_default();
    let Some(given) = query.split('&').find_map(|part| part.strip_prefix("threshold=")) else {
        return Ok(None);
    };
    match given.parse::<i64>() {
        Ok(number) => Ok(u64::try_from(number).ok()),
        Err(_) => Err("threshold is a whole number: /status?threshold=100\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_reached_a_server_is_told_apart_from_what_has_not() {
        for reason in CloseReason::ALL {
            let answer = Failure::unsent(reason).answer();
            assert!(answer.status.as_u16() >= 400, "{reason}");
            let own = matches!(
                reason,
                CloseReason::BadRequest
                    | CloseReason::ClientGone
                    | CloseReason::ClientIdle
                    | CloseReason::ServerIdle
            );
            assert!(own || answer.why.contains("was not sent"), "{reason}: {}", answer.why);
        }
        let lost = Failure::sent(CloseReason::ServerReset).answer();
        assert_eq!(lost.status, StatusCode::BAD_GATEWAY);
        assert!(lost.why.contains("may have got"));
    }

    #[test]
    fn a_threshold_is_a_number_and_a_negative_one_is_none() {
        let of = |uri: &str| threshold(&uri.parse().unwrap());
        assert_eq!(of("/status"), Ok(None));
        assert_eq!(of("/status?threshold=7"), Ok(Some(7)));
        assert_eq!(of("/status?x=1&threshold=0"), Ok(Some(0)));
        assert_eq!(of("/status?threshold=-1"), Ok(None));
        assert!(of("/status?threshold=many").is_err());
    }
}
