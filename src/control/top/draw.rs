//! The screen, from the state. PURE.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Borders, Clear, LineGauge, Paragraph, Row, Sparkline, Table, TableState,
};
use serde_json::Value;

use crate::control::text::{grouped, size, span};

use super::look::{Look, number, rows, word};
use super::sheets::{Cell, Sheet, Tone, ended, server_line, server_name, sorted};
use super::state::{Panel, State};

/// What is shown from which height on; a smaller screen keeps what is said in words, and a table.
const STANDING_FROM: u16 = 3;
const FOOT_FROM: u16 = 10;
const LIMITS_FROM: u16 = 14;
const RATES_FROM: u16 = 18;
const RATES_LINES: u16 = 3;
/// All panels at once, where there is this much room for them.
const ALL_PANELS_FROM: u16 = 26;
/// Of a panel that has not the focus at least, if it has as much: its title, its heading and some rows.
const OTHER_PANEL_MIN: u16 = 5;
/// Bars beside each other, and all the panels' names in one line.
const WIDE_FROM: u16 = 70;
/// What the words about rates take; the chart has the rest.
const RATES_WIDTH: u16 = 46;
/// What is left of a name, and of text at the end, at least, when there is no room.
const NAME_MIN: u16 = 12;
const TEXT_MIN: u16 = 8;
const GAP: u16 = 2;

const KEYS: &str =
    "q quit  Tab 1-5 table  \u{2191}\u{2193} PgUp PgDn scroll  s sort  p pause  ? help";
const HELP: [&str; 11] = [
    "q, Esc, Ctrl-C     end this view, not the relay",
    "Tab, 1 to 5        another table",
    "up, down           another row",
    "PgUp, PgDn         ten rows",
    "Home, End          the first row, the last row",
    "s                  sort servers: name, sessions,",
    "                   new a second, failures",
    "p, space           pause, and go on",
    "Ctrl-L             draw the screen anew",
    "Ctrl-Z             to the shell; fg comes back",
    "?                  this help; any key closes it",
];

/// How things look with colours, and without (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
struct Pen {
    colours: bool,
}

impl Pen {
    fn of(self, tone: Tone) -> Style {
        let colour = match tone {
            Tone::Plain => return Style::new(),
            Tone::Good => Color::Green,
            Tone::Careful => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        match self.colours {
            true => Style::new().fg(colour),
            false if tone == Tone::Bad => bold(),
            false => Style::new(),
        }
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn reversed() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// Draws all of it.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    let pen = Pen { colours: state.colours };
    let bars = limits(&state.pair().now.status);
    let from = |height, lines| Constraint::Length(if area.height >= height { lines } else { 0 });
    let across = if area.width >= WIDE_FROM { 2 } else { 1 };
    let bar_lines = u16::try_from(bars.len().div_ceil(across)).unwrap_or(0);
    let [head, standing, limits, rates, body, foot] = Layout::vertical([
        Constraint::Length(1),
        from(STANDING_FROM, 1),
        from(LIMITS_FROM, bar_lines),
        from(RATES_FROM, RATES_LINES),
        Constraint::Fill(1),
        from(FOOT_FROM, 1),
    ])
    .areas(area);
    frame.render_widget(title(&state.pair().now.status), head);
    frame.render_widget(say(state, pen), standing);
    draw_limits(&bars, across, pen, frame, limits);
    draw_rates(state, frame, rates);
    draw_panels(state, pen, frame, body);
    frame.render_widget(Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM)), foot);
    if state.help {
        draw_help(frame, area);
    }
}

fn title(status: &Value) -> Line<'static> {
    let up = span(Duration::from_secs(number(status, "uptime_seconds")));
    let engine = rows(status, "workers").first().map_or("-", |worker| word(worker, "engine"));
    let mut rest = format!("  up {up}  {engine}  pid {}", number(status, "pid"));
    if number(status, "generation") > 1 {
        rest += &format!("  generation {}", number(status, "generation"));
    }
    let name = format!("fanin {}", word(status, "version"));
    Line::from(vec![Span::styled(name, bold()), Span::raw(rest)])
}

/// Whether it is well, in words.
fn say(state: &State, pen: Pen) -> Line<'static> {
    let mut spans = Vec::new();
    if state.paused {
        spans.push(Span::styled(" PAUSED ", reversed()));
        spans.push(Span::raw(" "));
    }
    let (said, tone) = match (&state.trouble, state.silence) {
        // The first part says what it is; there may be no room for the rest.
        (Some(why), _) => (format!("gone, trying again each second: {why}"), Tone::Bad),
        (None, Some(silence)) => {
            let silence = span(silence);
            (format!("no answer for {silence}; what is shown is from before"), Tone::Bad)
        }
        (None, None) => standing(state),
    };
    spans.push(Span::styled(said, pen.of(tone)));
    Line::from(spans)
}

