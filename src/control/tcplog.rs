//! The line of an ended session as HAProxy's `option tcplog` writes it (configuration manual, section
//! 8.2.2): `%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::metrics::{CloseReason, Report, SessionRecord};

use super::status::RelayStatus;
use super::syslog::local;

/// What a line needs to know besides its session.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// By the listener's number: its name, its backend, its sessions.
    listeners: Vec<(String, String, u64)>,
    /// Sessions of each backend, by its name.
    backends: HashMap<String, u64>,
    /// Sessions of the process.
    sessions: u64,
}

impl Scene {
    /// The relay as it is now; `listeners` are the names by number.
    pub(super) fn new(relay: &RelayStatus, listeners: &[String]) -> Self {
        let listeners = listeners.iter().map(|name| {
            let listener = relay.listeners.iter().find(|listener| listener.name == *name);
            let backend = listener.map_or("-", |listener| listener.backend.as_str());
            (name.clone(), backend.to_owned(), listener.map_or(0, |of| of.sessions))
        });
        let mut backends = HashMap::new();
        for server in &relay.servers {
            *backends.entry(server.backend.clone()).or_default() += server.tally.sessions;
        }
        let sessions = relay.counts().map(|counts| counts.sessions).sum();
        Self { listeners: listeners.collect(), backends, sessions }
    }

    /// The line of a session that ended at `now`.
    pub(super) fn line(&self, record: &SessionRecord, now: SystemTime) -> String {
        let SessionRecord { listener, client, server, queued, report, .. } = record;
        let unknown = ("-".to_owned(), "-".to_owned(), 0);
        let (frontend, backend, in_frontend) =
            self.listeners.get(usize::from(listener.0)).unwrap_or(&unknown);
        let accepted = now.checked_sub(report.total_time).unwrap_or(now);
        let time = haproxy_time(accepted);
        let server_name = match server {
            Some(server) => server.name().to_owned(),
            None => format!("{backend}/<NOSRV>"),
        };
        // A session may have gone to another backend than its listener's, by the name that it asked for.
        let backend = server_name.split_once('/').map_or(backend.as_str(), |(backend, _)| backend);
        let in_backend = self.backends.get(backend).copied().unwrap_or_default();
        // A phase that was never reached is -1.
        let reached = report.attempts > 0 || !queued.time.is_zero();
        let waited = if reached { queued.time.as_millis().to_string() } else { "-1".to_owned() };
        let connect = report
            .connect_time
            .map_or_else(|| "-1".to_owned(), |time| time.as_millis().to_string());
        format!(
            "{}:{} [{time}] {frontend} {server_name} {waited}/{connect}/{} {} {} {}/{}/{in_backend}/{}/{} 0/{}",
            client.ip().to_canonical(),
            client.port(),
            report.total_time.as_millis(),
            report.bytes[1],
            code(record),
            // The session itself still counts in these two, and no longer in the two that follow.
            self.sessions + 1,
            in_frontend + 1,
            server.as_ref().map_or(0, |server| server.sessions()),
            report.attempts.saturating_sub(1),
            queued.behind,
        )
    }
}

/// A moment as HAProxy writes it, such as `27/Nov/2026:10:23:18.561`, in local time.
pub(super) fn haproxy_time(at: SystemTime) -> String {
    local(at).strftime("%d/%b/%Y:%H:%M:%S%.3f").to_string()
}

