//! Holds a decoded request against a model's signature: what passes here, the session can run.

use bytes::Bytes;
use smallvec::SmallVec;

use super::classify;
use crate::{
    batcher::{assemble, padding::Padding, served::JobInputs},
    types::{
        datatype::Datatype,
        error::Error,
        model::{Dim, Signature, TensorSpec},
        request::{InferRequest, InputTensor, RequestedOutput},
        tensor::{Dims, Tensor, element_count},
    },
};

/// A request that fits the signature.
#[derive(Debug)]
pub struct Bound {
    pub inputs: JobInputs,
    /// Length of the batch axis; 1 for a model without one.
    pub rows: usize,
    /// Bytes of all inputs.
    pub bytes: usize,
    /// Equal for requests that may share a batch.
    pub bucket: u64,
    pub wanted: Wanted,
}

/// The outputs to answer with.
pub type Wanted = SmallVec<[Want; 2]>;

/// One output to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which of the signature's outputs.
    pub index: usize,
    /// As binary data, where it goes over HTTP.
    pub binary: bool,
    /// So many of its best classes in place of its numbers; 0: the numbers.
    pub classes: u32,
}

/// Holds `request` against `signature`; with `padding`, requests of several lengths get one bucket.
pub fn bind(
    signature: &Signature,
    padding: Option<&Padding>,
    request: InferRequest,
) -> Result<Bound, Error> {
    let wanted = wanted(signature, &request.outputs, request.binary_output)?;
    let mut inputs: JobInputs = SmallVec::from_elem(None, signature.inputs.len());
    let mut bytes = 0usize;
    let sent = request.inputs.len();
    for mut input in request.inputs {
        if request.raw_binary {
            input = raw_binary(signature, input.data)?;
        }
        let index = position(signature, &input.name)?;
        if inputs[index].is_some() {
            return Err(Error::invalid(format!("input '{}' is given twice", input.name)));
        }
        check(&signature.inputs[index], &input)?;
        bytes = bytes.saturating_add(input.data.len());
        inputs[index] =
            Some(Tensor { datatype: input.datatype, dims: input.dims, data: input.data });
    }
    if let Some((spec, _)) =
        signature.inputs.iter().zip(&inputs).find(|(spec, input)| input.is_none() && !spec.optional)
    {
        return Err(Error::invalid(format!(
            "input '{}' is missing: expected {} of shape {}, got {sent} input{}",
            spec.name,
            spec.datatype,
            spec.shape_text(),
            if sent == 1 { "" } else { "s" },
        )));
    }
    let rows = rows(signature, &inputs)?;
    let bucket = match padding {
        None => assemble::bucket_of(&inputs, signature.can_batch),
        Some(padding) => padding.bucket_of(&inputs)?,
    };
    Ok(Bound { inputs, rows, bytes, bucket, wanted })
}

fn position(signature: &Signature, name: &str) -> Result<usize, Error> {
    signature.inputs.iter().position(|spec| *spec.name == *name).ok_or_else(|| {
        Error::invalid(format!(
            "there is no input '{}': the model takes {}",
            shown(name),
            names(&signature.inputs)
        ))
    })
}

fn check(spec: &TensorSpec, input: &InputTensor) -> Result<(), Error> {
    if input.datatype != spec.datatype {
        return Err(Error::invalid(format!(
            "input '{}' is {}: expected {}",
            spec.name, input.datatype, spec.datatype
        )));
    }
    let Some(dims) = &spec.dims else { return Ok(()) };
    let fits = dims.len() == input.dims.len()
        && dims.iter().zip(&input.dims).all(|(dim, actual)| dim.accepts(*actual));
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "input '{}' has shape {}: expected {}",
        spec.name,
        dims_text(&input.dims),
        spec.shape_text()
    )))
}

/// The batch axis's length, which all inputs share.
fn rows(signature: &Signature, inputs: &JobInputs) -> Result<usize, Error> {
    if !signature.can_batch {
        return Ok(1);
    }
    let mut first: Option<(&TensorSpec, i64)> = None;
    for (spec, input) in signature.inputs.iter().zip(inputs) {
        let Some(rows) = input.as_ref().and_then(|tensor| tensor.dims.first().copied()) else {
            continue;
        };
        match first {
            Some((other, expected)) if expected != rows => {
                return Err(Error::invalid(format!(
                    "input '{}' has {rows} rows and input '{}' has {expected}: the first dimension \
                     is the batch, and all inputs share it",
                    spec.name, other.name
                )));
            }
            Some(_) => {}
            None => first = Some((spec, rows)),
        }
    }
    Ok(first.map_or(1, |(_, rows)| usize::try_from(rows).unwrap_or(0)))
}

