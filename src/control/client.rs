//! The other end of the control socket: `fanin status` and its siblings.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::directory;
use super::socket::{REFUSAL, is_live};
use crate::config::Config;

/// How long an answer may take: longer than the relay's own patience, so that its reason is heard.
const ANSWER_PATIENCE: Duration = Duration::from_secs(90);
/// The longest answer: the status of some 50,000 servers.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error(
        "no relay of this user is running: there is no control socket in {}; start one with: fanin \
         run --listen :3834 --server HOST:PORT, ask as the user whose relay it is, or name its \
         socket with: --control PATH",
        directory.display()
    )]
    None { directory: PathBuf },
    #[error(
        "several relays are running; say which is meant:{}",
        sockets.iter().map(|path| format!("\n  --control {}", path.display())).collect::<String>()
    )]
    Several { sockets: Vec<PathBuf> },
    #[error("no relay answers at {}: {why}; {}", path.display(), remedy(why))]
    Unreachable { path: PathBuf, why: io::Error },
    #[error(
        "this terminal does not become a screen: {why}; have plain text instead with: fanin top \
         --times 60"
    )]
    Terminal { why: io::Error },
    /// What the relay said no with.
    #[error("{0}")]
    Refused(String),
}

fn remedy(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::PermissionDenied => {
            "ask as root, or as a user of the group that the socket belongs to"
        }
        _ => "see which are running with: fanin status, or start one with: fanin run",
    }
}

impl ClientError {
    /// Whether a permission was missing.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Unreachable { why, .. }
            if why.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// The socket of the relay that was started with `config`.
pub fn of_config(config: &Config) -> Result<PathBuf, ClientError> {
    if let Some(path) = &config.control.socket {
        return Ok(path.clone());
    }
    let first = config.listeners.iter().flat_map(|listener| &listener.bind).next();
    match first.map(SocketAddr::port) {
        // The kernel chose the port: the file does not tell which.
        Some(0) | None => find(),
        Some(port) => Ok(directory::socket(port)),
    }
}

/// The socket of the only relay that runs.
pub fn find() -> Result<PathBuf, ClientError> {
    find_in(directory::default())
}

fn find_in(directory: PathBuf) -> Result<PathBuf, ClientError> {
    let mut live = directory::sockets(&directory);
    live.retain(|path| is_live(path));
    match live.len() {
        1 => Ok(live.remove(0)),
        0 => Err(ClientError::None { directory }),
        _ => Err(ClientError::Several { sockets: live }),
    }
}

/// Asks the relay whose socket is at `path`; `command` is one line of the socket's protocol.
pub fn ask(path: &Path, command: &str) -> Result<String, ClientError> {
    let answer = exchange(path, command)
        .map_err(|why| ClientError::Unreachable { path: path.to_owned(), why })?;
    match answer.strip_prefix(REFUSAL) {
        Some(refusal) => Err(ClientError::Refused(refusal.trim_end().to_owned())),
        None => Ok(answer),
    }
}

fn exchange(path: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    // A relay with too many clients answers and closes without reading: what it said counts.
    let sent = stream.write_all(format!("{command}\n").as_bytes());
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    if answer.is_empty() {
        sent?;
        read?;
        return Err(io::Error::other("it closed without an answer"));
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::control::tests::Scratch;

    #[test]
    fn the_only_live_relay_is_found_among_the_dead() {
        let scratch = Scratch::new("find");
        drop(UnixListener::bind(scratch.path("1.sock")).expect("bound"));
        let none = find_in(scratch.root()).expect_err("all dead").to_string();
        assert!(
            none.contains("no relay of this user is running") && none.contains("fanin run"),
            "{none}"
        );
        let _one = UnixListener::bind(scratch.path("2.sock")).expect("bound");
        assert_eq!(find_in(scratch.root()).expect("one"), scratch.path("2.sock"));
        let _two = UnixListener::bind(scratch.path("3.sock")).expect("bound");
        let several = find_in(scratch.root()).expect_err("two").to_string();
        assert!(several.contains("2.sock") && several.contains("3.sock"), "{several}");
        assert!(several.contains("--control "), "{several}");
    }

    #[test]
    fn a_configuration_leads_to_the_socket_of_its_relay() {
        let config = |socket: Option<&str>| {
            let listen = ["127.0.0.1:3834".parse().unwrap()];
            let servers = ["192.0.2.1:443".parse().unwrap()];
            let overrides = crate::config::Overrides {
                control: socket.map(PathBuf::from),
                ..Default::default()
            };
            Config::from_flags(&listen, &servers, &overrides).expect("valid")
        };
        assert_eq!(of_config(&config(Some("/x/y.sock"))).expect("named"), Path::new("/x/y.sock"));
        assert!(of_config(&config(None)).expect("derived").ends_with("3834.sock"));
    }

    #[test]
    fn a_missing_directory_is_no_relay() {
        let scratch = Scratch::new("nowhere");
        assert!(matches!(find_in(scratch.path("absent")), Err(ClientError::None { .. })));
    }

    #[test]
    fn an_answer_is_told_from_a_refusal_and_from_silence() {
        let scratch = Scratch::new("ask");
        let path = scratch.path("r.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let relay = thread::spawn(move || {
            for answer in ["fine\n", "error: not now\n", ""] {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut command = [0; 7];
                stream.read_exact(&mut command).expect("a command");
                assert_eq!(&command, b"status\n");
                stream.write_all(answer.as_bytes()).expect("takes the answer");
            }
        });
        assert_eq!(ask(&path, "status").expect("an answer"), "fine\n");
        assert_eq!(ask(&path, "status").expect_err("a refusal").to_string(), "not now");
        let silent = ask(&path, "status").expect_err("silence").to_string();
        assert!(silent.contains("without an answer") && silent.contains("r.sock"), "{silent}");
        relay.join().expect("no panic");
        let dead = ask(&path, "status").expect_err("dead").to_string();
        assert!(dead.contains("no relay answers at"), "{dead}");
    }
}
