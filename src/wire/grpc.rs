//! gRPC's ModelInferRequest and ModelInferResponse, by hand: names and tensors are slices of the message.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    check::{self, MAX_PARAMETERS, MAX_RANK, MAX_TENSORS, Shown},
    chunks::{Cuts, Inline, weave},
    grpc_contents::Contents,
    protobuf::{Reader, Wire, malformed, varint_len, wrong_wire},
    region::{self, BYTE_SIZE, OFFSET, Placing, REGION},
    stream::FINAL,
};
use crate::types::{
    error::{Code, Error},
    request::{
        InferRequest, InferResponse, InputTensor, OutputTensor, Parameter, Region, RequestedOutput,
    },
    tensor::Dims,
    text::Text,
    traffic::ROUTE,
};

/// Decodes a ModelInferRequest. Every input's bytes fit its shape and datatype; nothing is held against a signature.
///
/// # Errors
/// `InvalidArgument` for what is no such message.
pub fn decode_request(message: &Bytes) -> Result<InferRequest, Error> {
    let mut request =
        InferRequest { binary_output: true, protocol: "grpc", ..InferRequest::default() };
    let mut raw: SmallVec<[Range<usize>; 4]> = SmallVec::new();
    let mut typed = None;
    let mut reader = Reader::new(message);
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Len) => request.model = text(message, reader.range()?, "model_name")?,
            (2, Wire::Len) => request.version = text(message, reader.range()?, "model_version")?,
            (3, Wire::Len) => request.id = text(message, reader.range()?, "id")?,
            (4, Wire::Len) => {
                let (key, value) = parameter(message, reader.range()?)?;
                check::reserved(&key, &value, &[check::EMPTY_FINAL_RESPONSE])?;
                put(&mut request.parameters, key, value)?;
            }
            (5, Wire::Len) => {
                let index = request.inputs.len();
                check::room(index, MAX_TENSORS, "inputs")?;
                let (input, is_typed, region) = input(message, reader.range()?, index)?;
                if is_typed {
                    typed = Some(index);
                }
                if let Some(region) = region {
                    request.regions.get_or_insert_default().inputs.push((index, region));
                }
                request.inputs.push(input);
            }
            (6, Wire::Len) => {
                let index = request.outputs.len();
                check::room(index, MAX_TENSORS, "outputs")?;
                let (output, region) = requested_output(message, reader.range()?, index)?;
                if let Some(region) = region {
                    let named = (output.name.clone(), region);
                    request.regions.get_or_insert_default().outputs.push(named);
                }
                request.outputs.push(output);
            }
            (7, Wire::Len) => {
                check::room(raw.len(), MAX_TENSORS, "raw_input_contents")?;
                raw.push(reader.range()?);
            }
            (1..=7, _) => return Err(wrong_wire(reader.at(), "ModelInferRequest", field, wire)),
            _ => reader.skip(wire)?,
        }
    }
    attach(message, &mut request, &raw, typed)?;
    Ok(request)
}

/// Gives the inputs their raw contents and checks the bytes of all. `typed`: an input that has typed contents.
fn attach(
    message: &Bytes,
    request: &mut InferRequest,
    raw: &[Range<usize>],
    typed: Option<usize>,
) -> Result<(), Error> {
    if !raw.is_empty() {
        if let Some(input) = typed.and_then(|index| request.inputs.get(index)) {
            return Err(Error::invalid(format!(
                "input '{}' has typed contents beside raw_input_contents, expected one of the two",
                Shown(&input.name)
            )));
        }
        let shared = request.regions.as_ref().map_or(0, |regions| regions.inputs.len());
        let own = request.inputs.len().saturating_sub(shared);
        if raw.len() != own {
            return Err(Error::invalid(format!(
                "raw_input_contents has {} entries, expected one for each of the {own} inputs",
                raw.len(),
            )));
        }
    }
    let mut raw = raw.iter();
    let mut shared = request.regions.iter().flat_map(|regions| &regions.inputs).peekable();
    for (index, input) in request.inputs.iter_mut().enumerate() {
        if shared.next_if(|(at, _)| *at == index).is_some() {
            continue;
        }
        match raw.next() {
            Some(range) => input.data = message.slice(range.clone()),
            None if input.data.is_empty() && check::elements(&input.name, &input.dims)? > 0 => {
                return Err(Error::invalid(format!(
                    "input '{}' has no data: expected raw_input_contents or typed contents",
                    Shown(&input.name)
                )));
            }
            None => {}
        }
        check::data(&input.name, input.datatype, &input.dims, &input.data)?;
    }
    Ok(())
}

