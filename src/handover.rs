//! What one process of the relay leaves to the next, and the words between them.
//!
//! There are two heirs: a relay process that the parent starts, and the binary that takes the
//! parent's place at an upgrade. Both inherit open descriptors under their numbers through
//! execve(2), and read what the numbers mean from a file in memory, itself inherited; the variable
//! [`VARIABLE`] has its number. Afterwards parent and relay talk over a socket, a JSON object a line.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getpid, getppid};
use serde::{Deserialize, Serialize};

use crate::backend::board::Admin;
use crate::sys::process;

/// The environment variable that tells an heir the number of its [`Handover`].
pub const VARIABLE: &str = "FANIN_HANDOVER";

/// Changes whenever what is defined here does. A relay process of another format does not start, so
/// that an upgrade to such a binary is refused, and a restart needed.
pub const FORMAT: u32 = 5;

const MEMORY_NAME: &str = "fanin-handover";

/// What is left to an heir.
#[derive(Debug, Serialize, Deserialize)]
pub enum Handover {
    Relay(ToRelay),
    Parent(Box<ToParent>),
}

/// What was last found of each name.
pub type KnownNames = Vec<(String, Vec<Location>)>;

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    pub ip: IpAddr,
    /// What an SRV record says; the name of a host says nothing of it.
    pub port: Option<u16>,
}

impl Location {
    /// With this port, if it has none of its own.
    pub fn with_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(port))
    }
}

impl From<IpAddr> for Location {
    fn from(ip: IpAddr) -> Self {
        Self { ip, port: None }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// One address, and the sockets that share it among them (`SO_REUSEPORT`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shared {
    /// The address as configured: port 0 stands for the kernel's choice.
    pub bind: SocketAddr,
    /// The address as bound.
    pub address: SocketAddr,
    pub numbers: Vec<RawFd>,
}

/// What an administrator wants of a server, beside what is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Administered {
    pub backend: String,
    pub server: String,
    pub admin: Admin,
    /// In the place of the configured one.
    pub weight: Option<u16>,
}

/// A listener that an administrator wants nobody to be let in by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedListener {
    pub name: String,
    /// Until the file is read anew; otherwise until it is opened again.
    pub for_good: bool,
}

/// What a relay process begins with.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToRelay {
    /// See [`FORMAT`].
    pub format: u32,
    /// The parent's process id: with another parent this is not for us.
    pub parent: i32,
    pub generation: u64,
    /// The configuration to run, complete, as TOML.
    pub config: String,
    /// What is known of the names in it.
    pub names: KnownNames,
    pub administered: Vec<Administered>,
    pub closed: Vec<ClosedListener>,
    /// In the order of the configuration's addresses.
    pub sockets: Vec<Shared>,
    /// Where statistics are served.
    pub pages: Vec<Shared>,
    /// The control socket: its number and its path.
    pub control: Option<(RawFd, PathBuf)>,
    /// The socket on which parent and relay talk.
    pub link: RawFd,
    /// Whether the parent wants to be told every second that the workers turn.
    pub watched: bool,
}

/// What the parent leaves to the binary that takes its place.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToParent {
    /// See [`FORMAT`].
    pub format: u32,
    /// The process that it is for, which stays the same.
    pub process: i32,
    pub config: String,
    /// What is known of the names in it.
    pub names: KnownNames,
    pub administered: Vec<Administered>,
    pub closed: Vec<ClosedListener>,
    pub sockets: Vec<Shared>,
    pub pages: Vec<Shared>,
    /// What keeps a second instance away; see `parent::claim`.
    pub claims: Vec<(SocketAddr, RawFd)>,
    /// The control socket: its number, its path and the number of its file.
    pub control: Option<(RawFd, PathBuf, Option<u64>)>,
    pub generations: Vec<Generation>,
}

/// A relay process that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generation {
    pub number: u64,
    pub process: i32,
    pub link: RawFd,
    /// What has come from it and is not a whole line yet.
    pub unread: Vec<u8>,
    /// The one that serves; the others let their sessions end.
    pub serving: bool,
}

/// What the parent tells a relay process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// Accept no more; sessions may end. The parent has given up its sockets.
    Drain,
    /// Everything ends now.
    Stop,
    /// Another generation serves: leave the control socket, let sessions end.
    Retire { answer: String },
    /// What was asked for is not done.
    Refused { why: String },
    /// How many earlier generations still let their sessions end.
    Retiring { processes: Vec<i32> },
}

