//! The one error of the request path, and the one table that maps it to both protocols.

use std::{borrow::Cow, fmt, time::Duration};

/// Why a request failed. design: the table "Codes" of ARCHITECTURE.md; a snapshot test prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Malformed, or not what the model's signature asks for.
    InvalidArgument,
    Unauthenticated,
    PermissionDenied,
    /// No such model or version.
    NotFound,
    /// No such path (HTTP) or method (gRPC).
    UnknownRoute,
    WrongMethod,
    TooLarge,
    UnsupportedMedia,
    /// A content-encoding or grpc-encoding that is not here: the answer lists those that are.
    UnsupportedEncoding,
    /// The client left.
    Cancelled,
    /// Queue full, standing delay, quota, memory budget.
    Overloaded,
    DeadlineExceeded,
    /// The version is loading, draining, unloaded or failed.
    Unavailable,
    /// The runtime failed, or we did.
    Internal,
    /// An extension that is not here.
    Unimplemented,
}

/// Whose fault a failure is; rollout guardrails count only `Server`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Client,
    Server,
    Load,
}

impl Code {
    pub const ALL: [Code; 15] = [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::NotFound,
        Code::UnknownRoute,
        Code::WrongMethod,
        Code::TooLarge,
        Code::UnsupportedMedia,
        Code::UnsupportedEncoding,
        Code::Cancelled,
        Code::Overloaded,
        Code::DeadlineExceeded,
        Code::Unavailable,
        Code::Internal,
        Code::Unimplemented,
    ];

    /// (HTTP status, gRPC code, metric label, blame): the table itself.
    const fn row(self) -> (u16, u8, &'static str, Blame) {
        match self {
            Code::InvalidArgument => (400, 3, "invalid_argument", Blame::Client),
            Code::Unauthenticated => (401, 16, "unauthenticated", Blame::Client),
            Code::PermissionDenied => (403, 7, "permission_denied", Blame::Client),
            Code::NotFound => (404, 5, "not_found", Blame::Client),
            Code::UnknownRoute => (404, 12, "unknown_route", Blame::Client),
            Code::WrongMethod => (405, 12, "wrong_method", Blame::Client),
            Code::TooLarge => (413, 8, "too_large", Blame::Client),
            Code::UnsupportedMedia => (415, 12, "unsupported_media", Blame::Client),
            Code::UnsupportedEncoding => (415, 12, "unsupported_encoding", Blame::Client),
            Code::Cancelled => (499, 1, "cancelled", Blame::Client),
            Code::Overloaded => (429, 8, "overloaded", Blame::Load),
            Code::DeadlineExceeded => (504, 4, "deadline_exceeded", Blame::Load),
            Code::Unavailable => (503, 14, "unavailable", Blame::Server),
            Code::Internal => (500, 13, "internal", Blame::Server),
            Code::Unimplemented => (501, 12, "unimplemented", Blame::Client),
        }
    }

    pub const fn http(self) -> u16 {
        self.row().0
    }

    /// The number of the gRPC status code.
    pub const fn grpc(self) -> u8 {
        self.row().1
    }

    /// The value of the metrics' `code` label.
    pub const fn label(self) -> &'static str {
        self.row().2
    }

    pub const fn blame(self) -> Blame {
        self.row().3
    }

    /// When a caller meets it, in words for the API's document.
    pub const fn condition(self) -> &'static str {
        match self {
            Code::InvalidArgument => "Malformed, or not what the model's signature asks for",
            Code::Unauthenticated => "Not authenticated",
            Code::PermissionDenied => "Not allowed",
            Code::NotFound => "Unknown model or version",
            Code::UnknownRoute => "Unknown path",
            Code::WrongMethod => "Not a method of this path",
            Code::TooLarge => "Too large, as sent or decompressed",
            Code::UnsupportedMedia => "Unknown content type or encoding",
            Code::UnsupportedEncoding => "Unknown encoding; the answer lists those that are known",
            Code::Cancelled => "The client left",
            Code::Overloaded => "A queue, a quota or the memory for requests is full",
            Code::DeadlineExceeded => "The deadline passed, or cannot be met",
            Code::Unavailable => "The version is loading, draining, unloaded or failed",
            Code::Internal => "The runtime failed, or the server did",
            Code::Unimplemented => "An extension that is not here",
        }
    }
}

/// A failure on the request path: what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// Names the input, what was expected and what came. Lower case, no full stop, no path of the machine.
    pub message: Cow<'static, str>,
    /// For `Overloaded`: when another try makes sense.
    pub retry_after: Option<Duration>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Error {
        Error { code, message: message.into(), retry_after: None }
    }

    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Code::InvalidArgument, message)
    }

    pub fn internal(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Code::Internal, message)
    }

    pub fn overloaded(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Error {
        Error { retry_after: Some(retry_after), ..Error::new(Code::Overloaded, message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
