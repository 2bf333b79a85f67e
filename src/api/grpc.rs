//! The gRPC service behind the fast lane: tonic's generated trait over the same answers as HTTP gives.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Response, header},
    routing::any,
};
use bytes::{Bytes, BytesMut};
use prost::Message;
use serde_json::Value;
use tonic::{
    Request, Response as Reply, Status, Streaming, codegen::BoxStream, metadata::MetadataMap,
};
use tower::{Service, ServiceExt};

use super::{
    answers,
    control::Verb,
    errors::{grpc_status, http_response, not_here},
    http, model_config,
    proto::{
        self,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
    regions, settings,
    state::Api,
};
use crate::{
    serving::{caller::Caller, regions::Status as Region},
    types::error::{Code, Error},
    wire,
};

/// The path that every method of the service begins with.
pub const PREFIX: &str = "/inference.GRPCInferenceService/";

/// The service over what the handlers share.
pub fn service(api: Arc<Api>) -> GrpcInferenceServiceServer<Handlers> {
    let limit = api.limits.max_bytes;
    GrpcInferenceServiceServer::from_arc(Arc::new(Handlers(api)))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX)
}

/// The routes of a service of tonic's, whose methods' paths begin with `prefix`.
pub fn routes<T, S>(prefix: &str, service: T) -> Router<S>
where
    T: Service<axum::extract::Request, Response = Response<tonic::body::Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send,
    S: Clone + Send + Sync + 'static,
{
    let methods = any(async move |request| call(service, request).await);
    Router::new().route(&format!("{prefix}{{*method}}"), methods)
}

/// Answers one call of a service, if it is one.
async fn call<T>(service: T, request: axum::extract::Request) -> Response<Body>
where
    T: Service<axum::extract::Request, Response = Response<tonic::body::Body>, Error = Infallible>,
{
    if request.method() != Method::POST {
        let mut response =
            http::refuse_method(request.method().clone(), request.uri().clone()).await;
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !spoken(request.headers()) {
        return http_response(&Error::new(
            Code::UnsupportedMedia,
            "expected the content type application/grpc on the path of a gRPC method",
        ));
    }
    match service.oneshot(request).await {
        Ok(response) => blamed(response).map(Body::new),
        Err(never) => match never {},
    }
}

/// Puts what tonic says of a broken call into the words of our table: too large is RESOURCE_EXHAUSTED, not OUT_OF_RANGE,
/// and a call without a whole message is the client's fault.
fn blamed<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let status = headers.get(Status::GRPC_STATUS).map(|value| value.as_bytes());
    let message = headers.get(Status::GRPC_MESSAGE).map_or(&[][..], |value| value.as_bytes());
    let cut = message.starts_with(b"Missing") || message.starts_with(b"Unexpected%20EOF");
    let code = match status {
        Some(b"11") => Code::TooLarge,
        Some(b"13") if cut => Code::InvalidArgument,
        _ => return response,
    };
    headers.insert(Status::GRPC_STATUS, u16::from(code.grpc()).into());
    response
}

/// Whether this content type is gRPC's (and not gRPC-Web's).
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Whether a request's head says that it is a gRPC call.
pub fn spoken(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes()))
}

/// The answer to a call of a method that is not there.
pub fn unknown_method(path: &str) -> Response<Body> {
    let shown: String = path.chars().take(128).flat_map(char::escape_debug).collect();
    let error = Error::new(Code::UnknownRoute, format!("there is no method {shown}"));
    grpc_status(&error).into_http()
}

/// What `grpc-timeout` gives: at most eight digits and a unit.
///
/// # Errors
/// `InvalidArgument` for what is none.
pub fn timeout(value: &[u8]) -> Result<Duration, Error> {
    let bad = || {
        let shown =
            String::from_utf8_lossy(value.get(..32).unwrap_or(value)).escape_debug().to_string();
        Error::invalid(format!(
            "grpc-timeout: expected 1 to 8 digits and one of H M S m u n, got '{shown}'"
        ))
    };
    let (unit, digits) = value.split_last().ok_or_else(bad)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let amount = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(amount * 3600)),
        b'M' => Ok(Duration::from_secs(amount * 60)),
        b'S' => Ok(Duration::from_secs(amount)),
        b'm' => Ok(Duration::from_millis(amount)),
        b'u' => Ok(Duration::from_micros(amount)),
        b'n' => Ok(Duration::from_nanos(amount)),
        _ => Err(bad()),
    }
}