/// What a relay process tells the parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The workers serve.
    Ready { version: String },
    /// It does not start.
    Failed { message: String, code: u8 },
    /// A configuration is in force now, whole.
    Applied { config: String },
    /// A reload came to nothing.
    Kept,
    /// What is known of names now.
    Names { names: KnownNames },
    /// All servers of which an administrator wants something.
    Administered { servers: Vec<Administered> },
    /// All listeners that an administrator wants nobody to be let in by. Nobody else than the parent can
    /// have a socket listen again.
    Closed { listeners: Vec<ClosedListener> },
    /// Another generation is needed, with this configuration: a reload changes what a process
    /// cannot change in itself, or a worker has failed.
    Renew { config: String, why: String },
    /// Another generation is asked for, of this binary or of the one that was started last, and
    /// that the binary takes the parent's place.
    Upgrade { binary: Option<PathBuf> },
    /// Somebody wants the service to end, at once or when its sessions have.
    End { at_once: bool },
    /// The relay process got a signal that is meant for the service.
    Signalled { wish: Wish },
    /// Every worker has turned since the last of these.
    Turning,
}

/// What a signal asks of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// SIGTERM: sessions may end; told again, at once.
    Terminate,
    /// SIGINT: the end, at once.
    Interrupt,
    /// SIGHUP.
    Reload,
}

impl Handover {
    /// Reads what was left to this process, if anything was. What was left to another one (the
    /// variable comes down to every child) is not for us.
    ///
    /// # Errors
    /// When what the variable names cannot be read or understood.
    pub fn take() -> io::Result<Option<Self>> {
        let Some(number) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let number: Option<RawFd> = number.to_str().and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| *number > 2) else { return Ok(None) };
        let named = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        if !named.to_string_lossy().contains(MEMORY_NAME) {
            return Ok(None);
        }
        let mut text = String::new();
        let mut file = File::from(process::inherited(number));
        file.rewind()?;
        file.read_to_string(&mut text)?;
        let left: Self = serde_json::from_str(&text)?;
        let ours = match &left {
            Self::Relay(left) => left.parent == getppid().as_raw(),
            Self::Parent(left) => left.process == getpid().as_raw(),
        };
        if !ours {
            return Ok(None);
        }
        // Nothing else that is started from here may inherit them.
        process::inheritable(&left.numbers(), false)?;
        Ok(Some(left))
    }

    /// Writes it to a file in memory. That file and the descriptors that it names are inherited over
    /// execve(2) until [`Left`] is dropped.
    ///
    /// # Errors
    /// As memfd_create(2) and write(2) say.
    pub fn leave(&self) -> io::Result<Left> {
        let mut file = File::from(memfd_create(MEMORY_NAME, MFdFlags::MFD_CLOEXEC)?);
        serde_json::to_writer(&mut file, self)?;
        let mut numbers = self.numbers();
        numbers.push(file.as_raw_fd());
        process::inheritable(&numbers, true)?;
        Ok(Left { file, numbers })
    }

    /// The descriptors that it names.
    fn numbers(&self) -> Vec<RawFd> {
        let shared = |sockets: &[Shared]| -> Vec<RawFd> {
            sockets.iter().flat_map(|shared| shared.numbers.iter().copied()).collect()
        };
        match self {
            Self::Relay(left) => {
                let mut numbers = shared(&left.sockets);
                numbers.extend(shared(&left.pages));
                numbers.push(left.link);
                numbers.extend(left.control.iter().map(|(number, _)| *number));
                numbers
            }
            Self::Parent(left) => {
                let mut numbers = shared(&left.sockets);
                numbers.extend(shared(&left.pages));
                numbers.extend(left.claims.iter().map(|(_, number)| *number));
                numbers.extend(left.control.iter().map(|(number, ..)| *number));
                numbers.extend(left.generations.iter().map(|generation| generation.link));
                numbers
            }
        }
    }
}

/// A handover that waits for its heir.
#[derive(Debug)]
pub struct Left {
    file: File,
    numbers: Vec<RawFd>,
}

impl Left {
    /// The value of [`VARIABLE`] for the heir.
    pub fn value(&self) -> String {
        self.file.as_raw_fd().to_string()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // Fails only for a number that is not open any more, which nobody inherits either.
        let _ = process::inheritable(&self.numbers, false);
    }
}

/// A message as it goes over the link.
///
/// # Errors
/// None that can happen: every message can be written as JSON.
pub fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The whole messages in what has come over a link, which are taken out of it. What is not a
/// message (of another version) is left out.
pub fn messages<M: for<'a> Deserialize<'a>>(came: &mut Vec<u8>) -> Vec<M> {
    let Some(last) = came.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
    let whole: Vec<u8> = came.drain(..=last).collect();
    let lines = whole.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_out_whole_however_they_come() {
        let sent = [line(&Order::Reload).unwrap(), line(&Order::Drain).unwrap()].concat();
        let mut came = Vec::new();
        let mut heard = Vec::new();
        for byte in sent {
            came.push(byte);
            heard.extend(messages::<Order>(&mut came));
        }
        assert!(matches!(heard.as_slice(), [Order::Reload, Order::Drain]), "{heard:?}");
        came.extend_from_slice(b"{\"Tomorrow\":1}\n\"Stop\"\n\"Re");
        assert!(matches!(messages::<Order>(&mut came).as_slice(), [Order::Stop]));
        assert_eq!(came, b"\"Re");
    }
}
