//! An `Error` as each protocol says it: a gRPC status with its details, an HTTP response with its JSON.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use crate::types::error::{Code, Error};

/// google.rpc.Status, which travels in `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// google.protobuf.Any.
#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// google.rpc.RetryInfo.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// google.protobuf.Duration.
#[derive(Clone, Copy, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The bytes of `grpc-status-details-bin` (not yet base64), for an error that says when to try again.
pub fn status_details(error: &Error) -> Option<Bytes> {
    let delay = error.retry_after?;
    let retry = RetryInfo {
        retry_delay: Some(ProtoDuration {
            seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(delay.subsec_nanos()).unwrap_or(0),
        }),
    };
    let status = RpcStatus {
        code: i32::from(error.code.grpc()),
        message: error.message.to_string(),
        details: vec![AnyMessage {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: retry.encode_to_vec().into(),
        }],
    };
    Some(status.encode_to_vec().into())
}

/// The error as tonic sends it.
pub fn grpc_status(error: &Error) -> Status {
    let code = tonic::Code::from_i32(i32::from(error.code.grpc()));
    match status_details(error) {
        Some(details) => Status::with_details(code, error.message.as_ref(), details),
        None => Status::new(code, error.message.as_ref()),
    }
}

/// `Retry-After` in whole seconds, rounded up, at least one.
pub fn retry_after_seconds(delay: Duration) -> u64 {
    (delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).max(1)
}

/// The JSON body of an error on HTTP: `{"error": "..."}`.
pub fn http_body(error: &Error) -> Bytes {
    serde_json::json!({ "error": error.message }).to_string().into()
}

/// The error as an HTTP response.
pub fn http_response(error: &Error) -> Response<Body> {
    let mut response = Response::new(Body::from(http_body(error)));
    *response.status_mut() =
        StatusCode::from_u16(error.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(delay) = error.retry_after {
        headers.insert(header::RETRY_AFTER, retry_after_seconds(delay).into());
    }
    response
}

/// What a handler on HTTP fails with.
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        http_response(&self.0)
    }
}

/// The error of an extension that this server does not have.
pub fn not_here(what: &str) -> Error {
    Error::new(Code::Unimplemented, format!("{what} is not implemented by this server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_known_to_both_protocols() {
        for code in Code::ALL {
            let error = Error::new(code, "why");
            assert_eq!(http_response(&error).status().as_u16(), code.http());
            let status = grpc_status(&error);
            assert_eq!(status.code() as i32, i32::from(code.grpc()));
            assert_eq!(status.message(), "why");
            assert!(status.details().is_empty());
        }
    }

    #[test]
    fn an_overload_says_when_to_come_back() {
        let error = Error::overloaded("full", Duration::from_millis(1500));
        assert_eq!(http_response(&error).headers()["retry-after"], "2");
        let status = RpcStatus::decode(grpc_status(&error).details()).unwrap();
        assert_eq!((status.code, status.message.as_str()), (8, "full"));
        assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let retry = RetryInfo::decode(status.details[0].value.clone()).unwrap();
        let delay = ProtoDuration { seconds: 1, nanos: 500_000_000 };
        assert_eq!(retry.retry_delay, Some(delay));
    }

    #[test]
    fn a_wait_below_a_second_is_one_second() {
        for (delay, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(retry_after_seconds(Duration::from_millis(delay)), seconds);
        }
    }

    #[test]
    fn the_body_is_json_whatever_the_message() {
        let body = http_body(&Error::invalid("a \"quote\"\nand \u{1}"));
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["error"], "a \"quote\"\nand \u{1}");
    }
}
