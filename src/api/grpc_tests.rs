//! What gRPC clients see: calls as frames through the router of a data port.

use axum::http::{Request as HttpRequest, header};
use http_body_util::BodyExt;
use smallvec::SmallVec;
use tokio::sync::watch;

use super::*;
use crate::{
    api::{
        body::BodyLimits,
        fixture,
        http::router,
        state::{Answer, Infer},
    },
    types::{
        request::{InferRequest, InferResponse, OutputTensor},
        tensor::Tensor,
    },
};

/// What came back: `grpc-status`, from the head or the trailers, and the message.
struct Called {
    code: i32,
    message: Bytes,
    headers: axum::http::HeaderMap,
}

async fn call_bytes(api: Api, method: &str, body: Vec<u8>) -> Called {
    let request = HttpRequest::post(format!("{PREFIX}{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Body::from(body))
        .unwrap();
    let response = router(Arc::new(api)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let mut headers = parts.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    let code = headers["grpc-status"].to_str().unwrap().parse().unwrap();
    let mut framed = body.to_bytes();
    let message = if framed.len() > 5 { framed.split_off(5) } else { Bytes::new() };
    Called { code, message, headers }
}

async fn call<M: Message>(api: Api, method: &str, message: M) -> Called {
    call_bytes(api, method, frame(&message.encode_to_vec())).await
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

fn named(model: &str, version: &str) -> proto::ModelReadyRequest {
    proto::ModelReadyRequest { name: model.into(), version: version.into() }
}

#[tokio::test]
async fn live_and_ready() {
    let live = call(fixture::api(), "ServerLive", proto::ServerLiveRequest {}).await;
    assert_eq!(live.code, 0);
    assert!(proto::ServerLiveResponse::decode(live.message).unwrap().live);
    for ready in [true, false] {
        let api = Api { ready: watch::channel(ready).1, ..fixture::api() };
        let called = call(api, "ServerReady", proto::ServerReadyRequest {}).await;
        assert_eq!(called.code, 0);
        let answer = proto::ServerReadyResponse::decode(called.message).unwrap();
        assert_eq!(answer.ready, ready);
    }
}

#[tokio::test]
async fn a_model_is_ready_or_known_or_not_found() {
    for (model, version, ready) in [
        ("digits", "", Some(true)),
        ("digits", "2", Some(true)),
        ("digits", "3", Some(false)),
        ("broken", "", Some(false)),
        ("digits", "9", None),
        ("digits", "two", None),
        ("nosuch", "", None),
        ("", "", None),
    ] {
        let called = call(fixture::api(), "ModelReady", named(model, version)).await;
        assert_eq!(called.code, if ready.is_some() { 0 } else { 5 }, "{model} {version}");
        if let Some(ready) = ready {
            let answer = proto::ModelReadyResponse::decode(called.message).unwrap();
            assert_eq!(answer.ready, ready, "{model} {version}");
        }
    }
}

#[tokio::test]
async fn metadata_configuration_and_statistics() {
    let called = call(fixture::api(), "ModelMetadata", named("digits", "")).await;
    let metadata = proto::ModelMetadataResponse::decode(called.message).unwrap();
    assert_eq!(metadata.versions, ["1", "2"]);
    assert_eq!(metadata.inputs[0].shape, [-1, 8, 8]);
    let called = call(fixture::api(), "ModelConfig", named("digits", "")).await;
    let config = proto::ModelConfigResponse::decode(called.message).unwrap().config.unwrap();
    assert_eq!((config.name.as_str(), config.max_batch_size), ("digits", 64));
    assert_eq!(config.input[0].dims, [8, 8]);
    let called = call(fixture::api(), "ModelStatistics", named("", "")).await;
    let counted = proto::ModelStatisticsResponse::decode(called.message).unwrap();
    assert_eq!(counted.model_stats.len(), 2);
    for method in ["ModelMetadata", "ModelConfig", "ModelStatistics"] {
        assert_eq!(call(fixture::api(), method, named("nosuch", "")).await.code, 5, "{method}");
        assert_eq!(call(fixture::api(), method, named("broken", "")).await.code, 14, "{method}");
    }
}

#[tokio::test]
async fn load_and_unload_by_either_contract() {
    for method in ["RepositoryModelLoad", "RepositoryModelUnload"] {
        for (control, repository, model, code) in [
            (false, "", "digits", 7),
            (true, "", "digits", 0),
            (true, "digits", "", 0),
            (true, "", "broken", 3),
            (true, "", "nosuch", 5),
            // KServe's contract: the name at number 1.
            (false, "digits", "", 7),
            (false, "elsewhere", "digits", 12),
            (false, "", "nosuch", 5),
            (true, "", "../etc", 3),
            (true, "", "", 3),
        ] {
            let api = Api { control, ..fixture::api() };
            let message = proto::RepositoryModelLoadRequest {
                repository_name: repository.into(),
                model_name: model.into(),
                parameters: Default::default(),
            };
            let called = call(api, method, message).await;
            assert_eq!(called.code, code, "{method} {control} {repository} {model}");
        }
    }
}

#[tokio::test]
async fn shared_memory_is_empty_and_forgets_gladly() {
    for kind in ["System", "Cuda"] {
        let call = async |verb: &str, name: &str| {
            let message = proto::SystemSharedMemoryStatusRequest { name: name.into() };
            call(fixture::api(), &format!("{kind}SharedMemory{verb}"), message).await.code
        };
        assert_eq!(call("Status", "").await, 0);
        assert_eq!(call("Status", "r").await, 5);
        assert_eq!(call("Unregister", "").await, 0);
        assert_eq!(call("Unregister", "r").await, 0);
        assert_eq!(call("Register", "r").await, 12);
    }
}

#[tokio::test]
async fn what_is_not_here_says_so() {
    for method in ["ModelStreamInfer", "Nope"] {
        let called = call_bytes(fixture::api(), method, frame(b"")).await;
        assert_eq!(called.code, 12, "{method}");
    }
}

#[tokio::test]
async fn settings_are_read_and_not_changed() {
    use proto::{
        log_settings_request::{self, setting_value::ParameterChoice},
        log_settings_response, trace_setting_request,
    };
    let trace = async |name: &str, values: &[&str], model: &str| {
        let value = values.iter().map(|value| (*value).to_owned()).collect();
        let settings =
            [(name.to_owned(), trace_setting_request::SettingValue { value })].into_iter();
        let settings = settings.filter(|(name, _)| !name.is_empty()).collect();
        let request = proto::TraceSettingRequest { settings, model_name: model.into() };
        call(fixture::api(), "TraceSetting", request).await
    };
    let read = trace("", &[], "digits").await;
    assert_eq!(read.code, 0);
    let read = proto::TraceSettingResponse::decode(read.message).unwrap().settings;
    assert_eq!(read["trace_level"].value, ["OFF"]);
    assert_eq!(read["trace_file"].value, [""]);
    for (name, values, model, code) in [
        ("trace_level", &["OFF"][..], "", 0),
        ("trace_rate", &[], "", 0),
        ("trace_rate", &["1"], "", 7),
        ("trace_file", &["/tmp/x"], "digits", 7),
        ("speed", &["1"], "", 3),
        ("", &[], "nosuch", 5),
    ] {
        assert_eq!(trace(name, values, model).await.code, code, "{name} {values:?} {model}");
    }
    let log = async |name: &str, choice: ParameterChoice| {
        let value = log_settings_request::SettingValue { parameter_choice: Some(choice) };
        let settings = [(name.to_owned(), value)].into_iter().collect();
        call(fixture::api(), "LogSettings", proto::LogSettingsRequest { settings }).await
    };
    let read = call(fixture::api(), "LogSettings", proto::LogSettingsRequest::default()).await;
    let read = proto::LogSettingsResponse::decode(read.message).unwrap().settings;
    let text = log_settings_response::setting_value::ParameterChoice::StringParam;
    assert_eq!(read["log_file"].parameter_choice, Some(text(String::new())));
    assert_eq!(read["log_format"].parameter_choice, Some(text("text".into())));
    assert_eq!(log("log_file", ParameterChoice::StringParam(String::new())).await.code, 0);
    assert_eq!(log("log_file", ParameterChoice::StringParam("/tmp/x".into())).await.code, 7);
    assert_eq!(log("log_verbose_level", ParameterChoice::Uint32Param(7)).await.code, 7);
    assert_eq!(log("log_speed", ParameterChoice::BoolParam(true)).await.code, 3);
}

#[tokio::test]
async fn broken_calls_are_the_clients_fault() {
    let api = || Api {
        limits: BodyLimits { max_bytes: 100, timeout: Duration::from_secs(30) },
        ..fixture::api()
    };
    for (body, code) in [
        (vec![], 3),
        (vec![0, 0], 3),
        (vec![0, 0, 0, 0, 9, 1], 3),
        (frame(&[0xff; 64]), 3),
        (frame(&[0x0a; 101]), 8),
        (frame(b""), 5),
    ] {
        let called = call_bytes(api(), "ModelReady", body.clone()).await;
        assert_eq!(called.code, code, "{body:?}: {:?}", called.headers);
    }
}

#[tokio::test]
async fn an_inference_goes_to_the_engine_and_its_error_comes_back() {
    let request = proto::ModelInferRequest { model_name: "digits".into(), ..Default::default() };
    let called = call(fixture::api(), "ModelInfer", request).await;
    assert_eq!(called.code, 8);
    assert!(called.headers.contains_key("grpc-status-details-bin"));
}

/// Answers with the request's first input as the output, and its timeout as the id.
struct Echo;

impl Infer for Echo {
    fn infer(
        &self,
        request: InferRequest,
        timeout: Option<Duration>,
        _: Option<Arc<Caller>>,
    ) -> Answer<'_> {
        let input = &request.inputs[0];
        let tensor =
            Tensor { datatype: input.datatype, dims: input.dims.clone(), data: input.data.clone() };
        let version = fixture::api().table.load().resolve(&request.model, &request.version);
        Box::pin(async move {
            let version = version?;
            Ok(InferResponse {
                route: None,
                model: version.model.clone(),
                version: version.label.clone(),
                id: format!("{timeout:?}").into(),
                outputs: SmallVec::from_iter([OutputTensor { index: 0, binary: true, tensor }]),
                regions: None,
                signature: version.signature.clone(),
            })
        })
    }
}

#[tokio::test]
async fn an_answer_comes_back_as_a_message() {
    let message = proto::ModelInferRequest {
        model_name: "digits".into(),
        inputs: vec![proto::model_infer_request::InferInputTensor {
            name: "image".into(),
            datatype: "FP32".into(),
            shape: vec![1, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64])],
        ..Default::default()
    };
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", "20m".parse().unwrap());
    let handlers = Handlers(Arc::new(Api { infer: Arc::new(Echo), ..fixture::api() }));
    let answer = handlers.model_infer(request).await.unwrap().into_inner();
    assert_eq!((&*answer.model_name, &*answer.model_version), ("digits", "2"));
    assert_eq!(answer.id, "Some(20ms)");
    assert_eq!((&*answer.outputs[0].name, &*answer.outputs[0].shape), ("label", &[1, 2][..]));
    assert_eq!(answer.raw_output_contents[0], [0, 0, 128, 63, 0, 0, 0, 64][..]);
}

#[test]
fn content_types_of_grpc() {
    for (text, is) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x=y", true),
        ("application/grpc-web", false),
        ("application/json", false),
        ("", false),
    ] {
        assert_eq!(is_grpc(text.as_bytes()), is, "{text}");
    }
}

#[test]
fn timeouts() {
    assert_eq!(timeout(b"1H").unwrap(), Duration::from_secs(3600));
    assert_eq!(timeout(b"99999999S").unwrap(), Duration::from_secs(99_999_999));
    assert_eq!(timeout(b"250m").unwrap(), Duration::from_millis(250));
    assert_eq!(timeout(b"5u").unwrap(), Duration::from_micros(5));
    for bad in ["", "m", "123456789m", "1x", "-1m", "1.5S", " 1S"] {
        assert!(timeout(bad.as_bytes()).is_err(), "{bad}");
    }
}
