//! Changes to servers by those who may make them: the form of HAProxy's page (`s=SERVER&action=drain&
//! b=BACKEND`), so that scripts made for it go on working, with a name and a password.
//!
//! No answer to a change asks for the password (there is no `WWW-Authenticate`), so no browser keeps it and
//! sends it along for somebody else's page: whoever posts has it, and had to say so. Our own page keeps it
//! in its script, for as long as it is open. Where looking takes a password too, and an administrator looks
//! by the same name, a browser does keep it: that a request comes from our own page is asked in any case.

use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::control::haproxy::Change;

use super::login::Refused;
use super::{Body, Desk, Question, busy, text};

/// The longest form: some hundred servers at once.
const FORM_BYTES_MAX: usize = 16 * 1024;
/// How long a client may take to send it.
const FORM_PATIENCE: Duration = Duration::from_secs(10);
/// A change that somebody wants.
#[derive(Debug)]
pub(in crate::control) struct Order {
    /// Name and address, for the log.
    pub(in crate::control) who: String,
    pub(in crate::control) changes: Vec<Change>,
    pub(in crate::control) answer: oneshot::Sender<Vec<String>>,
}

/// Does what a form says.
pub(super) async fn change(desk: &Desk, request: Request<Incoming>) -> Response<Body> {
    if is_foreign(request.headers()) {
        return text(StatusCode::FORBIDDEN, "this was sent by the page of another site\n");
    }
    let name = match desk.admins.name(request.headers(), desk.client.ip()).await {
        Ok(name) => name,
        Err(Refused::Busy) => return busy(),
        Err(Refused::Unknown) => {
            let why =
                "a name of [stats] admins and its password are needed, as curl --user sends them\n";
            return text(StatusCode::FORBIDDEN, why);
        }
    };
    let wants_text =
        request.headers().get(header::ACCEPT).is_some_and(|kinds| kinds == "text/plain");
    let whole = Limited::new(request.into_body(), FORM_BYTES_MAX).collect();
    let Ok(Ok(form)) = timeout(FORM_PATIENCE, whole).await else {
        return done(
            StatusCode::PAYLOAD_TOO_LARGE,
            "EXCD",
            wants_text,
            "the form is too long, or incomplete\n",
        );
    };
    let changes = match changes(&form.to_bytes()) {
        Ok(changes) => changes,
        Err((state, why)) => return done(StatusCode::BAD_REQUEST, state, wants_text, &why),
    };
    let (answer, answered) = oneshot::channel();
    let who = format!("{name} from {}", desk.client);
    let order = Question::Change(Order { who, changes, answer });
    let answers = match desk.questions.0.send(order).await {
        Ok(()) => answered.await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let refused: Vec<&str> =
        answers.iter().map(|answer| answer.trim()).filter(|answer| !answer.is_empty()).collect();
    match (answers.len(), refused.len()) {
        (0, _) => text(StatusCode::SERVICE_UNAVAILABLE, "the relay is ending\n"),
        (_, 0) => done(StatusCode::OK, "DONE", wants_text, "done\n"),
        (all, some) if some < all => {
            done(StatusCode::CONFLICT, "PART", wants_text, &(refused.join("\n") + "\n"))
        }
        _ => done(StatusCode::CONFLICT, "ERRP", wants_text, &(refused.join("\n") + "\n")),
    }
}

/// Whether a browser says that the request is not that of a page of ours. Who is no browser says nothing.
fn is_foreign(headers: &HeaderMap) -> bool {
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site = says("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let origin = says("origin").is_some_and(|origin| {
        let host = says("host").unwrap_or_default();
        origin.split_once("://").is_none_or(|(_, at)| at != host)
    });
    site || origin
}

