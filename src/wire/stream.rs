//! ModelStreamInfer's messages: a response inside of its envelope, or an error that says which request it is about.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

use super::{
    grpc::{self, FRAME, delimited_len, put_len, put_string, string_len},
    protobuf::{Reader, Wire},
};
use crate::types::{error::Error, request::InferResponse, text::Text};

/// The parameter `triton_final_response: true`, as the response's field 4. Triton's servers put it on every response of a
/// stream, asked or not; of ours each is the last one of its request.
pub const FINAL: &[u8] = b"\x22\x1b\x0a\x15triton_final_response\x12\x02\x08\x01";

/// What a request says of itself, so that its client knows which one an error is about.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub model: Text,
    pub version: Text,
    pub id: Text,
}

/// Reads as much of that as can be read, whatever the rest of the message is.
pub fn asked(message: &Bytes) -> Asked {
    let mut asked = Asked::default();
    let mut reader = Reader::new(message);
    while let Ok(Some((field, wire))) = reader.field() {
        let text = match (field, wire) {
            (1, Wire::Len) => &mut asked.model,
            (2, Wire::Len) => &mut asked.version,
            (3, Wire::Len) => &mut asked.id,
            _ => match reader.skip(wire) {
                Ok(()) => continue,
                Err(_) => break,
            },
        };
        let Ok(range) = reader.range() else { break };
        *text = Text::from_utf8(message.slice(range)).unwrap_or_default();
    }
    asked
}

/// Encodes a ModelStreamInferResponse with its frame header, as `grpc::encode_response` does a response of its own.
///
/// # Errors
/// `TooLarge` for an answer that no frame can hold (4 GiB).
pub fn encode_response(
    response: &InferResponse,
    head: &mut BytesMut,
) -> Result<SmallVec<[Bytes; 4]>, Error> {
    grpc::encode(response, head, grpc::Envelope::Stream)
}

/// Encodes the ModelStreamInferResponse that says why a request failed.
///
/// # Errors
/// None in practice: a message that no frame can hold.
pub fn encode_error(error: &Error, asked: &Asked) -> Result<SmallVec<[Bytes; 4]>, Error> {
    let Asked { model, version, id } = asked;
    let inner = string_len(model) + string_len(version) + string_len(id) + FINAL.len();
    let len = string_len(&error.message) + delimited_len(inner);
    let frame = grpc::frame_len(len)?;
    let mut out = BytesMut::with_capacity(FRAME + len);
    out.put_u8(0);
    out.put_u32(frame);
    put_string(&mut out, 1, &error.message);
    put_len(&mut out, 2, inner);
    put_string(&mut out, 1, model);
    put_string(&mut out, 2, version);
    put_string(&mut out, 3, id);
    out.put_slice(FINAL);
    Ok(smallvec![out.freeze()])
}
