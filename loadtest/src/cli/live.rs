//! The live view at a terminal: a few lines that are drawn again in place while a run goes on.

use std::{
    collections::VecDeque,
    env,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use super::show::{plain, time};
use crate::{
    campaign::Stage,
    plan::Phase,
    record::{Code, Times},
    run::Progress,
    trial::LATE_NS,
    units::{self, Span},
};

/// What "now" is.
const NOW: Duration = Duration::from_secs(1);
/// Seconds of the small chart.
const SECONDS: usize = 60;
/// Characters of a bar.
const BAR: usize = 24;

/// The terminal that is drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub columns: usize,
    pub rows: usize,
    /// It shows more than ASCII.
    pub unicode: bool,
}

impl Look {
    /// Standard error, where it is a terminal that can move its cursor.
    pub fn here() -> Option<Look> {
        let stderr = io::stderr();
        if !stderr.is_terminal() || env::var_os("TERM").is_none_or(|term| term == "dumb") {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(&stderr).ok();
        let or = |size: Option<u16>, usual| size.filter(|n| *n > 0).map_or(usual, usize::from);
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
        Some(Look {
            columns: or(size.map(|size| size.ws_col), 80),
            rows: or(size.map(|size| size.ws_row), 24),
            unicode: locale.is_some_and(|locale| speaks_utf8(&locale)),
        })
    }
}

fn speaks_utf8(locale: &str) -> bool {
    let encoding = locale.rsplit('.').next().unwrap_or("").to_ascii_lowercase();
    matches!(encoding.as_str(), "utf-8" | "utf8")
}

/// What was measured in a stretch of time.
#[derive(Debug, Default)]
struct Piece {
    latency: Times,
    lag: Times,
    due: u64,
    span: Duration,
}

impl Piece {
    fn merge(&mut self, other: &Piece) {
        self.latency.merge(&other.latency);
        self.lag.merge(&other.lag);
        self.due += other.due;
        self.span += other.span;
    }
}

/// What is on the screen, and what it is made of.
#[derive(Debug, Default)]
pub struct Live {
    stage: Option<Stage>,
    phase: usize,
    /// The last second, in the pieces in which it came.
    recent: VecDeque<Piece>,
    /// The phase so far.
    whole: Piece,
    /// The second that is under way, and p99 of those before it.
    second: Piece,
    seconds: VecDeque<u64>,
    /// Lines that stand above the cursor.
    drawn: usize,
}

impl Live {
    /// Another run begins.
    pub fn begin(&mut self) {
        *self = Live { stage: self.stage.take(), drawn: self.drawn, ..Live::default() };
    }

    pub fn stage(&mut self, stage: Stage) {
        self.stage = Some(stage);
    }

    /// Takes what came since the last time.
    pub fn take(&mut self, progress: &Progress) {
        if self.phase != progress.phase {
            self.begin();
            self.phase = progress.phase;
        }
        let piece = Piece {
            latency: progress.latency.clone(),
            lag: progress.lag.clone(),
            due: progress.due.saturating_sub(self.whole.due),
            span: progress.span,
        };
        self.whole.merge(&piece);
        self.second.merge(&piece);
        if self.second.span >= NOW {
            if self.seconds.len() == SECONDS {
                self.seconds.pop_front();
            }
            self.seconds.push_back(self.second.latency.quantile(0.99));
            self.second = Piece::default();
        }
        self.recent.push_back(piece);
        let spans = |recent: &VecDeque<Piece>| recent.iter().map(|p| p.span).sum::<Duration>();
        while let Some(oldest) = self.recent.front()
            && spans(&self.recent) >= NOW + oldest.span
        {
            self.recent.pop_front();
        }
    }

    /// What is to be seen.
    pub fn lines(&self, phase: Option<&Phase>, progress: &Progress, look: Look) -> Vec<String> {
        let mut lines: Vec<String> = self.stage.iter().map(stage_line).collect();
        lines.push(head(phase, progress));
        lines.extend(self.now(progress));
        lines.push(self.so_far(progress));
        lines.extend(failures(progress));
        if look.unicode {
            lines.extend(self.chart());
        }
        lines.truncate(look.rows.saturating_sub(1).max(1));
        let fit =
            |line: String| plain(&line).chars().take(look.columns.saturating_sub(1)).collect();
        lines.into_iter().map(fit).collect()
    }

    fn now(&self, progress: &Progress) -> Vec<String> {
        let mut lines = Vec::new();
        let mut now = Piece::default();
        self.recent.iter().for_each(|piece| now.merge(piece));
        let rate = |count: u64| count as f64 / now.span.as_secs_f64().max(1e-9);
        let line = format!(
            "  now     {:.0}/s of {:.0}/s due, {}, {} in flight",
            rate(now.latency.count()),
            rate(now.due),
            percentiles(&now.latency, &[("p50", 0.5), ("p99", 0.99)]),
            progress.in_flight
        );
        lines.push(line);
        let late = now.lag.quantile(0.99);
        let waiting =
            (progress.waiting > 0).then(|| format!("{} wait for a connection", progress.waiting));
        let late = (late > LATE_NS).then(|| format!("generator late by {} (p99)", time(late)));
        let notes: Vec<String> = waiting.into_iter().chain(late).collect();
        if !notes.is_empty() {
            lines.push(format!("  note    {}", notes.join(", ")));
        }
        lines
    }

