//! The run on a terminal while it lasts: one screen, drawn anew each second, gone at the end.

use crate::agent::Phase;
use crate::clock::{Nanos, SECOND};
use crate::failure::Failure;
use crate::progress::{Moment, millis};
use crate::report::series::Second;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, size};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, LineGauge, Paragraph, Sparkline};
use ratatui::{Frame, buffer::Buffer, widgets::Widget};
use std::io::{self, IsTerminal, Stderr};

/// What does not change while a run lasts.
#[derive(Clone, Debug)]
pub(crate) struct Title {
    /// `5000 v5-churn agents against 127.0.0.1:3834`.
    pub(crate) text: String,
    /// When the plan ends.
    pub(crate) end: Nanos,
}

/// A terminal that shows the run.
#[derive(Debug)]
pub(crate) struct View {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    title: Title,
    /// How the terminal was, if it is one that we read from.
    before: Option<Termios>,
}

impl View {
    /// The screen, where standard error is a terminal that can show it.
    pub(crate) fn on_terminal(title: Title) -> Option<Self> {
        let able = io::stderr().is_terminal()
            && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
            // Some that are made by programs have no size.
            && matches!(size(), Ok((1.., 1..)));
        if !able {
            return None;
        }
        // Signals stay as they are, so that Ctrl-C ends the run; other keys would leave their marks.
        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut silent) = before.clone() {
            silent.local_flags.remove(LocalFlags::ECHO);
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &silent);
        }
        execute!(io::stderr(), EnterAlternateScreen, Hide).ok()?;
        // What a panic says should be seen, and the terminal be usable afterwards.
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
            tell(panic);
        }));
        let terminal = Terminal::new(CrosstermBackend::new(io::stderr())).ok()?;
        Some(Self { terminal, title, before })
    }

    /// Shows the moment, and the seconds before it.
    pub(crate) fn show(&mut self, moment: &Moment, series: &[Second]) {
        let title = &self.title;
        // A closed terminal must not end the run.
        let _ = self.terminal.draw(|frame: &mut Frame<'_>| {
            render(title, moment, series, frame.area(), frame.buffer_mut());
        });
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

fn render(title: &Title, moment: &Moment, series: &[Second], area: Rect, buffer: &mut Buffer) {
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(3),
        Constraint::Length(4),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(1),
    ]);
    let [head, agents, figures, rate, latency, relay, foot] = rows.areas(area);
    header(title, moment, head, buffer);
    Paragraph::new(states(moment)).block(titled("agents")).render(agents, buffer);
    Paragraph::new(numbers(moment)).block(titled("exchanges")).render(figures, buffer);
    let answered =
        Chart { name: "answered a second", unit: |n| n.to_string(), color: Color::Green };
    answered.render(series, |second| second.answered, rate, buffer);
    let p99 = Chart { name: "p99", unit: millis, color: Color::Yellow };
    p99.render(series, |second| second.p99_us, latency, buffer);
    match moment.relay {
        None => Paragraph::new("its process is not known: --relay-pid PID")
            .block(titled("relay"))
            .render(relay, buffer),
        Some(usage) => {
            let name = format!(
                "relay: {} of a processor, {} MB",
                usage
                    .processors
                    .map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
                usage.resident / 1_000_000
            );
            let chart =
                Chart { name: &name, unit: |n| format!("{} %", n / 10), color: Color::Blue };
            let share = |second: &Second| thousandths(second.relay_cpu.unwrap_or_default());
            chart.render(series, share, relay, buffer);
        }
    }
    Line::from("Ctrl-C ends the run and reports what was measured").dim().render(foot, buffer);
}

fn titled(name: &str) -> Block<'_> {
    Block::bordered().title(name)
}

fn header(title: &Title, moment: &Moment, area: Rect, buffer: &mut Buffer) {
    let [line, bar] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let name = Span::styled("loadgen  ", Style::new().add_modifier(Modifier::BOLD));
    Line::from(vec![name, Span::raw(&title.text)]).render(line, buffer);
    #[expect(clippy::cast_precision_loss, reason = "times of at most a month")]
    let done = (moment.at as f64 / title.end.max(1) as f64).clamp(0.0, 1.0);
    let label = format!("{} of {} s, {}", moment.at / SECOND, title.end / SECOND, moment.phase);
    LineGauge::default()
        .ratio(done)
        .label(label)
        .filled_symbol(symbols::line::THICK_HORIZONTAL)
        .filled_style(Color::Green)
        .render(bar, buffer);
}

