//! Screens drawn into memory, and keys as changes of what is drawn.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::draw::draw;
use super::keys::Key;
use super::look::{Look, Pair};
use super::sheets::Sort;
use super::state::{Next, Panel, State};
use super::*;
use crate::control::snapshot::Told;
use crate::control::tests::snapshot;

/// A relay that has carried something, at the end of each of two seconds.
fn statuses() -> [Value; 2] {
    let mut status = snapshot().status;
    let as_json = |status: &_| serde_json::to_value(Told::new(status, &[])).unwrap();
    let mut other = status.relay.servers[0].clone();
    "b".clone_into(&mut other.name);
    other.tally.sessions = 7;
    other.tally.connect_failures = 900;
    status.relay.servers.push(other);
    let before = as_json(&status);
    status.relay.workers[0].counts.sessions_total += 1234;
    status.total.sessions_total += 1234;
    status.total.engine.bytes_to_backend.copied += 5 * 1024;
    status.relay.servers[0].tally.sessions_total += 1234;
    status.relay.servers[0].tally.bytes_to_server += 4096;
    status.total.ended[0] += 77;
    let mut after = as_json(&status);
    after["servers"][1]["state"] = "down".into();
    after["servers"][1]["check"] = json!({"up": false, "since": "2026-08-21T09:30:00.250Z",
        "seconds": 125, "failure": "connection refused"});
    after["events"] = json!([{"time": "2026-08-21T09:30:00.250Z", "level": "warn",
        "message": "server intake/b is down"}]);
    [before, after]
}

const ENDS: &str = "[{\"time\": \"2026-08-21T09:30:01.000Z\", \"reason\": \"connect_refused\", \
    \"client\": \"192.0.2.9:1000\", \"server\": null, \"total_ms\": 12}]";

fn looks() -> [Look; 2] {
    let at = Instant::now();
    let [before, after] = statuses().map(|status| format!("{status}\n{ENDS}\n"));
    let later = at + Duration::from_secs(1);
    [Look::read(&before, at).unwrap(), Look::read(&after, later).unwrap()]
}

fn state() -> State {
    let [before, after] = looks();
    let mut state = State::new(before, true);
    state.hear(Ok(after));
    state
}

/// The state after a change of what the relay said last.
fn state_with(change: impl FnOnce(&mut Value)) -> State {
    let [before, mut after] = looks();
    change(&mut after.status);
    let mut state = State::new(before, true);
    state.hear(Ok(after));
    state
}

fn drawn(state: &State, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(state, frame)).unwrap();
    terminal
}

fn text(state: &State, width: u16, height: u16) -> String {
    drawn(state, width, height).backend().to_string()
}

#[track_caller]
fn assert_shows(screen: &str, parts: &[&str]) {
    for part in parts {
        assert!(screen.contains(part), "no {part:?} in\n{screen}");
    }
}

/// How the first letter of a word looks.
#[track_caller]
fn looks_of(terminal: &Terminal<TestBackend>, word: &str) -> (Color, Modifier) {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width);
    let found =
        lines.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<Vec<_>>());
    for (y, symbols) in found.enumerate() {
        let line = symbols.concat();
        if let Some(at) = line.find(word) {
            let x = line[..at].chars().count();
            let cell = &buffer.content[y * width + x];
            return (cell.fg, cell.modifier);
        }
    }
    panic!("no {word:?} in\n{}", terminal.backend());
}

#[test]
fn a_second_shows_what_it_has_added() {
    let [before, after] = looks();
    let screen = plain(&Pair { before: &before, now: &after });
    assert_shows(
        &screen,
        &["1,234", "4.0 KiB", "completed", "77", "intake/a", " up ", "34 sessions of 4,096"],
    );
    assert!(!screen.contains('\x1b'), "text that is piped has no commands for terminals");
}

#[test]
fn a_usual_screen_has_what_operators_look_for() {
    let screen = text(&state(), 80, 24);
    assert_shows(
        &screen,
        &[
            "fanin 0.1.0  up 3h 12m  epoll  pid 4711",
            "serving, ready; the last reload FAILED: fanin.toml:3:1: unknown key",
            "sessions      34 of 4,096",
            "pipes            2 of 512",
            "queue          5 of 4,096",
            "sessions/s      1,234  most 1,234  ended 77",
            "to servers    5.0 KiB/s",
            " 1 servers  2 listeners  3 workers  4 ends  5 latest ",
            "by name",
            "1 of 2",
            "intake/a  up ",
            "intake/b  down ",
            "2m 5s",
            "intake/a at intake.example.com:443 (192.0.2.7:443): up; weight 1",
            "? help",
        ],
    );
    assert_eq!(screen.lines().count(), 24, "{screen}");
}