fn text(message: &Bytes, range: Range<usize>, what: &str) -> Result<Text, Error> {
    let at = range.start;
    Text::from_utf8(message.slice(range))
        .ok_or_else(|| malformed(at, &format!("{what} is not UTF-8")))
}

/// An input without its raw contents, whether it has typed ones, and where it lies in shared memory.
fn input(
    message: &Bytes,
    range: Range<usize>,
    index: usize,
) -> Result<(InputTensor, bool, Option<Region>), Error> {
    let mut reader = Reader::part(message, range.clone());
    let (mut name, mut datatype) = (Text::default(), Text::default());
    let mut dims = Dims::new();
    let mut has_contents = false;
    let mut placing = Placing::default();
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Len) => name = text(message, reader.range()?, "an input's name")?,
            (2, Wire::Len) => datatype = text(message, reader.range()?, "an input's datatype")?,
            (3, Wire::Len) => {
                let mut packed = Reader::part(message, reader.range()?);
                while !packed.done() {
                    dimension(&mut dims, &mut packed)?;
                }
            }
            (3, Wire::Varint) => dimension(&mut dims, &mut reader)?,
            (4, Wire::Len) => {
                let (key, value) = parameter(message, reader.range()?)?;
                if Placing::knows(&key) {
                    placing.take(&key, value, format_args!("inputs[{index}]"))?;
                }
            }
            (5, Wire::Len) => {
                reader.range()?;
                has_contents = true;
            }
            (1..=5, _) => return Err(wrong_wire(reader.at(), "InferInputTensor", field, wire)),
            _ => reader.skip(wire)?,
        }
    }
    check::named(&name, format_args!("inputs[{index}]"))?;
    if dims.len() > MAX_RANK {
        return Err(Error::invalid(format!(
            "input '{}' has more dimensions than the {MAX_RANK} that are read",
            Shown(&name)
        )));
    }
    if datatype.is_empty() {
        return Err(Error::invalid(format!("input '{}' has no 'datatype'", Shown(&name))));
    }
    let datatype = check::datatype(&name, &datatype)?;
    let data = if has_contents {
        Contents { message, input: range, name: &name, datatype, dims: &dims }.read()?
    } else {
        None
    };
    let typed = data.is_some();
    let region = placing.finish(format_args!("inputs[{index}]"))?;
    if typed && region.is_some() {
        return Err(region::both(&name, "typed contents"));
    }
    Ok((InputTensor { name, datatype, dims, data: data.unwrap_or_default() }, typed, region))
}

/// Keeps one dimension more than there may be: the error waits for the input's name, which may come later.
fn dimension(dims: &mut Dims, reader: &mut Reader<'_>) -> Result<(), Error> {
    let dim = reader.varint()? as i64;
    if dims.len() <= MAX_RANK {
        dims.push(dim);
    }
    Ok(())
}

fn requested_output(
    message: &Bytes,
    range: Range<usize>,
    index: usize,
) -> Result<(RequestedOutput, Option<Region>), Error> {
    let mut reader = Reader::part(message, range);
    let mut output = RequestedOutput::default();
    let mut placing = Placing::default();
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Len) => output.name = text(message, reader.range()?, "an output's name")?,
            (2, Wire::Len) => {
                let (key, value) = parameter(message, reader.range()?)?;
                match &*key {
                    key if Placing::knows(key) => {
                        placing.take(key, value, format_args!("outputs[{index}]"))?;
                    }
                    "classification" => output.classification = classification(&value, index)?,
                    _ => {}
                }
            }
            (1..=2, _) => {
                return Err(wrong_wire(reader.at(), "InferRequestedOutputTensor", field, wire));
            }
            _ => reader.skip(wire)?,
        }
    }
    check::named(&output.name, format_args!("outputs[{index}]"))?;
    let region = placing.finish(format_args!("outputs[{index}]"))?;
    if region.is_some() && output.classification > 0 {
        return Err(region::classes(format_args!("outputs[{index}]")));
    }
    Ok((output, region))
}

fn classification(value: &Parameter, index: usize) -> Result<u32, Error> {
    let count = match value {
        Parameter::Int64(n) => u32::try_from(*n).ok(),
        Parameter::Uint64(n) => u32::try_from(*n).ok(),
        _ => None,
    };
    count.ok_or_else(|| {
        Error::invalid(format!(
            "outputs[{index}]: the parameter 'classification' is {value:?}, expected a count of classes"
        ))
    })
}

