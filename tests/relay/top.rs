//! `fanin top` on a terminal: what a person sees, and how the terminal is left.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use crate::support::relay::{BINARY, Relay};
use crate::support::{await_some, await_that, peers, text};

const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const WIDTH: usize = 80;
const HEIGHT: usize = 24;

/// `fanin top` in a terminal of 80 columns and 24 lines.
struct View {
    child: Child,
    keys: File,
    terminal: OwnedFd,
    before: Termios,
    written: Arc<Mutex<Vec<u8>>>,
}

impl View {
    fn open(relay: &Relay, variables: &[(&str, &str)]) -> Self {
        let (ws_row, ws_col) = (HEIGHT as u16, WIDTH as u16);
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let side = || Stdio::from(pair.slave.try_clone().unwrap());
        let before = tcgetattr(&pair.slave).unwrap();
        let child = Command::new(BINARY)
            .args(["top", "--control"])
            .arg(relay.control())
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied())
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut screen = File::from(pair.master.try_clone().unwrap());
        let heard = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                heard.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keys: pair.master.into(), terminal: pair.slave, before, written }
    }

    fn written(&self) -> String {
        text(&self.written.lock().unwrap())
    }

    fn press(&mut self, key: u8) {
        self.keys.write_all(&[key]).unwrap();
    }

    /// Waits until the screen has all of these.
    #[track_caller]
    fn await_screen(&self, parts: &[&str]) {
        await_that(&format!("{parts:?} on the screen"), || {
            let shown = shown(&self.written());
            parts.iter().all(|part| shown.contains(part))
        });
    }

    #[track_caller]
    fn await_end(&mut self) -> ExitStatus {
        let status = await_some("the view ends", || self.child.try_wait().unwrap());
        await_that("the terminal is given back", || {
            let written = self.written();
            let last = written.rfind(LEAVE_SCREEN);
            last > written.rfind(ENTER_SCREEN) && written.rfind(SHOW_CURSOR) > last
        });
        let after = tcgetattr(&self.terminal).unwrap();
        assert_eq!(after.local_flags, self.before.local_flags);
        assert_eq!(after.input_flags, self.before.input_flags);
        assert_eq!(after.output_flags, self.before.output_flags);
        status
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("on the screen:\n{}\nby {:?}", shown(&self.written()), self.written());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal shows that was told this: as much of one as a program needs that says where each
/// text begins.
fn shown(written: &str) -> String {
    let mut lines = vec![[' '; WIDTH]; HEIGHT];
    let (mut x, mut y) = (0, 0);
    let drawn = written.split_once(ENTER_SCREEN).map_or("", |(_, drawn)| drawn);
    let mut rest = drawn.chars();
    while let Some(c) = rest.next() {
        if c != '\x1b' {
            lines[y][x.min(WIDTH - 1)] = c;
            x += 1;
            continue;
        }
        let mut sequence = String::new();
        let last = rest.by_ref().skip(1).find(|c| {
            sequence.push(*c);
            c.is_alphabetic()
        });
        let numbers: Vec<_> =
            sequence.trim_end_matches('H').split(';').map(str::parse::<usize>).collect();
        if let (Some('H'), [Ok(line), Ok(column)]) = (last, numbers.as_slice()) {
            (y, x) = (*line.min(&HEIGHT) - 1, column - 1);
        }
    }
    lines.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
}

#[test]
fn a_screen_is_drawn_and_the_terminal_is_given_back() {
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &[]);
    let mut view = View::open(&relay, &[]);
    let address = server.address.to_string();
    view.await_screen(&["serving, ready", "SERVER", &address, "sessions/s", "? help"]);
    assert!(view.written().starts_with(ENTER_SCREEN));
    assert!(view.written().contains("\x1b[38;5;"), "colours");
    let raw = tcgetattr(&view.terminal).unwrap().local_flags;
    assert!(!raw.contains(LocalFlags::ICANON) && !raw.contains(LocalFlags::ECHO));
    peers::exchange(relay.address(), b"report").unwrap();
    view.press(b'4');
    view.await_screen(&["PER SECOND", "completed"]);
    view.press(b'q');
    assert!(view.await_end().success());
}

#[test]
fn a_relay_that_went_away_is_waited_for_and_a_signal_gives_the_terminal_back() {
    let server = peers::echo();
    let relay = Relay::between(&[server.address], &[]);
    let mut view = View::open(&relay, &[("NO_COLOR", "1")]);
    view.await_screen(&["serving, ready"]);
    drop(relay);
    view.await_screen(&["gone, trying again each second: no relay answers at"]);
    assert!(!view.written().contains("\x1b[38;5;"), "no colours were wanted");
    kill(Pid::from_raw(view.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(view.await_end().success());
}