fn timeout_of(metadata: &MetadataMap) -> Result<Option<Duration>, Error> {
    metadata.get("grpc-timeout").map(|value| timeout(value.as_bytes())).transpose()
}

/// The trait's methods over `Api`.
pub struct Handlers(Arc<Api>);

type Answered<T> = Result<Reply<T>, Status>;

/// Whether the caller may use this model; over HTTP the gate asks, since there the path names it.
fn may_use<T>(request: &Request<T>, model: &str) -> Result<(), Error> {
    let caller = request.extensions().get::<Arc<Caller>>().filter(|_| !model.is_empty());
    caller.map_or(Ok(()), |caller| caller.may_use(model))
}

/// The name of the caller, where callers are configured.
fn caller<T>(request: &Request<T>) -> Option<&Arc<str>> {
    request.extensions().get::<Arc<Caller>>().map(|caller| &caller.name)
}

fn answer<T>(result: Result<T, Error>) -> Answered<T> {
    result.map(Reply::new).map_err(|error| grpc_status(&error))
}

fn refuse<T>(what: &str) -> Answered<T> {
    answer(Err(not_here(what)))
}

impl Handlers {
    /// Inference by way of the generated messages: slower than the fast lane, and what it is held against.
    async fn infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<proto::ModelInferResponse, Error> {
        let timeout = timeout_of(request.metadata())?;
        let caller = request.extensions().get::<Arc<Caller>>().cloned();
        let message = Bytes::from(request.into_inner().encode_to_vec());
        let request = wire::grpc::decode_request(&message)?;
        let response = self.0.infer.infer(request, timeout, caller).await?;
        let mut head = BytesMut::new();
        let chunks = wire::grpc::encode_response(&response, &mut head)?;
        let frame = chunks.concat();
        let message = frame.get(5..).unwrap_or_default();
        proto::ModelInferResponse::decode(message)
            .map_err(|error| Error::internal(format!("the answer does not decode: {error}")))
    }

    /// Does a load or unload call, and says which model it meant.
    async fn control<T>(
        &self,
        request: &Request<T>,
        verb: Verb,
        named: (&str, &str),
        parameters: &HashMap<String, proto::ModelRepositoryParameter>,
    ) -> Result<String, Error> {
        let (repository, model) = named;
        let model = answers::control_target(repository, model)?;
        may_use(request, model)?;
        self.0.may_control(model)?;
        let parameters = parameters.iter().map(|(name, value)| (name.clone(), json(value)));
        self.0.control(verb, model, &parameters.collect()).await?;
        Ok(model.to_owned())
    }
}

