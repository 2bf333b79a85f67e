//! A report for a person, as text.

use std::{fmt::Write, time::Duration};

use crate::{
    compare::Comparison,
    knee::Curve,
    mlperf,
    prepare::log::Replayed,
    report::json::Report,
    search::{End, Found},
    slo::{Finding, Outcome, Verdict},
    summary::{Figures, Percentiles},
    units::{self, Span},
};

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    match (&report.search, &report.knee, &report.comparison, &report.mlperf) {
        (Some(found), ..) => search(found, &mut out),
        (_, Some(curve), ..) => knee(curve, &mut out),
        (_, _, Some(found), _) => comparison(found, &mut out),
        (.., Some(mlperf)) => mlperf_style(mlperf, &mut out),
        _ => phases(report, &mut out),
    }
    beside(report, &mut out);
    for example in &report.examples {
        line(&mut out, &format!("example: {}", plain(example)));
    }
    verdict(report, &mut out);
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

/// Servers choose some of these texts; none may move a terminal's cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub fn time(nanos: u64) -> String {
    units::short(Span(Duration::from_nanos(nanos)))
}

fn head(report: &Report, out: &mut String) {
    let plan = &report.plan;
    let names: Vec<String> = report.frame.variants.iter().map(|v| plain(&v.name)).collect();
    let name = report.name.as_ref().map_or(String::new(), |name| format!("{}: ", plain(name)));
    let protocol = format!("{:?}", plan.protocol).to_lowercase();
    line(
        out,
        &format!(
            "{name}{} at {} ({protocol}, {} connections, seed {})",
            names.join(", "),
            plan.url,
            plan.connections,
            plan.seed
        ),
    );
    for told in report.replayed.iter().flat_map(Replayed::lines) {
        line(out, &plain(&told));
    }
    if report.parts.len() > 1 {
        line(out, &format!("{} generators", report.parts.len()));
    }
}

fn phases(report: &Report, out: &mut String) {
    for phase in report.summary.phases.iter().filter(|phase| !phase.warm_up) {
        line(out, &format!("\n{}", phase.name));
        figures(&phase.all, out);
        if phase.variants.len() > 1 {
            for (variant, frame) in phase.variants.iter().zip(&report.frame.variants) {
                let latency = &variant.latency;
                let name = plain(&frame.name);
                line(
                    out,
                    &format!(
                        "  {name}: {:.1}/s answered, p50 {}, p99 {}, {} failed, {} shed",
                        variant.throughput,
                        time(latency.p50),
                        time(latency.p99),
                        variant.failed + variant.wrong,
                        variant.shed
                    ),
                );
            }
        }
    }
}

fn figures(figures: &Figures, out: &mut String) {
    let mut rates = format!(
        "  {:.1} s: {} requests, {:.1}/s offered, {:.1}/s answered",
        figures.seconds, figures.due, figures.offered, figures.throughput
    );
    if let Some(goodput) = figures.goodput {
        let _ = write!(rates, ", {goodput:.1}/s in time");
    }
    if (figures.instances - figures.throughput).abs() > 0.05 {
        let _ = write!(rates, ", {:.1} instances/s", figures.instances);
    }
    line(out, &rates);
    line(out, &percentiles("latency", &figures.latency));
    line(out, &percentiles("service", &figures.service));
    line(
        out,
        &format!("  schedule error: p50 {}, p99 {}", time(figures.lag.p50), time(figures.lag.p99)),
    );
    let bad: Vec<String> = figures
        .codes
        .iter()
        .filter(|(code, _)| **code != crate::record::Code::Ok)
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    if !bad.is_empty() {
        line(
            out,
            &format!(
                "  {:.3}% failed, {:.3}% shed: {}",
                figures.error_rate * 100.0,
                figures.shed_rate * 100.0,
                bad.join(", ")
            ),
        );
    }
    if figures.versions.len() > 1 {
        let versions: Vec<String> =
            figures.versions.iter().map(|(v, n)| format!("version {}: {n}", plain(v))).collect();
        line(out, &format!("  {}", versions.join(", ")));
    }
}

fn percentiles(name: &str, of: &Percentiles) -> String {
    if of.count == 0 {
        return format!("  {name}: no good answers");
    }
    format!(
        "  {name}: p50 {}, p90 {}, p95 {}, p99 {}, p99.9 {}, max {}",
        time(of.p50),
        time(of.p90),
        time(of.p95),
        time(of.p99),
        time(of.p99_9),
        time(of.max)
    )
}

fn beside(report: &Report, out: &mut String) {
    for part in &report.parts {
        let seen = &part.seen;
        let server = seen.server.iter().flat_map(|server| server.lines());
        let events = seen.windows.iter().flat_map(|windows| windows.lines(&seen.happened));
        let mut lines: Vec<String> = server.chain(events).collect();
        lines.extend(seen.note.clone());
        if !lines.is_empty() {
            out.push('\n');
        }
        for text in lines {
            line(out, &plain(&text));
        }
    }
}

fn finding(finding: &Finding) -> String {
    let mark = match finding.outcome {
        Outcome::Held => "held  ",
        Outcome::Broken => "BROKEN",
        Outcome::TooLittle => "open  ",
    };
    format!(
        "  {mark} {}: {} ({}, {} requests)",
        finding.objective,
        finding.words(),
        finding.phase,
        finding.requests
    )
}