fn standing(state: &State) -> (String, Tone) {
    let now = state.pair().now;
    let (phase, reload) = (word(&now.status, "phase"), &now.status["configuration"]["reload"]);
    let (said, tone) = match (phase, now.is_ready()) {
        ("draining", _) => {
            ("draining: accepting no more, sessions may end".to_owned(), Tone::Careful)
        }
        ("serving", Some(true)) => ("serving, ready".to_owned(), Tone::Good),
        ("serving", Some(false)) => {
            let servers = rows(&now.status, "servers").iter();
            let states: Vec<_> = servers
                .map(|server| format!("{} {}", server_name(server), word(server, "state")))
                .collect();
            (format!("not ready: no server can be used: {}", states.join(", ")), Tone::Bad)
        }
        (phase, _) => (phase.to_owned(), Tone::Careful),
    };
    match reload["ok"].as_bool() {
        Some(false) => {
            let why = format!("{said}; the last reload FAILED: {}", word(reload, "message"));
            (why, if tone == Tone::Good { Tone::Careful } else { tone })
        }
        _ => (said, tone),
    }
}

/// What can run out: used, and how much there is.
struct Limit {
    name: &'static str,
    used: u64,
    all: u64,
}

fn limits(status: &Value) -> Vec<Limit> {
    let total = &status["total"];
    let queues = rows(status, "queues");
    let waits = queues.iter().filter(|queue| number(queue, "waiting_max") > 0);
    let sum = |key| waits.clone().map(|queue| number(queue, key)).sum();
    let limit = |name, used, all| Limit { name, used, all };
    let all = [
        limit("sessions", number(total, "sessions"), number(status, "maxconn")),
        limit("pipes", number(total, "pipes_used"), number(status, "pipes_max")),
        limit("ports", number(total, "source_ports_used"), number(total, "source_ports")),
        limit("queue", sum("waiting"), sum("places")),
    ];
    // What has no limit that is known cannot run out as far as we can tell.
    all.into_iter().filter(|limit| limit.all > 0).collect()
}

fn draw_limits(limits: &[Limit], across: usize, pen: Pen, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let lines = Layout::vertical(vec![Constraint::Length(1); limits.len().div_ceil(across)]);
    for (limits, line) in limits.chunks(across).zip(lines.split(area).iter()) {
        let places = Layout::horizontal(vec![Constraint::Fill(1); across]).spacing(GAP);
        for (limit, place) in limits.iter().zip(places.split(*line).iter()) {
            #[expect(clippy::cast_precision_loss, reason = "a share, for a bar")]
            let share = (limit.used as f64 / limit.all as f64).clamp(0.0, 1.0);
            let tone = match share {
                0.9.. => Tone::Bad,
                0.7.. => Tone::Careful,
                _ => Tone::Good,
            };
            let figures = format!("{} of {}", grouped(limit.used), grouped(limit.all));
            let bar = LineGauge::default()
                .label(format!("{:<8} {figures:>16}", limit.name))
                .ratio(share)
                .filled_symbol("\u{2588}")
                .unfilled_symbol("\u{2591}")
                .filled_style(pen.of(tone));
            frame.render_widget(bar, *place);
        }
    }
}

fn draw_rates(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let pair = state.pair();
    let [words, chart] =
        Layout::horizontal([Constraint::Max(RATES_WIDTH), Constraint::Fill(1)]).areas(area);
    let most = state.history.iter().max().copied().unwrap_or_default();
    let total = |look: &Look| ended(&look.status["total"]);
    let ending = pair.rate(total(pair.before), total(pair.now));
    let lines = vec![
        Line::from(format!(
            "sessions/s {:>10}  most {}  ended {}",
            grouped(pair.sessions()),
            grouped(most),
            grouped(ending)
        )),
        Line::from(format!("to servers {:>10}/s", size(pair.bytes("bytes_to_backend")))),
        Line::from(format!("to clients {:>10}/s", size(pair.bytes("bytes_to_client")))),
    ];
    frame.render_widget(Paragraph::new(lines), words);
    let begin = state.history.len().saturating_sub(chart.width.into());
    let data: Vec<u64> = state.history.range(begin..).copied().collect();
    let style = if state.colours { Style::new().fg(Color::Cyan) } else { Style::new() };
    // An idle relay has a flat line, not a full one.
    let chart_of = Sparkline::default().data(data).max(most.max(1)).style(style);
    frame.render_widget(chart_of, chart);
}

fn draw_panels(state: &State, pen: Pen, frame: &mut Frame<'_>, area: Rect) {
    if area.height < ALL_PANELS_FROM {
        let names = match area.width >= WIDE_FROM {
            true => Panel::ALL.to_vec(),
            false => vec![state.focus],
        };
        draw_panel(state, state.focus, &names, pen, frame, area);
        return;
    }
    let wanted = Panel::ALL.map(|panel| {
        let detail = usize::from(panel == Panel::Servers && panel == state.focus);
        u16::try_from(state.sheet(panel).rows.len() + 2 + detail).unwrap_or(u16::MAX)
    });
    let heights = share(wanted, state.focus.index(), area.height);
    let places = Layout::vertical(heights.map(Constraint::Length)).split(area);
    for (panel, place) in Panel::ALL.into_iter().zip(places.iter()) {
        draw_panel(state, panel, &[panel], pen, frame, *place);
    }
}

