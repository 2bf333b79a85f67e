//! How a version executes: in the turn, in batches or singly; decided from what the probe measured. Pure.

use std::{fmt::Write, time::Duration};

use super::options;

/// A model whose single run takes less stays on the network thread. A hand-over to an executor and back costs 3 to 5 µs
/// of CPU under load and 10 to 19 with one client, and undoes the batching that a turn gives for nothing; a run of
/// milliseconds on a network thread, on the other hand, holds up everybody's bytes (health checks beside minilm: 23 to
/// 41 ms instead of 0.3). Between 50 and 100 µs the two meet.
pub const TURN_RUN: Duration = Duration::from_micros(60);

/// What all that one turn runs of a model may take; larger requests go to the executors.
pub const TURN_BATCH: Duration = Duration::from_micros(250);

/// A batch pays when a row in it costs at most this part of a single run. Dense and memory-bound models reach 0.1 to
/// 0.5; convolutional ones stay at 0.95 to 1, and would pay in latency and memory.
pub const BATCH_GAIN: f64 = 0.9;

/// Where requests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// On the network thread, at the end of its event loop's turn.
    Turn,
    /// On the executors, several requests a run.
    Batch,
    /// On the executors, one request a run.
    Single,
}

impl Execution {
    /// The word for it in settings, metrics and explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Execution::Turn => "turn",
            Execution::Batch => "batch",
            Execution::Single => "single",
        }
    }
}

/// What is known of a version.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// (rows, time of one run), by rows; empty where there was no probe.
    pub probed: &'a [(usize, Duration)],
    /// The graph has a batch axis.
    pub can_batch: bool,
    /// Loop, If or Scan: what a run costs is the caller's choice.
    pub control_flow: bool,
    /// Shapes that depend on values: likewise.
    pub data_dependent: bool,
    /// Rows in a batch answer as they do alone.
    pub consistent: bool,
    /// Threads of one run.
    pub threads: usize,
    /// The work is that of a device other than the CPU.
    pub device: bool,
    /// What a run costs besides the model: the hand-over to an executor and back.
    pub handover: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub execution: Execution,
    /// Whether requests may share a run, on the executors or in the turn.
    pub gather: bool,
    /// Rows that the turn may run at once; more go to the executors. 0 unless the execution is `Turn`.
    pub turn_rows: usize,
    /// Whether the reserve executor may run it: what was measured says what the next run costs.
    pub reserve: bool,
    /// For a person: what was decided, and from which numbers.
    pub reason: String,
}

/// Decides; `setting` overrides what the numbers say, but not what the graph forbids.
pub fn choose(evidence: &Evidence<'_>, setting: options::Mode) -> Choice {
    let mut reason = String::new();
    let execution = match (setting, turn_forbidden(evidence)) {
        (options::Mode::Turn, None) => {
            reason.push_str("turn, as set");
            warn_slow(evidence, &mut reason);
            Execution::Turn
        }
        (options::Mode::Turn, Some(why)) => {
            let _ = write!(reason, "'turn' is set and refused: {why}; instead ");
            batch_or_single(evidence, &mut reason)
        }
        (options::Mode::Batch, _) if !evidence.can_batch => {
            reason.push_str("single: 'batch' is set, but the graph has no common batch axis");
            Execution::Single
        }
        (options::Mode::Batch, _) => {
            reason.push_str("batch, as set");
            if !evidence.consistent {
                reason.push_str(", though rows in a batch answer differently from rows alone");
            }
            Execution::Batch
        }
        (options::Mode::Single, _) => {
            reason.push_str("single, as set");
            Execution::Single
        }
        (options::Mode::Auto, forbidden) => automatic(evidence, forbidden, &mut reason),
    };
    let gather = match execution {
        Execution::Turn => evidence.can_batch && evidence.consistent,
        Execution::Batch => true,
        Execution::Single => false,
    };
    let turn_rows = if execution == Execution::Turn { turn_rows(evidence.probed) } else { 0 };
    let reserve = turn_forbidden(evidence).is_none();
    Choice { execution, gather, turn_rows, reserve, reason }
}

