//! The control socket: a command a line, the answer, the end. It also speaks HAProxy's CLI, as far as
//! that asks for something.
//!
//! Clients are served beside the control loop, which alone carries commands out; a client that is
//! slow, mute or gone costs the loop nothing.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use thiserror::Error;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixStream as Client;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::config::{ControlLevel, ControlMode};
use crate::sys::process;

use super::directory;
use super::ends::Question;
use super::haproxy::{Change, SessionId, Show};

/// Clients served at one time; others are told to come back.
const CLIENTS_MAX: usize = 8;
/// The longest command: a word and a path (`PATH_MAX`).
const COMMAND_BYTES_MAX: u64 = 4352;
/// How long a client may take to send its command, and to take the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client with a prompt may be silent, unless it says how long, and at most.
const PROMPT_PATIENCE: Duration = Duration::from_secs(60);
const PROMPT_PATIENCE_MAX: Duration = Duration::from_secs(3600);
/// How long a command may take. A reload looks names up and may start another relay process, which
/// have bounds of their own.
const COMMAND_PATIENCE: Duration = Duration::from_secs(75);
/// How long nobody is let in after accepting failed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How an answer that is a refusal begins.
pub(super) const REFUSAL: &str = "error: ";

/// What `help` answers.
const HELP: &str = "\
commands, one a connection:
  status        what the relay does, for people
  status json   the same for programs
  ends [REASON] [N] [json]   how the latest sessions ended
  reload        read the configuration file again, without touching a connection
  upgrade PATH  have another binary take over; without PATH the one that is installed now
  drain         accept no more, let sessions end, then exit
  help          this text
of HAProxy's, with their answers, and several in a line with ';' between them:
  show stat [PROXY KIND SERVER] [typed|json] [up|no-maint], show info [typed|json],
  show servers state|conn [BACKEND], show sess [ID], show backend, show errors, show env [NAME],
  show table, show version, show cli level|sockets, get weight BACKEND/SERVER,
  disable|enable server BACKEND/SERVER, disable|enable health BACKEND/SERVER,
  disable|enable|shutdown frontend LISTENER,
  set server BACKEND/SERVER state ready|drain|maint, weight N|N%, addr IP [port PORT],
    fqdn NAME, health up|down|stopping, check-port PORT, check-addr IP [port PORT]
  set weight BACKEND/SERVER N|N%, set maxconn server BACKEND/SERVER N,
  set maxconn frontend LISTENER N, set maxconn global N,
  shutdown session ID, shutdown sessions server BACKEND/SERVER, clear counters [all]
  prompt        a prompt, and line after line; set timeout cli SECONDS; operator, user; quit
";

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Status,
    StatusJson,
    /// The sources that sessions came from.
    Agents {
        json: bool,
    },
    Reload,
    /// To this binary, or to the one that now has the name of the one that runs.
    Upgrade(Option<PathBuf>),
    Drain,
    /// How the latest sessions ended.
    Ends(Question),
    /// A question of HAProxy's CLI.
    Show(Show),
    /// A command of HAProxy's CLI that changes something.
    Change(Change),
    /// The sessions there are, or one of them.
    Sessions(Option<SessionId>),
    /// A session is to end.
    EndSession(SessionId),
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What there is to ask for.
    Help,
    /// How much the client may do, in HAProxy's word for it.
    Level,
    /// No more than that from now on.
    Lower(ControlLevel),
    /// Which sockets there are to ask at.
    Sockets,
    /// Something of the relay.
    Relay(Command),
    /// What HAProxy answers to a command that lacks something.
    Refused(String),
}

/// The socket that a client came through, and who may do what there.
#[derive(Debug)]
struct Entrance {
    path: PathBuf,
    /// What those may do who are neither root nor the user who runs the relay.
    level: ControlLevel,
    requests: mpsc::Sender<Request>,
}

/// A command on its way to the control loop, and where the answer goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<String>,
}

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum SocketError {
    #[error(
        "a relay is already running with the control socket {}; ask it with: fanin status \
         --control {}; give this one a socket of its own with: --control PATH",
        path.display(),
        path.display()
    )]
    Live { path: PathBuf },
    #[error(
        "the control socket {} cannot be made: {why}; choose another place with: --control PATH",
        path.display()
    )]
    Unusable { path: PathBuf, why: io::Error },
}

