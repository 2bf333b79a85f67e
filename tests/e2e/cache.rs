//! The cache: what was answered is answered again without a run, equal requests share one, and nothing wrong is ever found.

use prost::Message;
use serde_json::{Value, json};

use crate::support::{
    files::Home,
    frames::{Event, Frames},
    grpc,
    http::{self, Http, infer, infer_path},
    server::Server,
    watch::{self, until},
};

/// Would take hours: only cancellation ends it.
const ENDLESS: u64 = 1_000_000_000;

const CACHE: &str = "cache: {max_bytes: 1000000}\n";

fn serve(model: &str, yaml: &str) -> (Home, Server) {
    let home = Home::of(&[model]).yaml(model, yaml);
    let server = Server::start(home.path(), &home.repository());
    (home, server)
}

fn one_at_a_time() -> (Home, Server) {
    serve("burn", &format!("batching: {{instances: 1}}\n{CACHE}"))
}

/// Requests of the model that came to this, by the metrics.
fn outcome(server: &Server, model: &str, outcome: &str) -> u64 {
    let labels = [format!("model=\"{model}\""), format!("outcome=\"{outcome}\"")];
    watch::metric(server, "onnxd_cache_requests_total", &[&labels[0], &labels[1]]) as u64
}

fn send(server: &Server, body: &Value, headers: &str) -> Http {
    let mut client = Http::connect(&server.http);
    let body = body.to_string();
    client.send(&http::request("POST", &infer_path("burn"), headers, body.as_bytes()));
    client
}

fn with(mut body: Value, key: &str, value: Value) -> Value {
    body[key] = value;
    body
}

#[test]
fn what_was_answered_is_answered_again_without_a_run() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let ask = |body: &Value| infer(&server.http, "burn", "", body).output(0);
    assert_eq!(ask(&http::burn(7.0, 1)), [7.0]);
    // While the model can run nothing: neither an executor nor a queue stands in the way of what is kept.
    let blocker = send(&server, &http::burn(1.0, ENDLESS), "");
    watch::until_busy(&server, "burn", 1, 0);
    assert_eq!(ask(&http::burn(7.0, 1)), [7.0]);
    let mut over_grpc = Frames::connect(&server.grpc);
    let id = over_grpc.call(&grpc::burn(7.0, 1).encode_to_vec()).expect("the call goes out");
    assert_eq!(over_grpc.event().expect("an answer"), Event::Answered { id, message: true });
    let named = with(http::burn(7.0, 1), "outputs", json!([{"name": "Y"}]));
    assert_eq!(ask(&with(named, "id", json!("x"))), [7.0], "in another form");
    drop(blocker);

    until("the blocker is gone", || watch::in_flight(&server, "burn") == 0);
    let ran = watch::executions(&server, "burn");
    assert_eq!(ran, before + 1);
    assert_eq!(ask(&http::burn(8.0, 1)), [8.0], "another request");
    let bypass = with(http::burn(7.0, 1), "parameters", json!({"cache": false}));
    assert_eq!(ask(&bypass), [7.0]);
    assert_eq!(watch::executions(&server, "burn"), ran + 2);
    let wrong = with(http::burn(7.0, 1), "parameters", json!({"cache": 1}));
    let error = infer(&server.http, "burn", "", &wrong).error(400);
    assert_eq!(error, "parameter 'cache': expected true or false");

    let of = |what| outcome(&server, "burn", what);
    assert_eq!([of("hit"), of("miss"), of("coalesced"), of("bypass")], [3, 3, 0, 1]);
    let stats = http::get(&server.http, "/v2/models/burn/stats").json();
    let stats = &stats["model_stats"][0]["inference_stats"];
    assert_eq!(
        (&stats["cache_hit"]["count"], &stats["cache_miss"]["count"]),
        (&json!(3), &json!(3))
    );
    assert!(stats["cache_hit"]["ns"].as_u64() > Some(0), "{stats}");
    // The blocker was no success.
    assert_eq!(stats["success"]["count"], json!(6));
    assert_eq!(stats["compute_infer"]["count"], json!(3));
    let config = http::get(&server.http, "/v2/models/burn/config").json();
    assert_eq!(config["response_cache"], json!({"enable": true}));
    server.stop();
}

