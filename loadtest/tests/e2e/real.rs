//! Against the real server: every protocol, its own figures beside ours, answers that are held against recorded ones.

use std::fs;

use onnxd_loadtest::{events::Ended, scrape::reading::Dialect};

use crate::support::{
    onnxd::{Onnxd, root},
    process::{loadtest, run_to_end, sibling},
    run::{Home, read},
};

#[test]
fn the_servers_own_figures_stand_beside_ours() {
    let Some(server) = Onnxd::start() else { return };
    for (url, flags) in [
        (format!("grpc://{}", server.grpc), ""),
        (format!("http://{}", server.http), ""),
        (format!("http://{}", server.http), "--protocol binary"),
    ] {
        let words = format!(
            "run --url {url} {flags} --model wine --rate 200 --duration 2s --warm-up 0s \
             --slo p50<5s,error_rate<5% --metrics http://{}/metrics --pid {}",
            server.operator,
            server.process.id()
        );
        let (report, ended) = Home::new().report(0, &words, &[]);
        let total = &report.summary.total;
        assert_eq!((total.good, total.failed), (total.due, 0), "{}", ended.stdout);
        assert_eq!(total.versions.keys().collect::<Vec<_>>(), ["2"]);
        let seen = report.parts[0].seen.server.as_ref().expect("its own figures");
        assert_eq!((seen.dialect, seen.failed), (Some(Dialect::Onnxd), 0), "{:?}", seen.failure);
        let theirs = seen.total.as_ref().expect("it was looked at");
        assert_eq!(theirs.answered() as u64, total.good, "every request that it counted is ours");
        let wine = &theirs.models[0];
        assert_eq!(wine.rows as u64, total.good);
        assert!(theirs.cpu.is_some_and(|cpu| cpu.used_s > 0.0));
        // What the server takes of a request cannot be more than what its caller waits.
        let (ours, own) = (total.service.mean / 1e9, wine.request.mean().expect("a mean"));
        assert!(own <= ours, "{own} s at the server, {ours} s at the client");
        for told in ["wine/2: ", "CPU ", "resident at most "] {
            assert!(ended.stdout.contains(told), "{}", ended.stdout);
        }
    }
}

/// A request for one wine, with so much alcohol.
fn wine(alcohol: f64) -> String {
    let rest = "3.3, 2.28, 18.5, 98, 1.8, 0.83, 0.61, 1.87, 10.52, 0.56, 1.51, 675";
    format!(
        "{{\"inputs\": [{{\"name\": \"features\", \"shape\": [1, 13], \"datatype\": \"FP32\", \"data\": [{alcohol}, {rest}]}}]}}"
    )
}

#[test]
fn versions_are_held_against_each_others_answers() {
    let Some(server) = Onnxd::start() else { return };
    let home = Home::new();
    // Values that wines have: far from them, every version is sure of itself.
    home.write("in.jsonl", &format!("{}\n{}\n", wine(13.23), wine(12.1)));
    let at = format!("--url grpc://{} --input in.jsonl --model wine --model-version", server.grpc);
    let recorded = home.call(&format!("golden {at} 1 --out one.jsonl"), &[]);
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let run = |version| {
        format!("run {at} {version} --rate 100 --duration 1s --golden one.jsonl --slo p50<5s")
    };
    let (report, _) = home.report(0, &run(1), &[]);
    assert_eq!(report.verdict.wrong, 0);
    // The other version answers otherwise, fast as it may be.
    let (report, _) = home.report(3, &run(2), &[]);
    assert!(report.verdict.wrong > 0);
}

/// The same two wines as lines of JSON and as pandas writes them to Parquet: the same answers, over every protocol.
#[test]
fn requests_from_parquet_are_those_of_json_lines() {
    let Some(server) = Onnxd::start() else { return };
    let home = Home::new();
    home.write("in.jsonl", &format!("{}\n{}\n", wine(13.23), wine(12.1)));
    let parquet = root().join("loadtest/tests/data/wines.parquet");
    let model = "--model wine --model-version 1";
    let grpc = format!("--url grpc://{} {model}", server.grpc);
    let recorded = home.call(&format!("golden {grpc} --input in.jsonl --out one.jsonl"), &[]);
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let http = format!("--url http://{} {model}", server.http);
    for at in [grpc, http.clone(), format!("{http} --protocol binary")] {
        let words = format!("run {at} --rate 100 --duration 1s --golden one.jsonl --slo p50<5s");
        let (report, _) = home.report(0, &words, &["--input", parquet.to_str().expect("UTF-8")]);
        assert_eq!(report.verdict.wrong, 0);
        assert!(report.summary.total.good > 50, "{}", report.summary.total.good);
    }
    let frame = root().join("loadtest/tests/data/frame.parquet");
    let words = format!("run {http} --rate 100 --input {}", frame.display());
    home.fails(1, &words, &[], &["frame.parquet", "'features'", "x, n, flag, word, kind"]);
}

