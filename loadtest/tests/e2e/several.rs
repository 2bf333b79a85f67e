//! Several results for one answer: generators that share a load, comparisons, searches, curves.

use onnxd_loadtest::{record::Cell, report::json::Report, search::End, slo::Outcome};
use serde_json::Value;

use crate::support::run::{Home, echo, echo_with, read};

fn whole(report: &Report) -> Cell {
    Cell::sum(report.stretches.iter().map(|s| &s.cell).collect::<Vec<_>>())
}

#[test]
fn generators_of_one_load_merge_into_the_load_of_one() {
    let server = echo("lognormal:2ms,0.5");
    let home = Home::new();
    let words = format!(
        "run --url grpc://{} --model m --rate 400 --requests 400 --warm-up 0s --seed 7 --slo p99<9s",
        server.address
    );
    let mut parts = Vec::new();
    for index in 0..2 {
        // The verdict is the merged result's: a part that says too little is no failure.
        let flags = format!("{words} --shard {index}/2 --json {index}.json");
        let ended = home.call(&flags, &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        parts.push(read(&home.file(&format!("{index}.json"))));
    }
    let due = parts.iter().map(|part| part.summary.total.due);
    assert_eq!(due.collect::<Vec<_>>(), [200, 200], "every second one is the other's");
    let ended = home.call("merge 1.json 0.json --out all.json --html all.html", &[]);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let merged = read(&home.file("all.json"));
    let mut sum = whole(&parts[0]);
    sum.merge(&whole(&parts[1]));
    assert_eq!(whole(&merged), sum, "nothing is lost");
    assert_eq!(merged.summary.total.due, 400);
    assert_eq!(merged.summary.total.latency.count, sum.latency.count());
    assert_eq!(merged.summary.total.latency.p99, sum.latency.quantile(0.99));
    assert_eq!((merged.parts.len(), merged.verdict.outcome), (2, Outcome::Held));
    assert!(ended.stdout.contains("2 generators"), "{}", ended.stdout);
    // The moments are those of one generator alone.
    let (alone, _) = home.report(0, &words, &[]);
    let tenths = |report: &Report| {
        report.stretches.iter().map(|s| (s.tenth, s.cell.due)).collect::<Vec<_>>()
    };
    assert_eq!(tenths(&alone), tenths(&merged));

    let ended = home.call("merge 0.json", &[]);
    assert!(ended.stdout.contains("1 of 2 shards are missing: 1/2"), "{}", ended.stdout);
    home.fails(1, "merge 0.json 0.json", &[], &["0.json", "shards 0/2 and 0/2"]);
    home.write("no.json", "{}");
    home.fails(1, "merge 0.json no.json", &[], &["no.json", "no report"]);
}

#[test]
fn stored_results_are_compared() {
    let home = Home::new();
    for (name, latency) in [("a", "constant:10ms"), ("b", "constant:30ms")] {
        let server = echo(latency);
        let words = format!(
            "run --url grpc://{} --model m --rate 100 --duration 4s --json {name}.json --quiet",
            server.address
        );
        assert_eq!(home.call(&words, &[]).code, Some(0));
    }
    let ended = home.call("compare a.json b.json --output json --ratio p50<1.5", &[]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let comparison: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let ratios = comparison["ratios"].as_array().expect("ratios");
    let p50 = ratios.iter().find(|r| r["metric"] == "p50").expect("the median");
    let ratio = p50["ratio"]["value"].as_f64().expect("a number");
    assert!((1.8..4.0).contains(&ratio), "{ratio} of three");
    let ended = home.call("compare a.json b.json --ratio p50<9", &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let p50 = ended.stdout.lines().find(|line| line.trim_start().starts_with("p50 "));
    assert!(p50.is_some_and(|line| line.contains(" / ") && line.contains('[')), "{}", ended.stdout);
    home.fails(1, "compare a.json none.json", &[], &["none.json"]);
}

#[test]
fn two_servers_are_compared_in_one_sitting() {
    let (base, test) = (echo("constant:10ms"), echo("constant:30ms"));
    let words = format!(
        "run --url grpc://{} --against grpc://{} --model m --rate 100 --duration 1s --warm-up 100ms --rounds 6",
        test.address, base.address
    );
    let home = Home::new();
    let (report, ended) = home.report(3, &words, &["--ratio", "p50<1.5", "--ratio", "p50<9"]);
    let comparison = report.comparison.expect("a comparison");
    assert_eq!(comparison.rounds, Some(6));
    let p50 = comparison.ratios.iter().find(|r| r.metric == "p50").expect("the median");
    let ratio = p50.ratio.expect("an interval");
    assert!(ratio.low <= ratio.value && ratio.value <= ratio.high);
    assert!((1.8..4.0).contains(&ratio.value), "{ratio:?} of three");
    let outcomes: Vec<_> = comparison.limits.iter().map(|l| l.outcome).collect();
    assert_eq!(outcomes, [Outcome::Broken, Outcome::Held]);
    assert!(ended.stdout.contains("6 rounds, in turn"), "{}", ended.stdout);
}

/// Two requests at a time, ten milliseconds each: 200 a second and no more. The bounds are wide, for busy machines; how close it
/// comes is measured in results/.
#[test]
fn a_search_ends_below_the_knee() {
    let server = echo_with("constant:10ms", |options| options.servers = Some(2));
    let words = format!(
        "run --url grpc://{} --model m --slo p90<300ms --search --trial 1s --warm-up 200ms --precision 15% --repeats 1 --max-rate 2000",
        server.address
    );
    let home = Home::new();
    let ended = home.call(&words, &["--json", "r.json"]);
    let report = read(&home.file("r.json"));
    let found = report.search.expect("a search");
    // On a machine with other work the generator may keep no schedule; then it says so, and that it cannot tell.
    let expected = if matches!(found.end, End::Precise) { 0 } else { 4 };
    assert_eq!(ended.code, Some(expected), "{}", ended.stdout);
    assert!(matches!(found.end, End::Precise | End::Generator | End::Trials), "{:?}", found.end);
    let (rate, broke) = (found.rate.expect("a rate"), found.broke.expect("a rate"));
    assert!((80.0..280.0).contains(&rate), "{rate} holds, of 200");
    assert!(broke > rate && broke < 450.0, "{broke} does not hold, of 200");
    assert!(ended.stdout.contains(&format!("{rate:.1}/s")), "{}", ended.stdout);
    assert!(report.frame.phases.len() > 3, "each rate that was tried is a phase");
}

#[test]
fn a_curve_bends_at_the_knee() {
    let server = echo_with("constant:10ms", |options| {
        (options.servers, options.queue) = (Some(2), Some(50));
    });
    let words = format!(
        "run --url http://{} --model m --slo p90<400ms --knee --rates 40,100,800 --trial 2s --warm-up 200ms",
        server.address
    );
    let home = Home::new();
    let ended = home.call(&words, &["--json", "r.json"]);
    let curve = read(&home.file("r.json")).knee.expect("a curve");
    assert!(curve.capacity() < 260.0, "{} of 200", curve.capacity());
    // On a machine with other work the generator may keep no schedule; then it says so, and the curve ends there.
    if ended.stdout.contains("the generator was late") {
        assert!(ended.stdout.contains("the server was not saturated"), "{}", ended.stdout);
        return;
    }
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    assert_eq!(curve.points.len(), 3);
    let saturated = curve.saturation().expect("800 is too much");
    assert!(saturated.offered > 100.0, "{}", saturated.offered);
    assert!(curve.points[2].latency.p50 > curve.points[0].latency.p50);
    assert!(ended.stdout.contains("saturated from "), "{}", ended.stdout);
}