/// The two letters of how a session ended (configuration manual, section 8.5): who ended it, capital
/// where an end or an error was seen and small where time ran out; and in which phase.
fn code(record: &SessionRecord) -> &'static str {
    let Report { reason, connect_time, attempts, .. } = record.report;
    let client_went = matches!(
        reason,
        CloseReason::ClientReset | CloseReason::ClientGone | CloseReason::ClientFailed
    );
    // Before it had a server: while it waited for a place, while one was connected to, or while it was
    // to say what it wants.
    if client_went && connect_time.is_none() {
        return match (attempts, record.queued.time.is_zero()) {
            // Over a connection to its server that an earlier request has left.
            (0, _) if record.server.is_some() => "CD",
            (0, false) => "CQ",
            (0, true) => "CR",
            _ => "CC",
        };
    }
    match reason {
        CloseReason::Completed => "--",
        CloseReason::ClientReset | CloseReason::ClientGone | CloseReason::ClientFailed => "CD",
        CloseReason::ServerReset | CloseReason::ServerGone | CloseReason::ServerFailed => "SD",
        CloseReason::ClientIdle | CloseReason::HalfClosed => "cD",
        CloseReason::ServerIdle => "sD",
        CloseReason::ConnectTimeout => "sC",
        CloseReason::ConnectRefused
        | CloseReason::ConnectFailed
        | CloseReason::TlsFailed
        | CloseReason::NoServer => "SC",
        CloseReason::QueueTimeout | CloseReason::QueueFull => "sQ",
        CloseReason::NoPort | CloseReason::NoResources => "RC",
        CloseReason::BadGreeting
        | CloseReason::GreetingTimeout
        | CloseReason::SourceLimit
        | CloseReason::BadRequest
        | CloseReason::LoginFailed
        | CloseReason::DestinationDenied => "PR",
        CloseReason::ServerDown => "DD",
        CloseReason::Rebalanced
        | CloseReason::ShutDown
        | CloseReason::Drained
        | CloseReason::Stopped => "KD",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::board::Board;
    use crate::control::status::tests::relay_status;
    use crate::metrics::Queued;
    use crate::op::ListenerId;

    #[test]
    fn a_line_is_that_of_the_manual() {
        let names = ["agents".to_owned()];
        let relay = relay_status();
        let scene = Scene::new(&relay, &names);
        let mut record = SessionRecord {
            listener: ListenerId(0),
            client: "10.0.1.2:33313".parse().unwrap(),
            server: Some(Arc::new(Board::new("intake/a".to_owned()))),
            queued: Queued { time: Duration::from_millis(17), behind: 2 },
            asked: None,
            links: None,
            report: Report {
                reason: CloseReason::Completed,
                bytes: [4096, 212],
                bytes_discarded: [0; 2],
                attempts: 4,
                connect_time: Some(Duration::from_millis(3)),
                first_byte: None,
                last_byte: None,
                total_time: Duration::from_millis(5007),
            },
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(5_007 + 86_400_443);
        let line = scene.line(&record, now);
        let fields: Vec<_> = line.split(' ').collect();
        assert_eq!(fields[0], "10.0.1.2:33313");
        let (date, time) = fields[1].split_once(':').unwrap();
        assert!(date.starts_with('[') && date.ends_with("/Jan/1970"), "{line}");
        assert!(time.ends_with(".443]") && time.len() == "00:00:00.443]".len(), "{line}");
        let sessions: u64 = relay.workers.iter().map(|worker| worker.counts.sessions).sum();
        let counts = format!("{}/{}/{}/0/3", sessions + 1, relay.listeners[0].sessions + 1, 34);
        assert_eq!(fields[2..], ["agents", "intake/a", "17/3/5007", "212", "--", &counts, "0/2"]);
        record.server = None;
        record.queued = Queued::default();
        record.report.reason = CloseReason::NoServer;
        record.report.attempts = 0;
        record.report.connect_time = None;
        let line = scene.line(&record, now);
        assert!(line.contains(" agents intake/<NOSRV> -1/-1/5007 212 SC "), "{line}");
    }

    #[test]
    fn every_end_has_a_code_of_theirs() {
        let mut record = SessionRecord {
            listener: ListenerId(0),
            client: "10.0.1.2:33313".parse().unwrap(),
            server: None,
            queued: Queued::default(),
            asked: None,
            links: None,
            report: Report::unserved(CloseReason::Completed, 0, Duration::ZERO),
        };
        for reason in CloseReason::ALL {
            record.report.reason = reason;
            let [one, other] = code(&record).as_bytes() else { panic!("{reason}") };
            assert!(b"-LcCsSPRIDKU".contains(one) && b"-RCHDLQT".contains(other), "{reason}");
        }
        record.report.reason = CloseReason::ClientReset;
        assert_eq!(code(&record), "CR");
        record.queued.time = Duration::from_millis(1);
        assert_eq!(code(&record), "CQ");
        record.report.attempts = 1;
        assert_eq!(code(&record), "CC");
        record.report.connect_time = Some(Duration::from_millis(1));
        assert_eq!(code(&record), "CD");
    }
}