/// A parameter as HTTP would have it. Bytes have no such form: nothing that is honoured is bytes.
fn json(parameter: &proto::ModelRepositoryParameter) -> Value {
    use proto::model_repository_parameter::ParameterChoice;
    match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Value::from(*value),
        Some(ParameterChoice::Int64Param(value)) => Value::from(*value),
        Some(ParameterChoice::StringParam(value)) => Value::from(value.as_str()),
        Some(ParameterChoice::BytesParam(_)) | None => Value::Null,
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Handlers {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Answered<proto::ServerLiveResponse> {
        answer(Ok(proto::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Answered<proto::ServerReadyResponse> {
        answer(Ok(proto::ServerReadyResponse { ready: self.0.ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Answered<proto::ModelReadyResponse> {
        let asked = request.into_inner();
        match self.0.table.load().resolve(&asked.name, &asked.version) {
            Ok(_) => answer(Ok(proto::ModelReadyResponse { ready: true })),
            Err(error) if error.code == Code::Unavailable => {
                answer(Ok(proto::ModelReadyResponse { ready: false }))
            }
            Err(error) => answer(Err(error)),
        }
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Answered<proto::ServerMetadataResponse> {
        answer(Ok(answers::server_metadata(self.0.regions.allowed())))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Answered<proto::ModelMetadataResponse> {
        let asked = request.get_ref();
        let metadata = may_use(&request, &asked.name).and_then(|()| {
            answers::model_metadata(&self.0.table.load(), &asked.name, &asked.version)
        });
        answer(metadata)
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Answered<proto::ModelInferResponse> {
        answer(self.infer(request).await)
    }

    type ModelStreamInferStream = BoxStream<proto::ModelStreamInferResponse>;

    async fn model_stream_infer(
        &self,
        _: Request<Streaming<proto::ModelInferRequest>>,
    ) -> Answered<Self::ModelStreamInferStream> {
        // The fast lane takes these before they come here.
        refuse("ModelStreamInfer on this port")
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Answered<proto::ModelConfigResponse> {
        let asked = request.get_ref();
        let config = may_use(&request, &asked.name).and_then(|()| {
            answers::model_config(&self.0.table.load(), &asked.name, &asked.version)
        });
        answer(config.map(|config| proto::ModelConfigResponse {
            config: Some(model_config::message(&config)),
        }))
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Answered<proto::ModelStatisticsResponse> {
        let asked = request.get_ref();
        let counted = may_use(&request, &asked.name)
            .and_then(|()| answers::statistics(&self.0.table.load(), &asked.name, &asked.version));
        answer(counted)
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Answered<proto::RepositoryIndexResponse> {
        let asked = request.into_inner();
        answer(
            answers::only_repository(&asked.repository_name)
                .map(|()| answers::repository_index(&self.0.table.load(), asked.ready)),
        )
    }

    async fn repository_model_load(
        &self,
        request: Request<proto::RepositoryModelLoadRequest>,
    ) -> Answered<proto::RepositoryModelLoadResponse> {
        let asked = request.get_ref();
        let named = (&*asked.repository_name, &*asked.model_name);
        let done = self.control(&request, Verb::Load, named, &asked.parameters).await;
        answer(
            done.map(|model_name| proto::RepositoryModelLoadResponse {
                model_name,
                is_loaded: true,
            }),
        )
    }

    async fn repository_model_unload(
        &self,
        request: Request<proto::RepositoryModelUnloadRequest>,
    ) -> Answered<proto::RepositoryModelUnloadResponse> {
        let asked = request.get_ref();
        let named = (&*asked.repository_name, &*asked.model_name);
        let done = self.control(&request, Verb::Unload, named, &asked.parameters).await;
        answer(done.map(|model_name| proto::RepositoryModelUnloadResponse {
            model_name,
            is_unloaded: true,
        }))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<proto::SystemSharedMemoryStatusRequest>,
    ) -> Answered<proto::SystemSharedMemoryStatusResponse> {
        let known = self.0.regions.status(caller(&request), &request.get_ref().name);
        answer(known.map(regions::message))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<proto::SystemSharedMemoryRegisterRequest>,
    ) -> Answered<proto::SystemSharedMemoryRegisterResponse> {
        let proto::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } =
            request.get_ref().clone();
        let region = Region { name, key, offset, byte_size };
        let registered = self.0.regions.register(caller(&request), region);
        answer(registered.map(|()| proto::SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<proto::SystemSharedMemoryUnregisterRequest>,
    ) -> Answered<proto::SystemSharedMemoryUnregisterResponse> {
        self.0.regions.unregister(caller(&request), &request.get_ref().name);
        answer(Ok(proto::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<proto::CudaSharedMemoryStatusRequest>,
    ) -> Answered<proto::CudaSharedMemoryStatusResponse> {
        let known = regions::no_region(&request.get_ref().name);
        answer(known.map(|()| proto::CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<proto::CudaSharedMemoryRegisterRequest>,
    ) -> Answered<proto::CudaSharedMemoryRegisterResponse> {
        refuse("CUDA shared memory")
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<proto::CudaSharedMemoryUnregisterRequest>,
    ) -> Answered<proto::CudaSharedMemoryUnregisterResponse> {
        answer(Ok(proto::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(
        &self,
        request: Request<proto::TraceSettingRequest>,
    ) -> Answered<proto::TraceSettingResponse> {
        let proto::TraceSettingRequest { settings, model_name } = request.into_inner();
        let asked = settings::trace_asked(settings);
        answer(self.0.trace_settings(&model_name, &asked).map(settings::trace_message))
    }

    async fn log_settings(
        &self,
        request: Request<proto::LogSettingsRequest>,
    ) -> Answered<proto::LogSettingsResponse> {
        let asked = settings::log_asked(request.into_inner().settings);
        answer(self.0.log_settings(&asked).map(settings::log_message))
    }
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