fn automatic(evidence: &Evidence<'_>, forbidden: Option<&str>, reason: &mut String) -> Execution {
    match (single(evidence.probed), forbidden) {
        (Some(single), None) if single < TURN_RUN => {
            let _ = write!(
                reason,
                "turn: a single run takes {single:.1?}, less than {TURN_RUN:.0?}; up to {} rows at once",
                turn_rows(evidence.probed)
            );
            if evidence.can_batch && !evidence.consistent {
                reason.push_str(
                    "; requests do not share runs, since rows in a batch answer differently from rows alone",
                );
            }
            return Execution::Turn;
        }
        (Some(single), Some(why)) if single < TURN_RUN => {
            let _ = write!(
                reason,
                "a single run takes {single:.1?}, but the turn is ruled out: {why}; "
            );
        }
        _ => {}
    }
    batch_or_single(evidence, reason)
}

fn batch_or_single(evidence: &Evidence<'_>, reason: &mut String) -> Execution {
    if !evidence.can_batch {
        reason.push_str("single: the graph has no common batch axis");
        return Execution::Single;
    }
    if !evidence.consistent {
        reason.push_str("single: rows in a batch answer differently from rows alone");
        return Execution::Single;
    }
    let Some(single) = single(evidence.probed) else {
        reason.push_str("batch: the graph has a batch axis, and nothing was measured");
        return Execution::Batch;
    };
    // What a request costs in all: its part of the run, and of the hand-over that the run needs.
    let row = |(rows, took): (usize, Duration)| {
        (took + evidence.handover).as_secs_f64() / rows.max(1) as f64
    };
    let alone = row((1, single));
    let batches = evidence.probed.iter().copied().filter(|(rows, _)| *rows > 1);
    let Some(best) = batches.min_by(|a, b| row(*a).total_cmp(&row(*b))) else {
        reason.push_str("batch: the graph has a batch axis, and only single runs were measured");
        return Execution::Batch;
    };
    let gain = row(best) / alone;
    let pays = gain <= BATCH_GAIN;
    let _ = write!(
        reason,
        "{}: with the hand-over of {:.1?}, a row costs {:.1?} alone and {:.1?} in a batch of {}, {:.2} of it \
         (a batch pays from {BATCH_GAIN} down)",
        if pays { "batch" } else { "single" },
        evidence.handover,
        Duration::from_secs_f64(alone),
        Duration::from_secs_f64(row(best)),
        best.0,
        gain,
    );
    if pays { Execution::Batch } else { Execution::Single }
}

