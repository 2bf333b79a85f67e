//! Charts as inline SVG: axes with round numbers, lines, bands and bars, each named where it ends.

use std::fmt::Write;

/// How numbers lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0 on.
    Linear,
    Log,
}

/// A drawn series.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    pub name: &'a str,
    /// CSS class, which has its colour.
    pub class: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// A stretch of the x axis that is marked, as of an event.
#[derive(Clone, Debug)]
pub struct Mark<'a> {
    pub name: &'a str,
    pub from: f64,
    pub to: f64,
}

/// A chart of lines over two axes.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// What it shows, for who cannot see it.
    pub label: &'a str,
    pub x: Axis<'a>,
    pub y: Axis<'a>,
    pub lines: Vec<Line<'a>>,
    pub marks: Vec<Mark<'a>>,
}

/// One axis.
#[derive(Clone, Copy)]
pub struct Axis<'a> {
    pub title: &'a str,
    pub scale: Scale,
    /// How a tick is written.
    pub text: &'a dyn Fn(f64) -> String,
}

impl std::fmt::Debug for Axis<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Axis({})", self.title)
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

/// Numbers to places.
#[derive(Clone, Copy)]
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Range {
    fn of(
        values: impl Iterator<Item = f64>,
        scale: Scale,
        (from, to): (f64, f64),
        zero: bool,
    ) -> Range {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        match scale {
            Scale::Linear => {
                if zero {
                    low = low.min(0.0);
                }
                if high <= low {
                    high = low + 1.0;
                }
            }
            Scale::Log => {
                if high / low < 1.5 {
                    (low, high) = (low / 1.5, high * 1.5);
                }
            }
        }
        Range { scale, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => {
                let value = value.max(self.low);
                (value / self.low).ln() / (self.high / self.low).ln()
            }
        };
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    /// Round numbers within it.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = (self.high - self.low) / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .into_iter()
                    .map(|m| m * power)
                    .find(|step| *step >= rough)
                    .unwrap_or(rough);
                let first = (self.low / step).ceil() as i64;
                let last = (self.high / step).floor() as i64;
                (first..=last).take(12).map(|n| n as f64 * step).collect()
            }
            Scale::Log => {
                let decades = (self.high / self.low).log10();
                let steps: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let first = self.low.log10().floor() as i32;
                let last = self.high.log10().ceil() as i32;
                let all = (first..=last)
                    .flat_map(|power| steps.iter().map(move |m| m * 10f64.powi(power)));
                all.filter(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick)).collect()
            }
        }
    }
}

/// Text as it may stand in HTML.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

impl Chart<'_> {
    /// The chart; nothing where there is nothing to draw.
    pub fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        if points().next().is_none() {
            return String::new();
        }
        let across = (LEFT, WIDTH - RIGHT);
        let x = Range::of(points().map(|p| p.0), self.x.scale, across, false);
        let y = Range::of(points().map(|p| p.1), self.y.scale, (HEIGHT - BOTTOM, TOP), true);
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escaped(self.label)
        );
        for mark in &self.marks {
            let (from, to) = (x.place(mark.from), x.place(mark.to));
            let _ = write!(
                out,
                "<rect class=\"mark\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                (to - from).max(2.0),
                HEIGHT - BOTTOM - TOP,
                escaped(mark.name)
            );
        }
        self.axes(x, y, &mut out);
        for line in &self.lines {
            draw_line(line, x, y, &mut out);
        }
        names(&self.lines, y, &mut out);
        out.push_str("</svg>");
        out
    }

    fn axes(&self, x: Range, y: Range, out: &mut String) {
        let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                at + 4.0,
                escaped(&(self.y.text)(tick))
            );
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 4.0,
                bottom + 18.0,
                escaped(&(self.x.text)(tick))
            );
        }
        let _ = write!(
            out,
            "<text class=\"title\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text><text class=\"title\" x=\"{left}\" y=\"11\" text-anchor=\"start\">{}</text>",
            (left + right) / 2.0,
            HEIGHT - 6.0,
            escaped(self.x.title),
            escaped(self.y.title)
        );
    }
}

fn draw_line(line: &Line<'_>, x: Range, y: Range, out: &mut String) {
    let placed: Vec<(f64, f64)> = line
        .points
        .iter()
        .filter(|(a, b)| a.is_finite() && b.is_finite())
        .map(|(a, b)| (x.place(*a), y.place(*b)))
        .collect();
    if let [(a, b)] = placed[..] {
        let _ =
            write!(out, "<circle class=\"{}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\"/>", line.class);
        return;
    }
    let mut path = String::new();
    for (a, b) in &placed {
        let _ = write!(path, "{a:.1},{b:.1} ");
    }
    let _ = write!(
        out,
        "<polyline class=\"{}\" points=\"{}\"><title>{}</title></polyline>",
        line.class,
        path.trim_end(),
        escaped(line.name)
    );
    // A few measured points are shown as such.
    if placed.len() <= 40 {
        for (a, b) in &placed {
            let _ = write!(
                out,
                "<circle class=\"{}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"2\"/>",
                line.class
            );
        }
    }
}