/// An entry of a `map<string, InferParameter>`.
fn parameter(message: &Bytes, range: Range<usize>) -> Result<(Text, Parameter), Error> {
    let mut reader = Reader::part(message, range);
    let mut key = Text::default();
    let mut value = None;
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Len) => key = text(message, reader.range()?, "a parameter's name")?,
            (2, Wire::Len) => value = parameter_value(message, reader.range()?)?.or(value),
            (1..=2, _) => {
                return Err(wrong_wire(reader.at(), "a parameters entry", field, wire));
            }
            _ => reader.skip(wire)?,
        }
    }
    check::key(&key)?;
    match value {
        Some(value) => Ok((key, value)),
        None => Err(Error::invalid(format!("the parameter '{}' has no value", Shown(&key)))),
    }
}

/// The value of an InferParameter: of a oneof written more than once, the last.
fn parameter_value(message: &Bytes, range: Range<usize>) -> Result<Option<Parameter>, Error> {
    let mut reader = Reader::part(message, range);
    let mut value = None;
    while let Some((field, wire)) = reader.field()? {
        value = Some(match (field, wire) {
            (1, Wire::Varint) => Parameter::Bool(reader.varint()? != 0),
            (2, Wire::Varint) => Parameter::Int64(reader.varint()? as i64),
            (3, Wire::Len) => Parameter::String(text(message, reader.range()?, "string_param")?),
            (4, Wire::Fixed64) => {
                let range = reader.fixed(8)?;
                let bytes = message.get(range).and_then(|b| b.first_chunk()).copied();
                Parameter::Double(f64::from_le_bytes(bytes.unwrap_or_default()))
            }
            (5, Wire::Varint) => Parameter::Uint64(reader.varint()?),
            (1..=5, _) => return Err(wrong_wire(reader.at(), "InferParameter", field, wire)),
            _ => {
                reader.skip(wire)?;
                continue;
            }
        });
    }
    Ok(value)
}

/// Adds to a map: of entries with one key, the last stays. Few and short (the limits), so comparing them all is cheap.
fn put(map: &mut Vec<(Text, Parameter)>, key: Text, value: Parameter) -> Result<(), Error> {
    if let Some(entry) = map.iter_mut().find(|entry| entry.0 == key) {
        entry.1 = value;
        return Ok(());
    }
    check::room(map.len(), MAX_PARAMETERS, "parameters")?;
    map.push((key, value));
    Ok(())
}

/// Bytes of gRPC's frame header: a flag for compression and the message's length.
pub(super) const FRAME: usize = 5;

/// Encodes a ModelInferResponse with its frame header, as chunks to write in order: outputs raw, small ones copied into
/// one chunk with the head, each large one a chunk of its own that shares the tensor's bytes. `head` is scratch space
/// that may be used again for the next answer.
///
/// # Errors
/// `TooLarge` for an answer that no frame can hold (4 GiB).
pub fn encode_response(
    response: &InferResponse,
    head: &mut BytesMut,
) -> Result<SmallVec<[Bytes; 4]>, Error> {
    encode(response, head, Envelope::None)
}

/// What a response is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    None,
    /// A ModelStreamInferResponse, with the parameter that says that it is the last.
    Stream,
}

/// See `encode_response`.
pub(super) fn encode(
    response: &InferResponse,
    head: &mut BytesMut,
    envelope: Envelope,
) -> Result<SmallVec<[Bytes; 4]>, Error> {
    let streamed = envelope == Envelope::Stream;
    let mut len =
        string_len(&response.model) + string_len(&response.version) + string_len(&response.id);
    let mut apart = 0;
    let mut inline = Inline::default();
    for (index, output) in response.outputs.iter().enumerate() {
        let data = output.tensor.data.len();
        len += delimited_len(output_len(response, index, output)) + delimited_len(data);
        if !inline.takes(data) {
            apart += data;
        }
    }
    // A unary answer says it in its metadata, which a stream has once for all of its answers.
    let route = response.route.as_deref().filter(|_| streamed);
    let route_len = route.map_or(0, |route| text_parameter_len(ROUTE, route));
    let inner = len + route_len + if streamed { FINAL.len() } else { 0 };
    let len = if streamed { delimited_len(inner) } else { inner };
    let frame = frame_len(len)?;
    head.clear();
    head.reserve(FRAME + len - apart);
    head.put_u8(0);
    head.put_u32(frame);
    if streamed {
        put_len(head, 2, inner);
    }
    put_string(head, 1, &response.model);
    put_string(head, 2, &response.version);
    put_string(head, 3, &response.id);
    if streamed {
        head.put_slice(FINAL);
    }
    if let Some(route) = route {
        put_text_parameter(head, ROUTE, route);
    }
    for (index, output) in response.outputs.iter().enumerate() {
        put_output(head, response, index, output);
    }
    let mut cuts = Cuts::new();
    let mut inline = Inline::default();
    for output in &response.outputs {
        let data = &output.tensor.data;
        put_len(head, 6, data.len());
        if inline.takes(data.len()) {
            head.put_slice(data);
        } else {
            cuts.push((head.len(), data.clone()));
        }
    }
    debug_assert_eq!(head.len(), FRAME + len - apart, "the size computed is the size written");
    Ok(weave(head.split().freeze(), cuts))
}

