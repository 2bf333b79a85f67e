//! Whether a version pads its requests: as model.yaml asks, unless padded answers turn out to differ from those alone.

use std::time::Duration;

use super::options::ModelOptions;
use crate::{
    batcher::{assemble, padding::Padding},
    runtime::{
        probe,
        session::{Outputs, Session},
    },
    types::{
        model::{Dim, Signature},
        tensor::{Tensor, TensorView},
    },
};

/// A run that takes longer is not made half a dozen times more at a load.
const TOO_SLOW: Duration = Duration::from_secs(1);

/// What was decided about a version's padding.
#[derive(Debug, Default)]
pub struct Padded {
    /// In effect.
    pub plan: Option<Padding>,
    /// For a person: whether, and why; `None` where no padding is set.
    pub said: Option<String>,
}

impl Padded {
    /// Decides by the options, and by a try where the model takes made-up input. The error names the option that the
    /// signature does not allow.
    pub fn decide(session: &dyn Session, options: &ModelOptions) -> Result<Padded, String> {
        let plan = Padding::plan(session.signature(), &options.batching.padding);
        let Some(plan) = plan.map_err(|e| format!("batching.padding: {e}"))? else {
            return Ok(Padded::default());
        };
        let tried = match options.warmup {
            true => compare(session, &plan),
            false => Err("warmup is off".to_owned()),
        };
        let (on, said) = match tried {
            Ok(Ok(within)) => {
                (true, format!("on: padded answers equal those alone within {within:.1e}"))
            }
            Ok(Err(why)) => (false, format!("off: padded answers differ from those alone: {why}")),
            Err(why) => {
                (true, format!("on, as set; that answers stay the same was not checked: {why}"))
            }
        };
        Ok(Padded { plan: on.then_some(plan), said: Some(said) })
    }

    /// The version runs every request alone.
    pub fn not_gathered(&mut self) {
        if self.plan.take().is_some() {
            self.said = Some("off: requests do not share runs".to_owned());
        }
    }
}

/// Runs three rows of different lengths padded together, and each of them alone. `Ok` has the largest difference, or
/// what differs; the error is why it could not be tried.
fn compare(session: &dyn Session, plan: &Padding) -> Result<Result<f64, String>, String> {
    let signature = session.signature();
    let (longest, took) = probe::settle(session)?;
    if took > TOO_SLOW {
        return Err(format!("a run takes {:.1} s", took.as_secs_f64()));
    }
    if longest < 2 {
        return Err("of made-up input the model takes only length 1".to_owned());
    }
    let lengths = [longest, (longest / 2).max(1), (longest * 3 / 4).max(1)];
    let mut rows = Vec::new();
    let mut alone = Vec::new();
    for (number, own) in lengths.into_iter().enumerate() {
        let length = |dim: &Dim| if plan.pads(dim) { own } else { longest };
        let row = probe::row(signature, number, &length)?;
        let outputs = session.run(&views(&row), None);
        alone.push(outputs.map_err(|e| format!("with the length {own}: {e}"))?);
        rows.push(row);
    }
    Ok(together(session, signature, plan, &rows).and_then(|parts| {
        let mut largest = 0.0f64;
        for ((part, single), own) in parts.iter().zip(&alone).zip(lengths) {
            for ((spec, padded), single) in signature.outputs.iter().zip(part).zip(single) {
                let difference = probe::same(padded, single, 0, 1).map_err(|e| {
                    format!("output '{}' of length {own} in a batch of {longest}: {e}", spec.name)
                })?;
                largest = largest.max(difference);
            }
        }
        Ok(largest)
    }))
}

/// What each row gets out of one padded run, by the code that serves.
fn together(
    session: &dyn Session,
    signature: &Signature,
    plan: &Padding,
    rows: &[Vec<Option<Tensor>>],
) -> Result<Vec<Outputs>, String> {
    let members: Vec<&[Option<Tensor>]> = rows.iter().map(Vec::as_slice).collect();
    let mut scratch = assemble::Scratch::new();
    let stacked = scratch.stack(signature, Some(plan), &members).map_err(|e| e.to_string())?;
    let outputs = session.run(&stacked.inputs, None).map_err(|e| e.to_string())?;
    let mut parts = Vec::new();
    assemble::split(outputs, signature, &vec![1; rows.len()], |_, part| parts.push(part))
        .map_err(|e| e.to_string())?;
    for (part, row) in parts.iter_mut().zip(rows) {
        plan.cut(part, row).map_err(|e| e.to_string())?;
    }
    Ok(parts)
}

