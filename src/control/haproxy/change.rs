//! The commands of HAProxy's CLI (management guide, 9.3) that change something, as they are typed.
//! What they answer when something is wrong with them is HAProxy's too, to the letter: scripts look
//! for it.

use std::net::IpAddr;

use crate::backend::board::Admin;
use crate::config::value::{self, WEIGHT_MAX};

/// A command that changes something, or asks for a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something about one server. What is wrong with it is told once the server is found.
    Server { backend: String, server: String, what: Result<What, String> },
    /// Sessions at one time through one listener.
    Listener { name: String, maxconn: Option<u32> },
    /// Whether a listener lets anybody in.
    Door { name: String, to: Door },
    /// Sessions at one time in the process; `None` is as many as it carries.
    Maxconn(Option<u32>),
    /// What is the highest so far begins anew, or everything that is counted.
    Clear { all: bool },
}

/// What is to become of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Until it is opened again.
    Closed,
    /// Until the file is read anew.
    Shut,
}

/// What is to be done about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Admin(Admin),
    Weight(Weight),
    /// Sessions at one time; 0 is no limit.
    Maxconn(u32),
    Address {
        ip: String,
        port: Option<String>,
    },
    /// A name in the place of its address.
    Name(String),
    /// Something about its checks.
    Checks(Checks),
    /// Its sessions end.
    Shutdown,
    /// Nothing: its weight is asked for.
    GetWeight,
    /// Nothing, as there is nothing to switch off.
    Nothing,
}

/// What is to be done about the checks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// They go on, or stop.
    Switch(bool),
    /// What they are to have found.
    Force(bool),
    /// They go elsewhere: to another address, or another port, of which `Some(None)` is the server's own.
    Move { address: Option<IpAddr>, port: Option<Option<u16>> },
}

/// A weight as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Absolute(u16),
    /// So many hundredths of the configured one.
    Share(u32),
}

/// A refusal as it is sent: the text, and the empty line that ends an answer.
pub(super) fn refusal(text: &str) -> String {
    format!("{text}\n\n")
}

impl Weight {
    /// The weight where so much is configured.
    pub(super) fn of(self, configured: u16) -> u16 {
        match self {
            Self::Absolute(weight) => weight,
            Self::Share(share) => {
                let weight = u64::from(configured) * u64::from(share) / 100;
                u16::try_from(weight).unwrap_or(WEIGHT_MAX).min(WEIGHT_MAX)
            }
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (number, rest) = number(text);
        let Some(number) = number else {
            return Err("Empty weight string empty or preceded by garbage\n".to_owned());
        };
        match rest {
            "%" if number < 0 => Err(refusal("Relative weight must be positive.")),
            "%" => Ok(Self::Share(u32::try_from(number).unwrap_or(u32::MAX))),
            "" => match u16::try_from(number) {
                Ok(weight) if weight <= WEIGHT_MAX => Ok(Self::Absolute(weight)),
                _ => Err(refusal("Absolute weight can only be between 0 and 256 inclusive.")),
            },
            _ => Err("Trailing garbage in weight string\n".to_owned()),
        }
    }
}

/// The number that a text begins with, and what follows.
fn number(text: &str) -> (Option<i64>, &str) {
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(sign + digits);
    match digits {
        0 => (None, text),
        // What is beyond all numbers is beyond all bounds.
        _ => (Some(number.parse().unwrap_or(i64::MAX)), rest),
    }
}

impl Change {
    /// The command that these words are, if it is one of theirs.
    ///
    /// # Errors
    /// What HAProxy answers to a command that lacks something.
    pub(in crate::control) fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        let (server, what) = match *words {
            ["disable", "server", ref rest @ ..] => (rest, Ok(What::Admin(Admin::Maint))),
            ["enable", "server", ref rest @ ..] => (rest, Ok(What::Admin(Admin::Ready))),
            ["disable", "health", ref rest @ ..] => (rest, Ok(What::Checks(Checks::Switch(false)))),
            ["enable", "health", ref rest @ ..] => (rest, Ok(What::Checks(Checks::Switch(true)))),
            ["disable", "agent", ref rest @ ..] => (rest, Ok(What::Nothing)),
            ["enable", "agent", ref rest @ ..] => {
                (rest, Err(refusal("Agent was not configured on this server, cannot enable.")))
            }
            ["set", "server", ref rest @ ..] => (rest, setting(rest.get(1..).unwrap_or_default())),
            ["set", "weight", ref rest @ ..] => (rest, weight(rest.get(1))),
            ["get", "weight", ref rest @ ..] => (rest, Ok(What::GetWeight)),
            ["set", "maxconn", "server", ref rest @ ..] => (rest, maxconn(rest.get(1))),
            ["shutdown", "sessions", "server", ref rest @ ..] => (rest, Ok(What::Shutdown)),
            ["set", "maxconn", "frontend", ref rest @ ..] => return listener(rest).map(Some),
            ["set", "maxconn", "global", ref rest @ ..] => {
                let expects = || refusal("Expects an integer value.");
                let limit = rest.first().and_then(|text| text.parse::<u32>().ok());
                let limit = limit.ok_or_else(expects)?;
                return Ok(Some(Self::Maxconn(Some(limit).filter(|&limit| limit > 0))));
            }
            ["disable", "frontend", ref rest @ ..] => return door(rest, Door::Closed).map(Some),
            ["enable", "frontend", ref rest @ ..] => return door(rest, Door::Open).map(Some),
            ["shutdown", "frontend", ref rest @ ..] => return door(rest, Door::Shut).map(Some),
            ["clear", "counters", ref rest @ ..] => {
                return Ok(Some(Self::Clear { all: rest.first() == Some(&"all") }));
            }
            _ => return Ok(None),
        };
        let Some((backend, server)) = server.first().and_then(|name| name.split_once('/')) else {
            return Err(refusal("Require 'backend/server'."));
        };
        Ok(Some(Self::Server { backend: backend.to_owned(), server: server.to_owned(), what }))
    }
}