    fn so_far(&self, progress: &Progress) -> String {
        let seconds = progress.elapsed.as_secs_f64().max(1e-9);
        let answered = self.whole.latency.count();
        format!(
            "  so far  {:.0}/s of {:.0}/s due, {}",
            answered as f64 / seconds,
            progress.due as f64 / seconds,
            percentiles(&self.whole.latency, &ALL)
        )
    }

    /// p99 of each second as a row of small bars.
    fn chart(&self) -> Option<String> {
        let most = self.seconds.iter().copied().max().filter(|most| *most > 0)?;
        let least = self.seconds.iter().copied().min().unwrap_or(0);
        let bar = |value: u64| {
            const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
            BARS[(value as f64 / most as f64 * 7.0).round().clamp(0.0, 7.0) as usize]
        };
        let bars: String = self.seconds.iter().map(|value| bar(*value)).collect();
        Some(format!("  p99     {bars} {} to {}, by second", time(least), time(most)))
    }

    /// Draws lines in place of the ones before. A terminal that has gone is no failure.
    pub fn draw(&mut self, lines: &[String], out: &mut impl Write) {
        let mut text = self.above();
        for line in lines {
            // Cleared behind each line, not all at once before: nothing flickers.
            let _ = write!(text, "{line}\x1b[K\r\n");
        }
        text += "\x1b[J";
        self.drawn = lines.len();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Leaves nothing of the view behind.
    pub fn clear(&mut self, out: &mut impl Write) {
        if self.drawn > 0 {
            let text = self.above() + "\x1b[J";
            self.drawn = 0;
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }

    /// Moves the cursor to where the view begins.
    fn above(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\r", self.drawn) }
    }
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        whole @ 0..120 => format!("{whole}s"),
        whole => format!("{}m{:02}s", whole / 60, whole % 60),
    }
}

/// How far a campaign is.
fn stage_line(stage: &Stage) -> String {
    let all = f64::from(stage.done) + f64::from(stage.left);
    let share = if all > 0.0 { f64::from(stage.done) / all } else { 0.0 };
    let rest = seconds(stage.each.saturating_mul(stage.left));
    format!(
        "{} {} {} done, about {} to go ({rest}): {}",
        stage.name,
        bar(share),
        stage.done,
        stage.left,
        stage.what
    )
}

/// Which phase, and how far it is where that can be known.
fn head(phase: Option<&Phase>, progress: &Progress) -> String {
    let name = phase.map_or("", |phase| &phase.name);
    let elapsed = seconds(progress.elapsed);
    let until = phase.map(|phase| phase.until);
    let by_time = until.and_then(|until| until.duration);
    let by_count = until.and_then(|until| until.requests);
    let shares = [
        by_time.map(|all| progress.elapsed.as_secs_f64() / all.as_secs_f64().max(1e-9)),
        by_count.map(|all| progress.due as f64 / all.max(1) as f64),
    ];
    // Whichever comes first ends the phase.
    let Some(share) = shares.into_iter().flatten().reduce(f64::max) else {
        return format!("{name} {elapsed}, {} requests", progress.due);
    };
    let of = match (by_time, by_count) {
        (Some(all), _) if all.subsec_nanos() == 0 => format!("{elapsed} of {}", seconds(all)),
        (Some(all), _) => format!("{elapsed} of {}", units::short(Span(all))),
        (None, Some(all)) => format!("{} of {all} requests, {elapsed}", progress.due),
        (None, None) => elapsed,
    };
    format!("{name} {} {of}", bar(share))
}

const ALL: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

fn percentiles(times: &Times, which: &[(&str, f64)]) -> String {
    if times.count() == 0 {
        return "no good answers".to_owned();
    }
    let one =
        |(name, quantile): &(&str, f64)| format!("{name} {}", time(times.quantile(*quantile)));
    which.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What did not end well, by code.
fn failures(progress: &Progress) -> Option<String> {
    let bad: Vec<_> = progress.ended.iter().filter(|(code, _)| **code != Code::Ok).collect();
    let failed: u64 = bad.iter().filter(|(code, _)| !code.shed()).map(|(_, n)| **n).sum();
    let shed: u64 = bad.iter().filter(|(code, _)| code.shed()).map(|(_, n)| **n).sum();
    let codes: Vec<String> = bad.iter().map(|(code, count)| format!("{count} {code}")).collect();
    (!bad.is_empty())
        .then(|| format!("  errors  {failed} failed, {shed} shed: {}", codes.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::{Arrivals, Until};

    const LOOK: Look = Look { columns: 120, rows: 24, unicode: true };

    fn phase(duration: Option<u64>, requests: Option<u64>) -> Phase {
        let duration = duration.map(Duration::from_secs);
        Phase {
            name: "steady".into(),
            arrivals: Arrivals::Constant { rate: 100.0 },
            until: Until { duration, requests },
            warm_up: false,
        }
    }

    /// A quarter of a second with 25 answers of this latency; the phase is at `at` quarters.
    fn quarter(at: u32, latency: u64) -> Progress {
        Progress {
            elapsed: Duration::from_millis(250) * at,
            due: u64::from(at) * 25,
            ended: BTreeMap::from([(Code::Ok, u64::from(at) * 25)]),
            in_flight: 3,
            latency: [(latency, 25)].into_iter().collect(),
            lag: [(5000, 25)].into_iter().collect(),
            span: Duration::from_millis(250),
            ..Progress::default()
        }
    }

    #[test]
    fn the_view_shows_the_last_second_and_the_phase_so_far() {
        let mut live = Live::default();
        for at in 1..=8 {
            live.take(&quarter(at, if at <= 4 { 1_000_000 } else { 4_000_000 }));
        }
        let lines = live.lines(Some(&phase(Some(8), None)), &quarter(8, 4_000_000), LOOK);
        assert_eq!(
            lines,
            [
                "steady [######------------------] 2s of 8s",
                "  now     100/s of 100/s due, p50 4.00ms, p99 4.00ms, 3 in flight",
                "  so far  100/s of 100/s due, p50 1.00ms, p90 4.00ms, p99 4.00ms, p99.9 4.00ms",
                "  p99     ▃█ 1.00ms to 4.00ms, by second",
            ]
        );
        let ascii = Look { unicode: false, ..LOOK };
        assert_eq!(live.lines(None, &quarter(8, 4_000_000), ascii).len(), 3);
        // Another phase, or another run of one, begins with nothing.
        live.take(&Progress { phase: 1, ..quarter(1, 9_000_000) });
        assert_eq!(live.lines(None, &quarter(1, 9_000_000), LOOK).len(), 3);
        live.begin();
        assert_eq!((live.whole.due, live.recent.len()), (0, 0));
    }

    #[test]
    fn what_goes_wrong_is_counted_by_code() {
        let mut progress = quarter(4, 1_000_000);
        progress.ended.extend([(Code::Http(429), 3), (Code::TimedOut, 1)]);
        progress.waiting = 2;
        progress.lag = [(5_000_000, 25)].into_iter().collect();
        let mut live = Live::default();
        live.take(&progress);
        let lines = live.lines(Some(&phase(None, Some(200))), &progress, LOOK).join("\n");
        assert!(lines.contains("[############------------] 100 of 200 requests, 1s"), "{lines}");
        assert!(lines.contains("  errors  1 failed, 3 shed: 3 http_429, 1 timed_out"), "{lines}");
        let note = "  note    2 wait for a connection, generator late by 5.00ms (p99)";
        assert!(lines.contains(note), "{lines}");
        let none = Live::default().lines(None, &Progress::default(), LOOK).join("\n");
        assert!(none.contains("no good answers"), "{none}");
    }

    #[test]
    fn a_campaign_has_a_bar_of_its_own_and_lines_fit_the_terminal() {
        let mut live = Live::default();
        let each = Duration::from_secs(11);
        let what = "1200/s, between 1000/s and 1500/s\x1b[2J".to_owned();
        live.stage(Stage { name: "search", done: 6, left: 18, each, what });
        live.begin();
        let lines = live.lines(None, &Progress::default(), LOOK);
        assert_eq!(
            lines[0],
            "search [######------------------] 6 done, about 18 to go (3m18s): 1200/s, between 1000/s and 1500/s\u{fffd}[2J"
        );
        let small = Look { columns: 20, rows: 3, unicode: true };
        let lines = live.lines(None, &Progress::default(), small);
        assert!(
            lines.len() == 2 && lines.iter().all(|line| line.chars().count() <= 19),
            "{lines:?}"
        );
    }

    #[test]
    fn what_is_drawn_again_begins_where_it_began() {
        let mut live = Live::default();
        let mut out = Vec::new();
        live.clear(&mut out);
        assert!(out.is_empty());
        live.draw(&["a".to_owned(), "b".to_owned()], &mut out);
        live.draw(&["c".to_owned()], &mut out);
        live.clear(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a\x1b[K\r\nb\x1b[K\r\n\x1b[J\x1b[2A\rc\x1b[K\r\n\x1b[J\x1b[1A\r\x1b[J"
        );
    }

    #[test]
    fn a_locale_says_what_a_terminal_shows() {
        assert!(speaks_utf8("C.UTF-8") && speaks_utf8("de_DE.utf8"));
        assert!(!speaks_utf8("C") && !speaks_utf8("de_DE.ISO-8859-1") && !speaks_utf8(""));
    }
}
