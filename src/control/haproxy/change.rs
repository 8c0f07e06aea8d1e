//! The commands of HAProxy's CLI (management guide, 9.3) that change something about a server.

use crate::backend::board::Admin;
use crate::config::Config;
use crate::config::value::WEIGHT_MAX;
use crate::control::{Loop, Relay};
use crate::metrics::CloseReason;
use crate::sys::process;

/// A command about one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    backend: String,
    server: String,
    what: What,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Admin(Admin),
    Weight(Weight),
    /// Its sessions end.
    Shutdown,
    /// Nothing: its weight is asked for.
    GetWeight,
}

/// A weight as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Absolute(u16),
    /// So many hundredths of the configured one.
    Share(u16),
}

impl Weight {
    /// The weight where so much is configured.
    fn of(self, configured: u16) -> u16 {
        match self {
            Self::Absolute(weight) => weight,
            Self::Share(share) => {
                let weight = u32::from(configured) * u32::from(share) / 100;
                u16::try_from(weight).unwrap_or(WEIGHT_MAX).min(WEIGHT_MAX)
            }
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "\"{}\" is no weight; allowed: 0 to 256, or a share of the configured one such as 50%",
                text.escape_debug()
            )
        };
        let (digits, share) = match text.strip_suffix('%') {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        match digits.parse::<u16>() {
            Ok(share_of) if share && share_of <= 10_000 => Ok(Self::Share(share_of)),
            Ok(weight) if !share && weight <= WEIGHT_MAX => Ok(Self::Absolute(weight)),
            _ => Err(refuse()),
        }
    }
}

impl Change {
    /// The command that these words are, if it is one of theirs.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub(in crate::control) fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        let (server, what) = match *words {
            ["disable", "server", server] => (server, What::Admin(Admin::Maint)),
            ["enable", "server", server] => (server, What::Admin(Admin::Ready)),
            ["set", "server", server, "state", state] => (server, What::Admin(admin(state)?)),
            ["set", "server", server, "weight", weight] | ["set", "weight", server, weight] => {
                (server, What::Weight(Weight::parse(weight)?))
            }
            ["shutdown", "sessions", "server", server] => (server, What::Shutdown),
            ["get", "weight", server] => (server, What::GetWeight),
            _ => return Ok(None),
        };
        let Some((backend, server)) = server.split_once('/') else {
            return Err(format!("write BACKEND/SERVER, not \"{}\"", server.escape_debug()));
        };
        Ok(Some(Self { backend: backend.to_owned(), server: server.to_owned(), what }))
    }

    /// Whether it changes anything.
    pub(in crate::control) fn changes(&self) -> bool {
        self.what != What::GetWeight
    }

    /// `backend/server`.
    fn server(&self) -> String {
        format!("{}/{}", self.backend, self.server)
    }

    /// Where the server stands in a configuration; `None` if it is not there.
    fn find(&self, config: &Config) -> Option<(usize, usize)> {
        let backend = config.backends.iter().position(|of| of.name == self.backend)?;
        let servers = &config.backends[backend].servers;
        let server = servers.iter().position(|server| server.name == self.server)?;
        Some((backend, server))
    }
}

impl<R: Relay> Loop<R> {
    /// Does to a server what an administrator wants; the answer, as HAProxy gives it.
    pub(in crate::control) fn change(&mut self, change: &Change) -> String {
        let Some((backend, server)) = change.find(&self.config) else {
            return "No such server.\n\n".to_owned();
        };
        let configured = self.config.backends[backend].servers[server].weight;
        let name = change.server();
        match change.what {
            What::Admin(admin) => {
                self.relay.board(backend, server).administer(admin, process::monotonic_micros());
                self.log.info(format_args!("server {name} is set to {}", admin.label()));
            }
            What::Weight(weight) => {
                let weight = weight.of(configured);
                let set = Some(weight).filter(|&is| is != configured);
                self.relay.board(backend, server).reweigh(set);
                self.log.info(format_args!("server {name} has a weight of {weight} now"));
            }
            What::Shutdown => {
                self.relay.expel(backend, server, CloseReason::ShutDown);
                self.log.info(format_args!("the sessions of server {name} are ended"));
            }
            What::GetWeight => {
                let weight = self.relay.board(backend, server).weight(configured);
                return format!("{weight} (initial {configured})\n\n");
            }
        }
        "\n".to_owned()
    }
}

fn admin(word: &str) -> Result<Admin, String> {
    match word {
        "ready" => Ok(Admin::Ready),
        "drain" => Ok(Admin::Drain),
        "maint" => Ok(Admin::Maint),
        _ => Err(format!("\"{}\" is no state; allowed: ready, drain, maint", word.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(line: &str) -> Result<Option<What>, String> {
        let words: Vec<_> = line.split(' ').collect();
        Change::parse(&words).map(|change| change.map(|change| change.what))
    }

    #[test]
    fn commands_are_read_as_haproxy_reads_them() {
        let admin = |admin| Ok(Some(What::Admin(admin)));
        assert_eq!(what("disable server b/s"), admin(Admin::Maint));
        assert_eq!(what("enable server b/s"), admin(Admin::Ready));
        assert_eq!(what("set server b/s state drain"), admin(Admin::Drain));
        let weight = |weight| Ok(Some(What::Weight(weight)));
        assert_eq!(what("set weight b/s 20"), weight(Weight::Absolute(20)));
        assert_eq!(what("set server b/s weight 50%"), weight(Weight::Share(50)));
        assert_eq!(what("get weight b/s"), Ok(Some(What::GetWeight)));
        assert_eq!(what("shutdown sessions server b/s"), Ok(Some(What::Shutdown)));
        assert_eq!(what("set maxconn global 5"), Ok(None));
        for (line, says) in [
            ("set server b/s state asleep", "ready, drain, maint"),
            ("set weight b/s 257", "0 to 256"),
            ("set weight b/s -1", "0 to 256"),
            ("disable server s", "BACKEND/SERVER"),
        ] {
            assert!(what(line).unwrap_err().contains(says), "{line}");
        }
        assert_eq!(Weight::Share(50).of(5), 2);
        assert_eq!(Weight::Share(10_000).of(5), 256);
    }
}