/// HAProxy leads back to its page, with a word for what has become of the form.
fn done(status: StatusCode, state: &str, wants_text: bool, why: &str) -> Response<Body> {
    if wants_text {
        return text(status, why.to_owned());
    }
    let mut response = text(StatusCode::SEE_OTHER, why.to_owned());
    if let Ok(to) = HeaderValue::try_from(format!("/;st={state}")) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// The changes that a form stands for; otherwise HAProxy's word for what is wrong, and ours.
fn changes(form: &[u8]) -> Result<Vec<Change>, (&'static str, String)> {
    let form = String::from_utf8_lossy(form);
    let (mut servers, mut backend, mut action, mut weight) = (Vec::new(), None, None, None);
    for (key, value) in form.trim_end().split('&').filter_map(|pair| pair.split_once('=')) {
        let value = decoded(value);
        match key {
            "s" => servers.push(value),
            "b" => backend = Some(value),
            "action" => action = Some(value),
            "weight" => weight = Some(value),
            _ => {}
        }
    }
    let usage = "write s=SERVER&action=ACTION&b=BACKEND; actions: ready, drain, maint, weight (with \
                 weight=N), enable, disable, dhlth, ehlth, hrunn, hnolb, hdown, shutdown\n";
    let (Some(backend), Some(action)) = (backend, action) else {
        return Err(("UNKN", usage.to_owned()));
    };
    let mut changes = Vec::new();
    for server in servers {
        let server = format!("{backend}/{server}");
        let set =
            |what: &'static [&'static str]| [&["set", "server", server.as_str()], what].concat();
        let words = match action.as_str() {
            "ready" | "enable" => set(&["state", "ready"]),
            "drain" | "stop" => set(&["state", "drain"]),
            "maint" | "disable" => set(&["state", "maint"]),
            "dhlth" => vec!["disable", "health", &server],
            "ehlth" => vec!["enable", "health", &server],
            "hrunn" => set(&["health", "up"]),
            "hnolb" => set(&["health", "stopping"]),
            "hdown" => set(&["health", "down"]),
            "shutdown" => vec!["shutdown", "sessions", "server", &server],
            "weight" => vec!["set", "weight", &server, weight.as_deref().unwrap_or_default()],
            _ => return Err(("UNKN", usage.to_owned())),
        };
        match Change::parse(&words) {
            Ok(Some(change)) => changes.push(change),
            Ok(None) => return Err(("UNKN", usage.to_owned())),
            Err(refusal) => return Err(("ERRP", refusal)),
        }
    }
    match changes.is_empty() {
        true => Err(("NONE", usage.to_owned())),
        false => Ok(changes),
    }
}

/// A value of a form (WHATWG URL, 5.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &after[2..];
                continue;
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(first),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_form_of_haproxys_page_is_a_command_for_each_of_its_servers() {
        let words = |line: &str| {
            Change::parse(&line.split(' ').collect::<Vec<_>>()).unwrap().expect("a command")
        };
        assert_eq!(
            changes(b"s=a&s=b%2D1&action=drain&b=%232"),
            Ok(vec![words("set server #2/a state drain"), words("set server #2/b-1 state drain")])
        );
        assert_eq!(
            changes(b"b=in+take&s=a&action=weight&weight=7"),
            Ok(vec![Change::parse(&["set", "weight", "in take/a", "7"]).unwrap().unwrap()])
        );
        for (form, state) in [
            ("s=a&action=drain", "UNKN"),
            ("s=a&b=c&action=explode", "UNKN"),
            ("b=c&action=drain", "NONE"),
            ("", "UNKN"),
        ] {
            assert_eq!(changes(form.as_bytes()).unwrap_err().0, state, "{form}");
        }
    }

    #[test]
    fn the_page_of_another_site_is_found_out() {
        for (pairs, foreign) in [
            (&[][..], false),
            (&[("origin", "http://relay:3835"), ("host", "relay:3835")][..], false),
            (&[("origin", "http://evil.example"), ("host", "relay:3835")][..], true),
            (&[("origin", "null"), ("host", "relay:3835")][..], true),
            (&[("sec-fetch-site", "cross-site")][..], true),
            (&[("sec-fetch-site", "same-site")][..], true),
            (&[("sec-fetch-site", "same-origin")][..], false),
        ] {
            assert_eq!(is_foreign(&headers(pairs)), foreign, "{pairs:?}");
        }
    }
}
