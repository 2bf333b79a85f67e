//! The JSON form of a request and of an answer.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    check::{self, MAX_PARAMETERS, MAX_RANK, MAX_TENSORS, Shown},
    json_data::Data,
    json_read::{Cursor, Seen, twice},
    json_write, numbers,
    region::{self, Placing},
};
use crate::types::{
    datatype::Datatype,
    error::Error,
    request::{InferRequest, InferResponse, InputTensor, Parameter, Region, RequestedOutput},
    tensor::Dims,
    text::Text,
};

/// Decodes an inference request that is JSON as a whole. Model and version stay empty: they come from the path.
///
/// # Errors
/// `InvalidArgument` for what is no such request.
pub fn decode_request(body: &Bytes) -> Result<InferRequest, Error> {
    let (request, sizes) = read(body)?;
    match sizes.iter().position(Option::is_some) {
        None => Ok(request),
        Some(at) => Err(Error::invalid(format!(
            "input '{}' has 'binary_data_size', but the request has no header Inference-Header-Content-Length",
            Shown(request.inputs.get(at).map_or("", |input| &input.name))
        ))),
    }
}

/// Encodes an answer as JSON, appended to `out`; every output's data as numbers or strings.
///
/// # Errors
/// `InvalidArgument` where a BYTES output is not UTF-8, which JSON cannot carry.
pub fn encode_response(response: &InferResponse, out: &mut Vec<u8>) -> Result<(), Error> {
    json_write::response(response, out, false)
}

/// What an input says of its binary data: `binary_data_size`, where it has one.
pub(super) type Sizes = SmallVec<[Option<usize>; 2]>;

/// Reads the JSON of a request. An input with a binary size has no data yet.
pub(super) fn read(body: &Bytes) -> Result<(InferRequest, Sizes), Error> {
    if body.is_empty() {
        return Err(Error::invalid("the body is empty, expected a JSON object"));
    }
    let mut cursor = Cursor::new(body);
    let mut request = InferRequest::default();
    let mut sizes = Sizes::new();
    let mut seen = Seen::default();
    let mut has_inputs = false;
    cursor.object(format_args!("the request"), |c, key| match &*key {
        "id" => {
            seen.once(0, &key, c.at())?;
            if !c.literal("null") {
                request.id = c.text(format_args!("'id'"))?;
            }
            Ok(())
        }
        "parameters" => {
            seen.once(1, &key, c.at())?;
            if c.literal("null") { Ok(()) } else { parameters(c, &mut request) }
        }
        "inputs" => {
            seen.once(2, &key, c.at())?;
            has_inputs = true;
            c.array(format_args!("'inputs'"), |c| {
                let index = request.inputs.len();
                check::room(index, MAX_TENSORS, "inputs")?;
                let (input, size, region) = input(c, index)?;
                request.inputs.push(input);
                sizes.push(size);
                if let Some(region) = region {
                    request.regions.get_or_insert_default().inputs.push((index, region));
                }
                Ok(())
            })
        }
        "outputs" => {
            seen.once(3, &key, c.at())?;
            if c.literal("null") {
                return Ok(());
            }
            c.array(format_args!("'outputs'"), |c| {
                let index = request.outputs.len();
                check::room(index, MAX_TENSORS, "outputs")?;
                let (output, region) = output(c, index)?;
                if let Some(region) = region {
                    let named = (output.name.clone(), region);
                    request.regions.get_or_insert_default().outputs.push(named);
                }
                request.outputs.push(output);
                Ok(())
            })
        }
        _ => c.skip(),
    })?;
    cursor.finish()?;
    if !has_inputs {
        return Err(Error::invalid("the request has no 'inputs'"));
    }
    Ok((request, sizes))
}

/// The request's own parameters.
fn parameters(c: &mut Cursor<'_>, request: &mut InferRequest) -> Result<(), Error> {
    let mut all: Vec<(Text, Parameter)> = Vec::new();
    let mut binary = false;
    c.object(format_args!("'parameters'"), |c, key| {
        check::key(&key)?;
        check::room(all.len(), MAX_PARAMETERS, "parameters")?;
        // Few and short (the limits), so comparing them all is cheap.
        if all.iter().any(|(known, _)| **known == *key) {
            return Err(twice(&key, c.at()));
        }
        let value = parameter(c, &key)?;
        check::reserved(&key, &value, &[])?;
        if &*key == "binary_data_output" {
            let Parameter::Bool(value) = value else {
                return Err(Error::invalid("the parameter 'binary_data_output' is not a boolean"));
            };
            binary = value;
        }
        all.push((c.share(key), value));
        Ok(())
    })?;
    request.parameters = all;
    request.binary_output = binary;
    Ok(())
}