#[test]
fn a_large_screen_has_every_table() {
    let screen = text(&state(), 120, 40);
    assert_shows(
        &screen,
        &[
            " 1 servers ",
            "connection refused",
            " 2 listeners ",
            "0.0.0.0:3834",
            " 3 workers ",
            "RECEIVED/s",
            " 4 ends ",
            "completed",
            " 5 latest ",
            "09:30:01    connect_refused  192.0.2.9:1000 to -, 12 ms",
            "09:30:00    warn             server intake/b is down",
        ],
    );
}

#[test]
fn what_the_focus_leaves_goes_to_the_other_tables() {
    let with_servers = |count: usize| {
        state_with(|status| {
            let one = status["servers"][0].clone();
            status["servers"] = vec![one; count].into();
        })
    };
    let lines = |state: &State, word: &str| {
        text(state, 120, 40).lines().filter(|line| line.starts_with(word)).count()
    };
    let mut state = with_servers(50);
    let focused = lines(&state, "\"intake/a  up");
    state.press(Key::Tab);
    let other = lines(&state, "\"intake/a  up");
    assert!(focused > 10 && other > 10, "listeners need no more: {focused}, {other}");
    assert_shows(&text(&state, 120, 40), &[" 5 latest ", "server intake/b is down"]);
}

#[test]
fn a_tiny_screen_keeps_what_matters_most() {
    let screen = text(&state(), 20, 5);
    assert_shows(&screen, &["fanin 0.1.0  up", "serving, ready;", " 1 servers ", "intake/a  up "]);
    let mut state = state();
    state.press(Key::Char('5'));
    assert_shows(&text(&state, 40, 12), &["09:30:01    connect_refused  192.0.2.9:1"]);
    for height in 0..30 {
        for width in [0, 1, 2, 5, 19, 40, 69, 70, 200] {
            for key in [Key::Tab, Key::Char('?'), Key::Down] {
                let _ = drawn(&state, width, height);
                state.press(key);
            }
        }
    }
    for panel in '1'..='5' {
        let mut state = State::new(Look::read("{}", Instant::now()).unwrap(), true);
        state.press(Key::Char(panel));
        state.press(Key::End);
        let _ = (text(&state, 80, 24), text(&state, 120, 40), text(&state, 1, 1));
    }
}

#[test]
fn colour_says_how_a_server_is_and_can_be_had_without() {
    let mut state = state();
    let screen = drawn(&state, 80, 24);
    assert_eq!(looks_of(&screen, "down ").0, Color::Red);
    assert_eq!(looks_of(&screen, "serving, ready").0, Color::Yellow, "the last reload failed");
    assert!(looks_of(&screen, "intake/a").1.contains(Modifier::REVERSED), "the marked row");
    state.colours = false;
    for focus in Panel::ALL {
        state.focus = focus;
        let screen = drawn(&state, 120, 40);
        let coloured =
            |cell: &&ratatui::buffer::Cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset);
        assert_eq!(screen.backend().buffer().content.iter().find(coloured), None);
    }
    assert!(looks_of(&drawn(&state, 80, 24), "fanin").1.contains(Modifier::BOLD));
}

#[test]
fn why_it_is_not_ready_is_said() {
    let state = state_with(|status| {
        status["ready"] = false.into();
        status["configuration"]["reload"] = Value::Null;
        status["servers"][0]["state"] = "drain".into();
    });
    let screen = text(&state, 100, 24);
    assert_shows(&screen, &["not ready: no server can be used: intake/a drain, intake/b down"]);
    let state = state_with(|status| status["phase"] = "draining".into());
    assert_shows(&text(&state, 80, 24), &["draining: accepting no more"]);
}

#[test]
fn a_relay_that_goes_away_is_said_and_one_that_comes_back_too() {
    let mut state = state();
    state.hear(Err("no relay answers at /run/x.sock".to_owned()));
    let screen = text(&state, 80, 24);
    assert_shows(&screen, &["gone, trying again each second: no relay answers at /run/x.sock"]);
    assert_shows(&screen, &["intake/a", "1,234"]);
    state.hear(Ok(looks()[1].clone()));
    assert_shows(&text(&state, 80, 24), &["serving, ready"]);
    state.wait(Duration::from_millis(1500));
    assert!(!text(&state, 80, 24).contains("no answer"), "an answer takes a second");
    state.wait(Duration::from_secs(7));
    assert_shows(&text(&state, 80, 24), &["no answer for 7s"]);
}

#[test]
fn names_are_never_commands_for_the_terminal() {
    let [before, after] = statuses().map(|mut status| {
        status["servers"][0]["name"] = "evil\u{1b}[2J\u{202e}".into();
        status["listeners"][0]["name"] = "evil\u{9b}2J\n".into();
        status.to_string()
    });
    let at = Instant::now();
    let mut state = State::new(Look::read(&before, at).unwrap(), true);
    state.hear(Ok(Look::read(&after, at + Duration::from_secs(1)).unwrap()));
    for screen in [text(&state, 120, 40), plain(&state.pair())] {
        assert_shows(&screen, &["evil\\u{1b}[2J\\u{202e}", "evil\\u{9b}2J\\u{a}"]);
        assert!(!screen.contains(['\x1b', '\u{9b}', '\u{202e}']), "{screen}");
    }
}