fn door(words: &[&str], to: Door) -> Result<Change, String> {
    match words.first() {
        Some(name) => Ok(Change::Door { name: (*name).to_owned(), to }),
        None => Err(refusal("A frontend name is expected.")),
    }
}

/// `NAME LIMIT`. No listener has a limit of 0 here: that it takes nobody is not what is meant by it.
fn listener(words: &[&str]) -> Result<Change, String> {
    let Some(name) = words.first() else {
        return Err(refusal("A frontend name is expected."));
    };
    let limit = words.get(1).and_then(|text| text.parse::<u32>().ok());
    match limit.filter(|&limit| limit > 0) {
        Some(limit) => Ok(Change::Listener { name: (*name).to_owned(), maxconn: Some(limit) }),
        None => Err(refusal("Integer value expected.")),
    }
}

/// What follows `set server BACKEND/SERVER`.
fn setting(words: &[&str]) -> Result<What, String> {
    match *words {
        ["state", ref rest @ ..] => admin(rest.first().copied().unwrap_or_default()),
        ["weight", ref rest @ ..] => weight(rest.first()),
        ["health", "up", ..] => Ok(What::Checks(Checks::Force(true))),
        ["health", "down", ..] => Ok(What::Checks(Checks::Force(false))),
        // Not quite down: it gets no more sessions, as one that is drained.
        ["health", "stopping", ..] => Ok(What::Admin(Admin::Drain)),
        ["health", ..] => {
            Err(refusal("'set server <srv> health' expects 'up', 'stopping', or 'down'."))
        }
        ["addr"] => {
            Err(refusal("set server <b>/<s> addr requires an address and optionally a port."))
        }
        ["addr", ip, "port"] => address(ip, Some("")),
        ["addr", ip, "port", port, ..] => address(ip, Some(port)),
        ["addr", ip, ..] => address(ip, None),
        ["fqdn"] => Err(refusal("set server <b>/<s> fqdn requires a FQDN.")),
        ["fqdn", name, ..] => Ok(What::Name(name.to_owned())),
        ["check-port"] => Err(refusal("set server <b>/<s> check-port requires a port.")),
        ["check-port", port, ..] => match number(port) {
            (Some(number), "") => match u16::try_from(number) {
                // 0 is its own.
                Ok(port) => {
                    let port = Some(Some(port).filter(|&port| port > 0));
                    Ok(What::Checks(Checks::Move { address: None, port }))
                }
                Err(_) => Err("provided port is invalid\n".to_owned()),
            },
            _ => Err("provided port is not an integer\n".to_owned()),
        },
        ["check-addr"] => {
            Err(refusal("set server <b>/<s> check-addr requires an address and optionally a port."))
        }
        ["check-addr", ip, ref rest @ ..] => check_address(ip, rest),
        ["agent" | "agent-send", ..] => {
            Err(refusal("agent checks are not enabled on this server."))
        }
        ["agent-addr" | "agent-port", ..] => {
            Err("agent checks are not enabled on this server\n".to_owned())
        }
        ["ssl", ..] => Err(refusal(
            "'set server <srv> ssl' cannot be set.  default-server should define ssl settings",
        )),
        _ => Err(refusal(
            "usage: set server <backend>/<server> addr | check-addr | check-port | fqdn | health | state | weight",
        )),
    }
}

/// `check-addr IP [port PORT]`
fn check_address(ip: &str, rest: &[&str]) -> Result<What, String> {
    let bad =
        |what: &str, word: &str| refusal(&format!("Invalid {what} '{}'", word.escape_debug()));
    let address = value::check_address(ip).map_err(|_| bad("addr", ip))?;
    let port = match *rest {
        ["port", port, ..] => {
            let port = port.parse().ok().filter(|&number: &u16| number > 0);
            Some(Some(port.ok_or_else(|| bad("port", rest[1]))?))
        }
        _ => None,
    };
    Ok(What::Checks(Checks::Move { address: Some(address), port }))
}

