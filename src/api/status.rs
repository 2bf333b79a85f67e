//! gRPC's status: code, message and, for what may be tried again, how long to wait.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue};
use prost::Message;

use crate::types::error::Error;

/// `google.rpc.Status`, which carries details beside code and message.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct AnyMessage {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo` with its `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct Delay {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// The details of an error as the bytes of a `google.rpc.Status`; `None` where there are none.
pub fn details(error: &Error) -> Option<Vec<u8>> {
    let wait = error.retry_after?;
    let delay = Delay {
        seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        nanos: wait.subsec_nanos() as i32,
    };
    let info = RetryInfo { retry_delay: Some(delay) };
    let any = AnyMessage {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
        value: info.encode_to_vec(),
    };
    let status = RpcStatus {
        code: i32::from(error.code.grpc()),
        message: error.message.to_string(),
        details: vec![any],
    };
    Some(status.encode_to_vec())
}

/// Writes the status of an error into the headers (or trailers) that end a call.
pub fn write(error: &Error, headers: &mut HeaderMap) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(error.code.grpc())));
    if let Ok(message) = HeaderValue::try_from(percent(&error.message)) {
        headers.insert("grpc-message", message);
    }
    if let Some(details) = details(error)
        && let Ok(value) = HeaderValue::try_from(STANDARD_NO_PAD.encode(details))
    {
        headers.insert("grpc-status-details-bin", value);
    }
}

/// gRPC's percent-encoding of a message: printable ASCII but for `%` stays.
fn percent(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes().take(4096) {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn messages_survive_the_header() {
        assert_eq!(percent("100% of ü\n"), "100%25 of %C3%BC%0A");
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let mut headers = HeaderMap::new();
        write(&Error::overloaded("full", Duration::from_millis(1500)), &mut headers);
        assert_eq!(headers["grpc-status"], "8");
        let bytes = STANDARD_NO_PAD.decode(&headers["grpc-status-details-bin"]).expect("base64");
        let status = RpcStatus::decode(&*bytes).expect("a status");
        let info = RetryInfo::decode(&*status.details[0].value).expect("RetryInfo");
        assert_eq!(info.retry_delay, Some(Delay { seconds: 1, nanos: 500_000_000 }));
    }
}
