//! What HAProxy's log says of servers that come and go (its server.c), for alerts that look for it.

use crate::backend::board::Admin;
use crate::control::Level;
use crate::control::status::{RelayStatus, ServerStatus};

use super::stat;

/// What has happened to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Turn {
    /// Its checks have found it up, or down.
    Checked,
    /// An administrator wants something else of it than this.
    Administered(Admin),
}

/// The lines, with what they matter by their syslog levels. `relay` is as it is now; `served` is whether the
/// backend had a server before.
pub(in crate::control) fn lines(
    relay: &RelayStatus,
    backend: &str,
    name: &str,
    turn: Turn,
    served: bool,
) -> Vec<(Level, String)> {
    let servers = relay.servers_of(backend);
    let server = servers.iter().find(|server| server.name == name);
    let Some(server) = server else { return Vec::new() };
    let who = match server.backup {
        true => format!("Backup Server {backend}/{name}"),
        false => format!("Server {backend}/{name}"),
    };
    let left = left(relay, servers);
    let line = match (turn, server.admin) {
        // Checks go on meanwhile, and nobody is to be woken by a server that is being mended.
        (Turn::Checked, Admin::Maint) => None,
        (Turn::Checked, _) => checked(server, &who, &left),
        (Turn::Administered(before), now) if before == now => None,
        (Turn::Administered(Admin::Maint), Admin::Ready) => {
            Some((Level::Notice, format!("{who} is UP/READY (leaving forced maintenance).")))
        }
        (Turn::Administered(_), Admin::Ready) => {
            Some((Level::Notice, format!("{who} is UP (leaving forced drain).")))
        }
        (Turn::Administered(_), Admin::Maint) => {
            Some((Level::Alert, format!("{who} is going DOWN for maintenance. {}", left.gone)))
        }
        (Turn::Administered(_), Admin::Drain) => {
            Some((Level::Notice, format!("{who} enters drain state. {}", left.come)))
        }
    };
    let mut lines: Vec<_> = line.into_iter().collect();
    if served && !servers.iter().any(ServerStatus::is_usable) {
        lines.push((Level::Emergency, format!("backend {backend} has no server available!")));
    }
    lines
}

fn checked(server: &ServerStatus, who: &str, left: &Left) -> Option<(Level, String)> {
    let health = server.check.as_ref()?;
    let (level, state, rest) = match health.up {
        true => (Level::Notice, "UP", &left.come),
        false => (Level::Alert, "DOWN", &left.gone),
    };
    let reason = stat::described(health.code);
    let status = health.http_status.map_or_else(String::new, |code| format!(", code: {code}"));
    let info = health.failure.as_ref();
    let info = info.map_or_else(String::new, |info| format!(", info: \"{info}\""));
    let line = format!(
        "{who} is {state}, reason: {reason}{status}{info}, check duration: {}ms. {rest}",
        health.millis
    );
    Some((level, line))
}

/// What is left of a backend, as it is said where a server goes, and where one comes.
struct Left {
    gone: String,
    come: String,
}

fn left(relay: &RelayStatus, servers: &[ServerStatus]) -> Left {
    let usable = || servers.iter().filter(|server| server.is_usable());
    let backups = usable().filter(|server| server.backup).count();
    let actives = usable().count() - backups;
    let only_backups = if actives == 0 && backups > 0 { " Running on backup." } else { "" };
    let sessions: u64 = servers.iter().map(|server| server.tally.sessions).sum();
    let queued = relay.queue(&servers[0].backend).map_or(0, |queue| queue.waiting);
    let count = format!("{actives} active and {backups} backup servers");
    Left {
        // Sessions that wait here wait for any server: none is queued anew.
        gone: format!(
            "{count} left.{only_backups} {sessions} sessions active, 0 requeued, {queued} remaining in queue."
        ),
        come: format!(
            "{count} online.{only_backups} 0 sessions requeued, {queued} total in queue."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Health;
    use crate::control::status::tests::relay_status;

    /// Three sessions, and nobody waits.
    fn quiet() -> RelayStatus {
        let mut relay = relay_status();
        relay.queues.clear();
        relay.servers[0].tally.sessions = 3;
        relay
    }

    /// As Debian's HAProxy 2.6 wrote them.
    #[test]
    fn the_lines_of_administrators_are_theirs() {
        let mut relay = quiet();
        let say = |relay: &RelayStatus, turn| lines(relay, "intake", "a", turn, true);
        relay.servers[0].admin = Admin::Maint;
        assert_eq!(
            say(&relay, Turn::Administered(Admin::Ready)),
            [
                (
                    Level::Alert,
                    "Server intake/a is going DOWN for maintenance. 0 active and 0 backup servers left. 3 \
                     sessions active, 0 requeued, 0 remaining in queue."
                        .to_owned()
                ),
                (Level::Emergency, "backend intake has no server available!".to_owned())
            ]
        );
        relay.servers[0].admin = Admin::Ready;
        assert_eq!(
            say(&relay, Turn::Administered(Admin::Maint)),
            [(
                Level::Notice,
                "Server intake/a is UP/READY (leaving forced maintenance).".to_owned()
            )]
        );
    }

    /// As Debian's HAProxy 2.6 wrote them.
    #[test]
    fn the_lines_of_checks_are_theirs_and_nothing_is_said_twice() {
        let mut relay = quiet();
        let say = |relay: &RelayStatus, turn| lines(relay, "intake", "a", turn, true);
        relay.servers[0].check = Some(Health {
            up: true,
            since: String::new(),
            seconds: 0,
            against: 0,
            changes_at: 3,
            code: "L4OK",
            millis: 0,
            http_status: None,
            failure: None,
            address: None,
            port: None,
            rise: 2,
            fall: 3,
            failures: 0,
            downs: 0,
            down_seconds: 0,
        });
        assert_eq!(
            say(&relay, Turn::Checked)[0].1,
            "Server intake/a is UP, reason: Layer4 check passed, check duration: 0ms. 1 active and 0 backup \
             servers online. 0 sessions requeued, 0 total in queue."
        );
        let health = relay.servers[0].check.as_mut().unwrap();
        (health.up, health.code) = (false, "L4CON");
        health.failure = Some("Connection refused".to_owned());
        assert_eq!(
            say(&relay, Turn::Checked),
            [
                (
                    Level::Alert,
                    "Server intake/a is DOWN, reason: Layer4 connection problem, info: \"Connection refused\", \
                     check duration: 0ms. 0 active and 0 backup servers left. 3 sessions active, 0 \
                     requeued, 0 remaining in queue."
                        .to_owned()
                ),
                (Level::Emergency, "backend intake has no server available!".to_owned())
            ]
        );
        // Nothing is said twice, nor of one that is being mended.
        let again = lines(&relay, "intake", "a", Turn::Administered(Admin::Ready), false);
        assert!(again.is_empty(), "{again:?}");
        relay.servers[0].admin = Admin::Maint;
        let mended = lines(&relay, "intake", "a", Turn::Checked, false);
        assert!(mended.is_empty(), "{mended:?}");
    }
}