/// The lines' names at their ends, moved apart where they would cover each other.
fn names(lines: &[Line<'_>], y: Range, out: &mut String) {
    const APART: f64 = 13.0;
    let mut ends: Vec<(f64, &Line<'_>)> = lines
        .iter()
        .filter_map(|line| {
            Some((y.place(line.points.iter().rev().find(|p| p.1.is_finite())?.1), line))
        })
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut last = f64::NEG_INFINITY;
    let count = ends.len() as f64;
    for (at, (end, line)) in ends.iter().enumerate() {
        let lowest = HEIGHT - BOTTOM - (count - 1.0 - at as f64) * APART;
        let place = end.max(last + APART).min(lowest.max(last + APART));
        last = place;
        let _ = write!(
            out,
            "<text class=\"name {}\" x=\"{}\" y=\"{:.1}\">{}</text>",
            line.class,
            WIDTH - RIGHT + 6.0,
            place + 4.0,
            escaped(line.name)
        );
    }
}

/// Bars side by side, each with its name below and its number above.
pub fn bars(label: &str, title: &str, bars: &[(String, f64)]) -> String {
    if bars.is_empty() {
        return String::new();
    }
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let (bottom, room) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP - 18.0);
    let each = (WIDTH - 2.0 * LEFT) / bars.len() as f64;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escaped(label)
    );
    let _ = write!(
        out,
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{bottom}\" y2=\"{bottom}\"/>",
        WIDTH - LEFT
    );
    for (at, (name, value)) in bars.iter().enumerate() {
        let height = room * value / most;
        let (x, middle) = (LEFT + each * at as f64, LEFT + each * (at as f64 + 0.5));
        let _ = write!(
            out,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/><text class=\"tick\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"tick\" x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x + each * 0.1,
            bottom - height,
            each * 0.8,
            bottom - height - 5.0,
            number(*value),
            bottom + 18.0,
            escaped(name)
        );
    }
    let _ = write!(
        out,
        "<text class=\"title\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text></svg>",
        WIDTH / 2.0,
        HEIGHT - 6.0,
        escaped(title)
    );
    out
}

/// A count or a rate, with thousands set apart and no more digits than say something.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 || value.fract() == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut set = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            set.push(',');
        }
        set.push(digit);
    }
    match rest {
        Some(rest) => format!("{sign}{set}.{rest}"),
        None => format!("{sign}{set}"),
    }
}

/// A time in nanoseconds, in the unit that fits it: `250 µs`, `1.25 ms`, `3.2 s`.
pub fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if !n.is_finite() => return "–".to_owned(),
        n if n >= 1e9 => (n / 1e9, "s"),
        n if n >= 1e6 => (n / 1e6, "ms"),
        n if n >= 1e3 => (n / 1e3, "µs"),
        n => (n, "ns"),
    };
    let digits = if value >= 100.0 || value.fract() == 0.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        let texts = [0.0, 0.5, 7.25, 42.42, 1234.0, 1_234_567.8, -1500.0].map(number);
        assert_eq!(texts, ["0", "0.500", "7.25", "42.4", "1,234", "1,234,568", "-1,500"]);
        let texts = [0.0, 999.0, 1500.0, 12_340_000.0, 2e9].map(time);
        assert_eq!(texts, ["0 ns", "999 ns", "1.50 µs", "12.3 ms", "2 s"]);
        assert_eq!(escaped("<a href=\"x\">'&\u{7}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp; ");
    }

    proptest! {
        /// Whatever the numbers: places are within the picture, ticks are few.
        #[test]
        fn charts_stay_within_their_frame(
            points in proptest::collection::vec((0.0f64..1e6, 0.0f64..1e12), 0..50),
            log in any::<bool>(),
        ) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            let text = |value: f64| number(value);
            let axis = Axis { title: "a", scale, text: &text };
            let line = Line { name: "n", class: "c", points: points.clone() };
            let chart = Chart { label: "l", x: axis, y: axis, lines: vec![line], marks: Vec::new() };
            let drawn = chart.draw();
            prop_assert_eq!(drawn.is_empty(), points.is_empty());
            prop_assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
            prop_assert!(drawn.matches("class=\"tick\"").count() < 40);
        }
    }
}
