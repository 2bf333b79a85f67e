//! Recorded answers: one line of JSON for each request, in the form of the protocol's answers; read, held against, and made.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use serde_json::json;

use super::{
    answer,
    tensor::{Datatype, Tensor},
};
use crate::{
    drive::ask::{Said, ask},
    metadata::{ModelMetadata, error_text},
    plan::{Check, Plan, Protocol},
};

/// What a right answer has.
#[derive(Debug)]
pub struct Expected {
    pub outputs: Vec<Tensor>,
    pub protocol: Protocol,
    /// How far a floating-point number may be off, relative to 1 plus its size.
    pub tolerance: f64,
}

impl Check for Expected {
    fn check(&self, body: &[u8], header_length: Option<usize>) -> Result<(), String> {
        let came = answer::outputs(self.protocol, body, header_length)?;
        for expected in &self.outputs {
            let name = &expected.name;
            let output = came.iter().find(|output| output.name == *name);
            let output = output.ok_or_else(|| format!("output '{name}' did not come"))?;
            differs(expected, output, self.tolerance)
                .map_err(|why| format!("output '{name}': {why}"))?;
        }
        Ok(())
    }
}

/// Says the first difference.
fn differs(expected: &Tensor, came: &Tensor, tolerance: f64) -> Result<(), String> {
    if expected.datatype != came.datatype {
        let (expected, came) = (expected.datatype.name(), came.datatype.name());
        return Err(format!("expected {expected}, got {came}"));
    }
    if expected.shape != came.shape {
        return Err(format!("expected the shape {:?}, got {:?}", expected.shape, came.shape));
    }
    let pairs = expected.elements()?.into_iter().zip(came.elements()?).enumerate();
    for (at, (a, b)) in pairs {
        let datatype = expected.datatype;
        if a == b {
            continue;
        }
        if datatype.is_float() {
            let (a, b) = (datatype.float(a), datatype.float(b));
            let close = (a - b).abs() <= tolerance * (1.0 + a.abs());
            if !(close || a == b || (a.is_nan() && b.is_nan())) {
                return Err(format!("element {at}: expected {a}, got {b}"));
            }
        } else if datatype == Datatype::Bytes {
            let text =
                |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            return Err(format!("element {at}: expected {:?}, got {:?}", text(a), text(b)));
        } else {
            let (a, b) = (datatype.whole(a), datatype.whole(b));
            return Err(format!("element {at}: expected {a}, got {b}"));
        }
    }
    Ok(())
}