/// Why a model may not run on the network threads, whatever it costs.
fn turn_forbidden(evidence: &Evidence<'_>) -> Option<&'static str> {
    if evidence.device {
        return Some("it runs on a device, and a network thread waits for none");
    }
    if evidence.threads > 1 {
        return Some("a run has several threads, which hold executors");
    }
    if evidence.control_flow {
        return Some("the graph has control flow, so that a request decides what it costs");
    }
    if evidence.data_dependent {
        return Some(
            "the graph has shapes that depend on values, so that a request decides what it costs",
        );
    }
    None
}

fn warn_slow(evidence: &Evidence<'_>, reason: &mut String) {
    if let Some(single) = single(evidence.probed).filter(|s| *s >= TURN_RUN) {
        let _ = write!(
            reason,
            ", though a single run takes {single:.1?} and holds up its network thread as long \
             (from {TURN_RUN:.0?} on the executors serve better)"
        );
    }
}

/// The time of a run of the fewest rows probed.
fn single(probed: &[(usize, Duration)]) -> Option<Duration> {
    probed.iter().min_by_key(|(rows, _)| *rows).map(|(_, took)| *took)
}

/// Rows up to which every probed run stays within what a turn may cost; one at least.
fn turn_rows(probed: &[(usize, Duration)]) -> usize {
    let over = probed.iter().filter(|(_, took)| *took > TURN_BATCH).map(|(rows, _)| *rows).min();
    let within = probed.iter().map(|(rows, _)| *rows).filter(|r| over.is_none_or(|o| *r < o));
    within.max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Duration = Duration::from_micros(10);

    fn table(us: &[(usize, u64)]) -> Vec<(usize, Duration)> {
        us.iter().map(|&(rows, us)| (rows, Duration::from_micros(us))).collect()
    }

    fn evidence(probed: &[(usize, Duration)]) -> Evidence<'_> {
        Evidence {
            probed,
            can_batch: true,
            control_flow: false,
            data_dependent: false,
            consistent: true,
            threads: 1,
            device: false,
            handover: HANDOVER,
        }
    }

    #[test]
    fn measured_models_go_where_they_are_fastest() {
        for (name, rows, want) in [
            ("mlp_small", vec![(1, 4), (4, 4), (16, 6)], Execution::Turn),
            ("mlp_big", vec![(1, 8567), (4, 6808), (8, 8440), (16, 10400)], Execution::Batch),
            ("cifar", vec![(1, 194), (4, 760), (8, 1512), (16, 3088)], Execution::Single),
            ("resnet18", vec![(1, 24053), (4, 91712), (8, 181408)], Execution::Single),
            ("minilm", vec![(1, 12263), (4, 43756), (8, 85072)], Execution::Batch),
        ] {
            let rows = table(&rows);
            let choice = choose(&evidence(&rows), options::Mode::Auto);
            assert_eq!(choice.execution, want, "{name}: {}", choice.reason);
            assert_eq!(choice.gather, want != Execution::Single, "{name}");
            assert!(choice.reserve, "{name}");
            assert!(choice.reason.starts_with(want.name()), "{name}: {}", choice.reason);
        }
    }

    #[test]
    fn the_turn_takes_rows_up_to_its_bound() {
        let rows = table(&[(1, 24), (8, 62), (16, 94), (32, 300), (64, 240)]);
        assert_eq!(choose(&evidence(&rows), options::Mode::Auto).turn_rows, 16);
        let slow = table(&[(1, 5000)]);
        let choice = choose(&evidence(&slow), options::Mode::Turn);
        assert_eq!((choice.execution, choice.turn_rows), (Execution::Turn, 1));
        assert!(choice.reason.contains("5.0ms"), "{}", choice.reason);
    }

    #[test]
    fn control_flow_and_data_dependent_shapes_never_run_in_the_turn() {
        let rows = table(&[(1, 4), (8, 8)]);
        for (control_flow, data_dependent) in [(true, false), (false, true)] {
            let e = Evidence { control_flow, data_dependent, ..evidence(&rows) };
            for setting in [options::Mode::Auto, options::Mode::Turn] {
                let choice = choose(&e, setting);
                assert_eq!(choice.execution, Execution::Batch, "{}", choice.reason);
                assert!(choice.reason.contains("a request decides"), "{}", choice.reason);
                assert!(!choice.reserve, "nor on the reserve, which would be gone for as long");
            }
        }
    }

    #[test]
    fn devices_and_runs_of_several_threads_stay_off_the_network_threads() {
        let rows = table(&[(1, 4), (8, 8)]);
        for (threads, device) in [(2, false), (1, true)] {
            let choice =
                choose(&Evidence { threads, device, ..evidence(&rows) }, options::Mode::Auto);
            assert_eq!(choice.execution, Execution::Batch, "{}", choice.reason);
            assert!(!choice.reserve);
        }
    }

    #[test]
    fn what_answers_differently_in_a_batch_is_not_batched() {
        let rows = table(&[(1, 4), (8, 8)]);
        let choice =
            choose(&Evidence { consistent: false, ..evidence(&rows) }, options::Mode::Auto);
        assert_eq!((choice.execution, choice.gather), (Execution::Turn, false));
        let rows = table(&[(1, 4000), (8, 8000)]);
        let e = Evidence { consistent: false, ..evidence(&rows) };
        assert_eq!(choose(&e, options::Mode::Auto).execution, Execution::Single);
        assert_eq!(choose(&e, options::Mode::Batch).execution, Execution::Batch);
    }

    #[test]
    fn a_setting_overrides_the_numbers_but_not_the_graph() {
        let rows = table(&[(1, 4), (8, 8)]);
        assert_eq!(choose(&evidence(&rows), options::Mode::Single).execution, Execution::Single);
        assert_eq!(choose(&evidence(&rows), options::Mode::Batch).execution, Execution::Batch);
        let fixed = Evidence { can_batch: false, ..evidence(&rows) };
        assert_eq!(choose(&fixed, options::Mode::Batch).execution, Execution::Single);
        assert_eq!(choose(&evidence(&[]), options::Mode::Auto).execution, Execution::Batch);
    }
}
