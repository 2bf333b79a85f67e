//! What was measured, in figures that people compare: percentiles, rates, goodput, shares of what went wrong.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    plan::Plan,
    record::{Cell, Code, Measured, Times},
    slo::Slo,
};

/// The names and limits that figures are put under: what of a plan is needed to read what was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub phases: Vec<PhaseFrame>,
    pub variants: Vec<VariantFrame>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseFrame {
    pub name: String,
    pub warm_up: bool,
    /// How long requests arrive, where that was stated. Seconds.
    pub planned_s: Option<f64>,
    /// A good answer within this counts as goodput. Nanoseconds.
    pub within_ns: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VariantFrame {
    pub name: String,
    pub model: String,
    /// Instances in each request.
    pub rows: u64,
}

impl Frame {
    /// The frame of a plan; `slos` by phase (goodput needs the latency they allow).
    pub fn of(plan: &Plan, slos: &[Slo]) -> Frame {
        let phase = |(at, phase): (usize, &crate::plan::Phase)| PhaseFrame {
            name: phase.name.clone(),
            warm_up: phase.warm_up,
            planned_s: phase.until.duration.map(|d| d.as_secs_f64()),
            within_ns: slos.get(at).and_then(Slo::within).map(nanos),
        };
        let variant = |variant: &crate::plan::Variant| VariantFrame {
            name: variant.name.clone(),
            model: variant.model.clone(),
            rows: variant.rows,
        };
        Frame {
            phases: plan.phases.iter().enumerate().map(phase).collect(),
            variants: plan.variants.iter().map(variant).collect(),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Values at percentiles. Nanoseconds; all 0 where nothing was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

impl Percentiles {
    pub fn of(times: &Times) -> Percentiles {
        let at = |quantile| times.quantile(quantile);
        Percentiles {
            count: times.count(),
            mean: times.mean(),
            min: at(0.0),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: at(1.0),
        }
    }
}

/// The figures of one stretch of one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How long it took, the last answers included. Seconds.
    pub seconds: f64,
    /// Requests that were due.
    pub due: u64,
    /// Good answers.
    pub good: u64,
    /// Answers that were not the ones expected.
    pub wrong: u64,
    /// Requests that the server refused because of load (429, RESOURCE_EXHAUSTED).
    pub shed: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
    /// Requests due a second, over the time in which requests were due.
    pub offered: f64,
    /// Good answers a second.
    pub throughput: f64,
    /// Instances in good answers, a second.
    pub instances: f64,
    /// Good answers within the time that the objectives allow, a second; none where no objective is about latency.
    pub goodput: Option<f64>,
    /// `wrong` and `failed` among those that ended; 0 to 1.
    pub error_rate: f64,
    /// `shed` among those that ended; 0 to 1.
    pub shed_rate: f64,
    /// From the scheduled moment to the end of a good answer.
    pub latency: Percentiles,
    /// From the moment of sending to the end of a good answer.
    pub service: Percentiles,
    /// From the scheduled moment to the moment of sending: the generator's own lateness, its schedule error.
    pub lag: Percentiles,
    /// How requests ended.
    pub codes: BTreeMap<Code, u64>,
    /// Good answers by the version that they say they are from.
    pub versions: BTreeMap<String, u64>,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

/// What one phase comes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSummary {
    pub name: String,
    pub warm_up: bool,
    pub all: Figures,
    /// By the variants' order in the frame; what had no request is there with zeros.
    pub variants: Vec<Figures>,
}

/// One second of a phase, by the moment requests were due.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    pub phase: usize,
    /// Seconds since the phase began, rounded down.
    pub second: u64,
    pub due: u64,
    pub good: u64,
    pub shed: u64,
    /// Wrong ones included.
    pub failed: u64,
    /// Good answers within the objectives' time.
    pub within: u64,
    pub latency: Percentiles,
}

/// A run in figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// All phases that are no warm-up, together.
    pub total: Figures,
    pub phases: Vec<PhaseSummary>,
    /// All phases that are no warm-up, by variant.
    pub variants: Vec<Figures>,
    pub seconds: Vec<Second>,
    pub interrupted: bool,
}

impl Summary {
    /// The figures of what was measured, under the frame of its plan.
    pub fn of(measured: &Measured, frame: &Frame) -> Summary {
        let phases = frame.phases.len();
        let cells: Vec<Vec<Cell>> = (0..phases).map(|at| by_variant(measured, at, frame)).collect();
        let times: Vec<Spell> = (0..phases).map(|at| Spell::of(measured, at, frame)).collect();
        let within: Vec<_> = frame.phases.iter().map(|p| p.within_ns).collect();
        let counted: Vec<usize> = (0..phases).filter(|at| !frame.phases[*at].warm_up).collect();
        let over = |part: &dyn Fn(usize) -> Cell, rows: &dyn Fn(usize) -> f64| {
            let parts: Vec<_> = counted.iter().map(|at| (part(*at), rows(*at), *at)).collect();
            Figures::together(&parts, &times, &within)
        };
        let all_rows = |at: usize| rows(&cells[at], frame);
        let phase = |at: usize| PhaseSummary {
            name: frame.phases[at].name.clone(),
            warm_up: frame.phases[at].warm_up,
            all: Figures::together(&[(Cell::sum(&cells[at]), all_rows(at), at)], &times, &within),
            variants: (0..frame.variants.len())
                .map(|v| {
                    let cell = cells[at][v].clone();
                    let rows = good(&cell) as f64 * frame.variants[v].rows as f64;
                    Figures::together(&[(cell, rows, at)], &times, &within)
                })
                .collect(),
        };
        let variant = |v: usize| {
            let rows = frame.variants[v].rows as f64;
            over(&|at| cells[at][v].clone(), &|at| good(&cells[at][v]) as f64 * rows)
        };
        Summary {
            total: over(&|at| Cell::sum(&cells[at]), &all_rows),
            phases: (0..phases).map(phase).collect(),
            variants: (0..frame.variants.len()).map(variant).collect(),
            seconds: seconds(measured, frame),
            interrupted: measured.interrupted,
        }
    }
}

/// How long a phase was. Seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Spell {
    /// Until its last answer.
    took: f64,
    /// While requests were due.
    arriving: f64,
}

