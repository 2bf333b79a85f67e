//! What was due around an event, apart from what was due at steady times. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Happened;
use crate::{
    record::{Code, Measured},
    summary::{Figures, Frame, PhaseFrame, Summary},
};

/// Tenths of a second of a run: by phase, from the first to before the last.
pub type Tenths = BTreeMap<usize, (u64, u64)>;

const TENTH_NS: u64 = 100_000_000;

/// Figures of the time around one event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub event: String,
    /// What it is made of.
    pub tenths: Tenths,
    pub figures: Figures,
    /// The longest time within it of which no request was answered well. Seconds, in tenths.
    pub dark_s: f64,
}

/// A run with events, cut up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// What was due outside of every window, in phases that are no warm-up.
    pub steady: Figures,
    /// What was due within any window: many events of one kind are read together.
    #[serde(default)]
    pub together: Figures,
    /// By event, those that were started.
    pub events: Vec<Window>,
}

impl Windows {
    /// Cuts what was measured at the windows of what happened.
    pub fn of(measured: &Measured, frame: &Frame, happened: &[Happened]) -> Windows {
        let window = |h: &Happened| {
            let tenths = tenths(h, measured)?;
            Some(Window { event: h.name.clone(), tenths, ..Window::default() })
        };
        let events: Vec<Window> = happened.iter().filter_map(window).collect();
        let windows = Windows { events, ..Windows::default() };
        let all: Vec<&Tenths> = windows.events.iter().map(|window| &window.tenths).collect();
        windows.again(measured, frame, &all)
    }

    /// The same windows in what was measured together with others. `all`: what is not steady time, theirs too.
    pub fn again(&self, measured: &Measured, frame: &Frame, all: &[&Tenths]) -> Windows {
        let own: Vec<&Tenths> = self.events.iter().map(|window| &window.tenths).collect();
        let (outside, outer_frame) = outside(measured, frame, all);
        let (touched, touched_frame) = touched(measured, frame, &own);
        let event = |window: &Window| {
            let (inside, inner_frame) = inside(measured, frame, &window.tenths);
            Window {
                figures: Summary::of(&inside, &inner_frame).total,
                dark_s: dark(&inside),
                ..window.clone()
            }
        };
        Windows {
            steady: Summary::of(&outside, &outer_frame).total,
            together: Summary::of(&touched, &touched_frame).total,
            events: self.events.iter().map(event).collect(),
        }
    }
}

/// The tenths of a run that an event's window touches; none where it was not started, or is not within the run at all.
pub fn tenths(happened: &Happened, measured: &Measured) -> Option<Tenths> {
    let nanos = |seconds: f64| (seconds.max(0.0) * 1e9) as u64;
    let (from, to) = (nanos(happened.from_s?), nanos(happened.to_s? + happened.window_s));
    let mut found = Tenths::new();
    for (phase, (began, took)) in measured.began.iter().zip(&measured.took).enumerate() {
        let (from, to) = (from.max(*began), to.min(began.saturating_add(*took)));
        if from < to {
            let first = (from - began) / TENTH_NS;
            found.insert(phase, (first, (to - began).div_ceil(TENTH_NS)));
        }
    }
    (!found.is_empty()).then_some(found)
}

fn within(tenths: &Tenths, phase: usize, tenth: u64) -> bool {
    tenths.get(&phase).is_some_and(|(from, to)| (*from..*to).contains(&tenth))
}

/// What was due within some tenths, as one phase that is called after nothing and is no warm-up, and its frame.
pub fn inside(measured: &Measured, frame: &Frame, tenths: &Tenths) -> (Measured, Frame) {
    let mut cut = Measured::default();
    // Tenths are numbered through, so that what lies next to each other in time does so here.
    let mut number = 0;
    for (phase, (from, to)) in tenths {
        // What comes after the last that was due is the end of others' answers.
        for tenth in *from..arriving(measured, frame, *phase).min(*to) {
            if let Some(cells) = measured.stretches.get(&(*phase, tenth)) {
                cut.stretches.insert((0, number), cells.clone());
            }
            number += 1;
        }
    }
    cut.began.push(0);
    cut.took.push(number * TENTH_NS);
    // Objectives of latency are the phase's in which the window lies, the first where it lies in several.
    let within_ns = tenths.keys().find_map(|phase| frame.phases.get(*phase)?.within_ns);
    let phase = PhaseFrame {
        name: String::new(),
        warm_up: false,
        planned_s: Some(number as f64 / 10.0),
        within_ns,
    };
    (cut, Frame { phases: vec![phase], variants: frame.variants.clone() })
}

