//! The binary form over HTTP: a JSON header, then tensors as they are.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    check::{self, Shown},
    chunks::{Cuts, Inline, weave},
    json, json_write,
};
use crate::types::{
    datatype::Datatype,
    error::Error,
    request::{InferRequest, InferResponse, InputTensor},
    tensor::Dims,
    text::Text,
};

/// Decodes a request whose first `json_len` bytes are its JSON (`Inference-Header-Content-Length`), the rest tensors in
/// the order of the inputs, which share the body's bytes. With a length of 0 the whole body is the one input, without
/// name, datatype or shape (`raw_binary`).
///
/// # Errors
/// `InvalidArgument` for what is no such request.
pub fn decode_request(body: &Bytes, json_len: usize) -> Result<InferRequest, Error> {
    if json_len == 0 {
        return Ok(raw(body));
    }
    if json_len > body.len() {
        return Err(Error::invalid(format!(
            "Inference-Header-Content-Length is {json_len}, the body has {} bytes",
            body.len()
        )));
    }
    let (mut request, sizes) = json::read(&body.slice(..json_len))?;
    let mut at = json_len;
    for (input, size) in request.inputs.iter_mut().zip(&sizes) {
        let Some(size) = *size else { continue };
        if size > body.len() - at {
            return Err(Error::invalid(format!(
                "input '{}': 'binary_data_size' is {size}, the body has {} bytes left for it",
                Shown(&input.name),
                body.len() - at
            )));
        }
        input.data = body.slice(at..at + size);
        check::data(&input.name, input.datatype, &input.dims, &input.data)?;
        at += size;
    }
    if at < body.len() {
        return Err(Error::invalid(format!(
            "the inputs' 'binary_data_size' take {} bytes together, {} follow the JSON",
            at - json_len,
            body.len() - json_len
        )));
    }
    Ok(request)
}

fn raw(body: &Bytes) -> InferRequest {
    let input = InputTensor {
        name: Text::default(),
        datatype: Datatype::Bytes,
        dims: Dims::new(),
        data: body.clone(),
    };
    InferRequest {
        inputs: SmallVec::from_iter([input]),
        binary_output: true,
        raw_binary: true,
        ..InferRequest::default()
    }
}

/// An encoded answer.
#[derive(Debug)]
pub struct Encoded {
    /// `Inference-Header-Content-Length`, the bytes of JSON at the beginning; `None` where all is JSON.
    pub json_len: Option<usize>,
    /// To be written in order; large tensors share the bytes of the output.
    pub chunks: SmallVec<[Bytes; 4]>,
}

/// Encodes an answer, each output as it is to be: as binary data or in the JSON.
///
/// # Errors
/// `InvalidArgument` where a BYTES output that is to be JSON is not UTF-8.
pub fn encode_response(response: &InferResponse) -> Result<Encoded, Error> {
    let mut head = Vec::new();
    let mut cuts = Cuts::new();
    json_write::response(response, &mut head, true)?;
    let json_len = head.len();
    let mut inline = Inline::default();
    for output in response.outputs.iter().filter(|output| output.binary) {
        let data = &output.tensor.data;
        if inline.takes(data.len()) {
            head.extend_from_slice(data);
        } else {
            cuts.push((head.len(), data.clone()));
        }
    }
    let is_binary = response.outputs.iter().any(|output| output.binary);
    Ok(Encoded { json_len: is_binary.then_some(json_len), chunks: weave(Bytes::from(head), cuts) })
}