impl SocketError {
    /// Whether a permission was missing.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Unusable { why, .. }
            if why.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// A control socket, bound and listening. Its file goes when it does.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket of ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// `None` is somebody else's to remove.
    inode: Option<u64>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another relay may have put its own there meanwhile.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| Some(found.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlSocket {
    /// Binds the socket at `path`, whose directory is made if it is missing. A socket that a dead
    /// process left behind is replaced.
    pub fn bind(path: &Path, mode: ControlMode) -> Result<Self, SocketError> {
        let unusable = |why| SocketError::Unusable { path: path.to_owned(), why };
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            directory::ensure(directory).map_err(unusable)?;
        }
        if is_live(path) {
            return Err(SocketError::Live { path: path.to_owned() });
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                return Err(unusable(io::Error::other("a file that is no socket is there")));
            }
            Ok(_) => fs::remove_file(path).map_err(unusable)?,
            Err(_) => {}
        }
        let listener = listen(path, mode).map_err(unusable)?;
        let inode = Some(fs::symlink_metadata(path).map_err(unusable)?.ino());
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), inode } })
    }

    /// One that this process inherited under a number. Its file goes with it only if the number of
    /// that file is given.
    pub fn inherit(number: RawFd, path: PathBuf, inode: Option<u64>) -> Self {
        let listener = process::inherited(number).into();
        Self { listener, file: SocketFile { path, inode } }
    }

    /// What an heir is told of it: the number and the path.
    pub fn leave(&self) -> (RawFd, PathBuf) {
        (self.listener.as_raw_fd(), self.file.path.clone())
    }

    /// The number of its file, if it goes with this.
    pub const fn inode(&self) -> Option<u64> {
        self.file.inode
    }

    /// Lets others in than before.
    ///
    /// # Errors
    /// As chmod(2) says.
    pub fn open_to(&self, mode: ControlMode) -> io::Result<()> {
        fs::set_permissions(&self.file.path, fs::Permissions::from_mode(mode.bits()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves clients until dropped; their commands go to `requests`. `level` is what those may do
    /// who are neither root nor the user who runs the relay.
    pub(super) async fn serve(
        self,
        level: ControlLevel,
        requests: mpsc::Sender<Request>,
    ) -> io::Result<()> {
        let path = self.file.path.clone();
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        let entrance = Arc::new(Entrance { path, level, requests });
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // For want of descriptors; they come back, but not at once.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let place = Arc::clone(&places).try_acquire_owned();
            let entrance = Arc::clone(&entrance);
            tokio::spawn(async move {
                let answered = match place {
                    Ok(_place) => serve_client(stream, &entrance).await,
                    Err(_) => refuse(stream).await,
                };
                // A client that does not want its answer is not our trouble.
                drop(answered);
            });
        }
    }
}

/// Whether somebody listens at `path`, be it that we may not ask.
pub(super) fn is_live(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// A listening socket that never, not for a moment, lets in more than its mode says.
fn listen(path: &Path, mode: ControlMode) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // bind(2) gives the file the mode of the socket less the umask; the umask itself is the whole
    // process's and is left alone.
    nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(mode.bits()))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // The umask may have taken the group's rights away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode.bits()))?;
    nix::sys::socket::listen(&socket, Backlog::new(64)?)?;
    Ok(socket.into())
}

async fn refuse(mut stream: Client) -> io::Result<()> {
    let answer = format!("{REFUSAL}{CLIENTS_MAX} others are asking; try again\n");
    timeout(CLIENT_PATIENCE, stream.write_all(answer.as_bytes())).await?
}

/// Answers one line and ends; a client that asks for a prompt is answered line after line, as
/// HAProxy's CLI does it.
async fn serve_client(mut stream: Client, entrance: &Entrance) -> io::Result<()> {
    let mut level = entrance.level_of(stream.peer_cred()?.uid());
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut prompts = false;
    let mut patience = CLIENT_PATIENCE;
    loop {
        let line = match timeout(patience, read_command(&mut reader)).await {
            Err(_) if prompts => break,
            Err(_) => {
                let why = format!("{REFUSAL}no command came within {} s\n", patience.as_secs());
                timeout(CLIENT_PATIENCE, writer.write_all(why.as_bytes())).await??;
                break;
            }
            Ok(line) => line?,
        };
        let text = String::from_utf8_lossy(&line);
        let mut answer = match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] if line.is_empty() && prompts => break,
            ["quit"] => break,
            [] if prompts => String::new(),
            ["prompt", ..] => {
                prompts = !prompts;
                patience = if prompts { PROMPT_PATIENCE } else { CLIENT_PATIENCE };
                "\n".to_owned()
            }
            ["set", "timeout", "cli", seconds] => match seconds.parse::<u64>() {
                Ok(seconds @ 1..) => {
                    patience = Duration::from_secs(seconds).min(PROMPT_PATIENCE_MAX);
                    "\n".to_owned()
                }
                _ => "Invalid timeout value.\n\n".to_owned(),
            },
            _ => entrance.answer_all(&line, &mut level).await,
        };
        if prompts {
            answer.push_str("> ");
        }
        timeout(CLIENT_PATIENCE, writer.write_all(answer.as_bytes())).await??;
        if !prompts {
            break;
        }
    }
    writer.shutdown().await
}

