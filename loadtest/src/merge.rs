//! Reports of several generators of one load, put together as if one had made them. Nothing is lost, and the order does not matter.

use crate::{
    events::{
        verdict,
        window::{Tenths, Windows},
    },
    record::Measured,
    report::json::{Part, Report},
    summary::Summary,
};

/// Merges two reports of the same plan.
///
/// # Errors
/// In words: their plans differ, they share a shard, or one is a search, a curve or a comparison, which are no single load.
pub fn merge(a: &Report, b: &Report) -> Result<Report, String> {
    for report in [a, b] {
        if report.search.is_some()
            || report.knee.is_some()
            || report.comparison.is_some()
            || report.mlperf.is_some()
        {
            return Err("a search, a knee, a comparison or an MLPerf-style run is no load that generators share; only runs merge".into());
        }
    }
    if a.digest != b.digest || a.frame != b.frame || a.slos != b.slos {
        return Err(format!(
            "their plans differ (digests {} and {}); only results of one plan merge: the same mix, phases, objectives and seed",
            a.digest, b.digest
        ));
    }
    let mut parts = [a.parts.as_slice(), &b.parts].concat();
    parts.sort_by_key(|part| (part.shard.index, part.shard.of));
    for pair in parts.windows(2) {
        let [first, second] = pair else { continue };
        if first.shard.of != second.shard.of || first.shard.index == second.shard.index {
            return Err(format!(
                "shards {} and {} are no two parts of one load; each generator needs a --shard of its own",
                first.shard, second.shard
            ));
        }
    }
    let mut measured = a.measured();
    measured.merge(&b.measured());
    // Where the address differs, the first generator's stands for all.
    let first = if a.parts.first().map(|p| p.shard.index) <= b.parts.first().map(|p| p.shard.index)
    {
        a
    } else {
        b
    };
    let mut merged = Report { parts, ..first.clone() };
    merged.set_measured(&measured);
    merged.summary = Summary::of(&measured, &merged.frame);
    cut_again(&mut merged, &measured);
    let own: Vec<_> = merged.parts.iter().flat_map(|part| part.seen.own()).collect();
    merged.verdict = verdict::judge(&merged.slos, &measured, &merged.frame, &own);
    Ok(merged)
}

/// What one generator's events did, all of them saw.
fn cut_again(merged: &mut Report, measured: &Measured) {
    let windows = |part: &Part| part.seen.windows.clone();
    let before: Vec<Option<Windows>> = merged.parts.iter().map(windows).collect();
    let events = before.iter().flatten().flat_map(|windows| &windows.events);
    let all: Vec<&Tenths> = events.map(|window| &window.tenths).collect();
    for (part, windows) in merged.parts.iter_mut().zip(&before) {
        let again = |windows: &Windows| windows.again(measured, &merged.frame, &all);
        part.seen.windows = windows.as_ref().map(again);
    }
}