/// How many lines each panel gets: all a few, then the one that has the focus, then whoever is first.
fn share(wanted: [u16; Panel::ALL.len()], focus: usize, height: u16) -> [u16; Panel::ALL.len()] {
    let mut heights = wanted.map(|lines| lines.min(OTHER_PANEL_MIN));
    let mut left = height.saturating_sub(heights.iter().sum());
    for panel in std::iter::once(focus).chain(0..wanted.len()) {
        let more = (wanted[panel] - heights[panel]).min(left);
        heights[panel] += more;
        left -= more;
    }
    heights
}

/// One table under a line with its name, or with those of all.
fn draw_panel(
    state: &State,
    panel: Panel,
    names: &[Panel],
    pen: Pen,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let sheet = state.sheet(panel);
    let focused = panel == state.focus;
    let marked = state.marked(panel, sheet.rows.len());
    let mut title = Vec::new();
    for name in names {
        let style = if *name == state.focus { reversed() } else { Style::new() };
        title.push(Span::styled(format!(" {} {} ", name.index() + 1, name.label()), style));
    }
    let mut remark = format!(" {} of {} ", (marked + 1).min(sheet.rows.len()), sheet.rows.len());
    if panel == Panel::Servers {
        remark = format!(" by {} {remark}", state.sort.label());
    }
    let mut block = Block::new().borders(Borders::TOP).title(Line::from(title));
    if area.width >= WIDE_FROM {
        block = block.title(Line::from(remark).right_aligned());
    }
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let detail = u16::from(focused && panel == Panel::Servers && inner.height > 4);
    let [table, line] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(detail)]).areas(inner);
    draw_sheet(&sheet, focused.then_some(marked), pen, frame, table);
    if let Some((_, server)) = sorted(&state.pair(), state.sort).get(marked) {
        frame.render_widget(Line::styled(server_line(server), bold()), line);
    }
}

fn draw_sheet(sheet: &Sheet, marked: Option<usize>, pen: Pen, frame: &mut Frame<'_>, area: Rect) {
    let columns = fit(sheet, area.width);
    let cell = |text: &str, column: usize, style: Style| {
        let line = Line::styled(text.to_owned(), style);
        if sheet.columns[column].right { line.right_aligned() } else { line }
    };
    let heading = columns.iter().map(|(column, _)| {
        cell(sheet.columns[*column].heading, *column, Style::new().add_modifier(Modifier::DIM))
    });
    let height = usize::from(area.height.saturating_sub(1));
    // The marked row stays in the middle, so that one sees where it comes from and where it goes.
    let last = sheet.rows.len().saturating_sub(height);
    let offset = marked.unwrap_or(0).saturating_sub(height / 2).min(last);
    let shown = sheet.rows.iter().skip(offset).take(height).map(|row| {
        let of = |(column, _): &(usize, u16)| {
            let Cell { text, tone } = &row[*column];
            cell(text, *column, pen.of(*tone))
        };
        Row::new(columns.iter().map(of).collect::<Vec<_>>())
    });
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let table = Table::new(shown, widths)
        .header(Row::new(heading.collect::<Vec<_>>()))
        .column_spacing(GAP)
        .row_highlight_style(reversed());
    let mut place = TableState::new().with_selected(marked.map(|row| row - offset));
    frame.render_stateful_widget(table, area, &mut place);
}

/// The columns that there is room for, with their widths.
fn fit(sheet: &Sheet, room: u16) -> Vec<(usize, u16)> {
    let width_of = |text: &str| u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX);
    let width = |column: usize| {
        let cells = sheet.rows.iter().map(|row| width_of(&row[column].text));
        cells.fold(width_of(sheet.columns[column].heading), u16::max)
    };
    let mut columns: Vec<_> =
        (0..sheet.columns.len()).map(|column| (column, width(column))).collect();
    let needed = |columns: &[(usize, u16)]| {
        columns
            .iter()
            .fold(0_u16, |sum, (_, width)| sum.saturating_add(*width).saturating_add(GAP))
            .saturating_sub(GAP)
    };
    // Text at the end is cut where the screen ends.
    let over = needed(&columns).saturating_sub(room);
    if let (Some(column), Some((_, width))) = (sheet.columns.last(), columns.last_mut())
        && !column.right
    {
        *width = width.saturating_sub(over).max(TEXT_MIN.min(*width));
    }
    while needed(&columns) > room {
        match columns.iter().rposition(|(column, _)| sheet.columns[*column].spare) {
            Some(place) => drop(columns.remove(place)),
            None => break,
        }
    }
    // A long name gives way to figures, but not all of it; what then has no room is left out.
    let name = columns.first().map_or(0, |(_, width)| *width);
    let least = name.min(NAME_MIN);
    while columns.len() > 1 && needed(&columns) - name + least > room {
        columns.pop();
    }
    let others = needed(&columns) - name;
    if let Some((_, width)) = columns.first_mut() {
        *width = name.min(room.saturating_sub(others));
    }
    columns
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines = HELP.map(Line::from).to_vec();
    let width = lines.iter().map(Line::width).max().unwrap_or_default() + 2;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), place);
}