/// The next line, or as much of it as fits.
async fn read_command(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(COMMAND_BYTES_MAX).read_until(b'\n', &mut line).await?;
    Ok(line)
}

impl Entrance {
    /// How much a user may do.
    fn level_of(&self, user: u32) -> ControlLevel {
        match user == 0 || user == geteuid().as_raw() {
            true => ControlLevel::Admin,
            false => self.level,
        }
    }

    /// Answers to the commands of a line, which a semicolon separates (management guide, 9.3).
    async fn answer_all(&self, line: &[u8], level: &mut ControlLevel) -> String {
        let mut answers = String::new();
        // A line that was cut off says so itself.
        let whole = line.ends_with(b"\n") || (line.len() as u64) < COMMAND_BYTES_MAX;
        let commands: Vec<&[u8]> =
            if whole { line.split(|byte| *byte == b';').collect() } else { vec![line] };
        for command in commands {
            let answer = self.answer_to(command, level).await;
            answers.push_str(&answer);
            if !answer.ends_with('\n') {
                answers.push('\n');
            }
        }
        answers
    }

    async fn answer_to(&self, line: &[u8], level: &mut ControlLevel) -> String {
        if let Some(refusal) = forbidden(&String::from_utf8_lossy(line), *level) {
            return refusal;
        }
        let command = match parse(line) {
            Ok(Asked::Relay(command)) => command,
            Ok(Asked::Level) => return format!("{level}\n\n"),
            Ok(Asked::Lower(to)) => {
                *level = to.min(*level);
                return "\n".to_owned();
            }
            Ok(Asked::Sockets) => {
                let (path, others) = (self.path.display(), self.level);
                return format!("# socket lvl processes\nunix@{path} {others} all\n\n");
            }
            Ok(Asked::Help) => return HELP.to_owned(),
            Ok(Asked::Refused(answer)) => return answer,
            Err(refusal) => return format!("{REFUSAL}{refusal}"),
        };
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request { command, answer }).await.is_err() {
            return format!("{REFUSAL}the relay is ending");
        }
        match timeout(COMMAND_PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => format!("{REFUSAL}the relay is ending"),
            Err(_) => format!("{REFUSAL}no answer within {} s", COMMAND_PATIENCE.as_secs()),
        }
    }
}

/// What a client is told who may not do so much. That comes first: whether the command is well formed is
/// nothing to one who may not give it.
fn forbidden(line: &str, level: ControlLevel) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (needed, ours) = match words.as_slice() {
        ["reload" | "drain" | "upgrade", ..] => (ControlLevel::Admin, true),
        ["set", "timeout", ..] => (ControlLevel::User, false),
        ["clear", "counters", "all", ..] => (ControlLevel::Admin, false),
        ["clear", ..] | ["show", "sess" | "errors" | "env" | "cli", ..]
            if !matches!(words.as_slice(), ["show", "cli", "level"]) =>
        {
            (ControlLevel::Operator, false)
        }
        ["set" | "enable" | "disable" | "shutdown", ..] => (ControlLevel::Admin, false),
        _ => (ControlLevel::User, false),
    };
    let why =
        "only root and the user who runs the relay may do this, unless [control] level = \"admin\"";
    (level < needed).then(|| match ours {
        true => format!("{REFUSAL}{why}"),
        false => "Permission denied\n\n".to_owned(),
    })
}

/// The command in a line as a client sent it.
///
/// # Errors
/// What is wrong with it, for the client.
pub fn parse(line: &[u8]) -> Result<Asked, String> {
    let complete = line.ends_with(b"\n") || (line.len() as u64) < COMMAND_BYTES_MAX;
    let asked = if complete {
        command(&String::from_utf8_lossy(line))
    } else {
        Err(format!("a command has at most {COMMAND_BYTES_MAX} bytes"))
    };
    asked.map_err(|refusal| format!("{refusal}; see: help"))
}

