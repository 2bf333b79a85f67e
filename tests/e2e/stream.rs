//! ModelStreamInfer: answers in the order of their requests, errors that leave the stream open, and streams that hold up
//! nobody.

use onnxd::api::proto::{
    ModelInferRequest, ModelStreamInferResponse, infer_parameter::ParameterChoice,
};
use prost::Message;

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    server::Server,
    stream::{Ended, Stream},
    watch::{self, until},
};

/// Would take hours: only cancellation ends it.
const ENDLESS: i64 = 1_000_000_000;

fn named(id: &str, request: ModelInferRequest) -> ModelInferRequest {
    ModelInferRequest { id: id.into(), ..request }
}

/// The request's id, its first output's first number or its error.
fn outcome(answer: &ModelStreamInferResponse) -> (String, Result<f32, String>) {
    let response = answer.infer_response.as_ref().expect("every answer says what it is about");
    let last = response.parameters["triton_final_response"].parameter_choice.as_ref();
    assert_eq!(last, Some(&ParameterChoice::BoolParam(true)));
    if !answer.error_message.is_empty() {
        return (response.id.clone(), Err(answer.error_message.clone()));
    }
    let raw = response.raw_output_contents[0].first_chunk::<4>().expect("a number");
    (response.id.clone(), Ok(f32::from_le_bytes(*raw)))
}

#[test]
fn answers_come_in_order_and_errors_leave_the_stream_open() {
    let home = Home::of(&["versioned", "burn"]);
    let server = Server::start(home.path(), &home.repository());
    let mut stream = Stream::infer(&server.grpc, &[]);
    let plain = |x: f32| grpc::four("versioned", x);
    let expected = outcome(&{
        stream.send(&named("first", plain(1.0)));
        stream.answer().expect("an answer")
    });
    assert_eq!(expected.0, "first");
    // The slow one first: those behind it are through before it, and wait.
    stream.send(&named("slow", grpc::burn(7.0, 3000)));
    for n in 0..200 {
        stream.send(&named(&n.to_string(), plain(1.0)));
    }
    stream.send(&named("lost", grpc::four("nosuch", 1.0)));
    stream.send(&named("late", grpc::timeout(grpc::burn(1.0, ENDLESS), 50_000)));
    let mut flag = named("flag", plain(1.0));
    let on = ParameterChoice::BoolParam(true);
    flag.parameters.insert(
        "triton_enable_empty_final_response".into(),
        onnxd::api::proto::InferParameter { parameter_choice: Some(on.clone()) },
    );
    stream.send(&flag);
    let mut foreign = named("foreign", plain(1.0));
    foreign.parameters.insert(
        "triton_mine".into(),
        onnxd::api::proto::InferParameter { parameter_choice: Some(on) },
    );
    stream.send(&foreign);
    let mut garbage = named("garbage", plain(1.0)).encode_to_vec();
    garbage.extend([0x2a, 0xff, 0x7f]);
    let length = (garbage.len() as u32).to_be_bytes();
    stream.send_bytes([&[0][..], &length, &garbage].concat());
    // In two pieces, cut in the middle of its head.
    let whole = named("cut", plain(1.0)).encode_to_vec();
    let whole = [&[0][..], &(whole.len() as u32).to_be_bytes(), &whole].concat();
    stream.send_bytes(whole[..3].to_vec());
    stream.send_bytes(whole[3..].to_vec());
    stream.finish();

    let mut next = || outcome(&stream.answer().expect("an answer"));
    assert_eq!(next(), ("slow".into(), Ok(7.0)));
    for n in 0..200 {
        assert_eq!(next(), (n.to_string(), expected.1.clone()));
    }
    for (id, words) in [
        ("lost", "nosuch"),
        ("late", "deadline"),
        ("flag", ""),
        ("foreign", "triton_mine"),
        ("garbage", "malformed"),
        ("cut", ""),
    ] {
        let (of, result) = next();
        assert_eq!(of, id);
        match result {
            Ok(_) => assert!(words.is_empty(), "{id} went well"),
            Err(message) => {
                assert!(!words.is_empty() && message.contains(words), "{id}: {message}")
            }
        }
    }
    assert_eq!(stream.answer(), Err(Ended { code: 0, message: String::new() }));
    server.stop();
}

#[test]
fn a_client_that_asks_for_statuses_gets_one_and_the_end() {
    let home = Home::of(&["versioned", "burn"]).yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    let strict = [("triton_grpc_error", "true")];
    let mut stream = Stream::infer(&server.grpc, &strict);
    stream.send(&named("good", grpc::four("versioned", 1.0)));
    stream.send(&named("bad", grpc::four("nosuch", 1.0)));
    stream.send(&named("given up", grpc::burn(1.0, ENDLESS)));
    assert_eq!(outcome(&stream.answer().expect("an answer")).0, "good");
    let ended = stream.answer().expect_err("the end");
    assert_eq!(ended.code, 5, "{}", ended.message);
    until("what was behind it is given up", || watch::in_flight(&server, "burn") == 0);

    // What breaks the framing ends any stream, after the answers to what came before.
    for (bytes, code) in
        [(&b"\x00\xff\xff\xff\xff"[..], 8), (b"\x00\x00\x00", 3), (b"\x00\x00\x00\x00\x05abc", 3)]
    {
        let mut stream = Stream::infer(&server.grpc, &[]);
        stream.send(&named("good", grpc::four("versioned", 1.0)));
        stream.send_bytes(bytes);
        stream.finish();
        assert_eq!(outcome(&stream.answer().expect("an answer")).0, "good");
        let ended = stream.answer().expect_err("the end");
        assert_eq!(ended.code, code, "{bytes:?}: {}", ended.message);
    }
    let mut stream = Stream::infer(&server.grpc, &[("grpc-timeout", "soon")]);
    assert_eq!(stream.answer().expect_err("the end").code, 3);
    server.stop();
}