fn wanted(
    signature: &Signature,
    asked: &[RequestedOutput],
    binary_output: bool,
) -> Result<Wanted, Error> {
    if asked.is_empty() {
        let all = 0..signature.outputs.len();
        return Ok(all.map(|index| Want { index, binary: binary_output, classes: 0 }).collect());
    }
    let mut wanted = Wanted::new();
    for output in asked {
        let index = signature.outputs.iter().position(|spec| *spec.name == *output.name);
        let index = index.ok_or_else(|| {
            Error::invalid(format!(
                "there is no output '{}': the model gives {}",
                shown(&output.name),
                names(&signature.outputs)
            ))
        })?;
        if wanted.iter().any(|seen| seen.index == index) {
            return Err(Error::invalid(format!("output '{}' is asked for twice", output.name)));
        }
        let classes = output.classification;
        if classes > 0 {
            classify::check(&signature.outputs[index])?;
        }
        wanted.push(Want { index, binary: output.binary.unwrap_or(binary_output), classes });
    }
    Ok(wanted)
}

/// The one input of a raw binary request: the body is its data, and the signature decides the shape, with a batch of one
/// and at most one further dynamic dimension.
fn raw_binary(signature: &Signature, data: Bytes) -> Result<InputTensor, Error> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(Error::invalid(format!(
            "a raw binary request needs a model with one input: this one takes {}",
            names(&signature.inputs)
        )));
    };
    let name = (&*spec.name).into();
    let datatype = spec.datatype;
    if datatype == Datatype::Bytes {
        // The whole body is the one element, without a length before it.
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes();
        let data = Bytes::from([&length, &*data].concat());
        let rank = spec.dims.as_ref().map_or(1, Vec::len);
        return Ok(InputTensor { name, datatype, dims: SmallVec::from_elem(1, rank), data });
    }
    let size = datatype.size().unwrap_or(1);
    let mut dims: Dims = SmallVec::new();
    let mut open = None;
    for (axis, dim) in spec.dims.iter().flatten().enumerate() {
        match dim {
            Dim::Fixed(n) => dims.push(*n),
            _ if axis == 0 && signature.can_batch => dims.push(1),
            _ if open.is_none() => {
                open = Some(axis);
                dims.push(1);
            }
            _ => {
                return Err(Error::invalid(format!(
                    "a raw binary request cannot say the shape of input '{}', {}: more than one \
                     dimension is dynamic",
                    spec.name,
                    spec.shape_text()
                )));
            }
        }
    }
    let fixed = element_count(&dims).unwrap_or(0);
    if let Some(axis) = open.filter(|_| fixed > 0 && data.len().is_multiple_of(fixed * size)) {
        dims[axis] = i64::try_from(data.len() / (fixed * size)).unwrap_or(i64::MAX);
    }
    if element_count(&dims).and_then(|n| n.checked_mul(size)) != Some(data.len()) {
        return Err(Error::invalid(format!(
            "input '{}' of {datatype} and shape {} does not fit a body of {} bytes",
            spec.name,
            spec.shape_text(),
            data.len()
        )));
    }
    if datatype == Datatype::Bool && data.iter().any(|&byte| byte > 1) {
        return Err(Error::invalid(format!("input '{}' has a BOOL that is not 0 or 1", spec.name)));
    }
    Ok(InputTensor { name, datatype, dims, data })
}

fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<String> = specs.iter().map(|spec| format!("'{}'", spec.name)).collect();
    names.join(", ")
}

fn dims_text(dims: &[i64]) -> String {
    let shown: Vec<String> = dims.iter().take(16).map(i64::to_string).collect();
    let more = if dims.len() > 16 { ", ..." } else { "" };
    format!("[{}{more}]", shown.join(", "))
}