/// Reads recorded answers, one for each of `requests`.
///
/// # Errors
/// In words, with the line: no JSON of an answer, an output that the model has not, another number of answers than requests.
pub fn read(
    file: &Path,
    model: &ModelMetadata,
    requests: usize,
) -> Result<Vec<Vec<Tensor>>, String> {
    let shown = file.display();
    let opened = File::open(file).map_err(|e| format!("the recorded answers {shown}: {e}"))?;
    let mut answers = Vec::new();
    for (at, line) in BufReader::new(opened).lines().enumerate() {
        let wrong = |why: String| format!("the recorded answers {shown}, line {}: {why}", at + 1);
        let line = line.map_err(|e| wrong(e.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let outputs = answer::outputs(Protocol::Json, line.as_bytes(), None).map_err(wrong)?;
        for output in &outputs {
            fits(output, model).map_err(wrong)?;
        }
        answers.push(outputs);
    }
    if answers.len() != requests {
        return Err(format!(
            "the recorded answers {shown}: {} answers for {requests} requests",
            answers.len()
        ));
    }
    Ok(answers)
}

/// Whether the model has such an output.
fn fits(output: &Tensor, model: &ModelMetadata) -> Result<(), String> {
    let Some(known) = model.outputs.iter().find(|known| known.name == output.name) else {
        let names: Vec<&str> = model.outputs.iter().map(|known| known.name.as_str()).collect();
        return Err(format!(
            "the model '{}' has no output '{}' (it has {})",
            model.name,
            output.name,
            names.join(", ")
        ));
    };
    if known.datatype != output.datatype.name() {
        return Err(format!(
            "output '{}' is {}, the model's is {}",
            output.name,
            output.datatype.name(),
            known.datatype
        ));
    }
    let shape = &output.shape;
    let axis = |(model, ours): (&i64, &u64)| *model == -1 || i64::try_from(*ours) == Ok(*model);
    if known.shape.len() != shape.len() || !known.shape.iter().zip(shape).all(axis) {
        return Err(format!(
            "output '{}' has the shape {shape:?}, the model's is {:?}",
            output.name, known.shape
        ));
    }
    Ok(())
}

/// Asks the server each of a plan's requests once and writes its answers; how many.
///
/// # Errors
/// In words: a request that is not answered, a file that cannot be written.
pub fn record(plan: &Plan, file: &Path) -> Result<usize, String> {
    let shown = file.display();
    let target = &plan.target;
    let mut lines = Vec::new();
    for (at, request) in plan.requests.iter().enumerate() {
        let outputs = match ask(target, request.wire.clone())? {
            Said::Good(body, length) => answer::outputs(target.protocol, &body, length)?,
            Said::Bad(code, said) => {
                return Err(format!("request {}: {code}: {}", at + 1, error_text(&said)));
            }
        };
        let output = |tensor: &Tensor| {
            Ok(json!({
                "name": tensor.name,
                "datatype": tensor.datatype.name(),
                "shape": tensor.shape,
                "data": tensor.json()?,
            }))
        };
        let outputs: Result<Vec<_>, String> = outputs.iter().map(output).collect();
        lines.push(json!({"outputs": outputs?}).to_string());
    }
    let failed = |e| format!("{shown}: {e}");
    let mut out = BufWriter::new(File::create(file).map_err(failed)?);
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::TensorMetadata;

    fn floats(values: &[f32]) -> Tensor {
        Tensor {
            name: "y".to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![values.len() as u64],
            raw: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn answers_are_held_against_what_was_recorded() {
        let expected = Expected {
            outputs: vec![floats(&[1.0, f32::NAN, 1000.0])],
            protocol: Protocol::Json,
            tolerance: 1e-3,
        };
        let check = |data: &str| {
            let body = format!(
                r#"{{"outputs":[{{"name":"y","datatype":"FP32","shape":[3],"data":{data}}}]}}"#
            );
            expected.check(body.as_bytes(), None)
        };
        assert_eq!(check(r#"[1.0005, "NaN", 1000.5]"#), Ok(()));
        let error = check(r#"[1.1, "NaN", 1000]"#).unwrap_err();
        assert!(error.starts_with("output 'y': element 0: expected 1, got 1.1"), "{error}");
        assert!(check(r#"[1, 2, 1000]"#).unwrap_err().contains("element 1: expected NaN, got 2"));
        assert!(check(r#"[1, 2]"#).is_err());
        assert!(expected.check(br#"{"outputs":[]}"#, None).unwrap_err().contains("did not come"));
        let other = Tensor { shape: vec![3, 1], ..floats(&[0.0; 3]) };
        assert!(differs(&expected.outputs[0], &other, 1.0).unwrap_err().contains("[3, 1]"));
    }

    #[test]
    fn recorded_answers_fit_the_model_and_the_requests() {
        let output =
            TensorMetadata { name: "y".to_owned(), datatype: "FP32".to_owned(), shape: vec![-1] };
        let model = ModelMetadata {
            name: "m".to_owned(),
            versions: Vec::new(),
            platform: String::new(),
            inputs: Vec::new(),
            outputs: vec![output],
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("golden.jsonl");
        let line = |name: &str, datatype: &str, shape: &str| {
            format!(
                r#"{{"outputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":[1]}}]}}"#
            )
        };
        let read = |text: &str, requests| {
            std::fs::write(&file, text).unwrap();
            read(&file, &model, requests)
        };
        let good = line("y", "FP32", "[1]");
        assert_eq!(read(&format!("{good}\n\n{good}\n"), 2).unwrap().len(), 2);
        for (text, why) in [
            (line("z", "FP32", "[1]"), "line 1: the model 'm' has no output 'z' (it has y)"),
            (line("y", "INT8", "[1]"), "is INT8, the model's is FP32"),
            (line("y", "FP32", "[1, 1]"), "the model's is [-1]"),
            ("{".to_owned(), "line 1: the answer is no JSON"),
            (good.clone() + "\n" + &good, "2 answers for 1 requests"),
        ] {
            let error = read(&text, 1).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