impl Spell {
    fn of(measured: &Measured, phase: usize, frame: &Frame) -> Spell {
        let tenths = measured.stretches.range((phase, 0)..(phase + 1, 0)).next_back();
        let seen = tenths.map_or(0.0, |((_, tenth), _)| (*tenth + 1) as f64 / 10.0);
        let took = measured.took.get(phase).map_or(seen, |took| *took as f64 / 1e9);
        let arriving = match frame.phases[phase].planned_s {
            Some(planned) if !measured.interrupted => planned,
            // Only a tenth of a second is known of when the last one was due; it was not after the end.
            _ => seen.min(took),
        };
        Spell { took, arriving }
    }
}

/// What was measured of each variant in a phase.
fn by_variant(measured: &Measured, phase: usize, frame: &Frame) -> Vec<Cell> {
    let stretches = measured.stretches.range((phase, 0)..(phase + 1, 0));
    (0..frame.variants.len())
        .map(|variant| Cell::sum(stretches.clone().filter_map(|(_, cells)| cells.get(&variant))))
        .collect()
}

fn good(cell: &Cell) -> u64 {
    cell.codes.get(&Code::Ok).copied().unwrap_or(0)
}

/// Instances in good answers.
fn rows(cells: &[Cell], frame: &Frame) -> f64 {
    cells.iter().zip(&frame.variants).map(|(cell, v)| good(cell) as f64 * v.rows as f64).sum()
}

/// How many of a cell's requests ended in each of the four ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub good: u64,
    pub wrong: u64,
    pub shed: u64,
    pub failed: u64,
}

impl Ends {
    pub fn of(cell: &Cell) -> Ends {
        let mut ends = Ends::default();
        for (code, count) in &cell.codes {
            match code {
                Code::Ok => ends.good += count,
                Code::Wrong => ends.wrong += count,
                code if code.shed() => ends.shed += count,
                _ => ends.failed += count,
            }
        }
        ends
    }

    pub fn all(self) -> u64 {
        self.good + self.wrong + self.shed + self.failed
    }
}

/// `part` of `whole`, 0 where there is nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A second; 0 where no time has passed.
fn rate(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

impl Figures {
    /// The figures of cells of several phases; with each, its instances in good answers and its phase.
    fn together(parts: &[(Cell, f64, usize)], spells: &[Spell], within: &[Option<u64>]) -> Figures {
        let cell = match parts {
            [(cell, ..)] => cell.clone(),
            parts => Cell::sum(parts.iter().map(|(cell, ..)| cell).collect::<Vec<_>>()),
        };
        let ends = Ends::of(&cell);
        let took: f64 = parts.iter().map(|(.., at)| spells[*at].took).sum();
        let arriving: f64 = parts.iter().map(|(.., at)| spells[*at].arriving).sum();
        let in_time =
            |(cell, _, at): &(Cell, f64, usize)| within[*at].map(|w| cell.latency.up_to(w));
        let in_time: Option<u64> = parts.iter().map(in_time).sum();
        Figures {
            seconds: took,
            due: cell.due,
            good: ends.good,
            wrong: ends.wrong,
            shed: ends.shed,
            failed: ends.failed,
            offered: rate(cell.due as f64, arriving),
            throughput: rate(ends.good as f64, took),
            instances: rate(parts.iter().map(|(_, rows, _)| rows).sum(), took),
            goodput: in_time.filter(|_| !parts.is_empty()).map(|n| rate(n as f64, took)),
            error_rate: share(ends.wrong + ends.failed, ends.all()),
            shed_rate: share(ends.shed, ends.all()),
            latency: Percentiles::of(&cell.latency),
            service: Percentiles::of(&cell.service),
            lag: Percentiles::of(&cell.lag),
            codes: cell.codes,
            versions: cell.versions,
            bytes_out: cell.bytes_out,
            bytes_in: cell.bytes_in,
        }
    }
}

/// The seconds of every phase in which requests were due.
fn seconds(measured: &Measured, frame: &Frame) -> Vec<Second> {
    let mut cells: BTreeMap<(usize, u64), Vec<&Cell>> = BTreeMap::new();
    for ((phase, tenth), variants) in &measured.stretches {
        cells.entry((*phase, tenth / 10)).or_default().extend(variants.values());
    }
    let second = |((phase, second), cells): ((usize, u64), Vec<&Cell>)| {
        let cell = Cell::sum(cells);
        let ends = Ends::of(&cell);
        let within = frame.phases.get(phase).and_then(|p| p.within_ns);
        Second {
            phase,
            second,
            due: cell.due,
            good: ends.good,
            shed: ends.shed,
            failed: ends.wrong + ends.failed,
            within: within.map_or(ends.good, |w| cell.latency.up_to(w)),
            latency: Percentiles::of(&cell.latency),
        }
    };
    cells.into_iter().map(second).collect()
}
