//! The report as one page that needs nothing else: no network, no script.

use std::fmt::Write;

use super::{
    charts,
    json::Report,
    svg::{escaped, number, time},
};
use crate::{
    prepare::log::Replayed,
    slo::{Finding, Outcome},
    summary::Figures,
};

const STYLE: &str = include_str!("page.css");

/// The page of a report.
pub fn page(report: &Report) -> String {
    let title = report.name.clone().unwrap_or_else(|| format!("Load on {}", report.plan.url));
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>{0}</title><style>{STYLE}</style></head><body><main><h1>{0}{1}</h1>",
        escaped(&title),
        badge(report)
    );
    about(report, &mut out);
    notes(report, &mut out);
    tiles(&report.summary.total, &mut out);
    objectives(report, &mut out);
    out.push_str("<h2>Charts</h2><div class=\"charts\">");
    for figure in charts::all(report) {
        let _ = write!(
            out,
            "<figure><figcaption>{}<span>{}</span></figcaption>{}</figure>",
            escaped(figure.title),
            escaped(&figure.note),
            figure.drawing
        );
    }
    out.push_str("</div>");
    phases(report, &mut out);
    variants(report, &mut out);
    ends(report, &mut out);
    comparison(report, &mut out);
    events(report, &mut out);
    environment(report, &mut out);
    out.push_str("</main></body></html>\n");
    out
}

fn badge(report: &Report) -> String {
    if report.verdict.findings.is_empty() && report.verdict.wrong == 0 {
        return String::new();
    }
    let (class, text) = match report.verdict.outcome {
        Outcome::Held => ("held", "held"),
        Outcome::Broken => ("broken", "broken"),
        Outcome::TooLittle => ("too_little", "too little to say"),
    };
    format!(" <span class=\"badge {class}\">{text}</span>")
}

fn about(report: &Report, out: &mut String) {
    let plan = &report.plan;
    let _ = write!(
        out,
        "<p><code>{}</code>{}, {:?}, {} connections; {} phases; digest <code>{}</code></p>",
        escaped(&plan.url),
        plan.against
            .as_ref()
            .map(|u| format!(" beside <code>{}</code>", escaped(u)))
            .unwrap_or_default(),
        plan.protocol,
        plan.connections,
        plan.phases.len(),
        escaped(&report.digest)
    );
    if let Some(part) = report.parts.first() {
        let _ = write!(out, "<p><code>{}</code></p>", escaped(&part.command.join(" ")));
    }
    for told in report.replayed.iter().flat_map(Replayed::lines) {
        let _ = write!(out, "<p>{}</p>", escaped(told.trim()));
    }
}

/// What a reader must know before the figures.
fn notes(report: &Report, out: &mut String) {
    let mut notes = report.verdict.notes.clone();
    if report.interrupted {
        notes.push(
            "The run was interrupted: the figures are of what was measured until then.".to_owned(),
        );
    }
    if report.verdict.wrong > 0 {
        notes.push(format!(
            "{} answers were not the ones expected.",
            number(report.verdict.wrong as f64)
        ));
    }
    for part in &report.parts {
        notes.extend(part.seen.note.clone());
        notes.extend(part.seen.failures());
    }
    for note in notes {
        let _ = write!(out, "<div class=\"warn\">{}</div>", escaped(&note));
    }
}

fn tiles(total: &Figures, out: &mut String) {
    let share = |share: f64| format!("{} %", number(share * 100.0));
    let tiles = [
        (number(total.throughput), "good answers a second"),
        (number(total.offered), "offered a second"),
        (time(total.latency.p50 as f64), "median latency"),
        (time(total.latency.p99 as f64), "99th percentile"),
        (time(total.latency.max as f64), "longest"),
        (share(total.error_rate), "errors"),
        (share(total.shed_rate), "refused for load"),
        (time(total.lag.p99 as f64), "schedule error of the generator (p99)"),
    ];
    out.push_str("<div class=\"tiles\">");
    for (value, what) in tiles {
        let _ = write!(out, "<div class=\"tile\"><b>{value}</b><span>{what}</span></div>");
    }
    out.push_str("</div><p>Latency counts from the moment a request was due, not from the moment it was sent.</p>");
}

/// A table; cells are HTML already.
fn table(title: &str, head: &[&str], rows: &[Vec<String>], out: &mut String) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(out, "<h2>{}</h2><div class=\"scroll\"><table><thead><tr>", escaped(title));
    for cell in head {
        let _ = write!(out, "<th>{}</th>", escaped(cell));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{cell}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

fn objectives(report: &Report, out: &mut String) {
    let row = |finding: &Finding| {
        let show =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| quantity(finding, value));
        let (class, text) = match finding.outcome {
            Outcome::Held => ("held", "held"),
            Outcome::Broken => ("broken", "broken"),
            Outcome::TooLittle => ("too_little", "too little to say"),
        };
        vec![
            format!(
                "{} <span class=\"dim\">{}</span>",
                escaped(&finding.objective),
                escaped(&finding.phase)
            ),
            format!("<span class=\"badge {class}\">{text}</span>"),
            show(finding.measured),
            format!("{} to {}", show(finding.low), show(finding.high)),
            number(finding.requests as f64),
        ]
    };
    let rows: Vec<_> = report.verdict.findings.iter().map(row).collect();
    let head = ["objective", "", "measured", "95% interval", "requests"];
    table("Objectives", &head, &rows, out);
}

