//! The oracle: every byte in order, once, unchanged; everything and a clean end, or an exact prefix
//! and an error. A cut stream never ends cleanly, and nothing breaks without a cause.

use std::time::Duration;

use super::end::{Ended, Report, Seen};
use super::plan::{Finish, HALF_CLOSED, Plan};

/// How much later than its time a relay's timer may be heard of here.
const LATE_MAX: Duration = Duration::from_secs(4);

/// What a connection came to that kept the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Complete,
    BrokenAsPlanned,
    TimedOutAsPlanned,
    /// The only server refused, and the client was told.
    Refused,
    /// It sat in the queue of a listener that was closed.
    LostWithListener,
    /// The machine stood still for so long that a timer of the relay was right to end it.
    Stalled,
}

impl Class {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::BrokenAsPlanned => "broken as planned",
            Self::TimedOutAsPlanned => "timed out as planned",
            Self::Refused => "refused",
            Self::LostWithListener => "lost with a listener",
            Self::Stalled => "not judged, the machine stood still",
        }
    }
}

/// So much of standing still, and an idle connection may be taken for a dead one.
const STALL_MIN: Duration = Duration::from_secs(1);

/// Judges a connection. `server` is `None` when no server saw it; `listener_closed`: one was, while
/// the connection was under way. `lost` is how long the machine stood still meanwhile.
pub fn judge(
    plan: &Plan,
    client: &Report,
    server: Option<&Report>,
    listener_closed: bool,
    lost: Duration,
) -> Result<Class, String> {
    let Some(server) = server else {
        return without_server(plan, client, listener_closed);
    };
    direction("to the server", client, server)?;
    direction("to the client", server, client)?;
    if let Some(timer) = plan.timer {
        return timed_out(plan, timer, [client, server], lost);
    }
    for (who, part, report, other) in [
        ("client", &plan.client, client, &plan.server),
        ("server", &plan.server, server, &plan.client),
    ] {
        let broke =
            matches!(report.seen, Seen::Error(_)) || matches!(report.ended, Ended::Error(_));
        if broke && !other.breaks() && lost >= STALL_MIN && report.lasted >= HALF_CLOSED {
            return Ok(Class::Stalled);
        }
        if broke && !other.breaks() {
            return Err(format!("the {who} was told of an error that nobody made"));
        }
        let complete = report.seen == Seen::Fin
            && report.ended == Ended::Fin
            && report.sent == part.bytes
            && report.received == other.bytes;
        if !complete && !part.breaks() && !other.breaks() {
            return Err(format!("the {who} did not come to its end"));
        }
    }
    let planned = plan.client.breaks() || plan.server.breaks();
    Ok(if planned { Class::BrokenAsPlanned } else { Class::Complete })
}

fn without_server(plan: &Plan, client: &Report, listener_closed: bool) -> Result<Class, String> {
    if client.received > 0 {
        return Err("bytes came, and no server sent any".to_owned());
    }
    match &client.seen {
        Seen::BrokeOff => Ok(Class::BrokenAsPlanned),
        Seen::Error(_) if plan.refusable => Ok(Class::Refused),
        Seen::Error(_) if listener_closed => Ok(Class::LostWithListener),
        seen => Err(format!("no server saw it, and the client's end was {seen:?}")),
    }
}

fn direction(name: &str, from: &Report, to: &Report) -> Result<(), String> {
    if let Some(at) = to.wrong_at {
        return Err(format!("{name}: a wrong byte at {at}"));
    }
    // What a broken end counted as sent may lack the piece that its last write had begun.
    let ended = matches!(from.ended, Ended::Fin | Ended::Silent);
    if ended && to.received > from.sent {
        return Err(format!("{name}: {} bytes came, {} were sent", to.received, from.sent));
    }
    let whole = match from.ended {
        Ended::Fin => to.received == from.sent,
        // Its close sent a FIN if nothing was unread; what it had sent is the stream then.
        Ended::Close => to.received >= from.sent,
        _ => false,
    };
    if to.seen == Seen::Fin && !whole {
        return Err(format!("{name}: a clean end after {} of {}", to.received, from.sent));
    }
    if to.seen == Seen::Nothing {
        return Err(format!("{name}: nothing was heard any more"));
    }
    if to.ended == Ended::Stuck {
        return Err(format!("{name}: its receiver could not send any more"));
    }
    Ok(())
}

fn timed_out(
    plan: &Plan,
    timer: Duration,
    [client, server]: [&Report; 2],
    lost: Duration,
) -> Result<Class, String> {
    let latest = timer + LATE_MAX + lost;
    for (who, part, report) in [("client", &plan.client, client), ("server", &plan.server, server)]
    {
        if !matches!(report.seen, Seen::Error(_)) {
            return Err(format!("the {who} was not told that time was up: {:?}", report.seen));
        }
        let silent = part.finish == Finish::Silent;
        if silent && (report.lasted < timer * 9 / 10 || report.lasted > latest) {
            return Err(format!("the {who} was told after {:?}, not {timer:?}", report.lasted));
        }
    }
    Ok(Class::TimedOutAsPlanned)
}
