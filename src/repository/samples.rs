//! Recorded requests in a model's directory, with the answers that are expected: what a version is warmed with, and held to.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::store::Repository;
use crate::{
    runtime::session::Outputs,
    types::{
        datatype::Datatype,
        model::{Signature, TensorSpec},
        request::InputTensor,
        tensor::{Tensor, TensorView, bytes_elements},
    },
    wire,
};

/// Beside the versions, for all of them, or in a version's own folder.
pub const FOLDER: &str = "samples";
/// Samples of one version, and bytes of one: they are there to check, not to test.
pub const MOST_SAMPLES: usize = 64;
pub const MOST_BYTES: u64 = 16 << 20;

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// As the body of an inference request.
    request: Value,
    /// As the body of its answer; without it, any answer will do.
    #[serde(default)]
    response: Option<Response>,
    #[serde(default)]
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct Response {
    outputs: Vec<Value>,
}

/// How far a float may be from what is expected: `absolute + relative * |expected|`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { absolute: 1e-4, relative: 1e-3 }
    }
}

/// A recorded request that fits a signature.
pub struct Sample {
    /// Relative to the repository.
    pub file: String,
    /// In the signature's order.
    inputs: Vec<Option<Tensor>>,
    /// By the output's place in the signature.
    expected: Vec<(usize, Tensor)>,
    tolerance: Tolerance,
}

impl Sample {
    pub fn views(&self) -> Vec<Option<TensorView<'_>>> {
        views(&self.inputs)
    }

    /// Whether the answers are those that are expected. The error names the output and says what is another.
    pub fn check(&self, signature: &Signature, outputs: &Outputs) -> Result<(), String> {
        for (index, expected) in &self.expected {
            let Some((spec, given)) = signature.outputs.get(*index).zip(outputs.get(*index)) else {
                return Err(format!("output {index} is missing"));
            };
            let name = &spec.name;
            if given.datatype != expected.datatype || given.dims != expected.dims {
                return Err(format!(
                    "output '{name}': expected {} {:?}, got {} {:?}",
                    expected.datatype, &*expected.dims, given.datatype, &*given.dims
                ));
            }
            self.tolerance
                .same(expected, given)
                .map_err(|why| format!("output '{name}': {why}"))?;
        }
        Ok(())
    }
}

/// Tensors as a session takes them.
pub fn views(inputs: &[Option<Tensor>]) -> Vec<Option<TensorView<'_>>> {
    inputs.iter().map(|input| input.as_ref().map(view)).collect()
}

fn view(tensor: &Tensor) -> TensorView<'_> {
    TensorView { datatype: tensor.datatype, dims: &tensor.dims, data: &tensor.data }
}

/// The samples of the version in `file`, by name. The error names the one that cannot be read, or does not fit.
pub fn read(
    repository: &Repository,
    file: &str,
    signature: &Signature,
) -> Result<Vec<Sample>, String> {
    let files = repository.samples(file)?;
    files.into_iter().map(|file| sample(repository, file, signature)).collect()
}

fn sample(repository: &Repository, file: String, signature: &Signature) -> Result<Sample, String> {
    let bytes = repository.read_sample(&file)?;
    let parsed = parse(&bytes, signature).map_err(|why| format!("{file}: {why}"))?;
    Ok(Sample { file, ..parsed })
}

/// Reads one sample; `file` stays empty.
fn parse(bytes: &[u8], signature: &Signature) -> Result<Sample, String> {
    let Written { request, response, tolerance } = serde_json::from_slice(bytes)
        .map_err(|e| format!("expected {{\"request\": …, \"response\": …}}: {e}"))?;
    let inputs = decode(&request).map_err(|e| format!("request: {e}"))?;
    let inputs = in_order(inputs, signature)?;
    let expected = match response {
        None => Vec::new(),
        // The same form as inputs.
        Some(Response { outputs }) => {
            decode(&json!({ "inputs": outputs })).map_err(|e| format!("response: {e}"))?
        }
    };
    let place = |output: InputTensor| {
        let found = signature.outputs.iter().position(|spec| *spec.name == *output.name);
        let index = found.ok_or_else(|| {
            format!("response: the model has no output '{}'", output.name.escape_debug())
        })?;
        Ok((index, aligned(output)))
    };
    let expected = expected.into_iter().map(place).collect::<Result<_, String>>()?;
    let sound = |n: f64| n >= 0.0 && n.is_finite();
    if !sound(tolerance.absolute) || !sound(tolerance.relative) {
        return Err("tolerance: expected numbers from 0 up".into());
    }
    Ok(Sample { file: String::new(), inputs, expected, tolerance })
}

