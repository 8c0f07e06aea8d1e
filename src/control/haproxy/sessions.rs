//! HAProxy's `show sess` and `shutdown session` (management guide, 9.3). Workers answer when they turn and
//! wake nobody, so that answers are looked for at each tick.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::control::{Loop, Relay};
use crate::metrics::{SessionPlace, SessionView};

/// A worker that does not answer in this time does not turn: what the others say is told without it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// The name of a session, such as `0x20000060000001`: HAProxy has the address of a structure there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(u64);

impl SessionId {
    /// What is behind `0x`; `None` if that is no such name.
    pub(in crate::control) fn parse(word: Option<&&str>) -> Option<Self> {
        let digits = word?.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}

/// Questions to the workers that are not answered yet.
#[derive(Debug, Default)]
pub(in crate::control) struct Questions(Vec<Question>);

#[derive(Debug)]
struct Question {
    what: What,
    asked: Instant,
    answer: oneshot::Sender<String>,
}

#[derive(Debug)]
enum What {
    Sessions {
        waiting: Vec<(u16, Receiver<Vec<SessionView>>)>,
        found: Vec<(u16, SessionView)>,
        /// That one alone, and all of it.
        only: Option<SessionId>,
    },
    End(Receiver<bool>),
}

impl What {
    /// Whether there is nothing more to wait for; takes note of what has come.
    fn hear(&mut self) -> Option<bool> {
        match self {
            Self::Sessions { waiting, found, .. } => {
                waiting.retain(|(worker, answered)| match answered.try_recv() {
                    Ok(views) => {
                        found.extend(views.into_iter().map(|view| (*worker, view)));
                        false
                    }
                    Err(error) => error == TryRecvError::Empty,
                });
                waiting.is_empty().then_some(true)
            }
            Self::End(answered) => match answered.try_recv() {
                Ok(there) => Some(there),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(false),
            },
        }
    }
}

impl<R: Relay> Loop<R> {
    /// Asks for the sessions, or for one.
    pub(in crate::control) fn ask_sessions(
        &mut self,
        only: Option<SessionId>,
        answer: oneshot::Sender<String>,
    ) {
        let waiting = self.relay.list();
        let what = What::Sessions { waiting, found: Vec::new(), only };
        self.questions.0.push(Question { what, asked: Instant::now(), answer });
    }

    /// Has a session end.
    pub(in crate::control) fn end_session(
        &mut self,
        SessionId(word): SessionId,
        answer: oneshot::Sender<String>,
    ) {
        let named = SessionPlace::named(word);
        let asked = named.and_then(|(worker, place)| self.relay.end_session(worker, place));
        match asked {
            Some(answered) => {
                self.log.info(format_args!("session {word:#x} is to end"));
                let what = What::End(answered);
                self.questions.0.push(Question { what, asked: Instant::now(), answer });
            }
            None => drop(answer.send(NO_SUCH_SESSION.to_owned())),
        }
    }

    /// Passes on what workers have answered.
    pub(in crate::control) fn answer_questions(&mut self) {
        let questions = std::mem::take(&mut self.questions.0);
        for mut question in questions {
            let heard = question.what.hear();
            let late = question.asked.elapsed() > ANSWER_PATIENCE;
            let Some(there) = heard.or_else(|| late.then_some(false)) else {
                self.questions.0.push(question);
                continue;
            };
            let text = match question.what {
                What::Sessions { found, only, .. } => self.tell_sessions(&found, only),
                What::End(_) if there => "\n".to_owned(),
                What::End(_) => NO_SUCH_SESSION.to_owned(),
            };
            // A client that has gone does not want its answer.
            let _ = question.answer.send(text);
        }
    }

