//! Statistics over HTTP, beside the control loop: the page and its events, metrics, HAProxy's CSV,
//! health. Nothing that comes here changes anything, unless the configuration names who may: [`admin`].
//!
//! Every answer is made from one snapshot, for which the loop is asked; a client that is slow, mute
//! or gone costs the loop nothing.

mod admin;
mod events;
mod login;
mod prometheus;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;

use crate::config::Stats;

use super::Snapshot;
use super::haproxy::stat::{self, Form, Selection};
use super::socket::ACCEPT_PAUSE;

pub(super) use admin::Order;
use login::{Logins, Refused};

/// Connections at one time; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what it wants, the first time and each time after.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The page: one file, with its style and script in it.
const PAGE: &str = include_str!("page.html");

/// What is at which path, for who asks for something else.
const PATHS: &str = "there is: / (the page), /metrics (/metrics?compat=haproxy), /;csv, /;json, \
                     /;typed, /healthz, \
                     /readyz, /api/v1/status, /api/v1/history, /events\n";

const NOT_READY: &str =
    "not ready: the relay is draining, no server can be used, or no listener lets anybody in\n";

type Body = BoxBody<Bytes, Infallible>;

/// What the loop is asked for.
#[derive(Debug)]
pub(super) enum Question {
    Snapshot(oneshot::Sender<Arc<Snapshot>>),
    Change(Order),
}

/// Asks the loop.
#[derive(Clone, Debug)]
pub(super) struct Questions(pub(super) mpsc::Sender<Question>);

impl Questions {
    /// `None` once the loop has ended.
    async fn ask(&self) -> Option<Arc<Snapshot>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question::Snapshot(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// What a connection is served with; all but its client is everybody's.
#[derive(Clone, Debug)]
struct Desk {
    questions: Questions,
    watchers: Arc<Semaphore>,
    viewers: Arc<Logins>,
    admins: Arc<Logins>,
    client: SocketAddr,
}

/// Serves clients until dropped.
pub(super) async fn serve(
    listener: TcpListener,
    questions: Questions,
    settings: Stats,
) -> io::Result<()> {
    let Stats { mut viewers, admins, .. } = settings;
    if !viewers.is_empty() {
        // Who may change servers may look at them.
        for (name, hash) in &admins {
            viewers.entry(name.clone()).or_insert_with(|| hash.clone());
        }
    }
    let (viewers, admins) = (Arc::new(Logins::new(viewers)?), Arc::new(Logins::new(admins)?));
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let watchers = Arc::new(Semaphore::new(events::WATCHERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let Ok((stream, client)) = listener.accept().await else {
            // For want of descriptors; they come back, but not at once.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (questions, watchers) = (questions.clone(), Arc::clone(&watchers));
        let (viewers, admins) = (Arc::clone(&viewers), Arc::clone(&admins));
        let desk = Desk { questions, watchers, viewers, admins, client };
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(desk.clone(), request));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // A client that does not want its answer is not our trouble.
            drop(served.await);
            drop(place);
        });
    }
}

async fn answer(desk: Desk, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => match keep_out(&desk, &request).await {
            Some(refusal) => refusal,
            None => route(&desk, &request).await,
        },
        Method::POST if desk.admins.is_anybody() => admin::change(&desk, request).await,
        _ => unchangeable(&desk),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// Where there are viewers: what others are told. Load balancers that ask whether it is well have no name.
async fn keep_out(desk: &Desk, request: &Request<Incoming>) -> Option<Response<Body>> {
    if !desk.viewers.is_anybody() || matches!(request.uri().path(), "/healthz" | "/readyz") {
        return None;
    }
    match desk.viewers.name(request.headers(), desk.client.ip()).await {
        Ok(_) => None,
        Err(Refused::Busy) => Some(busy()),
        Err(Refused::Unknown) => {
            let why = "a name of [stats] viewers and its password are needed\n";
            let mut response = text(StatusCode::UNAUTHORIZED, why);
            let realm =
                HeaderValue::from_static("Basic realm=\"fanin statistics\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
            Some(response)
        }
    }
}

fn busy() -> Response<Body> {
    let why = "too many passwords are being checked; try again\n";
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn unchangeable(desk: &Desk) -> Response<Body> {
    let (allowed, why) = match desk.admins.is_anybody() {
        true => ("GET, HEAD, POST", "GET, or POST to change a server\n"),
        false => (
            "GET, HEAD",
            "nothing can be changed here: GET alone; who may is named in [stats] admins\n",
        ),
    };
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, why);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

async fn route(desk: &Desk, request: &Request<Incoming>) -> Response<Body> {
    let target = request.uri();
    let (path, query) = (target.path(), target.query().unwrap_or_default());
    if path == "/healthz" {
        return text(StatusCode::OK, "ok\n");
    }
    // HAProxy leads back to its page with what became of a form behind a semicolon.
    if path == "/" || path.starts_with("/;st=") {
        return page();
    }
    let Some(snapshot) = desk.questions.ask().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the relay is ending\n");
    };
    // Before all options, since this is for everybody.
    if path == "/readyz" {
        return match snapshot.status.is_ready() {
            true => text(StatusCode::OK, "ready\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, NOT_READY),
        };
    }
    // HAProxy takes what follows a semicolon for an option of the page, wherever the page is.
    for (option, form, kind) in [
        (";csv", Form::Csv, "text/plain; charset=utf-8"),
        (";json", Form::Json, "application/json"),
        (";typed", Form::Typed, "text/plain; charset=utf-8"),
    ] {
        if path.contains(option) || query.contains(option) {
            let table = stat::show(&snapshot, form, &selection(path, query));
            return with_type(StatusCode::OK, kind, table);
        }
    }
    match path {
        "/metrics" if query.split('&').any(|part| part == "compat=haproxy") => {
            let wanted = prometheus::Wanted::read(query);
            let text = prometheus::haproxy(&snapshot, &wanted);
            with_type(StatusCode::OK, prometheus::CONTENT_TYPE, text)
        }
        "/metrics" => {
            with_type(StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::native(&snapshot))
        }
        "/api/v1/status" => json(&snapshot.view(desk.admins.is_anybody())),
        "/api/v1/history" => json(&snapshot.history),
        "/events" => events::stream(desk),
        _ => text(StatusCode::NOT_FOUND, PATHS),
    }
}

/// What of the table somebody wants: `;up` and `;no-maint` behind the path, `scope=` part of a proxy's name
/// in the query (management guide, 9).
fn selection(path: &str, query: &str) -> Selection {
    let has = |option: &str| path.contains(option) || query.contains(option);
    let scope = query.split(['&', ';']).find_map(|part| part.strip_prefix("scope="));
    Selection::on_the_page(scope.filter(|scope| !scope.is_empty()), has(";up"), has(";no-maint"))
}

fn page() -> Response<Body> {
    let mut response = with_type(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    // All of the page is in the page, and what it asks for it asks us.
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    );
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(text) => with_type(StatusCode::OK, "application/json", text),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