fn decode(request: &Value) -> Result<Vec<InputTensor>, String> {
    let body = Bytes::from(request.to_string());
    let decoded = wire::json::decode_request(&body).map_err(|error| error.to_string())?;
    Ok(decoded.inputs.into_iter().collect())
}

/// The inputs in the order of the signature, each held against it.
fn in_order(given: Vec<InputTensor>, signature: &Signature) -> Result<Vec<Option<Tensor>>, String> {
    let unknown =
        |input: &&InputTensor| !signature.inputs.iter().any(|spec| *spec.name == *input.name);
    if let Some(input) = given.iter().find(unknown) {
        return Err(format!("request: the model has no input '{}'", input.name.escape_debug()));
    }
    let mut given: Vec<Option<InputTensor>> = given.into_iter().map(Some).collect();
    let mut take = |spec: &TensorSpec| {
        let named =
            |i: &&mut Option<InputTensor>| i.as_ref().is_some_and(|i| *i.name == *spec.name);
        let Some(input) = given.iter_mut().find(named).and_then(Option::take) else {
            return match spec.optional {
                true => Ok(None),
                false => Err(format!("request: input '{}' is missing", spec.name)),
            };
        };
        let dims = spec.dims.as_ref();
        let shape = dims.is_none_or(|dims| {
            dims.len() == input.dims.len()
                && dims.iter().zip(&input.dims).all(|(dim, n)| dim.accepts(*n))
        });
        match shape && spec.datatype == input.datatype {
            true => Ok(Some(aligned(input))),
            false => Err(format!(
                "request: input '{}': the model takes {} {}, the sample has {} {:?}",
                spec.name,
                spec.datatype,
                spec.shape_text(),
                input.datatype,
                &*input.dims
            )),
        }
    };
    signature.inputs.iter().map(&mut take).collect()
}

