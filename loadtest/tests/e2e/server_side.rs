//! What is read of a real server's own figures.

use std::time::Instant;

use onnxd_loadtest::scrape::{Look, Metrics, Options, reading::Dialect, series::Span};

use crate::support::onnxd::Onnxd;

const WINE: &str = "{\"inputs\": [{\"name\": \"features\", \"shape\": [1, 13], \"datatype\": \"FP32\", \"data\": \
                    [13, 3, 2, 18, 98, 1, 0, 0, 1, 10, 0, 1, 511]}]}";

#[test]
fn a_real_servers_page_is_understood() {
    let Some(server) = Onnxd::start() else { return };
    let page = format!("http://{}/metrics", server.operator).parse().unwrap();
    let options = Options {
        metrics: Metrics::At(page),
        pids: vec![server.process.id()],
        models: vec!["wine".to_owned()],
        ..Options::default()
    };
    let Look::Ready(ready) = options.look().unwrap() else { panic!("it is there") };
    let scraper = ready.start(Instant::now()).unwrap();
    for _ in 0..5 {
        let answer = server.ask("POST", "/v2/models/wine/infer", WINE);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let wrong = server.ask("POST", "/v2/models/wine/infer", "{\"inputs\": []}");
    assert!(wrong.starts_with("HTTP/1.1 400"), "{wrong}");
    let missing = server.ask("POST", "/v2/models/nonesuch/infer", WINE);
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    let whole = Span { name: "whole".to_owned(), warm_up: false, from_s: -60.0, to_s: 600.0 };
    let seen = scraper.end(&[whole]);
    assert_eq!((seen.dialect, seen.failed), (Some(Dialect::Onnxd), 0), "{:?}", seen.failure);
    let total = seen.total.as_ref().expect("it was looked at");
    let [wine] = &total.models[..] else { panic!("{:?}", total.models) };
    assert_eq!((&*wine.model, &*wine.version), ("wine", "2"));
    assert_eq!((wine.answered(), wine.rows), (5.0, 5.0));
    assert_eq!((wine.queue.count, wine.request.count), (5.0, 5.0));
    assert_eq!(wine.batch.sum, 5.0);
    assert!(wine.compute.mean().unwrap() > 0.0 && wine.request.quantile(0.99).unwrap() > 0.0);
    let refused = total.refused.values().sum::<f64>() + wine.requests.values().sum::<f64>();
    assert_eq!(refused, 7.0, "two of them failed: {total:?}");
    assert!(total.resident_bytes.unwrap() > 1e6 && total.cpu.is_some());
    assert!(!total.restarted);
}