fn parameter(c: &mut Cursor<'_>, key: &str) -> Result<Parameter, Error> {
    let of = format_args!("the parameter '{}'", Shown(key));
    match c.peek() {
        Some(b'"') => c.text(of).map(Parameter::String),
        Some(b't') if c.literal("true") => Ok(Parameter::Bool(true)),
        Some(b'f') if c.literal("false") => Ok(Parameter::Bool(false)),
        Some(b'-' | b'0'..=b'9') => {
            let Some(number) = numbers::scan(c.bytes(), c.at()) else {
                return Err(c.malformed("a number"));
            };
            let text = c.bytes().get(c.at()..number.end).unwrap_or_default();
            let value = if number.integer {
                numbers::integer(c.bytes(), c.at()).and_then(|(negative, magnitude, _)| {
                    let signed = numbers::signed(negative, magnitude).map(Parameter::Int64);
                    signed.or_else(|| numbers::unsigned(negative, magnitude).map(Parameter::Uint64))
                })
            } else {
                numbers::to_f64(&number, c.bytes(), c.at()).map(Parameter::Double)
            };
            let value = value.ok_or_else(|| {
                Error::invalid(format!(
                    "the parameter '{}' is {}, which does not fit 64 bits",
                    Shown(key),
                    Shown(&String::from_utf8_lossy(text))
                ))
            })?;
            c.move_to(number.end);
            Ok(value)
        }
        _ => Err(c.wrong_kind(of, "a boolean, a number or a string")),
    }
}

/// An input while its keys come in.
#[derive(Default)]
struct Draft {
    name: Option<Text>,
    datatype: Option<Text>,
    dims: Option<Dims>,
    data: Option<Bytes>,
    /// Where the data lies, when it came before what it takes to read it.
    later: Option<Range<usize>>,
    binary_size: Option<usize>,
    region: Option<Region>,
}

/// An input, how many bytes of binary data it has, and where it lies in shared memory.
type Input = (InputTensor, Option<usize>, Option<Region>);

fn input(c: &mut Cursor<'_>, index: usize) -> Result<Input, Error> {
    let mut draft = Draft::default();
    let mut seen = Seen::default();
    let mut datatype = None;
    c.object(format_args!("inputs[{index}]"), |c, key| match &*key {
        "name" => {
            seen.once(0, &key, c.at())?;
            let name = c.text(format_args!("inputs[{index}], 'name'"))?;
            check::named(&name, format_args!("inputs[{index}]"))?;
            draft.name = Some(name);
            Ok(())
        }
        "datatype" => {
            seen.once(1, &key, c.at())?;
            draft.datatype = Some(c.text(format_args!("inputs[{index}], 'datatype'"))?);
            Ok(())
        }
        "shape" => {
            seen.once(2, &key, c.at())?;
            draft.dims = Some(shape(c, index)?);
            Ok(())
        }
        "parameters" => {
            seen.once(3, &key, c.at())?;
            if c.literal("null") {
                return Ok(());
            }
            (draft.binary_size, draft.region) = input_parameters(c, index)?;
            Ok(())
        }
        "data" => {
            seen.once(4, &key, c.at())?;
            draft.data(c, &mut datatype)
        }
        _ => c.skip(),
    })?;
    draft.finish(c, index, datatype)
}

impl Draft {
    /// Reads the data at the cursor, or notes where it lies.
    fn data(&mut self, c: &mut Cursor<'_>, known: &mut Option<Datatype>) -> Result<(), Error> {
        let (Some(name), Some(datatype), Some(dims)) = (&self.name, &self.datatype, &self.dims)
        else {
            self.later = Some(c.span()?);
            return Ok(());
        };
        let datatype = check::datatype(name, datatype)?;
        *known = Some(datatype);
        self.data = Some(Data { name, datatype, dims, base64: false }.read(c)?);
        Ok(())
    }

    fn finish(
        self,
        c: &mut Cursor<'_>,
        index: usize,
        known: Option<Datatype>,
    ) -> Result<Input, Error> {
        let Some(name) = self.name else {
            return Err(Error::invalid(format!("inputs[{index}] has no 'name'")));
        };
        let Some(datatype) = self.datatype else { return Err(missing(&name, "datatype")) };
        let Some(dims) = self.dims else { return Err(missing(&name, "shape")) };
        let datatype = match known {
            Some(datatype) => datatype,
            None => check::datatype(&name, &datatype)?,
        };
        if self.binary_size.is_some() && (self.data.is_some() || self.later.is_some()) {
            return Err(Error::invalid(format!(
                "input '{}' has both 'data' and 'binary_data_size', expected one of the two",
                Shown(&name)
            )));
        }
        if self.region.is_some() && (self.data.is_some() || self.later.is_some()) {
            return Err(region::both(&name, "'data'"));
        }
        if self.region.is_some() && self.binary_size.is_some() {
            return Err(region::both(&name, "'binary_data_size'"));
        }
        let data = match (self.data, self.later) {
            (Some(data), _) => data,
            (None, Some(span)) => {
                let back = c.at();
                c.move_to(span.start);
                let data = Data { name: &name, datatype, dims: &dims, base64: false }.read(c)?;
                c.peek();
                if c.at() != span.end {
                    return Err(c.malformed("',' or '}'"));
                }
                c.move_to(back);
                data
            }
            (None, None) if self.binary_size.is_some() || self.region.is_some() => Bytes::new(),
            (None, None) => return Err(missing(&name, "data")),
        };
        Ok((InputTensor { name, datatype, dims, data }, self.binary_size, self.region))
    }
}