/// A finding's number in its own unit.
pub fn quantity(finding: &Finding, value: f64) -> String {
    let objective = finding.objective.trim_start();
    if objective.starts_with('p') || objective.starts_with("latency") {
        time(value)
    } else if objective.contains("rate")
        || objective.contains("shed")
        || objective.contains("error")
    {
        format!("{} %", number(value * 100.0))
    } else {
        number(value)
    }
}

const FIGURES: [&str; 10] =
    ["", "offered/s", "good/s", "p50", "p95", "p99", "p99.9", "longest", "errors", "refused"];

fn figures(name: String, of: &Figures) -> Vec<String> {
    let latency = &of.latency;
    let percent = |share: f64| format!("{} %", number(share * 100.0));
    let mut row = vec![name, number(of.offered), number(of.throughput)];
    row.extend(
        [latency.p50, latency.p95, latency.p99, latency.p99_9, latency.max].map(|t| time(t as f64)),
    );
    row.extend([percent(of.error_rate), percent(of.shed_rate)]);
    row
}

fn phases(report: &Report, out: &mut String) {
    let name = |phase: &crate::summary::PhaseSummary| {
        format!("{}{}", escaped(&phase.name), if phase.warm_up { " (warm-up)" } else { "" })
    };
    let measured = report.summary.phases.iter().filter(|phase| phase.all.due > 0);
    let rows: Vec<_> = measured.map(|phase| figures(name(phase), &phase.all)).collect();
    table("Phases", &FIGURES, &rows, out);
}

fn variants(report: &Report, out: &mut String) {
    if report.frame.variants.len() < 2 {
        return;
    }
    let all = report.frame.variants.iter().zip(&report.summary.variants);
    let rows: Vec<_> = all.map(|(frame, of)| figures(escaped(&frame.name), of)).collect();
    table("Mix", &FIGURES, &rows, out);
}

fn ends(report: &Report, out: &mut String) {
    let total = &report.summary.total;
    let all: u64 = total.codes.values().sum::<u64>().max(1);
    let row = |(code, count): (&crate::record::Code, &u64)| {
        let share = format!("{} %", number(*count as f64 / all as f64 * 100.0));
        vec![escaped(&code.to_string()), number(*count as f64), share]
    };
    let rows: Vec<_> = total.codes.iter().map(row).collect();
    table("How requests ended", &["code", "requests", "share"], &rows, out);
    if total.versions.len() > 1 {
        let row = |(version, count): (&String, &u64)| vec![escaped(version), number(*count as f64)];
        let rows: Vec<_> = total.versions.iter().map(row).collect();
        table("Versions that answered", &["version", "answers"], &rows, out);
    }
    let rows: Vec<_> = report.examples.iter().map(|text| vec![escaped(text)]).collect();
    table("What failures said", &["first of each kind"], &rows, out);
}

fn comparison(report: &Report, out: &mut String) {
    let Some(comparison) = &report.comparison else { return };
    let show = |value: Option<f64>| value.map_or("–".to_owned(), number);
    let rows: Vec<_> = comparison
        .ratios
        .iter()
        .map(|ratio| {
            let estimate = ratio.ratio.as_ref();
            let interval =
                estimate.map_or("–".to_owned(), |e| format!("{:.3} to {:.3}", e.low, e.high));
            let value = estimate.map_or("–".to_owned(), |e| format!("{:.3}", e.value));
            vec![escaped(&ratio.metric), show(ratio.base), show(ratio.test), value, interval]
        })
        .collect();
    let (base, test) = (comparison.base.as_str(), comparison.test.as_str());
    table("Comparison", &["", base, test, "ratio", "95% interval"], &rows, out);
}

fn events(report: &Report, out: &mut String) {
    let Some(windows) = report.parts.iter().find_map(|part| part.seen.windows.as_ref()) else {
        return;
    };
    let mut rows = vec![figures("outside of all windows".to_owned(), &windows.steady)];
    rows.extend(
        windows.events.iter().map(|window| figures(escaped(&window.event), &window.figures)),
    );
    table("Windows of events", &FIGURES, &rows, out);
}

fn environment(report: &Report, out: &mut String) {
    let row = |part: &super::json::Part| {
        let here = &part.environment;
        vec![
            escaped(&here.host),
            escaped(&format!("{} × {}", here.processors, here.processor)),
            format!("{} GiB", number((here.memory_bytes >> 20) as f64 / 1024.0)),
            escaped(&here.system),
            escaped(&here.version),
        ]
    };
    let rows: Vec<_> = report.parts.iter().map(row).collect();
    table("Generators", &["host", "processors", "memory", "system", "version"], &rows, out);
}
