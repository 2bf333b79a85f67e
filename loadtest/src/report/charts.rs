//! The pictures of a report's page.

use super::{
    json::Report,
    svg::{Axis, Chart, Line, Mark, Scale, bars, number, time},
};
use crate::{record::Times, summary::Second};

/// A picture with its caption.
#[derive(Clone, Debug)]
pub struct Figure {
    pub title: &'static str,
    pub note: String,
    pub drawing: String,
}

/// All that there is something to show for.
pub fn all(report: &Report) -> Vec<Figure> {
    let drawn = [
        knee(report),
        goodput(report),
        latency(report),
        rates(report),
        percentiles(report),
        lag(report),
        batches(report),
        inside(report),
        resources(report),
        ends(report),
    ];
    drawn.into_iter().flatten().filter(|figure| !figure.drawing.is_empty()).collect()
}

fn seconds_axis() -> Axis<'static> {
    Axis { title: "seconds since the run began", scale: Scale::Linear, text: &|s| number(s) }
}

fn times_axis(scale: Scale) -> Axis<'static> {
    Axis { title: "latency", scale, text: &|nanos| time(nanos) }
}

fn counts_axis(title: &'static str) -> Axis<'static> {
    Axis { title, scale: Scale::Linear, text: &|n| number(n) }
}

/// When a second of a phase was, since the run began. The phases of a search are runs of their own: one after the other.
fn moment(report: &Report, second: &Second) -> f64 {
    let origin = report.began_ns.first().copied().unwrap_or(0);
    let mut start = 0;
    for phase in 0..=second.phase {
        let began = report.began_ns.get(phase).copied().unwrap_or(0).saturating_sub(origin);
        start = start.max(began);
        if phase < second.phase {
            start += report.took_ns.get(phase).copied().unwrap_or(0);
        }
    }
    start as f64 / 1e9 + second.second as f64
}

/// A line over the seconds of the run.
fn over<'a>(
    report: &Report,
    name: &'a str,
    class: &'a str,
    value: impl Fn(&Second) -> Option<f64>,
) -> Line<'a> {
    let point = |second: &Second| Some((moment(report, second), value(second)?));
    Line { name, class, points: report.summary.seconds.iter().filter_map(point).collect() }
}

/// The windows of events; their seconds count from the run's beginning, as the charts' do but for the start of its first phase.
fn marks(report: &Report) -> Vec<Mark<'_>> {
    let first = report.began_ns.first().copied().unwrap_or(0) as f64 / 1e9;
    let all = report.parts.iter().flat_map(|part| &part.seen.happened);
    all.filter_map(|h| {
        let (from, to) = (h.from_s? - first, h.to_s? + h.window_s - first);
        Some(Mark { name: &h.name, from: from.max(0.0), to })
    })
    .collect()
}

fn latency(report: &Report) -> Option<Figure> {
    let of = |value: fn(&Second) -> u64| {
        move |s: &Second| (s.latency.count > 0).then(|| value(s) as f64)
    };
    let lines = vec![
        over(report, "max", "c", of(|s| s.latency.max)),
        over(report, "p99", "b", of(|s| s.latency.p99)),
        over(report, "p50", "a", of(|s| s.latency.p50)),
    ];
    let chart = Chart {
        label: "Latency over time",
        x: seconds_axis(),
        y: times_axis(Scale::Log),
        lines,
        marks: marks(report),
    };
    Some(Figure {
        title: "Latency over time",
        note: "from the scheduled moment, each second; logarithmic".to_owned(),
        drawing: chart.draw(),
    })
}

fn rates(report: &Report) -> Option<Figure> {
    let lines = vec![
        over(report, "offered", "e", |s| Some(s.due as f64)),
        over(report, "good", "d", |s| Some(s.good as f64)),
        over(report, "refused", "b", |s| (report.summary.total.shed > 0).then_some(s.shed as f64)),
        over(report, "failed", "c", |s| {
            (report.summary.total.failed > 0).then_some(s.failed as f64)
        }),
    ];
    let chart = Chart {
        label: "Requests over time",
        x: seconds_axis(),
        y: counts_axis("requests a second"),
        lines: lines.into_iter().filter(|line| !line.points.is_empty()).collect(),
        marks: marks(report),
    };
    Some(Figure {
        title: "Requests over time",
        note: "by the second in which they were due".to_owned(),
        drawing: chart.draw(),
    })
}