fn command(text: &str) -> Result<Asked, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let command = match words.as_slice() {
        ["help"] => return Ok(Asked::Help),
        ["show", "cli", "level"] => return Ok(Asked::Level),
        ["show", "cli", "sockets"] => return Ok(Asked::Sockets),
        ["operator"] => return Ok(Asked::Lower(ControlLevel::Operator)),
        ["user"] => return Ok(Asked::Lower(ControlLevel::User)),
        ["status"] => Some(Command::Status),
        ["status", "json"] => Some(Command::StatusJson),
        ["agents"] => Some(Command::Agents { json: false }),
        ["agents", "json"] => Some(Command::Agents { json: true }),
        ["ends", rest @ ..] => Some(Command::Ends(Question::parse(rest)?)),
        ["reload"] => Some(Command::Reload),
        ["drain"] => Some(Command::Drain),
        ["upgrade"] => Some(Command::Upgrade(None)),
        ["upgrade", ..] => {
            let path = text.trim().trim_start_matches("upgrade").trim();
            Some(Command::Upgrade(Some(binary(path)?)))
        }
        ["show", "sess"] => Some(Command::Sessions(None)),
        ["show", "sess", rest @ ..] => match SessionId::parse(rest.first()) {
            Some(id) => Some(Command::Sessions(Some(id))),
            None => return Ok(refused("Session not found.")),
        },
        ["show", ..] => Show::parse(&words)?.map(Command::Show),
        ["set", "timeout", "cli"] => return Ok(refused("Expects an integer value.")),
        ["set", "timeout", ..] => return Ok(refused("'set timeout' only supports 'cli'.")),
        ["shutdown", "session", rest @ ..] => match SessionId::parse(rest.first()) {
            Some(id) => Some(Command::EndSession(id)),
            None => return Ok(refused("Session pointer expected (use 'show sess').")),
        },
        ["set" | "get" | "enable" | "disable" | "shutdown" | "clear", ..] => {
            match Change::parse(&words) {
                Ok(change) => change.map(Command::Change),
                Err(refusal) => return Ok(Asked::Refused(refusal)),
            }
        }
        [] => return Err("an empty command".to_owned()),
        _ => None,
    };
    let unknown = || format!("unknown command \"{}\"", text.trim().escape_debug());
    command.map(Asked::Relay).ok_or_else(unknown)
}

fn refused(text: &str) -> Asked {
    Asked::Refused(format!("{text}\n\n"))
}