fn views(row: &[Option<Tensor>]) -> Vec<Option<TensorView<'_>>> {
    let mut views = Vec::with_capacity(row.len());
    for tensor in row {
        let t = tensor.as_ref();
        views.push(t.map(|t| TensorView { datatype: t.datatype, dims: &t.dims, data: &t.data }));
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        repository::options::Defaults,
        runtime::{
            echo::{Echo, EchoSession},
            onnx_writer::{Attr, GraphWriter},
            testing::{open, ort},
        },
        types::{datatype::Datatype, model::TensorSpec},
    };

    fn set(text: &str) -> ModelOptions {
        ModelOptions::read(text, "m/model.yaml", &Defaults::default()).unwrap()
    }

    /// The sum or the mean of each row's numbers.
    fn reduced(op: &str) -> GraphWriter {
        let axes = [Attr::Ints("axes", &[1]), Attr::Int("keepdims", 0)];
        GraphWriter::new()
            .node_with("", op, &["x"], &["y"], &axes)
            .input("x", Datatype::Fp32, &["N", "S"])
            .output("y", Datatype::Fp32, &["N"])
    }

    #[test]
    fn padding_that_changes_answers_is_turned_off() {
        let Some(backend) = ort() else { return };
        let decided = |op, yaml| {
            let session = open(&*backend, &reduced(op)).unwrap();
            Padded::decide(&*session, &set(yaml)).unwrap()
        };
        let zeros = "batching: {padding: {x: {value: 0}}}";
        let max = decided("ReduceMax", zeros);
        assert!(max.plan.is_some(), "{:?}", max.said);
        assert!(max.said.unwrap().starts_with("on: padded answers equal"));
        let mean = decided("ReduceMean", zeros);
        assert!(mean.plan.is_none());
        let said = mean.said.unwrap();
        assert!(said.starts_with("off: ") && said.contains("'y' of length 8"), "{said}");
        let high = decided("ReduceMax", "batching: {padding: {x: {value: 1e6}}}");
        assert!(high.plan.is_none(), "the value counts: {:?}", high.said);
    }

    fn echo() -> EchoSession {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: Datatype::Int64,
            dims: Some(vec![Dim::Symbol("N".into()), Dim::Symbol("S".into())]),
            optional: false,
            labels: None,
        };
        let (inputs, outputs) = (vec![spec("x")], vec![spec("y")]);
        EchoSession::new(Signature { inputs, outputs, can_batch: true }, Echo::default())
    }

    #[test]
    fn answers_as_long_as_their_requests_are_cut_back() {
        let session = echo();
        let mut padded =
            Padded::decide(&session, &set("batching: {padding: {x: {value: 7}}}")).unwrap();
        assert_eq!(
            padded.said.as_deref(),
            Some("on: padded answers equal those alone within 0.0e0")
        );
        assert_eq!(session.runs().last(), Some(&3), "three rows share the last run");
        padded.not_gathered();
        assert!(padded.plan.is_none() && padded.said.unwrap().contains("do not share"));
    }

    #[test]
    fn what_cannot_be_tried_is_said_and_what_cannot_be_padded_refused() {
        let yaml = "warmup: false\nbatching: {padding: {x: {}}}";
        let untried = Padded::decide(&echo(), &set(yaml)).unwrap();
        assert!(untried.plan.is_some() && untried.said.unwrap().contains("warmup is off"));
        let none = Padded::decide(&echo(), &set("")).unwrap();
        assert!(none.plan.is_none() && none.said.is_none());
        let error = Padded::decide(&echo(), &set("batching: {padding: {z: {}}}")).unwrap_err();
        assert!(error.starts_with("batching.padding: there is no input 'z'"), "{error}");
    }
}
