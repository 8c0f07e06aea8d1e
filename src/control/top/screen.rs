//! The terminal while it is ours, and the loop that waits for keys, looks and signals.

use std::io::{self, IsTerminal as _, Read as _, Stdout, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{panic, thread};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, read};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use tokio::time::Instant;

use crate::control::client::ClientError;

use super::draw::draw;
use super::look::Look;
use super::state::{Next, State};
use super::{EVERY, keys};

/// Those that end the view. The terminal is given back first, so none may end the process by itself.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
/// How long nothing may come before it is looked whether the relay is silent, in milliseconds.
const WAKE_MILLIS: u16 = 1000;
/// A key has at most some ten bytes; what is pasted means nothing here.
const TYPED_BYTES: usize = 256;

/// Whether there is a terminal that can show a screen, and somebody who can press keys there.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal()
        && io::stdout().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
        // Some that are made by programs have no size.
        && matches!(size(), Ok((1.., 1..)))
}

/// Shows the relay until somebody ends the view.
///
/// # Errors
/// When the terminal does not become a screen.
pub(super) fn run(socket: &Path, first: Look) -> Result<(), ClientError> {
    // Whatever is set (https://no-color.org), unless it is empty.
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut state = State::new(first.clone(), colours);
    let unfit = |error: io::Error| ClientError::Terminal { why: error };
    // Before there is another thread, which would take them in the ordinary way.
    let signals = signals().map_err(|errno| unfit(errno.into()))?;
    let watch = Watch::start(socket.to_owned(), first).map_err(unfit)?;
    let mut screen = Screen::open().map_err(unfit)?;
    let mut heard = Instant::now();
    loop {
        // A terminal that is gone shows nothing any more, and nobody is there to be told.
        if screen.terminal.draw(|frame| draw(&state, frame)).is_err() {
            return Ok(());
        }
        let Ok(ready) = wait(&signals, &watch) else { return Ok(()) };
        if ready.signal && ends(&signals) {
            return Ok(());
        }
        if ready.look && watch.pass(&mut state) {
            heard = Instant::now();
        } else {
            state.wait(heard.elapsed());
        }
        if ready.gone || (ready.key && !typed(&mut state, &mut screen)) {
            return Ok(());
        }
    }
}

/// What has come.
struct Ready {
    signal: bool,
    look: bool,
    key: bool,
    gone: bool,
}

/// Waits for a signal, a look or a key, but not for ever.
fn wait(signals: &SignalFd, watch: &Watch) -> Result<Ready, Errno> {
    let stdin = io::stdin();
    let mut all = [
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(watch.bell.as_fd(), PollFlags::POLLIN),
        PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut all, PollTimeout::from(WAKE_MILLIS)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let [signal, look, key] = all.map(|one| one.revents().unwrap_or(PollFlags::empty()));
    Ok(Ready {
        signal: !signal.is_empty(),
        look: !look.is_empty(),
        key: key.contains(PollFlags::POLLIN),
        gone: key.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL),
    })
}

/// The signals that matter, to be read instead of obeyed.
fn signals() -> Result<SignalFd, Errno> {
    // Of another size of the window nothing is to be done but to draw, which asks for the size.
    let mask: SigSet = ENDING.into_iter().chain([Signal::SIGWINCH]).collect();
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Whether one came that ends the view.
fn ends(signals: &SignalFd) -> bool {
    std::iter::from_fn(|| signals.read_signal().ok().flatten()).any(|signal| {
        i32::try_from(signal.ssi_signo)
            .is_ok_and(|number| ENDING.iter().any(|ending| *ending as i32 == number))
    })
}

/// Takes what was typed. `false` is the end.
fn typed(state: &mut State, screen: &mut Screen) -> bool {
    let mut typed = [0; TYPED_BYTES];
    let count = match read(io::stdin(), &mut typed) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(Errno::EINTR | Errno::EAGAIN) => 0,
        Err(_) => return false,
    };
    keys::read(&typed[..count]).into_iter().all(|key| match state.press(key) {
        Next::Stay => true,
        Next::Redraw => screen.draw_anew().is_ok(),
        Next::Suspend => screen.suspend().is_ok(),
        Next::Quit => false,
    })
}

/// Looks at the relay once a second, on a thread of its own: an answer may take long, and a key
/// is not to wait for it.
struct Watch {
    looks: Receiver<Result<Look, String>>,
    /// Readable when there is a look.
    bell: UnixStream,
}

impl Watch {
    fn start(socket: PathBuf, first: Look) -> io::Result<Self> {
        let (bell, ringer) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let (sender, looks) = channel();
        // It ends with the process, or with the first look that nobody takes.
        thread::Builder::new()
            .name("look".to_owned())
            .spawn(move || look(&socket, first, &sender, ringer))?;
        Ok(Self { looks, bell })
    }

    /// Passes on what has come; whether anything has.
    fn pass(&self, state: &mut State) -> bool {
        while matches!((&self.bell).read(&mut [0; 64]), Ok(1..)) {}
        let mut any = false;
        for heard in self.looks.try_iter() {
            state.hear(heard);
            any = true;
        }
        any
    }
}

fn look(
    socket: &Path,
    mut last: Look,
    looks: &Sender<Result<Look, String>>,
    mut ringer: UnixStream,
) {
    // All signals are the main thread's: see Screen::suspend.
    let _ = SigSet::all().thread_block();
    let mut next = Instant::now() + EVERY;
    loop {
        // It may be woken too early: a rate is of the time that has really passed.
        thread::park_timeout(next.saturating_duration_since(Instant::now()));
        // After an answer that took long it goes on from then, and does not make up for it.
        next = (next + EVERY).max(Instant::now());
        let heard = Look::take(socket, Some(&last)).map_err(|error| error.to_string());
        if let Ok(look) = &heard {
            last = look.clone();
        }
        if looks.send(heard).is_err() || ringer.write_all(b"!").is_err() {
            return;
        }
    }
}

/// The terminal as a screen; as it was before when dropped.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn open() -> io::Result<Self> {
        // A panic aborts in this program, and nothing is dropped: this is the last chance.
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            leave();
            tell(panic);
        }));
        let opened = enter().and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        opened.map(|terminal| Self { terminal }).inspect_err(|_| leave())
    }

    /// Gives the terminal to the shell, as Ctrl-Z does elsewhere, until this process goes on.
    fn suspend(&mut self) -> io::Result<()> {
        leave();
        // To the whole job, as the terminal would. This thread alone does not block it, so that
        // the process has stopped before this returns (kill(2), notes).
        kill(Pid::from_raw(0), Signal::SIGTSTP)?;
        enter()?;
        self.draw_anew()
    }

    /// What is drawn next is drawn whole. `Terminal::clear` would ask the terminal where its cursor is,
    /// and read keys for the answer.
    fn draw_anew(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Hide)
}

fn leave() {
    // A terminal that is gone needs nothing.
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}