/// The relay has a working directory of its own, so only a whole path will do.
fn binary(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(format!(
        "upgrade takes an absolute path, not \"{}\"",
        path.display().to_string().escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::thread;

    use super::*;
    use crate::control::tests::Scratch;

    /// Serves `socket` with answers that name the command, as long as the handle lives.
    struct Server {
        _stop: oneshot::Sender<()>,
    }

    impl Server {
        fn new(socket: ControlSocket) -> Self {
            let (stop, stopped) = oneshot::channel::<()>();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    let (requests, mut inbox) = mpsc::channel::<Request>(1);
                    tokio::spawn(async move {
                        while let Some(request) = inbox.recv().await {
                            let _ = request.answer.send(format!("{:?}", request.command));
                        }
                    });
                    tokio::select! {
                        served = socket.serve(ControlLevel::User, requests) => served.expect("accepts"),
                        _ = stopped => {}
                    }
                });
            });
            Self { _stop: stop }
        }
    }

    fn ask(path: &Path, command: &[u8]) -> String {
        let mut client = UnixStream::connect(path).expect("connects");
        client.write_all(command).expect("takes the command");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("answers and closes");
        answer
    }

    #[test]
    fn each_command_has_its_answer_and_others_are_refused_with_the_remedy() {
        let scratch = Scratch::new("commands");
        let path = scratch.path("r.sock");
        let _server = Server::new(ControlSocket::bind(&path, ControlMode::Group).expect("bound"));
        assert_eq!(ask(&path, b"status\n"), "Status\n");
        assert_eq!(ask(&path, b"  status   json \r\n"), "StatusJson\n");
        assert_eq!(ask(&path, b"reload\n"), "Reload\n");
        assert_eq!(ask(&path, b"drain\n"), "Drain\n");
        assert!(ask(&path, b"help\n").contains("status json"));
        assert_eq!(ask(&path, b"\n"), "error: an empty command; see: help\n");
        let unknown = ask(&path, b"nonsense\x1b[2J\xff\n");
        assert!(unknown.starts_with("error: unknown command \"nonsense\\u{1b}[2J"), "{unknown}");
        let long = ask(&path, &[b'x'; 4352]);
        assert!(long.contains("at most 4352 bytes"), "{long}");
    }

    #[test]
    fn a_mute_client_does_not_hold_up_another_and_too_many_are_sent_away() {
        let scratch = Scratch::new("mute");
        let path = scratch.path("r.sock");
        let _server = Server::new(ControlSocket::bind(&path, ControlMode::Group).expect("bound"));
        let mut mute = vec![UnixStream::connect(&path).expect("connects")];
        assert_eq!(ask(&path, b"status\n"), "Status\n");
        // One more than there are places: somebody is sent away at once, without a command.
        for _ in 0..CLIENTS_MAX {
            mute.push(UnixStream::connect(&path).expect("connects"));
        }
        let mut answer = String::new();
        let last = mute.last_mut().expect("connected");
        last.read_to_string(&mut answer).expect("an answer and the end");
        assert!(answer.contains("others are asking"), "{answer}");
    }

    #[test]
    fn owner_and_group_may_connect_and_nobody_else() {
        let scratch = Scratch::new("mode");
        let path = scratch.path("sub/r.sock");
        let socket = ControlSocket::bind(&path, ControlMode::Group).expect("bound");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o660);
        socket.open_to(ControlMode::Owner).expect("ours");
        assert_eq!(mode(&path), 0o600);
        let other = scratch.path("sub/other.sock");
        let _other = ControlSocket::bind(&other, ControlMode::Owner).expect("bound");
        assert_eq!(mode(&other), 0o600);
        assert_eq!(mode(path.parent().expect("a directory")) & 0o027, 0);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let scratch = Scratch::new("stale");
        let path = scratch.path("r.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a socket without a listener");
        let socket = ControlSocket::bind(&path, ControlMode::Group).expect("replaced");
        let error = ControlSocket::bind(&path, ControlMode::Group).expect_err("live");
        assert!(matches!(error, SocketError::Live { .. }));
        assert!(error.to_string().contains("fanin status --control"), "{error}");
        assert!(error.to_string().contains("--control PATH"), "{error}");
        drop(socket);
        assert!(!path.exists(), "its file goes with it");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = Scratch::new("file");
        let path = scratch.path("r.sock");
        fs::write(&path, "precious").expect("a file");
        let error = ControlSocket::bind(&path, ControlMode::Group).expect_err("not ours");
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }

    #[test]
    fn a_place_that_cannot_be_used_is_named_with_the_remedy() {
        let error = ControlSocket::bind(Path::new("/proc/fanin/r.sock"), ControlMode::Group)
            .expect_err("no place");
        let message = error.to_string();
        assert!(message.contains("/proc/fanin/r.sock"), "{message}");
        assert!(message.contains("--control PATH"), "{message}");
    }

    #[test]
    fn changes_are_for_root_and_the_owner_or_for_those_whose_level_allows_them() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (requests, mut inbox) = mpsc::channel(4);
            let path = PathBuf::from("r.sock");
            let entrance = Entrance { path, level: ControlLevel::Operator, requests };
            let mut level = entrance.level_of(geteuid().as_raw() + 1000);
            for command in [b"reload\n".as_slice(), b"drain\n"] {
                let answer = entrance.answer_to(command, &mut level).await;
                assert!(answer.starts_with("error: only root"), "{answer}");
            }
            for command in ["set maxconn server b", "disable server b/s", "clear counters all"] {
                let answer = entrance.answer_to(command.as_bytes(), &mut level).await;
                assert_eq!(answer, "Permission denied\n\n", "{command}");
            }
            assert_eq!(entrance.answer_to(b"show cli level", &mut level).await, "operator\n\n");
            assert_eq!(entrance.answer_to(b"user", &mut level).await, "\n");
            for command in ["show sess", "clear counters"] {
                let answer = entrance.answer_to(command.as_bytes(), &mut level).await;
                assert_eq!(answer, "Permission denied\n\n", "{command}");
            }
            assert_eq!(entrance.answer_to(b"operator", &mut level).await, "\n");
            assert_eq!(entrance.answer_to(b"show cli level", &mut level).await, "user\n\n");
            assert!(inbox.try_recv().is_err(), "nothing reached the relay");
            let asked = entrance.answer_to(b"status\n", &mut level);
            let served = async {
                let request = inbox.recv().await.expect("a request");
                request.answer.send("fine".to_owned()).expect("somebody waits");
            };
            assert_eq!(tokio::join!(asked, served).0, "fine");
            let mut owner = entrance.level_of(geteuid().as_raw());
            assert_eq!(owner, ControlLevel::Admin);
            let refused = entrance.answer_to(b"set maxconn server b", &mut owner).await;
            assert_eq!(refused, "Require 'backend/server'.\n\n");
        });
    }
}
