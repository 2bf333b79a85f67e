//! An `Error` as each protocol says it: a gRPC status with its details, an HTTP response with its JSON.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use bytes::Bytes;
use tonic::{Status, metadata::MetadataValue};

use super::{encoding, schema::ErrorBody, status};
use crate::types::error::{Code, Error};

/// The error as tonic sends it.
pub fn grpc_status(error: &Error) -> Status {
    let code = tonic::Code::from_i32(i32::from(error.code.grpc()));
    let mut status = match status::details(error) {
        Some(details) => Status::with_details(code, error.message.as_ref(), details.into()),
        None => Status::new(code, error.message.as_ref()),
    };
    if error.code == Code::UnsupportedEncoding {
        let accepted = MetadataValue::from_static(encoding::GRPC_ACCEPTED);
        status.metadata_mut().insert("grpc-accept-encoding", accepted);
    }
    status
}

/// `Retry-After` in whole seconds, rounded up, at least one.
pub fn retry_after_seconds(delay: Duration) -> u64 {
    (delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).max(1)
}

/// The JSON body of an error on HTTP: `{"error": "..."}`.
pub fn http_body(error: &Error) -> Bytes {
    // Text always becomes JSON.
    serde_json::to_vec(&ErrorBody { error: &error.message }).unwrap_or_default().into()
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
    if error.code == Code::UnsupportedEncoding {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(encoding::ACCEPTED));
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
    use prost::Message;

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
        let sent = grpc_status(&error);
        let details = status::RpcStatus::decode(sent.details()).unwrap();
        assert_eq!((details.code, details.message.as_str()), (8, "full"));
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