#[test]
fn the_scenarios_hold_on_the_example_models() {
    let Some(server) = Onnxd::start() else { return };
    for name in ["sidecar", "canary"] {
        let file = root().join("loadtest/scenarios").join(format!("{name}.yaml"));
        // As they stand, but for the server, the rate and the limits: this may be a debug build on a busy machine.
        let words = format!(
            "run {} --url grpc://{} --rate 150 --duration 4s --slo p50<5s,p99<9.9s,error_rate<50%,shed_rate<50%",
            file.display(),
            server.grpc
        );
        let (report, ended) = Home::new().report(0, &words, &[]);
        assert_eq!(report.name.as_deref(), Some(name));
        assert_eq!(report.summary.variants.len(), 2, "{}", ended.stdout);
    }
}

/// scenarios/swap.yaml with the command that loads a model anew: not one request is lost.
#[test]
fn a_swap_under_load_loses_no_request() {
    let (Some(server), Some(onnxd)) = (Onnxd::start(), sibling("onnxd")) else { return };
    let text = fs::read_to_string(root().join("loadtest/scenarios/swap.yaml")).expect("text");
    let mut shorter = text.clone();
    for (long, short) in [
        ("duration: 30s", "duration: 5s"),
        ("at: 10s", "at: 1s"),
        ("window: 5s", "window: 1s"),
        // Times are the machine's affair here, lost requests are the server's.
        ("p99: 15ms", "p99: 1.9s"),
        ("p99: 30ms", "p99: 1.9s"),
    ] {
        assert!(shorter.contains(long), "{long}");
        shorter = shorter.replace(long, short);
    }
    let home = Home::new();
    let file = home.write("swap.yaml", &shorter);
    let report = home.file("r.json");
    let mut command = loadtest();
    command.arg("run").arg(&file).args(["--url", &format!("grpc://{}", server.grpc)]);
    command.arg("--json").arg(&report).current_dir(home.file("."));
    let swap = format!("{} models load wine --operator {}", onnxd.display(), server.operator);
    let ended = run_to_end(command.env("SWAP", swap));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let report = read(&report);
    let seen = &report.parts[0].seen;
    assert_eq!(seen.happened[0].ended, Ended::Exit(0), "{}", seen.happened[0].output);
    let window = &seen.windows.as_ref().expect("windows").events[0];
    assert!(window.figures.due > 100);
    assert_eq!((window.figures.good, window.dark_s), (window.figures.due, 0.0));
    assert_eq!(report.summary.total.good, report.summary.total.due);
    let judged: Vec<_> = report.verdict.findings.iter().map(|f| &*f.phase).collect();
    assert!(judged.contains(&"event 'swap'"), "{judged:?}");

    // Without the command that swaps nothing is swapped, and the run says so.
    let mut command = loadtest();
    command.arg("run").arg(&file).args(["--url", &format!("grpc://{}", server.grpc)]);
    let ended = run_to_end(command.env_remove("SWAP"));
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stderr.contains("set SWAP to the command that swaps"), "{}", ended.stderr);
}

/// A load of a model, and one of a model that is not there, as calls of the generator's own.
#[test]
fn an_event_may_be_a_call_to_the_server() {
    let Some(server) = Onnxd::start() else { return };
    let home = Home::new();
    let models = format!("http://{}/v2/repository/models", server.operator);
    let text = format!(
        "target: {{url: 'grpc://{}'}}\nmix: [{{model: wine}}]\nslo: {{error_rate: 0}}\n\
         phases:\n- {{name: load, arrivals: {{constant: 100}}, duration: 3s}}\nevents:\n\
         - {{name: known, at: 500ms, window: 200ms, run: {{post: '{models}/wine/load'}}}}\n\
         - {{name: unknown, at: 2s, window: 200ms, run: {{post: '{models}/nobody/load', body: {{}}}}}}\n",
        server.grpc
    );
    let file = home.write("s.yaml", &text);
    let (report, ended) = home.report(1, &format!("run {}", file.display()), &[]);
    let seen = &report.parts[0].seen;
    assert_eq!(seen.happened[0].ended, Ended::Status(200), "{}", seen.happened[0].output);
    let Ended::Status(status) = seen.happened[1].ended else {
        panic!("{:?}", seen.happened[1]);
    };
    assert!((400..500).contains(&status), "{status}");
    let said =
        format!("onnxd loadtest: event 'unknown' (POST {models}/nobody/load): status {status}");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
    assert!(seen.happened[1].output.contains("nobody"), "{}", seen.happened[1].output);
    let windows = seen.windows.as_ref().expect("windows");
    assert!(windows.events.iter().all(|window| window.figures.due > 10));
    assert_eq!(report.summary.total.good, report.summary.total.due);
}