/// What is missing of the load that these shards are parts of, in words; none where it is whole.
pub fn missing(report: &Report) -> Option<String> {
    let of = report.parts.first()?.shard.of;
    let there: Vec<usize> = report.parts.iter().map(|part| part.shard.index).collect();
    let missing: Vec<String> = (0..of)
        .filter(|index| !there.contains(index))
        .map(|index| format!("{index}/{of}"))
        .collect();
    (!missing.is_empty()).then(|| {
        let shown = missing.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        format!("{} of {of} shards are missing: {shown}", missing.len())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        events::{Ended, Happened},
        judge,
        plan::{Protocol, Shard},
        prepare::entry::Entry,
        report::json::{Plan, SCHEMA},
        simulated::{self, mm1},
        slo::{Outcome, Slo},
        units::Span,
        watch::Seen,
    };

    fn part(shard: Shard) -> Part {
        Part {
            shard,
            begun_unix_s: 1e9,
            command: vec!["onnxd".into(), "loadtest".into()],
            environment: Default::default(),
            seen: Seen::default(),
        }
    }

    fn report(shard: Shard, measured: &Measured) -> Report {
        let mut slo = Slo::default();
        slo.add("p99<50ms").unwrap();
        let plan = Plan {
            url: "grpc://a".into(),
            against: None,
            protocol: Protocol::Grpc,
            mix: vec![Entry::of("m")],
            phases: Vec::new(),
            seed: 1,
            connections: 4,
            streams: 10,
            threads: 1,
            timeout: Span::default(),
        };
        let frame = simulated::frame(10.0);
        let mut report = Report {
            schema_version: SCHEMA,
            name: None,
            digest: plan.digest(),
            plan,
            replayed: Vec::new(),
            parts: vec![part(shard)],
            summary: Summary::of(measured, &frame),
            verdict: judge::judge(&[slo], measured, &frame),
            frame,
            slos: vec![slo],
            stretches: Vec::new(),
            took_ns: Vec::new(),
            began_ns: Vec::new(),
            interrupted: false,
            examples: Vec::new(),
            search: None,
            knee: None,
            comparison: None,
            mlperf: None,
        };
        report.set_measured(measured);
        report
    }

    fn shard(index: usize) -> Report {
        let shard = Shard { index, of: 3 };
        report(shard, &mm1(1e6).run(200.0, 4.0, index as u64))
    }

    #[test]
    fn the_order_does_not_matter() {
        let [a, b, c] = [0, 1, 2].map(shard);
        let left = merge(&merge(&a, &b).unwrap(), &c).unwrap();
        assert_eq!(left, merge(&a, &merge(&b, &c).unwrap()).unwrap());
        assert_eq!(left, merge(&merge(&c, &a).unwrap(), &b).unwrap());
        assert_eq!(left.parts.len(), 3);
        assert_eq!(missing(&left), None);
        assert_eq!(missing(&merge(&a, &c).unwrap()).unwrap(), "1 of 3 shards are missing: 1/3");
        let due: u64 = [a, b, c].iter().map(|report| report.summary.total.due).sum();
        assert_eq!(left.summary.total.due, due);
    }

    #[test]
    fn together_they_may_say_what_none_says_alone() {
        let few = |index| {
            let shard = Shard { index, of: 2 };
            report(shard, &mm1(1e3).run(250.0, 1.0, index as u64))
        };
        let (a, b) = (few(0), few(1));
        assert_eq!(a.verdict.outcome, Outcome::TooLittle);
        assert_eq!(merge(&a, &b).unwrap().verdict.outcome, Outcome::Held);
    }

    #[test]
    fn an_event_of_one_generator_is_seen_by_all() {
        let [mut a, b, c] = [0, 1, 2].map(shard);
        let mut slo = Slo::default();
        slo.add("p99<1s").unwrap();
        let happened = vec![Happened {
            name: "swap".into(),
            command: "x".into(),
            required: true,
            ended: Ended::Exit(0),
            from_s: Some(1.0),
            to_s: Some(1.5),
            window_s: 0.5,
            output: String::new(),
            slo: Some(slo),
        }];
        a.began_ns = vec![0];
        let windows = Windows::of(&a.measured(), &a.frame, &happened);
        a.parts[0].seen = Seen { happened, windows: Some(windows), ..Seen::default() };
        let alone = a.parts[0].seen.windows.clone().unwrap();
        let left = merge(&merge(&b, &a).unwrap(), &c).unwrap();
        assert_eq!(left, merge(&b, &merge(&a, &c).unwrap()).unwrap());
        let together = left.parts[0].seen.windows.as_ref().unwrap();
        assert!(together.events[0].figures.due > 2 * alone.events[0].figures.due);
        let due = together.events[0].figures.due + together.steady.due;
        assert_eq!(due, left.summary.total.due);
        let judged: Vec<_> =
            left.verdict.findings.iter().map(|f| (&*f.phase, f.requests)).collect();
        assert_eq!(judged[0].1, together.steady.due);
        assert_eq!(judged[1], ("event 'swap'", together.events[0].figures.due));
    }

    #[test]
    fn what_is_no_part_of_one_load_is_refused() {
        let a = shard(0);
        assert!(merge(&a, &a).unwrap_err().contains("shards 0/3 and 0/3"));
        let mut other = shard(1);
        other.digest = "x".into();
        assert!(merge(&a, &other).unwrap_err().contains("their plans differ"));
        let mut other = shard(1);
        other.parts[0].shard.of = 2;
        assert!(merge(&a, &other).unwrap_err().contains("no two parts"));
        let mut other = shard(1);
        other.comparison = Some(crate::compare::Comparison::of_rounds("a", "b", &[], 1));
        assert!(merge(&a, &other).unwrap_err().contains("only runs merge"));
    }

    #[test]
    fn a_plan_is_known_by_what_generators_share() {
        let plan = shard(0).plan;
        let same = Plan { url: "grpc://b".into(), threads: 9, connections: 1, ..plan.clone() };
        assert_eq!(plan.digest(), same.digest());
        let mut other = plan.clone();
        other.mix[0].rows = 2;
        assert_ne!(plan.digest(), other.digest());
        assert_ne!(plan.digest(), Plan { seed: 2, ..plan.clone() }.digest());
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let report = shard(1);
        report.write(file.path()).unwrap();
        assert_eq!(Report::read(file.path()).unwrap(), report);
        for (text, why) in [
            ("{}", "no report of onnxd loadtest"),
            ("nonsense", "no report of onnxd loadtest"),
            ("{\"schema_version\": 9}", "schema_version 9 is not known here, expected 1"),
            ("{\"schema_version\": 1}", "missing field"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = Report::read(file.path()).unwrap_err();
            assert!(
                error.contains(why) && error.contains(file.path().to_str().unwrap()),
                "{error}"
            );
        }
        let mut broken = report;
        broken.stretches[0].phase = 7;
        broken.write(file.path()).unwrap();
        assert!(Report::read(file.path()).unwrap_err().contains("a stretch is of phase 7"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_shards_merge_in_any_order(rates in proptest::collection::vec(1.0f64..300.0, 3), swap: bool) {
            let of = rates.len();
            let reports: Vec<Report> = rates
                .iter()
                .enumerate()
                .map(|(index, rate)| report(Shard { index, of }, &mm1(1e6).run(*rate, 2.0, index as u64)))
                .collect();
            let [a, b, c] = &reports[..] else { unreachable!() };
            let one = merge(&merge(a, b).unwrap(), c).unwrap();
            let other = if swap { merge(c, &merge(b, a).unwrap()) } else { merge(&merge(a, c).unwrap(), b) };
            prop_assert_eq!(one, other.unwrap());
        }
    }
}