/// How many lanes stand where.
fn states(moment: &Moment) -> Line<'static> {
    let mut spans = vec![Span::raw(format!("begun {} of {}", moment.agents, moment.agents_asked))];
    let there = Phase::ALL.iter().filter(|phase| moment.phases[phase.index()] > 0);
    spans.extend(
        there.map(|phase| {
            Span::raw(format!("   {} {}", phase.label(), moment.phases[phase.index()]))
        }),
    );
    spans.push(Span::raw(format!("   connections {}", moment.open)));
    Line::from(spans)
}

fn numbers(moment: &Moment) -> Vec<Line<'static>> {
    let latency = format!(
        "{}/s   p50 {}   p99 {}   max {}   generator late by {} at p99",
        moment.rate,
        millis(moment.p50_us),
        millis(moment.p99_us),
        millis(moment.max_us),
        millis(moment.lag_p99_us)
    );
    let met = Failure::ALL.iter().filter(|kind| moment.failures[kind.index()] > 0);
    let kinds: Vec<_> =
        met.map(|kind| format!("{} {}", kind.label(), moment.failures[kind.index()])).collect();
    let errors = match kinds.is_empty() {
        true => Line::from("no errors"),
        false => Line::styled(format!("errors: {}", kinds.join("   ")), Color::Red),
    };
    vec![Line::from(latency), errors]
}

/// How a figure of the seconds is drawn.
struct Chart<'a> {
    name: &'a str,
    /// The figure for people.
    unit: fn(u64) -> String,
    color: Color,
}

impl Chart<'_> {
    /// The last seconds, as many as fit, the newest at the right.
    fn render(
        &self,
        series: &[Second],
        figure: impl Fn(&Second) -> u64,
        area: Rect,
        buffer: &mut Buffer,
    ) {
        let width = usize::from(area.width.saturating_sub(2));
        let last = &series[series.len().saturating_sub(width)..];
        let data: Vec<u64> = last.iter().map(figure).collect();
        let most = data.iter().max().copied().unwrap_or_default();
        let block =
            Block::bordered().title(format!("{} (at most {})", self.name, (self.unit)(most)));
        Sparkline::default().data(data).style(self.color).block(block).render(area, buffer);
    }
}

/// Of a share, for a chart of whole numbers.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few processors")]
fn thousandths(share: f64) -> u64 {
    (share.max(0.0) * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::RelayUse;

    fn shown(moment: &Moment, width: u16) -> String {
        let title =
            Title { text: "5000 v5-churn agents against relay:3834".into(), end: 35 * SECOND };
        let area = Rect::new(0, 0, width, 26);
        let mut buffer = Buffer::empty(area);
        let series: Vec<_> = (0..90)
            .map(|n| Second { answered: n * 10, p99_us: 1000 + n, ..Second::default() })
            .collect();
        render(&title, moment, &series, area, &mut buffer);
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
        (0..26).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn all_that_matters_is_on_the_screen() {
        let mut moment = Moment {
            at: 12 * SECOND,
            phase: "load",
            agents_asked: 5000,
            agents: 4321,
            open: 7,
            rate: 1429,
            p99_us: 2500,
            relay: Some(RelayUse { processors: Some(0.25), resident: 16_000_000 }),
            ..Moment::default()
        };
        moment.phases[Phase::Receiving.index()] = 3;
        moment.failures[Failure::IoReset.index()] = 2;
        let screen = shown(&moment, 100);
        for part in [
            "5000 v5-churn agents against relay:3834",
            "12 of 35 s, load",
            "begun 4321 of 5000",
            "receiving 3",
            "connections 7",
            "1429/s",
            "p99 2.50 ms",
            "io.reset 2",
            "relay: 25 % of a processor, 16 MB (at most 0 %)",
            "p99 (at most 1.08 ms)",
            "answered a second (at most 890)",
            "Ctrl-C",
        ] {
            assert!(screen.contains(part), "no {part:?} in\n{screen}");
        }
    }

    #[test]
    fn a_narrow_terminal_and_an_unknown_relay_are_no_trouble() {
        assert!(shown(&Moment::default(), 100).contains("--relay-pid"));
        assert!(shown(&Moment::default(), 20).contains("loadgen"));
        let title = Title { text: String::new(), end: 0 };
        render(
            &title,
            &Moment::default(),
            &[],
            Rect::new(0, 0, 0, 0),
            &mut Buffer::empty(Rect::ZERO),
        );
    }
}