#[test]
fn a_stream_has_its_clients_deadline_and_drops_what_its_client_drops() {
    let home = Home::of(&["burn"]).yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    let mut stream = Stream::infer(&server.grpc, &[("grpc-timeout", "300m")]);
    stream.send(&grpc::burn(1.0, ENDLESS));
    assert_eq!(stream.answer().expect_err("the end").code, 4);
    // Idle streams end, too.
    let mut stream = Stream::infer(&server.grpc, &[("grpc-timeout", "300m")]);
    assert_eq!(stream.answer().expect_err("the end").code, 4);
    until("what was late has ended", || watch::in_flight(&server, "burn") == 0);

    let before = watch::executions(&server, "burn");
    let cancelled = watch::ended_with(&server, "burn", "cancelled");
    let leaver = Stream::infer(&server.grpc, &[]);
    leaver.send(&grpc::burn(1.0, ENDLESS));
    watch::until_busy(&server, "burn", 1, 0);
    leaver.send(&grpc::burn(2.0, 1));
    watch::until_busy(&server, "burn", 1, 1);
    drop(leaver);
    until("both are counted as left", || {
        watch::ended_with(&server, "burn", "cancelled") == cancelled + 2
    });
    let calls = Grpc::connect(&server.grpc);
    assert_eq!(calls.infer("", &grpc::burn(7.0, 1)).floats(), [7.0]);
    assert_eq!(watch::executions(&server, "burn"), before + 1, "who left was not served");
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    const SENT: u64 = 400;
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let mut stream = Stream::infer(&server.grpc, &[]);
    let mut large = grpc::four("versioned", 1.0);
    large.inputs[0].shape = vec![256, 4];
    large.raw_input_contents = vec![vec![0; 4096].into()];
    for n in 0..SENT {
        stream.send(&named(&n.to_string(), large.clone()));
    }
    // Of answers of four kilobytes the client's window takes 15, and at most 64 wait for it.
    let answered = || watch::ended_with(&server, "versioned", "ok");
    until("the window is full", || answered() >= 15);
    let calls = Grpc::connect(&server.grpc);
    for _ in 0..200 {
        assert_eq!(calls.infer("", &grpc::four("versioned", 1.0)).code, 0);
    }
    let held = answered() - 200;
    assert!(held < 150, "{held} requests were answered for somebody who does not read");
    for n in 0..SENT {
        assert_eq!(outcome(&stream.answer().expect("an answer")).0, n.to_string());
    }
    stream.finish();
    assert_eq!(stream.answer().expect_err("the end").code, 0);
    server.stop();
}

#[test]
fn open_streams_hold_up_no_stop() {
    let home = Home::of(&["versioned", "burn"]);
    let mut server = Server::launch(
        Server::command(home.path(), &home.repository())
            // A stream that held the stop up would hold it until the test's own limit.
            .env("ONNXD_DRAIN_TIMEOUT_MS", "600000")
            .env("ONNXD_DRAIN_DELAY_MS", "500"),
    );
    let mut idle = Stream::infer(&server.grpc, &[]);
    idle.send(&grpc::four("versioned", 1.0));
    assert!(idle.answer().is_ok());
    let mut busy = Stream::infer(&server.grpc, &[]);
    busy.send(&named("under way", grpc::burn(4.0, 20_000)));
    watch::until_busy(&server, "burn", 1, 0);
    let health = "/grpc.health.v1.Health/Watch";
    let mut watching = Stream::open(&server.grpc, health, &[], &[0, 0, 0, 0, 0]);
    watching.finish();
    let status = |bytes: &[u8]| bytes.last().copied();
    assert_eq!(status(&watching.message().expect("a status")), Some(1), "SERVING");
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let list_services = b"\0\0\0\0\x03\x3a\x01*";
    let mut reflecting = Stream::open(&server.grpc, reflection, &[], list_services);
    let services = reflecting.message().expect("the services");
    for name in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
        assert!(services.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }

    server.terminate();
    assert_eq!(status(&watching.message().expect("a status")), Some(2), "NOT_SERVING");
    assert_eq!(watching.message().expect_err("the end").code, 0);
    assert_eq!(reflecting.message().expect_err("the end").code, 0);
    assert_eq!(idle.answer().expect_err("the end").code, 14);
    assert_eq!(outcome(&busy.answer().expect("an answer")), ("under way".into(), Ok(4.0)));
    assert_eq!(busy.answer().expect_err("the end").code, 14);
    server.ended_well();
}