#[test]
fn keys_choose_the_table_and_the_row() {
    let mut state = state();
    for expected in [Panel::Listeners, Panel::Workers, Panel::Ends, Panel::Latest, Panel::Servers] {
        assert_eq!((state.press(Key::Tab), state.focus), (Next::Stay, expected));
    }
    state.press(Key::BackTab);
    assert_eq!(state.focus, Panel::Latest);
    state.press(Key::Char('9'));
    assert_eq!(state.focus, Panel::Latest, "there are five");
    state.press(Key::Char('1'));
    assert_eq!(state.focus, Panel::Servers);
    for (key, expected) in [
        (Key::Down, 1),
        (Key::Down, 1),
        (Key::Up, 0),
        (Key::Up, 0),
        (Key::PageDown, 1),
        (Key::PageUp, 0),
        (Key::End, 1),
        (Key::Home, 0),
    ] {
        state.press(key);
        assert_eq!(state.marked(Panel::Servers, 2), expected, "{key:?}");
    }
    state.press(Key::End);
    let fewer = state_with(|status| status["servers"].as_array_mut().unwrap().truncate(1));
    state.hear(Ok(fewer.pair().now.clone()));
    assert_eq!(state.marked(Panel::Servers, 1), 0, "a server less after a reload");
}

#[test]
fn many_rows_scroll_with_the_marked_one() {
    let mut state = state_with(|status| {
        let one = status["servers"][0].clone();
        let named = |n: u32| {
            let mut server = one.clone();
            server["name"] = format!("s{n:03}").into();
            server
        };
        status["servers"] = (0..200).map(named).collect();
    });
    assert_shows(&text(&state, 80, 24), &["intake/s000", "1 of 200"]);
    for _ in 0..5 {
        state.press(Key::PageDown);
    }
    let screen = text(&state, 80, 24);
    assert_shows(&screen, &["intake/s050", "intake/s051", "intake/s049", "51 of 200"]);
    assert!(!screen.contains("intake/s000"), "{screen}");
    assert!(looks_of(&drawn(&state, 80, 24), "intake/s050").1.contains(Modifier::REVERSED));
    state.press(Key::End);
    assert_shows(&text(&state, 80, 24), &["intake/s199", "200 of 200"]);
}

#[test]
fn servers_are_sorted_by_what_is_asked_for() {
    let mut state = state();
    let mut first = |expected: Sort| {
        assert_eq!(state.sort, expected);
        let first = state.sheet(Panel::Servers).rows[0][0].text.clone();
        state.press(Key::Char('s'));
        first
    };
    assert_eq!(first(Sort::Name), "intake/a");
    assert_eq!(first(Sort::Sessions), "intake/a", "34 and 7");
    assert_eq!(first(Sort::Rate), "intake/a");
    assert_eq!(first(Sort::Failures), "intake/b", "2 and 900");
    assert_eq!(first(Sort::Name), "intake/a", "and round");
}

#[test]
fn a_pause_holds_what_is_shown_until_it_ends() {
    let mut state = state();
    let [_, after] = statuses();
    let mut later = after;
    later["total"]["sessions"] = 99.into();
    let later = |seconds| {
        Look::read(&later.to_string(), Instant::now() + Duration::from_secs(seconds)).unwrap()
    };
    for (key, expected) in [(Key::Char('p'), 34), (Key::Char(' '), 99)] {
        state.press(key);
        state.hear(Ok(later(9)));
        assert_eq!(state.pair().now.total("sessions"), expected);
        assert_eq!(text(&state, 80, 24).contains("PAUSED"), expected == 34);
    }
}

#[test]
fn help_comes_and_goes_and_keys_end_the_view() {
    let mut state = state();
    state.press(Key::Char('?'));
    assert_shows(&text(&state, 80, 24), &[" keys ", "end this view, not the relay"]);
    assert_eq!(state.press(Key::Escape), Next::Stay, "it takes the help away");
    assert!(!text(&state, 80, 24).contains(" keys "));
    state.press(Key::Char('?'));
    assert_eq!(state.press(Key::Ctrl('c')), Next::Quit);
    state.help = false;
    for key in [Key::Char('q'), Key::Escape, Key::Ctrl('c')] {
        assert_eq!(state.press(key), Next::Quit, "{key:?}");
    }
    assert_eq!(state.press(Key::Ctrl('l')), Next::Redraw);
    assert_eq!(state.press(Key::Ctrl('z')), Next::Suspend);
    assert_eq!(state.press(Key::Char('x')), Next::Stay);
}