/// What a session takes begins at a multiple of what its elements need.
fn aligned(input: InputTensor) -> Tensor {
    const ALIGNMENT: usize = 64;
    let len = input.data.len();
    let mut buffer = vec![0u8; len + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    buffer[start..start + len].copy_from_slice(&input.data);
    let data = Bytes::from(buffer).slice(start..start + len);
    Tensor { datatype: input.datatype, dims: input.dims, data }
}

impl Tolerance {
    /// Whether two tensors of one type and shape hold the same; the error has the first place where they do not.
    fn same(&self, expected: &Tensor, given: &Tensor) -> Result<(), String> {
        let Some(size) = expected.datatype.size() else {
            let pairs = bytes_elements(&expected.data).zip(bytes_elements(&given.data));
            return match pairs.enumerate().find(|(_, (a, b))| a != b) {
                None if expected.data.len() == given.data.len() => Ok(()),
                None => Err("the strings differ in number".into()),
                Some((at, _)) => Err(format!("another string at {at}")),
            };
        };
        let pairs = expected.data.chunks_exact(size).zip(given.data.chunks_exact(size));
        for (at, (a, b)) in pairs.enumerate() {
            if a != b && !self.close(expected.datatype, a, b) {
                let (a, b) = (shown(expected.datatype, a), shown(expected.datatype, b));
                return Err(format!("expected {a} at {at}, got {b}"));
            }
        }
        Ok(())
    }

    fn close(&self, datatype: Datatype, expected: &[u8], given: &[u8]) -> bool {
        let (Some(a), Some(b)) = (float(datatype, expected), float(datatype, given)) else {
            return false;
        };
        // Written so that a NaN beside a number, or an infinity, fails it.
        (a.is_nan() && b.is_nan())
            || a == b
            || (a - b).abs() <= self.absolute + self.relative * a.abs() && b.is_finite()
    }
}

/// The number in an element's bytes; `None` for what is not a float.
pub fn float(datatype: Datatype, bytes: &[u8]) -> Option<f64> {
    datatype.is_float().then(|| datatype.number(bytes)).flatten()
}

/// An element for a message: little-endian numbers of any width.
fn shown(datatype: Datatype, bytes: &[u8]) -> String {
    if let Some(value) = float(datatype, bytes) {
        return value.to_string();
    }
    let mut wide = [0u8; 8];
    let signed =
        matches!(datatype, Datatype::Int8 | Datatype::Int16 | Datatype::Int32 | Datatype::Int64);
    if signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0) {
        wide = [0xff; 8];
    }
    wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    match signed {
        true => i64::from_le_bytes(wide).to_string(),
        false => u64::from_le_bytes(wide).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::types::model::Dim;

    fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
        let dim = |n: &i64| if *n < 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(*n) };
        let dims = Some(dims.iter().map(dim).collect());
        TensorSpec { name: name.into(), datatype, dims, optional: false, labels: None }
    }

    fn signature() -> Signature {
        let optional = TensorSpec { optional: true, ..spec("bias", Datatype::Int64, &[1]) };
        Signature {
            inputs: vec![optional, spec("x", Datatype::Fp32, &[-1, 2])],
            outputs: vec![spec("y", Datatype::Fp32, &[-1]), spec("label", Datatype::Bytes, &[-1])],
            can_batch: false,
        }
    }

    fn parsed(value: Value) -> Result<Sample, String> {
        parse(value.to_string().as_bytes(), &signature())
    }

    fn x() -> Value {
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]})
    }

    fn y(datatype: &str, data: Value) -> Value {
        let shape = [data.as_array().map_or(0, Vec::len)];
        json!({"model_name": "m", "model_version": "1",
               "outputs": [{"name": "y", "datatype": datatype, "shape": shape, "data": data}]})
    }

    fn answer(values: &[f32]) -> Outputs {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = smallvec![values.len() as i64];
        smallvec![Tensor { datatype: Datatype::Fp32, dims, data: data.into() }]
    }

    #[test]
    fn a_request_and_an_answer_as_they_were_on_the_wire() {
        let sample =
            parsed(json!({"request": x(), "response": y("FP32", json!([3, 4.5]))})).unwrap();
        let views = sample.views();
        assert!(views[0].is_none() && views[1].unwrap().dims == [1, 2]);
        assert_eq!(views[1].unwrap().data.as_ptr() as usize % 8, 0);
        let check = |values: &[f32]| sample.check(&signature(), &answer(values));
        assert_eq!(check(&[3.0, 4.5001]), Ok(()));
        assert_eq!(check(&[3.0, 5.0]).unwrap_err(), "output 'y': expected 4.5 at 1, got 5");
        assert_eq!(check(&[f32::NAN, 4.5]).unwrap_err(), "output 'y': expected 3 at 0, got NaN");
        assert!(check(&[3.0]).unwrap_err().contains("expected FP32 [2], got FP32 [1]"));
        assert!(sample.check(&signature(), &Outputs::new()).is_err());
        let loose = json!({"request": x(), "response": y("FP32", json!([3])), "tolerance": {"absolute": 9}});
        assert_eq!(parsed(loose).unwrap().check(&signature(), &answer(&[11.0])), Ok(()));
        let nan = json!({"request": x(), "response": y("FP32", json!(["NaN"]))});
        assert_eq!(parsed(nan).unwrap().check(&signature(), &answer(&[f32::NAN])), Ok(()));
        // Without an answer, any will do.
        let any = parsed(json!({"request": x()})).unwrap();
        assert_eq!(any.check(&signature(), &answer(&[f32::NAN])), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let other = |name: &str, datatype: &str, shape: [i64; 2]| json!({"request": {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": [1, 2]}]}});
        for (sample, named) in [
            (json!([]), "expected {\"request\""),
            (json!({"requests": x()}), "unknown field `requests`"),
            (json!({"request": {}}), "request: "),
            (json!({"request": {"inputs": []}}), "input 'x' is missing"),
            (other("z", "FP32", [1, 2]), "no input 'z'"),
            (other("x", "FP64", [1, 2]), "the model takes FP32 [N, 2], the sample has FP64 [1, 2]"),
            (other("x", "FP32", [2, 1]), "the sample has FP32 [2, 1]"),
            (
                json!({"request": x(), "response": {"outputs": [
                {"name": "q", "datatype": "FP32", "shape": [1], "data": [1]}]}}),
                "no output 'q'",
            ),
            (json!({"request": x(), "tolerance": {"relative": -1}}), "tolerance"),
        ] {
            let error = parsed(sample.clone()).err().unwrap();
            assert!(error.contains(named), "{sample}: {error}");
        }
    }

    #[test]
    fn integers_and_strings_are_exact() {
        let text = |values: &[&str]| {
            let mut data = Vec::new();
            for value in values {
                data.extend_from_slice(&(value.len() as u32).to_le_bytes());
                data.extend_from_slice(value.as_bytes());
            }
            Tensor {
                datatype: Datatype::Bytes,
                dims: smallvec![values.len() as i64],
                data: data.into(),
            }
        };
        let same = |a: &Tensor, b: &Tensor| Tolerance { absolute: 9.0, relative: 9.0 }.same(a, b);
        assert_eq!(same(&text(&["a", "b"]), &text(&["a", "b"])), Ok(()));
        assert_eq!(
            same(&text(&["a", "b"]), &text(&["a", "c"])).unwrap_err(),
            "another string at 1"
        );
        let whole = |n: i16| Tensor {
            datatype: Datatype::Int16,
            dims: smallvec![1],
            data: n.to_le_bytes().to_vec().into(),
        };
        assert_eq!(same(&whole(-3), &whole(4)).unwrap_err(), "expected -3 at 0, got 4");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &signature());
        }
    }
}