/// The length of a message as its frame says it.
pub(super) fn frame_len(len: usize) -> Result<u32, Error> {
    u32::try_from(len).map_err(|_| {
        Error::new(
            Code::TooLarge,
            format!("the answer takes {len} bytes, a gRPC message holds at most {}", u32::MAX),
        )
    })
}

/// Bytes of a length-delimited field of `len` bytes whose number is below 16.
pub(super) fn delimited_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Bytes of a string field; an empty one is left out, as proto3 has it.
pub(super) fn string_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { delimited_len(text.len()) }
}

fn shape_len(output: &OutputTensor) -> usize {
    output.tensor.dims.iter().map(|d| varint_len(*d as u64)).sum()
}

/// The parameters that say where an output went in shared memory: entries of a `map<string, InferParameter>`.
#[cold]
fn placed(region: &Region) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut number = |key: &str, value: u64| {
        // Field 2 of InferParameter is int64_param.
        let inner = 1 + varint_len(value);
        put_len(&mut out, 4, delimited_len(key.len()) + delimited_len(inner));
        put_string(&mut out, 1, key);
        put_len(&mut out, 2, inner);
        out.put_u8(2 << 3);
        put_varint(&mut out, value);
    };
    number(BYTE_SIZE, region.byte_size);
    if region.offset > 0 {
        number(OFFSET, region.offset);
    }
    put_text_parameter(&mut out, REGION, &region.name);
    out.to_vec()
}

/// Bytes of a parameter that is a text: an entry of field 4, a `map<string, InferParameter>`.
fn text_parameter_len(key: &str, text: &str) -> usize {
    delimited_len(delimited_len(key.len()) + delimited_len(string_len(text)))
}

fn put_text_parameter(out: &mut BytesMut, key: &str, text: &str) {
    // Field 3 is string_param.
    let inner = string_len(text);
    put_len(out, 4, delimited_len(key.len()) + delimited_len(inner));
    put_string(out, 1, key);
    put_len(out, 2, inner);
    put_string(out, 3, text);
}

fn output_len(response: &InferResponse, index: usize, output: &OutputTensor) -> usize {
    let placed = response.region(index).map_or(0, |region| placed(region).len());
    let shape = shape_len(output);
    string_len(response.output_name(output))
        + string_len(output.tensor.datatype.name())
        + if shape == 0 { 0 } else { delimited_len(shape) }
        + placed
}

fn put_output(head: &mut BytesMut, response: &InferResponse, index: usize, output: &OutputTensor) {
    put_len(head, 5, output_len(response, index, output));
    put_string(head, 1, response.output_name(output));
    put_string(head, 2, output.tensor.datatype.name());
    let shape = shape_len(output);
    if shape > 0 {
        put_len(head, 3, shape);
        for dim in &output.tensor.dims {
            put_varint(head, *dim as u64);
        }
    }
    if let Some(region) = response.region(index) {
        head.put_slice(&placed(region));
    }
}

pub(super) fn put_string(head: &mut BytesMut, field: u8, text: &str) {
    if !text.is_empty() {
        put_len(head, field, text.len());
        head.put_slice(text.as_bytes());
    }
}

/// The tag of a length-delimited field, and its length.
pub(super) fn put_len(head: &mut BytesMut, field: u8, len: usize) {
    head.put_u8(field << 3 | 2);
    put_varint(head, len as u64);
}

fn put_varint(head: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        head.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    head.put_u8(value as u8);
}