/// How a share of requests reads on the axis of 1/(1-p).
fn share(inverse: f64) -> String {
    let digits = (inverse.log10() - 2.0).max(0.0).ceil() as usize;
    format!("{:.digits$}%", (1.0 - 1.0 / inverse) * 100.0)
}

/// Points of the curve of percentiles, at 1/(1-p).
fn curve(times: &Times) -> Vec<(f64, f64)> {
    let count = times.count();
    if count == 0 {
        return Vec::new();
    }
    let last = (count as f64).max(2.0);
    let steps = (last.log10() * 20.0).ceil() as u32;
    let inverse = |step: u32| 10f64.powf(f64::from(step) / 20.0).min(last);
    (0..=steps)
        .map(|step| (inverse(step), times.quantile(1.0 - 1.0 / inverse(step)) as f64))
        .collect()
}

fn percentiles(report: &Report) -> Option<Figure> {
    let measured = report.measured();
    let cells: Vec<_> = measured.stretches.values().flat_map(|cells| cells.values()).collect();
    let latency = Times::sum(cells.iter().map(|cell| &cell.latency));
    let service = Times::sum(cells.iter().map(|cell| &cell.service));
    let chart = Chart {
        label: "Latency by percentile",
        x: Axis {
            title: "share of good answers that came sooner",
            scale: Scale::Log,
            text: &share,
        },
        y: times_axis(Scale::Log),
        lines: vec![
            Line { name: "latency", class: "a", points: curve(&latency) },
            Line { name: "service", class: "e", points: curve(&service) },
        ],
        marks: Vec::new(),
    };
    Some(Figure {
        title: "Latency by percentile",
        note: "latency from the scheduled moment, service from the moment of sending".to_owned(),
        drawing: chart.draw(),
    })
}

fn lag(report: &Report) -> Option<Figure> {
    let measured = report.measured();
    let cells: Vec<_> = measured.stretches.values().flat_map(|cells| cells.values()).collect();
    let lag = Times::sum(cells.iter().map(|cell| &cell.lag));
    let points = curve(&lag).into_iter().map(|(x, y)| (x, y.max(100.0))).collect();
    let chart = Chart {
        label: "Schedule error of the generator",
        x: Axis {
            title: "share of requests that were taken up sooner",
            scale: Scale::Log,
            text: &share,
        },
        y: Axis {
            title: "taken up after it was due",
            scale: Scale::Log,
            text: &|nanos| time(nanos),
        },
        lines: vec![Line { name: "lag", class: "b", points }],
        marks: Vec::new(),
    };
    Some(Figure {
        title: "Schedule error of the generator",
        note: "what it was late by itself; where this is large, so is everything else".to_owned(),
        drawing: chart.draw(),
    })
}

fn knee(report: &Report) -> Option<Figure> {
    let points = &report.knee.as_ref()?.points;
    let line = |name, class, value: fn(&crate::summary::Percentiles) -> u64| Line {
        name,
        class,
        points: points.iter().map(|p| (p.offered, value(&p.latency) as f64)).collect(),
    };
    let chart = Chart {
        label: "Latency against offered load",
        x: counts_axis("offered, requests a second"),
        y: times_axis(Scale::Log),
        lines: vec![
            line("p99.9", "c", |l| l.p99_9),
            line("p99", "b", |l| l.p99),
            line("p50", "a", |l| l.p50),
        ],
        marks: Vec::new(),
    };
    let note = "from the scheduled moment; logarithmic".to_owned();
    Some(Figure { title: "Latency against offered load", note, drawing: chart.draw() })
}

fn goodput(report: &Report) -> Option<Figure> {
    let points = &report.knee.as_ref()?.points;
    let highest = points.last().map_or(0.0, |p| p.offered);
    let mut lines = vec![
        Line { name: "offered", class: "e", points: vec![(0.0, 0.0), (highest, highest)] },
        Line {
            name: "good",
            class: "d",
            points: points.iter().map(|p| (p.offered, p.throughput)).collect(),
        },
    ];
    let in_time: Vec<_> = points.iter().filter_map(|p| Some((p.offered, p.goodput?))).collect();
    if !in_time.is_empty() {
        lines.push(Line { name: "in time", class: "a", points: in_time });
    }
    let chart = Chart {
        label: "Goodput against offered load",
        x: counts_axis("offered, requests a second"),
        y: counts_axis("answers a second"),
        lines,
        marks: Vec::new(),
    };
    let note = "good answers, and those within the objectives' time".to_owned();
    Some(Figure { title: "Goodput against offered load", note, drawing: chart.draw() })
}

