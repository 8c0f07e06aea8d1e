//! PURE: a line chart as SVG. Colours come from the page's style sheet (`--c0` and on), so that it
//! follows the reader's light or dark theme.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Colours that the style sheet has.
pub(super) const COLOURS: usize = 6;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten; what is not above zero is left out.
    Log,
    /// A quantile `q` as `1/(1-q)`, by powers of ten: HdrHistogram's plotter does the same.
    Percentile,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// Lines of one run have one colour.
    pub(super) colour: usize,
    /// Lines of one kind have one dash.
    pub(super) dash: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// What is drawn.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) x: (&'static str, Scale),
    pub(super) y: (&'static str, Scale),
    pub(super) lines: Vec<Line>,
}

/// An axis with its range: values to places from 0 to 1.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let mapped = values.filter_map(|value| place(scale, value));
        let (least, most) = mapped.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        if least > most {
            return None;
        }
        Some(match scale {
            Scale::Linear => {
                Self { scale, from: 0.0, to: if most > 0.0 { most * 1.05 } else { 1.0 } }
            }
            Scale::Log => {
                Self { scale, from: least.floor(), to: most.ceil().max(least.floor() + 1.0) }
            }
            Scale::Percentile => Self { scale, from: 0.0, to: most.max(1.0) },
        })
    }

    fn at(&self, value: f64) -> Option<f64> {
        let place = place(self.scale, value)?;
        Some((place - self.from) / (self.to - self.from))
    }

    /// Where lines are drawn across, with what they are labelled.
    fn ticks(&self) -> Vec<(f64, String)> {
        let decades = || (0_i32..=12).map(f64::from).filter(|n| *n >= self.from && *n <= self.to);
        match self.scale {
            Scale::Linear => {
                let step = round_step(self.to / 5.0);
                let count = (self.to / step).floor();
                let all = std::iter::successors(Some(0.0), |n| Some(n + 1.0));
                all.take_while(|n| *n <= count).map(|n| n * step).map(|v| (v, short(v))).collect()
            }
            Scale::Log => {
                let all = (-6_i32..=12).map(f64::from);
                let within = all.filter(|n| *n >= self.from && *n <= self.to);
                within.map(|n| (10_f64.powf(n), short(10_f64.powf(n)))).collect()
            }
            Scale::Percentile => decades()
                .map(|n| 1.0 - 10_f64.powf(-n))
                .map(|q| (q, format!("{} %", short((q * 1e8).round() / 1e6))))
                .collect(),
        }
    }
}

fn place(scale: Scale, value: f64) -> Option<f64> {
    match scale {
        Scale::Linear => Some(value),
        Scale::Log => (value > 0.0).then(|| value.log10()),
        Scale::Percentile => (value < 1.0).then(|| -(1.0 - value).log10()),
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A number without what nobody reads.
pub(super) fn short(value: f64) -> String {
    let (number, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{number:.6}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Text where HTML expects text.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart {
    /// The figure with its legend; nothing when there is nothing to draw.
    pub(super) fn figure(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::of(self.x.1, points().map(|point| point.0))?;
        let y = Axis::of(self.y.1, points().map(|point| point.1))?;
        let mut out = format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">",
            escape(self.title),
            escape(self.title)
        );
        self.frame(&mut out, x, y);
        for line in &self.lines {
            draw(&mut out, line, x, y);
        }
        out.push_str("</svg><p class=\"legend\">");
        for line in &self.lines {
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "<span><svg viewBox=\"0 0 24 6\"><path class=\"c{} d{}\" d=\"M0 3H24\"/></svg>{}</span>",
                line.colour % COLOURS,
                line.dash,
                escape(&line.name)
            );
        }
        out.push_str("</p></figure>");
        Some(out)
    }

    fn frame(&self, out: &mut String, x: Axis, y: Axis) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (value, label) in y.ticks() {
            let Some(at) = y.at(value).map(|at| bottom - at * (bottom - TOP)) else { continue };
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                escape(&label)
            );
        }
        for (value, label) in x.ticks() {
            let Some(at) = x.at(value).map(|at| LEFT + at * (right - LEFT)) else { continue };
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                escape(&label)
            );
        }
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(12 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 8.0,
            escape(self.x.0),
            f64::midpoint(TOP, bottom),
            escape(self.y.0)
        );
    }
}

fn draw(out: &mut String, line: &Line, x: Axis, y: Axis) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let _ = write!(out, "<path class=\"c{} d{}\" d=\"", line.colour % COLOURS, line.dash);
    let mut joined = false;
    for &(at, value) in &line.points {
        let (Some(at), Some(value)) = (x.at(at), y.at(value)) else {
            joined = false;
            continue;
        };
        let (at, value) = (LEFT + at * (right - LEFT), bottom - value * (bottom - TOP));
        let _ = write!(out, "{}{at:.1} {value:.1}", if joined { 'L' } else { 'M' });
        joined = true;
    }
    let _ = write!(out, "\"><title>{}</title></path>", escape(&line.name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let labels = |scale, values: &[f64]| {
            let axis = Axis::of(scale, values.iter().copied()).unwrap();
            axis.ticks().into_iter().map(|tick| tick.1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(Scale::Linear, &[3.0, 41.0]), "0 10 20 30 40");
        assert_eq!(labels(Scale::Linear, &[0.0]), "0 0.2 0.4 0.6 0.8 1");
        assert_eq!(labels(Scale::Log, &[0.02, 30.0]), "0.01 0.1 1 10 100");
        assert_eq!(labels(Scale::Percentile, &[0.0, 0.9995]), "0 % 90 % 99 % 99.9 %");
    }

    #[test]
    fn what_a_log_axis_cannot_show_interrupts_the_line() {
        let points = vec![(0.0, 1.0), (1.0, 0.0), (2.0, 10.0)];
        let line = Line { name: "a<b".into(), colour: 0, dash: 0, points };
        let chart =
            Chart { title: "t", x: ("s", Scale::Linear), y: ("ms", Scale::Log), lines: vec![line] };
        let figure = chart.figure().unwrap();
        assert!(figure.contains("a&lt;b") && !figure.contains("a<b"), "{figure}");
        let path = figure.split("class=\"c0 d0\" d=\"").nth(1).unwrap();
        assert_eq!(path.split('"').next().unwrap().matches('M').count(), 2);
        assert!(Chart { lines: Vec::new(), ..chart }.figure().is_none());
    }
}
