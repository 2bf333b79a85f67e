//! The headers that the fast lane looks at, found in one pass: a look-up by name hashes it, and there would be one for each.

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
pub const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Of each header its first value. Which of them come more than once, and what all of their values are, `all` knows.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub all: &'a HeaderMap,
    pub content_type: Option<&'a HeaderValue>,
    pub content_encoding: Option<&'a HeaderValue>,
    pub accept_encoding: Option<&'a HeaderValue>,
    pub header_length: Option<&'a HeaderValue>,
    pub timeout: Option<&'a HeaderValue>,
    pub grpc_timeout: Option<&'a HeaderValue>,
    pub grpc_encoding: Option<&'a HeaderValue>,
}

impl<'a> Heads<'a> {
    pub fn of(all: &'a HeaderMap) -> Heads<'a> {
        let mut heads = Heads {
            all,
            content_type: None,
            content_encoding: None,
            accept_encoding: None,
            header_length: None,
            timeout: None,
            grpc_timeout: None,
            grpc_encoding: None,
        };
        for (name, value) in all {
            let place = match name {
                name if name == header::CONTENT_TYPE => &mut heads.content_type,
                name if name == header::CONTENT_ENCODING => &mut heads.content_encoding,
                name if name == header::ACCEPT_ENCODING => &mut heads.accept_encoding,
                name if name == HEADER_LENGTH => &mut heads.header_length,
                name if name == TIMEOUT => &mut heads.timeout,
                name if name == GRPC_TIMEOUT => &mut heads.grpc_timeout,
                name if name == GRPC_ENCODING => &mut heads.grpc_encoding,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_has_its_first_value() {
        let mut all = HeaderMap::new();
        let names = [
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::ACCEPT_ENCODING,
            HEADER_LENGTH,
            TIMEOUT,
            GRPC_TIMEOUT,
            GRPC_ENCODING,
        ];
        for name in &names {
            all.append(name, HeaderValue::from_str(name.as_str()).unwrap());
            all.append(header::HOST, HeaderValue::from_static("a"));
            all.append(name, HeaderValue::from_static("another"));
        }
        let heads = Heads::of(&all);
        let found = [
            heads.content_type,
            heads.content_encoding,
            heads.accept_encoding,
            heads.header_length,
            heads.timeout,
            heads.grpc_timeout,
            heads.grpc_encoding,
        ];
        for (name, value) in names.iter().zip(found) {
            assert_eq!(value.unwrap(), name.as_str());
        }
        assert!(Heads::of(&HeaderMap::new()).timeout.is_none());
    }
}
