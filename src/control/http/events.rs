//! Server-sent events (HTML standard, 9.2): the status once a second, for a page that is open.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::{Body, Desk, text};

/// Pages that can be open at one time.
pub(super) const WATCHERS_MAX: usize = 16;
const EVERY: Duration = Duration::from_secs(1);

/// What has been sent and not been taken: a client that does not read is not waited for.
struct Stream(mpsc::Receiver<Bytes>);

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

pub(super) fn stream(desk: &Desk) -> Response<Body> {
    let Ok(place) = Arc::clone(&desk.watchers).try_acquire_owned() else {
        let why = format!("{WATCHERS_MAX} pages are open already; close one\n");
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let (events, taken) = mpsc::channel(1);
    let questions = desk.questions.clone();
    let administered = desk.admins.is_anybody();
    tokio::spawn(async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let Some(snapshot) = questions.ask().await else { break };
            let Ok(json) = serde_json::to_string(&snapshot.view(administered)) else { break };
            match events.try_send(Bytes::from(format!("data: {json}\n\n"))) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => break,
            }
        }
        drop(place);
    });
    let mut response = Response::new(Stream(taken).boxed());
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