fn verdict(report: &Report, out: &mut String) {
    let Verdict { findings, notes, .. } = &report.verdict;
    if !findings.is_empty() {
        line(out, "\nobjectives");
    }
    for one in findings {
        line(out, &finding(one));
    }
    for note in notes {
        line(out, &format!("note: {}", plain(note)));
    }
    if report.interrupted {
        line(out, "note: interrupted; this is what was measured until then");
    }
    if let Some(missing) = crate::merge::missing(report) {
        line(out, &format!("note: {missing}"));
    }
    if (!findings.is_empty() || report.verdict.wrong > 0) && report.search.is_none() {
        line(out, &format!("\nverdict: {}", report.verdict.outcome));
    }
}

fn search(found: &Found, out: &mut String) {
    line(out, "");
    for tried in &found.tried {
        let trial = &tried.trial;
        let times =
            if tried.times == 1 { String::new() } else { format!(", {} times", tried.times) };
        let late = if trial.generator_late { ", generator late" } else { "" };
        line(out, &format!("  {:.1}/s: {}{times}{late}", trial.rate, trial.outcome));
    }
    let rate = |rate: Option<f64>| rate.map_or("nothing".to_owned(), |r| format!("{r:.1}/s"));
    let said = match found.end {
        End::Precise => format!(
            "the highest rate that holds: {} ({} did not)",
            rate(found.rate),
            rate(found.broke)
        ),
        End::EverythingHolds => {
            format!("{} holds, the highest rate that was allowed", rate(found.rate))
        }
        End::NothingHolds => {
            format!("{} does not hold, the lowest rate that was allowed", rate(found.broke))
        }
        End::Generator => format!(
            "{} holds, and the generator cannot send {}: more threads or generators are needed to find the server's limit",
            rate(found.rate),
            rate(found.broke)
        ),
        End::Trials => format!(
            "stopped after all trials that are allowed: {} held, {} did not",
            rate(found.rate),
            rate(found.broke)
        ),
        End::Interrupted => {
            format!("interrupted: {} held, {} did not", rate(found.rate), rate(found.broke))
        }
    };
    line(out, &format!("\n{said}"));
    let decided = matches!(found.end, End::Precise | End::EverythingHolds | End::NothingHolds);
    if decided && !found.confident {
        line(
            out,
            "note: at one of these two the measured figures decide, not their 95% intervals; longer --trial would tell",
        );
    }
}

fn knee(curve: &Curve, out: &mut String) {
    line(out, "");
    for point in &curve.points {
        line(out, &format!("  {}", point.words()));
    }
    line(out, &format!("\nmost answered: {:.1}/s", curve.capacity()));
    if let Some(best) = curve.best() {
        let goodput = best.goodput.unwrap_or(0.0);
        line(out, &format!("most in time: {goodput:.1}/s, at {:.1}/s offered", best.offered));
    }
    match curve.saturation() {
        Some(point) => line(out, &format!("saturated from {:.1}/s on", point.offered)),
        None => line(
            out,
            "note: the server was not saturated; the generator or the highest rate ended it before",
        ),
    }
}

fn comparison(found: &Comparison, out: &mut String) {
    line(out, &format!("\n{} against {}", found.test, found.base));
    if let Some(rounds) = found.rounds {
        line(out, &format!("{rounds} rounds, in turn"));
    }
    for ratio in &found.ratios {
        let (Some(base), Some(test)) = (ratio.base, ratio.test) else { continue };
        let figure = |value: f64| match ratio.metric.as_str() {
            "throughput" | "goodput" => format!("{value:.1}/s"),
            "error_rate" => format!("{:.3}%", value * 100.0),
            _ => time(value as u64),
        };
        let interval = match ratio.ratio {
            None => "-".to_owned(),
            Some(r) => format!("{:.3} [{:.3}, {:.3}]", r.value, r.low, r.high),
        };
        line(
            out,
            &format!(
                "  {:<12} {:>10} / {:<10} = {interval}",
                ratio.metric,
                figure(test),
                figure(base)
            ),
        );
    }
    for limit in &found.limits {
        line(out, &format!("  {}: {}", limit.limit, limit.outcome));
    }
    for note in &found.notes {
        line(out, &format!("note: {note}"));
    }
}

/// A comparison alone, as `compare` shows it.
pub fn compared(found: &Comparison) -> String {
    let mut out = String::new();
    comparison(found, &mut out);
    out.trim_start().to_owned()
}

fn mlperf_style(report: &mlperf::Report, out: &mut String) {
    let is_time = report.metric.ends_with("latency");
    let figure = |value: f64| if is_time { time(value as u64) } else { format!("{value:.1}") };
    line(
        out,
        &format!(
            "\nMLPerf-style {:?}: {} queries, {} samples, {:.1} s",
            report.scenario, report.queries, report.samples, report.seconds
        ),
    );
    match report.value {
        Some(value) if is_time => line(
            out,
            &format!("  {}: {} (with 99% confidence no more)", report.metric, figure(value)),
        ),
        Some(value) => line(out, &format!("  {}: {}", report.metric, figure(value))),
        None => line(out, &format!("  {}: too few queries to say", report.metric)),
    }
    if let (Some(measured), Some(limit)) = (report.measured_percentile, report.limit) {
        line(out, &format!("  p99 {}, limit {}", time(measured as u64), time(limit as u64)));
    }
    if report.relaxed {
        line(out, "note: shorter than the ten minutes that the rules ask for");
    }
    for reason in &report.reasons {
        line(out, &format!("  not valid: {reason}"));
    }
    line(out, &format!("verdict: {}", report.outcome));
}
