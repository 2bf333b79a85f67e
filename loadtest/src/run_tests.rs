//! Whole runs against small servers of the tests' own.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::AtomicUsize,
};

use super::*;
use crate::{
    plan::{
        Address, Arrivals, Check, Phase, Prepared, Protocol, Shard, Target, Until, Variant, Wire,
    },
    summary::Frame,
};

/// A server that has an answer for every request, by its number; `None`: the connection is closed.
fn serve(answer: impl Fn(usize) -> Option<String> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (answer, count) = (answer.clone(), count.clone());
            thread::spawn(move || talk(stream, &*answer, &count));
        }
    });
    port
}

fn talk(mut stream: TcpStream, answer: &dyn Fn(usize) -> Option<String>, count: &AtomicUsize) {
    let (mut buffer, mut held) = ([0; 4096], Vec::new());
    while let Ok(read) = stream.read(&mut buffer) {
        held.extend_from_slice(&buffer[..read]);
        while held.len() >= REQUEST.len() {
            held.drain(..REQUEST.len());
            let Some(text) = answer(count.fetch_add(1, Ordering::SeqCst)) else { return };
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
        if read == 0 {
            return;
        }
    }
}

const REQUEST: &[u8] =
    b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn plan(port: u16, arrivals: Arrivals, until: Until) -> Plan {
    let variant = Variant {
        name: "m".to_owned(),
        model: "m".to_owned(),
        version: None,
        weight: 1.0,
        rows: 1,
        requests: vec![0],
    };
    Plan {
        target: Target {
            protocol: Protocol::Json,
            address: Address::Tcp { host: "127.0.0.1".to_owned(), port },
            tls: None,
            authority: format!("127.0.0.1:{port}"),
        },
        phases: vec![Phase { name: "only".to_owned(), arrivals, until, warm_up: false }],
        variants: vec![variant],
        requests: vec![Prepared { variant: 0, wire: Wire::Http(REQUEST.into()), expected: None }],
        seed: 1,
        connections: 4,
        streams: 1,
        threads: 2,
        shard: Shard::WHOLE,
        timeout: Duration::from_secs(30),
    }
}

fn requests(count: u64) -> Until {
    Until { duration: None, requests: Some(count) }
}

fn whole(measured: &Measured) -> crate::record::Cell {
    let cells: Vec<_> = measured.stretches.values().flat_map(|cells| cells.values()).collect();
    crate::record::Cell::sum(cells)
}

#[test]
fn an_open_loop_is_answered_and_counted() {
    let port = serve(|_| Some(ok(r#"{"model_name":"m","model_version":"3"}"#)));
    let plan = plan(port, Arrivals::Poisson { rate: 2000.0 }, requests(1000));
    let mut last = Progress::default();
    let measured = run(&plan, &Control::default(), |progress| last = progress.clone()).unwrap();
    let cell = whole(&measured);
    assert_eq!((cell.due, cell.codes[&Code::Ok], cell.versions["3"]), (1000, 1000, 1000));
    assert_eq!((cell.latency.count(), cell.service.count(), cell.lag.count()), (1000, 1000, 1000));
    assert_eq!(cell.bytes_out, 1000 * REQUEST.len() as u64);
    assert_eq!((last.due, last.ended[&Code::Ok], last.in_flight, last.waiting), (1000, 1000, 0, 0));
    assert!(measured.took[0] > 0 && !measured.interrupted && measured.examples.is_empty());
    // From the schedule never less than from the moment it was sent.
    assert!(cell.latency.mean() >= cell.service.mean());
    let summary = crate::summary::Summary::of(&measured, &Frame::of(&plan, &[]));
    assert_eq!(summary.phases.len(), 1);
}

#[test]
fn callers_wait_and_phases_follow_each_other() {
    let port = serve(|_| Some(ok("{}")));
    let closed = Arrivals::Closed { callers: 3, think: Duration::ZERO };
    let mut plan = plan(port, closed, requests(301));
    let warm_up = Phase { warm_up: true, name: "first".to_owned(), ..plan.phases[0].clone() };
    plan.phases.insert(0, warm_up);
    let measured = run(&plan, &Control::default(), |_| {}).unwrap();
    assert_eq!(whole(&measured).codes[&Code::Ok], 301);
    assert!(measured.stretches.keys().all(|(phase, _)| *phase == 1));
    assert_eq!((measured.began.len(), measured.took.len()), (2, 2));
    assert!(measured.began[1] >= measured.began[0] + measured.took[0]);
}

#[derive(Debug)]
struct Says(&'static str);

impl Check for Says {
    fn check(&self, body: &[u8], _: Option<usize>) -> Result<(), String> {
        if body == self.0.as_bytes() { Ok(()) } else { Err("another answer".to_owned()) }
    }
}

#[test]
fn every_end_has_its_name() {
    let port = serve(|number| match number % 5 {
        0 => Some(ok("right")),
        1 => Some(ok("wrong")),
        2 => Some("HTTP/1.1 429 Busy\r\ncontent-length: 4\r\n\r\nfull".to_owned()),
        3 => Some("nonsense\r\n\r\n".to_owned()),
        _ => None,
    });
    let closed = Arrivals::Closed { callers: 1, think: Duration::ZERO };
    let mut plan = plan(port, closed, requests(50));
    plan.threads = 1;
    plan.requests[0].expected = Some(Arc::new(Says("right")));
    let measured = run(&plan, &Control::default(), |_| {}).unwrap();
    let codes = whole(&measured).codes;
    let expected = [Code::Ok, Code::Wrong, Code::Http(429), Code::Garbled, Code::Broken];
    assert_eq!(codes, expected.into_iter().map(|code| (code, 10)).collect());
    let said = |text: &str| measured.examples.iter().any(|example| example == text);
    assert!(said("wrong: another answer") && said("http_429: full"), "{:?}", measured.examples);
}

#[test]
fn what_takes_too_long_is_given_up_and_the_rest_goes_on() {
    let port = serve(|number| {
        if number == 0 {
            thread::park_timeout(Duration::from_secs(60));
        }
        Some(ok("{}"))
    });
    let mut plan = plan(port, Arrivals::Constant { rate: 200.0 }, requests(100));
    (plan.threads, plan.timeout) = (1, Duration::from_millis(300));
    let codes = whole(&run(&plan, &Control::default(), |_| {}).unwrap()).codes;
    assert_eq!(codes, [(Code::Ok, 99), (Code::TimedOut, 1)].into_iter().collect());
}

#[test]
fn a_run_that_is_stopped_gives_what_it_has() {
    let port = serve(|_| Some(ok("{}")));
    let plan = plan(port, Arrivals::Poisson { rate: 500.0 }, requests(u64::MAX));
    let control = Control::default();
    let measured = run(&plan, &control, |progress| {
        if progress.ended.get(&Code::Ok).is_some_and(|n| *n > 50) {
            control.stop.store(true, Ordering::Relaxed);
        }
    });
    let measured = measured.unwrap();
    assert!(measured.interrupted && whole(&measured).codes[&Code::Ok] > 50);
}

#[test]
fn a_server_that_is_not_there_is_said_before_anything_is_sent() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plan = plan(port, Arrivals::Constant { rate: 1.0 }, requests(1));
    let error = run(&plan, &Control::default(), |_| {}).unwrap_err();
    let place = format!("the server at 127.0.0.1:{port} cannot be reached: ");
    assert!(error.starts_with(&place) && error.contains("refused"), "{error}");
}

#[test]
#[ignore = "for trying by hand: LOADTEST_PORT, LOADTEST_GRPC"]
fn by_hand() {
    let value = |name: &str| std::env::var(name).unwrap();
    let port = value("LOADTEST_PORT").parse().unwrap();
    let closed = Arrivals::Closed { callers: 8, think: Duration::ZERO };
    let until = Until { duration: Some(Duration::from_secs(4)), requests: None };
    let mut plan = plan(port, closed, until);
    (plan.threads, plan.connections) = (1, 8);
    let body = std::fs::read(value("LOADTEST_BODY")).unwrap();
    if value("LOADTEST_GRPC") == "1" {
        plan.target.protocol = Protocol::Grpc;
        let headers = crate::wire::hpack::encode([
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/inference.GRPCInferenceService/ModelInfer"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]);
        plan.requests[0].wire = Wire::Grpc { headers: headers.into(), message: body.into() };
        plan.streams = 100;
    } else {
        let head = format!(
            "POST /v2/models/{}/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            value("LOADTEST_MODEL"),
            body.len()
        );
        plan.requests[0].wire = Wire::Http([head.as_bytes(), &body].concat().into());
    }
    let measured = run(&plan, &Control::default(), |_| {}).unwrap();
    let cell = whole(&measured);
    println!("{:?} {:?} {:?}", cell.codes, cell.versions, measured.examples);
    println!(
        "p50 {} us p99 {} us, lag p99 {}",
        cell.latency.quantile(0.5) / 1000,
        cell.latency.quantile(0.99) / 1000,
        cell.lag.quantile(0.99)
    );
    println!("{} a second", cell.codes[&Code::Ok] as f64 / 4.0);
}
