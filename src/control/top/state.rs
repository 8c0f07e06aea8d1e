//! What is on the screen, and what a key or a look changes of it. PURE.

use std::collections::VecDeque;
use std::time::Duration;

use super::keys::Key;
use super::look::{Look, Pair};
use super::sheets::{self, Sheet, Sort};

/// Sessions a second that are kept: more than the widest screen has columns.
const HISTORY_MAX: usize = 300;
/// Rows that a page has, whatever the screen's height: the keys know nothing of it.
const PAGE_ROWS: usize = 10;
/// An answer comes each second. What takes longer than this is said.
const SILENCE_MIN: Duration = Duration::from_secs(3);

/// A table of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    Servers,
    Listeners,
    Workers,
    Ends,
    Latest,
}

impl Panel {
    pub(super) const ALL: [Self; 5] =
        [Self::Servers, Self::Listeners, Self::Workers, Self::Ends, Self::Latest];

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Listeners => "listeners",
            Self::Workers => "workers",
            Self::Ends => "ends",
            Self::Latest => "latest",
        }
    }

    /// So many further on, and round.
    fn onward(self, by: usize) -> Self {
        Self::ALL[(self.index() + by) % Self::ALL.len()]
    }
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    /// The screen is to be drawn from nothing: something else has written on it.
    Redraw,
    /// The shell has the terminal until it gives it back.
    Suspend,
    Quit,
}

/// All that a screen is drawn from.
#[derive(Debug)]
pub(super) struct State {
    before: Look,
    now: Look,
    /// Why there is no answer, as long as there is none.
    pub(super) trouble: Option<String>,
    /// Since when there is neither an answer nor a reason, if that is long.
    pub(super) silence: Option<Duration>,
    pub(super) focus: Panel,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) colours: bool,
    /// Sessions a second, the last at the end.
    pub(super) history: VecDeque<u64>,
    /// The row of each panel that is marked; it may be beyond the last one.
    marked: [usize; Panel::ALL.len()],
}

impl State {
    pub(super) fn new(first: Look, colours: bool) -> Self {
        Self {
            before: first.clone(),
            now: first,
            trouble: None,
            silence: None,
            focus: Panel::Servers,
            sort: Sort::default(),
            paused: false,
            help: false,
            colours,
            history: VecDeque::new(),
            marked: [0; Panel::ALL.len()],
        }
    }

    pub(super) fn pair(&self) -> Pair<'_> {
        Pair { before: &self.before, now: &self.now }
    }

    pub(super) fn sheet(&self, panel: Panel) -> Sheet {
        let pair = self.pair();
        match panel {
            Panel::Servers => sheets::servers(&pair, self.sort),
            Panel::Listeners => sheets::listeners(&pair),
            Panel::Workers => sheets::workers(&pair),
            Panel::Ends => sheets::endings(&pair),
            Panel::Latest => sheets::latest(&self.now),
        }
    }

    /// The marked row of a panel that has so many.
    pub(super) fn marked(&self, panel: Panel, rows: usize) -> usize {
        self.marked[panel.index()].min(rows.saturating_sub(1))
    }

    /// A look has come, or why there is none.
    pub(super) fn hear(&mut self, heard: Result<Look, String>) {
        self.silence = None;
        match heard {
            Err(why) => self.trouble = Some(why),
            Ok(look) => {
                self.trouble = None;
                if !self.paused {
                    self.before = std::mem::replace(&mut self.now, look);
                    if self.history.len() == HISTORY_MAX {
                        self.history.pop_front();
                    }
                    self.history.push_back(self.pair().sessions());
                }
            }
        }
    }

    /// Nothing was heard for so long.
    pub(super) fn wait(&mut self, silence: Duration) {
        self.silence = (silence >= SILENCE_MIN).then_some(silence);
    }

    pub(super) fn press(&mut self, key: Key) -> Next {
        match key {
            Key::Ctrl('c') | Key::Char('q') => return Next::Quit,
            Key::Ctrl('l') => return Next::Redraw,
            Key::Ctrl('z') => return Next::Suspend,
            // Whatever is pressed takes the help away, and does nothing else.
            _ if self.help => self.help = false,
            Key::Escape => return Next::Quit,
            Key::Tab => self.focus = self.focus.onward(1),
            Key::BackTab => self.focus = self.focus.onward(Panel::ALL.len() - 1),
            Key::Char(digit @ '1'..='9') => {
                let chosen = Panel::ALL.iter().zip('1'..).find(|(_, number)| *number == digit);
                self.focus = chosen.map_or(self.focus, |(panel, _)| *panel);
            }
            Key::Char('s') => {
                self.sort = self.sort.next();
                self.marked[Panel::Servers.index()] = 0;
            }
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('?' | 'h') => self.help = true,
            Key::Up => self.mark(|row| row.saturating_sub(1)),
            Key::Down => self.mark(|row| row + 1),
            Key::PageUp => self.mark(|row| row.saturating_sub(PAGE_ROWS)),
            Key::PageDown => self.mark(|row| row + PAGE_ROWS),
            Key::Home => self.mark(|_| 0),
            Key::End => self.mark(|_| usize::MAX),
            Key::Char(_) | Key::Ctrl(_) => {}
        }
        Next::Stay
    }

    /// Marks another row of the panel that has the focus.
    fn mark(&mut self, row: impl Fn(usize) -> usize) {
        let rows = self.sheet(self.focus).rows.len();
        let marked = self.marked(self.focus, rows);
        self.marked[self.focus.index()] = row(marked).min(rows.saturating_sub(1));
    }
}