#[test]
fn equal_bytes_of_other_shapes_never_collide() {
    let (_home, server) = serve("identity_fp32", CACHE);
    for round in 0..2 {
        for shape in [[2, 3], [3, 2], [1, 6], [6, 1]] {
            let data = json!([1, 2, 3, 4, 5, 6]);
            let body = http::inputs(&[("INPUT0", "FP32", &shape, data)]);
            let answer = infer(&server.http, "identity_fp32", "", &body);
            assert_eq!(answer.output(0), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            assert_eq!(answer.json()["outputs"][0]["shape"], json!(shape), "round {round}");
        }
    }
    let of = |what| outcome(&server, "identity_fp32", what);
    assert_eq!([of("hit"), of("miss")], [4, 4]);
    server.stop();
}

#[test]
fn classes_and_numbers_are_both_right_from_one_run() {
    let (_home, server) = serve("wine", CACHE);
    let classes = json!([{"name": "probabilities", "parameters": {"classification": 2}}]);
    let classes = with(http::wine(), "outputs", classes);
    let answers = [&http::wine(), &classes, &http::wine(), &classes].map(|body| {
        let answer = infer(&server.http, "wine", "", body);
        assert_eq!(answer.status, 200);
        answer.json()["outputs"].clone()
    });
    assert_eq!(answers[0], answers[2]);
    assert_eq!(answers[1], answers[3]);
    assert_eq!(answers[1][0]["datatype"], "BYTES");
    assert_eq!([outcome(&server, "wine", "hit"), outcome(&server, "wine", "miss")], [3, 1]);
    server.stop();
}

#[test]
fn a_thousand_equal_misses_at_once_run_the_model_once() {
    const CONNECTIONS: u64 = 20;
    const EACH: u64 = 50;
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let blocker = send(&server, &http::burn(1.0, ENDLESS), "");
    watch::until_busy(&server, "burn", 1, 0);
    let message = grpc::burn(7.0, 1).encode_to_vec();
    let mut clients: Vec<Frames> =
        (0..CONNECTIONS).map(|_| Frames::connect(&server.grpc)).collect();
    for client in &mut clients {
        for _ in 0..EACH {
            client.call(&message).expect("the call goes out");
        }
    }
    let all = CONNECTIONS * EACH;
    until("all of them wait", || watch::in_flight(&server, "burn") == all + 1);
    let queued = watch::metric(&server, "onnxd_requests_queued", &["model=\"burn\""]);
    assert_eq!(queued, 1.0, "they wait for one run");
    drop(blocker);
    for client in &mut clients {
        for _ in 0..EACH {
            let event = client.event().expect("an answer");
            assert!(matches!(event, Event::Answered { message: true, .. }), "{event:?}");
        }
    }
    assert_eq!(watch::executions(&server, "burn"), before + 1);
    assert_eq!(outcome(&server, "burn", "coalesced"), all - 1);
    drop(clients);
    server.stop();
}

#[test]
fn a_run_belongs_to_nobody_who_may_leave() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let blocker = send(&server, &http::burn(1.0, ENDLESS), "");
    watch::until_busy(&server, "burn", 1, 0);
    let leader = send(&server, &http::burn(7.0, 1), "");
    watch::until_busy(&server, "burn", 1, 1);
    let mut others = [(); 2].map(|()| send(&server, &http::burn(7.0, 1), ""));
    until("they wait for one run", || watch::in_flight(&server, "burn") == 4);
    drop(leader);
    until("the first has left", || watch::ended_with(&server, "burn", "cancelled") == 1);
    drop(blocker);
    for other in &mut others {
        assert_eq!(other.read().output(0), [7.0]);
    }
    assert_eq!(watch::executions(&server, "burn"), before + 1);
    server.stop();
}

#[test]
fn a_run_that_all_have_left_ends() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let all = [(); 3].map(|()| send(&server, &http::burn(1.0, ENDLESS), ""));
    until("they wait for one run", || watch::in_flight(&server, "burn") == 3);
    drop(all);
    until("they have left", || watch::ended_with(&server, "burn", "cancelled") == 3);
    // It would not come to run if theirs had not ended.
    assert_eq!(infer(&server.http, "burn", "", &http::burn(7.0, 1)).output(0), [7.0]);
    assert_eq!(watch::executions(&server, "burn"), before + 1);
    server.stop();
}

#[test]
fn each_waits_for_as_long_as_its_own_deadline_says() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let blocker = send(&server, &http::burn(1.0, ENDLESS), "");
    watch::until_busy(&server, "burn", 1, 0);
    let mut hurried = send(&server, &http::burn(7.0, 1), "x-request-timeout-ms: 1000\r\n");
    watch::until_busy(&server, "burn", 1, 1);
    let mut patient = send(&server, &http::burn(7.0, 1), "");
    until("both wait for one run", || watch::in_flight(&server, "burn") == 3);
    hurried.read().error(504);
    assert_eq!(watch::in_flight(&server, "burn"), 2);
    drop(blocker);
    assert_eq!(patient.read().output(0), [7.0]);
    assert_eq!(watch::executions(&server, "burn"), before + 1);
    server.stop();
}

#[test]
fn a_purge_forgets() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let ask = || assert_eq!(infer(&server.http, "burn", "", &http::burn(7.0, 1)).output(0), [7.0]);
    ask();
    ask();
    assert_eq!(watch::executions(&server, "burn"), before + 1);
    // The answer goes out first, and is kept then.
    let kept = || watch::metric(&server, "onnxd_cache_answers", &["model=\"burn\""]);
    until("the answer is kept", || kept() == 1.0);
    let purged = http::post(&server.operator, "/admin/v1/models/burn/purge", "", &json!({}));
    assert_eq!((purged.status, purged.json()["answers"].clone()), (200, json!(1)));
    assert_eq!(kept(), 0.0);
    ask();
    assert_eq!(watch::executions(&server, "burn"), before + 2);
    let unknown = http::post(&server.operator, "/admin/v1/models/nosuch/purge", "", &json!({}));
    unknown.error(404);
    server.stop();
}

#[test]
fn what_is_random_is_never_kept() {
    let (_home, server) = serve("noise", CACHE);
    let body = http::four(0.0);
    let ask = || infer(&server.http, "noise", "", &body).output(0);
    assert_ne!(ask(), ask());
    let explained = http::get(&server.operator, "/admin/v1/explain/noise").json();
    let said = explained["cache"].as_str().expect("it says").to_owned();
    assert!(said.starts_with("off: the graph has RandomNormalLike"), "{said}");
    let purged = http::post(&server.operator, "/admin/v1/models/noise/purge", "", &json!({}));
    assert!(purged.error(400).contains("noise"));
    server.stop();
}