fn batches(report: &Report) -> Option<Figure> {
    let server = report.parts.iter().find_map(|part| part.seen.server.as_ref())?;
    let mut sums: Vec<(Option<f64>, f64)> = Vec::new();
    for model in &server.total.as_ref()?.models {
        for (bound, count) in &model.batch.buckets {
            match sums.iter_mut().find(|(known, _)| known == bound) {
                Some((_, sum)) => *sum += count,
                None => sums.push((*bound, *count)),
            }
        }
    }
    let first = sums.iter().position(|(_, count)| *count > 0.0)?;
    let last = sums.iter().rposition(|(_, count)| *count > 0.0)?;
    let mut below = if first == 0 { 0.0 } else { sums[first - 1].0.unwrap_or(0.0) };
    let mut shown = Vec::new();
    for (bound, count) in &sums[first..=last] {
        let name = match bound {
            Some(bound) if below + 1.0 >= *bound => number(*bound),
            Some(bound) => format!("{}–{}", number(below + 1.0), number(*bound)),
            None => format!("> {}", number(below)),
        };
        shown.push((name, *count));
        below = bound.unwrap_or(below);
    }
    Some(Figure {
        title: "Batch size",
        note: "runs on the server, by their rows; everybody's requests count".to_owned(),
        drawing: bars("Batch size", "rows in a run", &shown),
    })
}

fn inside(report: &Report) -> Option<Figure> {
    let server = report.parts.iter().find_map(|part| part.seen.server.as_ref())?;
    let first = report.began_ns.first().copied().unwrap_or(0) as f64 / 1e9;
    let mean = |of: fn(&crate::scrape::series::ModelStretch) -> &crate::scrape::reading::Spread| {
        let point = |s: &crate::scrape::series::Stretch| {
            let (sum, count) = s
                .models
                .iter()
                .map(of)
                .fold((0.0, 0.0), |(a, b), spread| (a + spread.sum, b + spread.count));
            (count > 0.0).then(|| (s.to_s - first, sum / count * 1e9))
        };
        server.seconds.iter().filter_map(point).collect::<Vec<_>>()
    };
    let chart = Chart {
        label: "Inside the server",
        x: seconds_axis(),
        y: Axis { title: "mean time", scale: Scale::Log, text: &|nanos| time(nanos) },
        lines: vec![
            Line { name: "request", class: "a", points: mean(|m| &m.request) },
            Line { name: "queue", class: "b", points: mean(|m| &m.queue) },
            Line { name: "compute", class: "d", points: mean(|m| &m.compute) },
        ],
        marks: marks(report),
    };
    let note = format!("as {} says it, each second", server.source);
    Some(Figure { title: "Inside the server", note, drawing: chart.draw() })
}

fn resources(report: &Report) -> Option<Figure> {
    let server = report.parts.iter().find_map(|part| part.seen.server.as_ref())?;
    let first = report.began_ns.first().copied().unwrap_or(0) as f64 / 1e9;
    let cores: Vec<_> = server
        .seconds
        .iter()
        .filter_map(|s| {
            let cpu = s.cpu.as_ref().filter(|cpu| cpu.of_s > 0.0)?;
            Some((s.to_s - first, cpu.used_s / cpu.of_s))
        })
        .collect();
    let most = server.seconds.iter().filter_map(|s| s.resident_bytes).fold(0.0, f64::max);
    let chart = Chart {
        label: "Processor time of the server",
        x: seconds_axis(),
        y: counts_axis("processors in use"),
        lines: vec![Line { name: "CPU", class: "e", points: cores }],
        marks: marks(report),
    };
    let note = format!("resident memory at most {} MB", number((most / 1e6).round()));
    Some(Figure { title: "Processor time of the server", note, drawing: chart.draw() })
}

fn ends(report: &Report) -> Option<Figure> {
    let codes = &report.summary.total.codes;
    if codes.keys().all(|code| *code == crate::record::Code::Ok) {
        return None;
    }
    let shown: Vec<_> = codes.iter().map(|(code, n)| (code.to_string(), *n as f64)).collect();
    Some(Figure {
        title: "How requests ended",
        note: "by code".to_owned(),
        drawing: bars("How requests ended", "code", &shown),
    })
}