#[cold]
fn missing(name: &str, key: &str) -> Error {
    Error::invalid(format!("input '{}' has no '{key}'", Shown(name)))
}

fn shape(c: &mut Cursor<'_>, index: usize) -> Result<Dims, Error> {
    let mut dims = Dims::new();
    c.array(format_args!("inputs[{index}], 'shape'"), |c| {
        if dims.len() == MAX_RANK {
            return Err(Error::invalid(format!(
                "inputs[{index}]: the shape has more than {MAX_RANK} dimensions"
            )));
        }
        c.peek();
        let dim = numbers::integer(c.bytes(), c.at()).and_then(|(negative, magnitude, end)| {
            Some((numbers::signed(negative, magnitude)?, end))
        });
        let Some((dim, end)) = dim else {
            return Err(
                c.wrong_kind(format_args!("inputs[{index}], 'shape'"), "integers of 64 bits")
            );
        };
        c.move_to(end);
        dims.push(dim);
        Ok(())
    })?;
    Ok(dims)
}

/// An input's `binary_data_size`, and its place in shared memory; other parameters are checked as JSON and ignored.
fn input_parameters(
    c: &mut Cursor<'_>,
    index: usize,
) -> Result<(Option<usize>, Option<Region>), Error> {
    let mut size = None;
    let mut placing = Placing::default();
    let mut seen = Seen::default();
    c.object(format_args!("inputs[{index}], 'parameters'"), |c, key| match &*key {
        "binary_data_size" => {
            seen.once(0, &key, c.at())?;
            let of = format_args!("inputs[{index}], 'binary_data_size'");
            let value = count(c, of)?;
            // What does not fit cannot be there either; the sum of sizes is checked against the body.
            size = Some(usize::try_from(value).unwrap_or(usize::MAX));
            Ok(())
        }
        key if Placing::knows(key) => {
            let value = parameter(c, key)?;
            placing.take(key, value, format_args!("inputs[{index}]"))
        }
        _ => c.skip(),
    })?;
    Ok((size, placing.finish(format_args!("inputs[{index}]"))?))
}

/// An integer that is not negative.
fn count(c: &mut Cursor<'_>, of: std::fmt::Arguments<'_>) -> Result<u64, Error> {
    c.peek();
    let value = numbers::integer(c.bytes(), c.at()).and_then(|(negative, magnitude, end)| {
        Some((numbers::unsigned(negative, magnitude)?, end))
    });
    let Some((value, end)) = value else {
        return Err(c.wrong_kind(of, "an integer of 64 bits that is not negative"));
    };
    c.move_to(end);
    Ok(value)
}

fn output(c: &mut Cursor<'_>, index: usize) -> Result<(RequestedOutput, Option<Region>), Error> {
    let mut output = RequestedOutput::default();
    let mut region = None;
    let mut seen = Seen::default();
    c.object(format_args!("outputs[{index}]"), |c, key| match &*key {
        "name" => {
            seen.once(0, &key, c.at())?;
            output.name = c.text(format_args!("outputs[{index}], 'name'"))?;
            Ok(())
        }
        "parameters" => {
            seen.once(1, &key, c.at())?;
            if !c.literal("null") {
                region = output_parameters(c, index, &mut output)?;
            }
            Ok(())
        }
        _ => c.skip(),
    })?;
    check::named(&output.name, format_args!("outputs[{index}]"))?;
    Ok((output, region))
}

fn output_parameters(
    c: &mut Cursor<'_>,
    index: usize,
    output: &mut RequestedOutput,
) -> Result<Option<Region>, Error> {
    let mut seen = Seen::default();
    let mut placing = Placing::default();
    c.object(format_args!("outputs[{index}], 'parameters'"), |c, key| match &*key {
        "binary_data" => {
            seen.once(0, &key, c.at())?;
            output.binary = Some(if c.literal("true") {
                true
            } else if c.literal("false") {
                false
            } else {
                let of = format_args!("outputs[{index}], 'binary_data'");
                return Err(c.wrong_kind(of, "true or false"));
            });
            Ok(())
        }
        "classification" => {
            seen.once(1, &key, c.at())?;
            let value = count(c, format_args!("outputs[{index}], 'classification'"))?;
            output.classification = u32::try_from(value).map_err(|_| {
                Error::invalid(format!(
                    "outputs[{index}], 'classification': expected a count of classes, got {value}"
                ))
            })?;
            Ok(())
        }
        key if Placing::knows(key) => {
            let value = parameter(c, key)?;
            placing.take(key, value, format_args!("outputs[{index}]"))
        }
        _ => c.skip(),
    })?;
    let region = placing.finish(format_args!("outputs[{index}]"))?;
    match region {
        Some(_) if output.classification > 0 => {
            Err(region::classes(format_args!("outputs[{index}]")))
        }
        region => Ok(region),
    }
}