    fn tell_sessions(&self, found: &[(u16, SessionView)], only: Option<SessionId>) -> String {
        let mut out = String::new();
        for (worker, view) in found {
            let id = view.place.name(*worker);
            if only.is_some_and(|SessionId(only)| only != id) {
                continue;
            }
            let listener = usize::from(view.listener.0);
            let frontend = self.listeners.get(listener).map_or("<NONE>", String::as_str);
            line(&mut out, id, frontend, view);
            if only.is_some() {
                detail(&mut out, *worker, view);
            }
        }
        match (only, out.is_empty()) {
            (Some(_), true) => "Session not found.\n\n".to_owned(),
            _ => out + "\n",
        }
    }
}

const NO_SUCH_SESSION: &str = "No such session (use 'show sess').\n\n";

/// A session as HAProxy 2.6 writes it. What is about its inside (flags, calls, descriptors) is 0.
fn line(out: &mut String, id: u64, frontend: &str, view: &SessionView) {
    let SessionView { client, server, progress, .. } = view;
    let proto = if matches!(client, SocketAddr::V4(_)) { "tcpv4" } else { "tcpv6" };
    let server = server.as_ref().and_then(|board| board.name().split_once('/'));
    let (backend, server) = server.unwrap_or(("<NONE>", "<none>"));
    let left = progress.left.map_or_else(String::new, |left| human(left.as_secs()));
    let [up, down] = progress.held;
    let _ = writeln!(
        out,
        "{id:#x}: proto={proto} src={}:{} fe={frontend} be={backend} srv={server} ts=00 epoch=0 \
         age={} calls=0 rate=0 cpu=0 lat=0 rq[f=0h,i={up},an=00h,rx={left},wx=,ax=] \
         rp[f=0h,i={down},an=00h,rx={left},wx=,ax=] scf=[8,0h,fd=-1] scb=[8,0h,fd=-1] exp={left} \
         rc=0 c_exp=",
        client.ip(),
        client.port(),
        human(progress.age.as_secs()),
    );
}

/// What else there is to say of one.
fn detail(out: &mut String, worker: u16, view: &SessionView) {
    let progress = &view.progress;
    let [up, down] = progress.bytes;
    let _ = writeln!(
        out,
        "  worker={worker} state={} idle={} bytes_to_server={up} bytes_to_client={down}",
        progress.state,
        human(progress.idle.as_secs()),
    );
}

/// HAProxy's way with times: the two largest units, such as `1m5s` and `2h0m`.
fn human(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        86_400.. => format!("{days}d{}h", hours % 24),
        3600.. => format!("{hours}h{}m", minutes % 60),
        60.. => format!("{minutes}m{}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::board::Board;
    use crate::metrics::Progress;
    use crate::op::ListenerId;

    #[test]
    fn a_session_stands_in_its_line_as_haproxy_writes_it() {
        let progress = Progress {
            age: Duration::from_secs(65),
            idle: Duration::from_secs(3),
            left: Some(Duration::from_secs(49)),
            bytes: [10, 20],
            held: [0, 7],
            state: "relaying",
        };
        let view = SessionView {
            place: SessionPlace { index: 3, generation: 1 },
            listener: ListenerId(0),
            client: ([127, 0, 0, 1], 35518).into(),
            server: Some(Arc::new(Board::new("be/x".to_owned()))),
            progress,
        };
        let mut out = String::new();
        let id = view.place.name(0);
        line(&mut out, id, "ag", &view);
        assert_eq!(
            out,
            "0x20000060000001: proto=tcpv4 src=127.0.0.1:35518 fe=ag be=be srv=x ts=00 epoch=0 age=1m5s \
             calls=0 rate=0 cpu=0 lat=0 rq[f=0h,i=0,an=00h,rx=49s,wx=,ax=] \
             rp[f=0h,i=7,an=00h,rx=49s,wx=,ax=] scf=[8,0h,fd=-1] scb=[8,0h,fd=-1] exp=49s rc=0 c_exp=\n"
        );
        let name = out.split(':').next().unwrap();
        assert_eq!(SessionId::parse(Some(&name)), Some(SessionId(id)));
        assert_eq!(SessionId::parse(Some(&"abc")), None);
        assert_eq!((human(7200), human(90_000)), ("2h0m".to_owned(), "1d1h".to_owned()));
    }
}