fn address(ip: &str, port: Option<&str>) -> Result<What, String> {
    if ip.parse::<IpAddr>().is_err() {
        return Err(refusal(&format!("Invalid addr '{}'{BY}", ip.escape_debug())));
    }
    Ok(What::Address { ip: ip.to_owned(), port: port.map(str::to_owned) })
}

/// Who changes an address.
pub(super) const BY: &str = " by 'stats socket command'";

fn weight(word: Option<&&str>) -> Result<What, String> {
    match word {
        Some(word) => Weight::parse(word).map(What::Weight),
        None => Err(refusal("Require <weight> or <weight%>.")),
    }
}

fn maxconn(word: Option<&&str>) -> Result<What, String> {
    let Some(word) = word else { return Err(refusal("Require <maxconn>.")) };
    match number(word) {
        (None, _) => Err("maxconn string empty or preceded by garbage\n".to_owned()),
        (Some(limit), "") => Ok(What::Maxconn(u32::try_from(limit.max(0)).unwrap_or(u32::MAX))),
        _ => Err("Trailing garbage in maxconn string\n".to_owned()),
    }
}

fn admin(word: &str) -> Result<What, String> {
    match word {
        "ready" => Ok(What::Admin(Admin::Ready)),
        "drain" => Ok(What::Admin(Admin::Drain)),
        "maint" => Ok(What::Admin(Admin::Maint)),
        _ => Err(refusal("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(line: &str) -> Result<What, String> {
        let words: Vec<_> = line.split(' ').collect();
        match Change::parse(&words)?.expect("one of theirs") {
            Change::Server { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_are_read_as_haproxy_reads_them() {
        let admin = |admin| Ok(What::Admin(admin));
        assert_eq!(what("disable server b/s"), admin(Admin::Maint));
        assert_eq!(what("enable server b/s"), admin(Admin::Ready));
        assert_eq!(what("set server b/s state drain"), admin(Admin::Drain));
        let weight = |weight| Ok(What::Weight(weight));
        assert_eq!(what("set weight b/s 20"), weight(Weight::Absolute(20)));
        assert_eq!(what("set server b/s weight 50%"), weight(Weight::Share(50)));
        assert_eq!(what("get weight b/s"), Ok(What::GetWeight));
        assert_eq!(what("shutdown sessions server b/s"), Ok(What::Shutdown));
        assert_eq!(what("set maxconn server b/s -5"), Ok(What::Maxconn(0)));
        assert_eq!(Weight::Share(50).of(5), 2);
        assert_eq!(Weight::Share(10_000).of(5), 256);
        let other = |line: &str| Change::parse(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(other("set maxconn global 0"), Ok(Some(Change::Maxconn(None))));
        assert_eq!(other("clear counters"), Ok(Some(Change::Clear { all: false })));
        assert_eq!(other("clear counters all"), Ok(Some(Change::Clear { all: true })));
        assert_eq!(other("set nonsense"), Ok(None));
    }

    /// As Debian's HAProxy 2.6 gave them.
    #[test]
    fn what_is_wrong_is_told_in_its_words() {
        for (line, says) in [
            (
                "set server b/s state asleep",
                "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n\n",
            ),
            ("set weight b/s 257", "Absolute weight can only be between 0 and 256 inclusive.\n\n"),
            ("set weight b/s -1", "Absolute weight can only be between 0 and 256 inclusive.\n\n"),
            ("set weight b/s -5%", "Relative weight must be positive.\n\n"),
            ("set weight b/s 10x", "Trailing garbage in weight string\n"),
            ("set weight b/s %", "Empty weight string empty or preceded by garbage\n"),
            ("set weight b/s", "Require <weight> or <weight%>.\n\n"),
            ("set maxconn server b/s x", "maxconn string empty or preceded by garbage\n"),
            ("set maxconn server b/s", "Require <maxconn>.\n\n"),
            ("set server b/s addr here", "Invalid addr 'here' by 'stats socket command'\n\n"),
            ("set server b/s check-port 70000", "provided port is invalid\n"),
            ("disable server s", "Require 'backend/server'.\n\n"),
            ("get weight", "Require 'backend/server'.\n\n"),
            ("disable frontend", "A frontend name is expected.\n\n"),
            ("set maxconn frontend", "A frontend name is expected.\n\n"),
            ("set maxconn frontend f", "Integer value expected.\n\n"),
            ("set maxconn global", "Expects an integer value.\n\n"),
        ] {
            assert_eq!(what(line).as_ref().map_err(String::as_str), Err(says), "{line}");
        }
    }
}