/// What was due outside of every one of `windows`, by phase, and the frame of what is left of the phases. Tenths move up to where
/// windows were.
pub fn outside(measured: &Measured, frame: &Frame, windows: &[&Tenths]) -> (Measured, Frame) {
    let kept = |phase: usize, tenth: u64| !windows.iter().any(|w| within(w, phase, tenth));
    cut(measured, frame, kept)
}

/// As `outside`, what was due within any of `windows`.
fn touched(measured: &Measured, frame: &Frame, windows: &[&Tenths]) -> (Measured, Frame) {
    cut(measured, frame, |phase, tenth| windows.iter().any(|w| within(w, phase, tenth)))
}

/// The tenths of a run that are `kept`, by phase, moved up to where the others were.
fn cut(measured: &Measured, frame: &Frame, kept: impl Fn(usize, u64) -> bool) -> (Measured, Frame) {
    let mut cut = Measured {
        began: measured.began.clone(),
        took: measured.took.clone(),
        ..Measured::default()
    };
    let (whole, mut frame) = (frame, frame.clone());
    for phase in 0..frame.phases.len() {
        let all = arriving(measured, whole, phase);
        let mut left = 0;
        for tenth in (0..all).filter(|tenth| kept(phase, *tenth)) {
            if let Some(cells) = measured.stretches.get(&(phase, tenth)) {
                cut.stretches.insert((phase, left), cells.clone());
            }
            left += 1;
        }
        // Untouched phases keep their times to the nanosecond; the cut does not say that it was interrupted.
        if left < all || measured.interrupted {
            frame.phases[phase].planned_s = Some(left as f64 / 10.0);
            if let Some(took) = cut.took.get_mut(phase) {
                *took = took.saturating_sub((all - left) * TENTH_NS);
            }
        }
    }
    (cut, frame)
}

/// In how many tenths of a phase requests were due.
fn arriving(measured: &Measured, frame: &Frame, phase: usize) -> u64 {
    let last = measured.stretches.range((phase, 0)..(phase + 1, 0)).next_back();
    let seen = last.map_or(0, |((_, tenth), _)| tenth + 1);
    let planned =
        frame.phases.get(phase).and_then(|p| p.planned_s).filter(|_| !measured.interrupted);
    planned.map_or(seen, |planned| seen.max((planned * 10.0).ceil() as u64))
}

/// The longest row of tenths in which requests were due and none was answered well. Seconds.
fn dark(measured: &Measured) -> f64 {
    let (mut longest, mut from) = (0, None);
    for ((_, tenth), cells) in &measured.stretches {
        if cells.values().all(|cell| cell.due == 0) {
            continue;
        }
        if cells.values().any(|cell| cell.codes.contains_key(&Code::Ok)) {
            from = None;
            continue;
        }
        let from = *from.get_or_insert(*tenth);
        longest = longest.max(tenth + 1 - from);
    }
    longest as f64 / 10.0
}

impl Windows {
    /// What a person reads of it: what happened, then the steady time and each window.
    pub fn lines(&self, happened: &[Happened]) -> Vec<String> {
        let mut lines = Vec::new();
        if happened.is_empty() {
            return lines;
        }
        lines.push(format!("steady: {}", worded(&self.steady)));
        if self.events.len() > 1 {
            lines.push(format!("all windows: {}", worded(&self.together)));
        }
        for event in happened {
            let at = event.from_s.map(|from| format!(" at {from:.1} s")).unwrap_or_default();
            let took = event.from_s.zip(event.to_s);
            let took = took.map(|(from, to)| format!(" after {:.2} s", to - from));
            lines.push(format!(
                "event '{}'{at}: {}{}",
                event.name,
                event.ended,
                took.unwrap_or_default()
            ));
            let Some(window) = self.events.iter().find(|w| w.event == event.name) else { continue };
            let dark = if window.dark_s > 0.0 {
                format!("; no good answer for {:.1} s", window.dark_s)
            } else {
                String::new()
            };
            lines.push(format!("  its window: {}{dark}", worded(&window.figures)));
        }
        lines
    }
}

fn worded(figures: &Figures) -> String {
    let ms = |nanos: u64| format!("{:.2} ms", nanos as f64 / 1e6);
    let latency = &figures.latency;
    let mut text = format!(
        "{} requests in {:.1} s; p50 {}, p99 {}, most {}",
        figures.due,
        figures.seconds,
        ms(latency.p50),
        ms(latency.p99),
        ms(latency.max)
    );
    for (what, n) in [("failed", figures.failed), ("wrong", figures.wrong), ("shed", figures.shed)]
    {
        if n > 0 {
            text += &format!("; {n} {what}");
        }
    }
    if !figures.versions.is_empty() {
        let versions: Vec<_> = figures
            .versions
            .iter()
            .map(|(version, n)| format!("{n} by version {version}"))
            .collect();
        text += &format!("; {}", versions.join(", "));
    }
    text
}
