//! The echo server as the generator meets it, over every protocol.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::*;
use crate::{
    metadata,
    plan::{Arrivals, Phase, Plan, Protocol, Shard, Target, Tls, Until},
    prepare::{self, entry::Entry, golden},
    record::{Cell, Code, Measured},
    run::{Control, run},
    target,
};

fn to(handle: &Handle, protocol: Protocol) -> Target {
    let scheme = if protocol == Protocol::Grpc { "grpc" } else { "http" };
    let tls = Tls::default();
    target::parse(&format!("{scheme}://{}", handle.address), Some(protocol), tls).unwrap()
}

fn plan(target: Target, entry: &Entry, requests: u64) -> Plan {
    let mix = prepare::prepare(&target, std::slice::from_ref(entry), 1).unwrap();
    let until = Until { duration: None, requests: Some(requests) };
    let arrivals = Arrivals::Constant { rate: 500.0 };
    Plan {
        target,
        phases: vec![Phase { name: "only".to_owned(), arrivals, until, warm_up: false }],
        variants: mix.variants,
        requests: mix.requests,
        seed: 1,
        connections: 4,
        streams: 100,
        threads: 1,
        shard: Shard::WHOLE,
        timeout: Duration::from_secs(30),
    }
}

fn cell(measured: &Measured) -> Cell {
    let cells: Vec<_> = measured.stretches.values().flat_map(|cells| cells.values()).collect();
    Cell::sum(cells)
}

#[test]
fn it_answers_every_protocol_with_what_it_was_sent() {
    let handle = serve(Options { version: "7".to_owned(), ..Options::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for protocol in [Protocol::Grpc, Protocol::Json, Protocol::Binary] {
        let target = to(&handle, protocol);
        assert!(
            metadata::server(&target, &BTreeMap::new())
                .unwrap()
                .starts_with("onnxd loadtest echo ")
        );
        assert_eq!(
            metadata::fetch(&target, "any", None, &BTreeMap::new()).unwrap().versions,
            ["7"]
        );
        let mut entry = Entry { rows: 2, distinct: 3, ..Entry::of("any") };
        let file = folder.path().join(format!("{protocol:?}.jsonl"));
        assert_eq!(golden::record(&plan(target.clone(), &entry, 1), &file), Ok(3));
        entry.golden = Some(file);
        let plan = plan(target, &entry, 60);
        assert_eq!((plan.variants[0].rows, plan.requests.len()), (2, 3));
        let measured = run(&plan, &Control::default(), |_| {}).unwrap();
        let cell = cell(&measured);
        assert_eq!(cell.codes, [(Code::Ok, 60)].into_iter().collect(), "{:?}", measured.examples);
        assert_eq!(cell.versions["7"], 60);
        // Other inputs, the answers of the first: each is wrong.
        let mut wrong = plan;
        let expected: Vec<_> = wrong.requests.iter().map(|r| r.expected.clone()).collect();
        for (request, expected) in wrong.requests.iter_mut().zip(expected.iter().cycle().skip(1)) {
            request.expected.clone_from(expected);
        }
        let measured = run(&wrong, &Control::default(), |_| {}).unwrap();
        assert_eq!(self::cell(&measured).codes[&Code::Wrong], 60);
        assert!(measured.examples[0].contains("wrong: output 'x': element 0"));
    }
}

#[test]
fn it_takes_the_time_that_it_was_told_to() {
    let latency = "constant:20ms".parse().unwrap();
    let handle = serve(Options { latency, ..Options::default() }).unwrap();
    for protocol in [Protocol::Grpc, Protocol::Json] {
        let mut plan = plan(to(&handle, protocol), &Entry::of("m"), 50);
        plan.connections = 20;
        let cell = cell(&run(&plan, &Control::default(), |_| {}).unwrap());
        // Never less; how much more is what the machine makes of it.
        assert!(cell.latency.quantile(0.0) >= 19_900_000, "{}", cell.latency.quantile(0.0));
    }
}

#[test]
fn it_fails_and_refuses_as_it_was_told_to() {
    let latency = "constant:50ms".parse().unwrap();
    let options = Options { latency, servers: Some(1), queue: Some(2), ..Options::default() };
    let handle = serve(options).unwrap();
    for (protocol, full) in [(Protocol::Grpc, Code::Grpc(8)), (Protocol::Binary, Code::Http(429))] {
        let mut plan = plan(to(&handle, protocol), &Entry::of("m"), 40);
        plan.phases[0].arrivals = Arrivals::Bursts { size: 40, every: Duration::from_secs(1) };
        plan.connections = 40;
        let codes = cell(&run(&plan, &Control::default(), |_| {}).unwrap()).codes;
        assert!(full.shed() && codes[&Code::Ok] >= 3, "{codes:?}");
        assert_eq!(codes[&Code::Ok] + codes[&full], 40, "{codes:?}");
    }
    let handle = serve(Options { failures: 1.0, ..Options::default() }).unwrap();
    for (protocol, failed) in [(Protocol::Grpc, Code::Grpc(13)), (Protocol::Json, Code::Http(500))]
    {
        let plan = plan(to(&handle, protocol), &Entry::of("m"), 5);
        let measured = run(&plan, &Control::default(), |_| {}).unwrap();
        assert_eq!(cell(&measured).codes, [(failed, 5)].into_iter().collect());
        assert!(measured.examples[0].contains("as"), "{:?}", measured.examples);
    }
}

#[test]
fn a_server_that_goes_and_comes_back_is_found_again() {
    let first = serve(Options::default()).unwrap();
    let address = first.address;
    let plan = plan(to(&first, Protocol::Grpc), &Entry::of("m"), 1000);
    let held = Arc::new(std::sync::Mutex::new(Some(first)));
    let mut second = None;
    let measured = run(&plan, &Control::default(), |progress| {
        let answered = progress.ended.get(&Code::Ok).copied().unwrap_or(0);
        if answered > 100 && second.is_none() {
            held.lock().unwrap().take();
            second = serve(Options { address, ..Options::default() }).ok();
        }
    });
    let codes = cell(&measured.unwrap()).codes;
    assert!(second.is_some(), "the address is free again");
    // What was under way at that moment may be lost; the rest waited.
    assert!(codes[&Code::Ok] >= 900, "{codes:?}");
}