/// A client's name for a message: escaped and capped.
fn shown(name: &str) -> String {
    name.chars().take(128).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
        let dims =
            dims.iter().map(|&n| if n < 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(n) });
        TensorSpec {
            name: Arc::from(name),
            datatype,
            dims: Some(dims.collect()),
            optional: false,
            labels: None,
        }
    }

    fn signature() -> Signature {
        let inputs = vec![spec("a", Datatype::Fp32, &[-1, 2]), spec("b", Datatype::Int32, &[-1])];
        let outputs = vec![spec("y", Datatype::Fp32, &[-1, 2])];
        Signature { can_batch: Signature::batchable(&inputs, &outputs), inputs, outputs }
    }

    fn input(name: &str, datatype: Datatype, dims: &[i64]) -> InputTensor {
        let count = element_count(dims).unwrap_or(0) * datatype.size().unwrap_or(0);
        InputTensor { name: name.into(), datatype, dims: dims.into(), data: vec![0; count].into() }
    }

    fn request(inputs: Vec<InputTensor>) -> InferRequest {
        InferRequest { inputs: inputs.into(), ..InferRequest::default() }
    }

    fn message(inputs: Vec<InputTensor>) -> String {
        bind(&signature(), None, request(inputs)).expect_err("refused").message.into_owned()
    }

    #[test]
    fn inputs_come_in_the_signatures_order() {
        let b = input("b", Datatype::Int32, &[3]);
        let a = input("a", Datatype::Fp32, &[3, 2]);
        let bound = bind(&signature(), None, request(vec![b, a])).expect("fits");
        assert_eq!((bound.rows, bound.bytes), (3, 36));
        assert_eq!(bound.inputs[0].as_ref().map(|t| t.datatype), Some(Datatype::Fp32));
        let all = [Want { index: 0, binary: false, classes: 0 }];
        assert_eq!(bound.wanted.as_slice(), all);
    }

    #[test]
    fn refusals_name_the_input_what_was_expected_and_what_came() {
        let a = || input("a", Datatype::Fp32, &[3, 2]);
        let b = |rows| input("b", Datatype::Int32, &[rows]);
        assert_eq!(
            message(vec![a()]),
            "input 'b' is missing: expected INT32 of shape [N], got 1 input"
        );
        assert_eq!(message(vec![a(), a()]), "input 'a' is given twice");
        assert!(message(vec![a(), b(2)]).starts_with("input 'b' has 2 rows and input 'a' has 3"));
        assert_eq!(
            message(vec![input("a", Datatype::Fp32, &[3, 4])]),
            "input 'a' has shape [3, 4]: expected [N, 2]"
        );
        assert_eq!(
            message(vec![input("b", Datatype::Fp32, &[3])]),
            "input 'b' is FP32: expected INT32"
        );
        assert_eq!(
            message(vec![input("zz\n", Datatype::Fp32, &[1])]),
            "there is no input 'zz\\n': the model takes 'a', 'b'"
        );
    }

    #[test]
    fn outputs_are_found_once_and_by_name() {
        let ask = |names: &[&str]| {
            let mut request = request(vec![]);
            request.outputs = names
                .iter()
                .map(|name| RequestedOutput { name: (*name).into(), ..Default::default() })
                .collect();
            bind(&signature(), None, request).expect_err("no inputs").message.into_owned()
        };
        assert_eq!(ask(&["q"]), "there is no output 'q': the model gives 'y'");
        assert_eq!(ask(&["y", "y"]), "output 'y' is asked for twice");
    }

    #[test]
    fn a_raw_binary_body_takes_its_shape_from_the_signature() {
        let inputs = vec![spec("x", Datatype::Fp32, &[-1, 2])];
        let outputs = vec![spec("y", Datatype::Fp32, &[-1, 2])];
        let signature =
            Signature { can_batch: Signature::batchable(&inputs, &outputs), inputs, outputs };
        let raw = |bytes: usize| {
            let tensor = input("", Datatype::Bytes, &[]);
            let mut request = request(vec![InputTensor { data: vec![0; bytes].into(), ..tensor }]);
            request.raw_binary = true;
            bind(&signature, None, request)
        };
        assert_eq!(
            raw(8).expect("fits").inputs[0].as_ref().map(|t| t.dims.to_vec()),
            Some(vec![1, 2])
        );
        assert!(raw(12).expect_err("no batch of one").message.contains("12 bytes"));
    }
}
