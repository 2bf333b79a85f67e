//! Whether a version that opened may take over: by its signature, by recorded samples, and by what its predecessor answers
//! to the same input. Numbers that are merely different refuse nobody.

use super::{
    job::Job,
    loader::Opened,
    samples::{self, Sample, float, views},
};
use crate::{
    runtime::{
        probe,
        session::{Outputs, Session},
    },
    types::{
        model::{Dim, Signature, TensorSpec},
        tensor::Tensor,
    },
};

/// Rows of made-up input that predecessor and successor both answer.
const ROWS: usize = 2;

/// What is known of a version that may serve.
#[derive(Default)]
pub struct Checked {
    pub samples: Vec<Sample>,
    /// For a person: what looks odd, and refuses nobody.
    pub advice: Vec<String>,
}

/// What serves now, and answers the same input.
struct Before<'a> {
    signature: &'a Signature,
    session: &'a dyn Session,
}

/// Holds what was opened against what callers of the model use. The error is why it must not serve.
pub fn check(job: &Job, opened: &Opened) -> Result<Checked, String> {
    let samples = samples::read(&job.repository, &job.file, &opened.signature)?;
    let mut checked = Checked { samples, advice: Vec::new() };
    let mut before = job.predecessor.as_ref().map(|version| Before {
        signature: &version.signature,
        session: &**version.served.sessions.shared(),
    });
    let fit = before.as_ref().map_or(Ok(()), |b| fits(b.signature, &opened.signature));
    if let Err(why) = fit {
        if !job.options.allow_signature_change {
            let number = job.predecessor.as_ref().map_or(0, |version| version.number);
            return Err(format!(
                "callers of version {number} could not use it: {why} (allow_signature_change: true in model.yaml lets \
                 it serve all the same)"
            ));
        }
        checked.advice.push(format!("the signature changes, as model.yaml allows: {why}"));
        // What one takes the other does not.
        before = None;
    }
    for sample in &checked.samples {
        let fail = |why: String| format!("{}: {why}", sample.file);
        let answered = opened.session.run(&sample.views(), None);
        let answered = answered.map_err(|e| fail(format!("it is not answered: {e}")))?;
        sample.check(&opened.signature, &answered).map_err(fail)?;
        if let Some(before) = &before
            && let Ok(answers) = before.session.run(&sample.views(), None)
        {
            before.alike(&answers, &opened.signature, &answered).map_err(fail)?;
        }
    }
    if job.options.warmup {
        made_up(opened, before.as_ref(), &mut checked.advice)?;
    }
    Ok(checked)
}

/// Holds the answers to made-up input against the predecessor's. What is made up may be beyond what the model takes: that
/// says nothing against it.
fn made_up(
    opened: &Opened,
    before: Option<&Before<'_>>,
    advice: &mut Vec<String>,
) -> Result<(), String> {
    let Ok((length, _)) = probe::settle(&*opened.session) else { return Ok(()) };
    for number in 0..ROWS {
        let Ok(row) = probe::row(&opened.signature, number, &|_| length) else { return Ok(()) };
        let Ok(answered) = opened.session.run(&views(&row), None) else { return Ok(()) };
        let answers = before.map(|b| (b, b.session.run(&views(&row), None)));
        if let Some((before, Ok(answers))) = answers {
            before
                .alike(&answers, &opened.signature, &answered)
                .map_err(|why| format!("on the same made-up input as its predecessor: {why}"))?;
            continue;
        }
        let odd = opened.signature.outputs.iter().zip(&answered).find(|(_, t)| has_nan(t));
        if let Some((spec, _)) = odd {
            advice.push(format!("output '{}' has NaN on made-up input", spec.name));
            return Ok(());
        }
    }
    Ok(())
}

impl Before<'_> {
    /// Whether answers have the shapes of the predecessor's, and no NaN that it has not.
    fn alike(&self, before: &Outputs, signature: &Signature, now: &Outputs) -> Result<(), String> {
        for (spec, before) in self.signature.outputs.iter().zip(before) {
            let place = signature.outputs.iter().position(|new| new.name == spec.name);
            let Some(now) = place.and_then(|place| now.get(place)) else { continue };
            if before.dims != now.dims {
                return Err(format!(
                    "output '{}' has the shape {:?}, its predecessor's was {:?}",
                    spec.name, &*now.dims, &*before.dims
                ));
            }
            if has_nan(now) && !has_nan(before) {
                return Err(format!("output '{}' has NaN, its predecessor's had none", spec.name));
            }
        }
        Ok(())
    }
}

fn has_nan(tensor: &Tensor) -> bool {
    let Some(size) = tensor.datatype.size() else { return false };
    let nan = |bytes: &[u8]| float(tensor.datatype, bytes).is_some_and(f64::is_nan);
    tensor.data.chunks_exact(size).any(nan)
}

/// Whether whatever was asked of a model before can still be asked, and the answers read. The error says what cannot.
fn fits(before: &Signature, now: &Signature) -> Result<(), String> {
    for old in &before.inputs {
        let name = &old.name;
        let Some(new) = now.inputs.iter().find(|spec| spec.name == *name) else {
            return Err(format!("it has no input '{name}'"));
        };
        if old.optional && !new.optional {
            return Err(format!("input '{name}' can no longer be left out"));
        }
        if old.datatype != new.datatype || !takes(old, new) {
            return Err(format!("input '{name}' was {}, and is {}", shown(old), shown(new)));
        }
    }
    let added = |spec: &&TensorSpec| {
        !spec.optional && !before.inputs.iter().any(|old| old.name == spec.name)
    };
    if let Some(new) = now.inputs.iter().find(added) {
        return Err(format!("it needs a further input '{}'", new.name));
    }
    for old in &before.outputs {
        let name = &old.name;
        let Some(new) = now.outputs.iter().find(|spec| spec.name == *name) else {
            return Err(format!("it has no output '{name}'"));
        };
        if old.datatype != new.datatype || !gives(old, new) {
            return Err(format!("output '{name}' was {}, and is {}", shown(old), shown(new)));
        }
    }
    Ok(())
}

fn shown(spec: &TensorSpec) -> String {
    format!("{} {}", spec.datatype, spec.shape_text())
}

/// Whether an input takes every shape that it took.
fn takes(old: &TensorSpec, new: &TensorSpec) -> bool {
    match (&old.dims, &new.dims) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(old), Some(new)) => {
            let dim = |(old, new): (&Dim, &Dim)| match (old, new) {
                (Dim::Fixed(a), Dim::Fixed(b)) => a == b,
                (_, Dim::Fixed(_)) => false,
                (_, Dim::Symbol(_) | Dim::Any) => true,
            };
            old.len() == new.len() && old.iter().zip(new).all(dim)
        }
    }
}

/// Whether an output may still have the shape that it had: where the graphs say otherwise, it has not.
fn gives(old: &TensorSpec, new: &TensorSpec) -> bool {
    let (Some(old), Some(new)) = (&old.dims, &new.dims) else { return true };
    let dim = |(old, new): (&Dim, &Dim)| match (old, new) {
        (Dim::Fixed(a), Dim::Fixed(b)) => a == b,
        _ => true,
    };
    old.len() == new.len() && old.iter().zip(new).all(dim)
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::{
        runtime::echo::{Echo, EchoSession, rows_of},
        types::datatype::Datatype,
    };

    fn spec(name: &str, dims: &[i64]) -> TensorSpec {
        let dim = |n: &i64| if *n < 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(*n) };
        let dims = Some(dims.iter().map(dim).collect());
        TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims,
            optional: false,
            labels: None,
        }
    }

    fn of(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Signature {
        Signature { inputs, outputs, can_batch: true }
    }

    fn base() -> Signature {
        of(vec![spec("x", &[-1, 4])], vec![spec("y", &[-1, 3])])
    }

    #[test]
    fn what_callers_can_go_on_with_fits() {
        let optional = TensorSpec { optional: true, ..spec("bias", &[1]) };
        let wider = of(
            vec![spec("x", &[-1, -1]), optional.clone()],
            vec![spec("z", &[1]), spec("y", &[-1, -1])],
        );
        assert_eq!(fits(&base(), &base()), Ok(()));
        assert_eq!(fits(&base(), &wider), Ok(()));
        let anything = TensorSpec { dims: None, ..spec("x", &[]) };
        assert_eq!(fits(&base(), &of(vec![anything], vec![spec("y", &[-1, 3])])), Ok(()));
    }

    #[test]
    fn what_they_cannot_is_named() {
        let y = || vec![spec("y", &[-1, 3])];
        let x = || vec![spec("x", &[-1, 4])];
        let double = TensorSpec { datatype: Datatype::Fp64, ..spec("x", &[-1, 4]) };
        for (now, why) in [
            (of(vec![], y()), "it has no input 'x'"),
            (of(vec![spec("x", &[-1, 5])], y()), "input 'x' was FP32 [N, 4], and is FP32 [N, 5]"),
            (of(vec![spec("x", &[1, 4])], y()), "input 'x' was FP32 [N, 4], and is FP32 [1, 4]"),
            (of(vec![spec("x", &[-1, 4, 1])], y()), "and is FP32 [N, 4, 1]"),
            (of(vec![double], y()), "and is FP64 [N, 4]"),
            (of(vec![spec("x", &[-1, 4]), spec("w", &[1])], y()), "it needs a further input 'w'"),
            (of(x(), vec![]), "it has no output 'y'"),
            (of(x(), vec![spec("y", &[-1, 2])]), "output 'y' was FP32 [N, 3], and is FP32 [N, 2]"),
            (of(x(), vec![spec("y", &[-1])]), "and is FP32 [N]"),
        ] {
            let error = fits(&base(), &now).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let optional = TensorSpec { optional: true, ..spec("x", &[-1, 4]) };
        let error = fits(&of(vec![optional], y()), &base()).unwrap_err();
        assert_eq!(error, "input 'x' can no longer be left out");
    }

    #[test]
    fn new_shapes_and_new_nans_are_found_by_name() {
        let tensor = |values: &[f32]| Tensor {
            datatype: Datatype::Fp32,
            dims: smallvec![values.len() as i64],
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into(),
        };
        let session = EchoSession::new(rows_of(Datatype::Fp32, 1), Echo::default());
        let (old, new) = (
            of(vec![], vec![spec("a", &[-1]), spec("b", &[-1])]),
            of(vec![], vec![spec("c", &[-1]), spec("b", &[-1]), spec("a", &[-1])]),
        );
        let before = Before { signature: &old, session: &session };
        let nan = f32::NAN;
        let alike = |a: &[f32], b: &[f32], now: [&[f32]; 3]| {
            let now = now.into_iter().map(tensor).collect();
            before.alike(&smallvec![tensor(a), tensor(b)], &new, &now)
        };
        assert_eq!(alike(&[1.0], &[nan], [&[nan], &[nan], &[2.0]]), Ok(()));
        let error = alike(&[1.0], &[2.0], [&[0.0], &[nan], &[2.0]]).unwrap_err();
        assert_eq!(error, "output 'b' has NaN, its predecessor's had none");
        let error = alike(&[1.0], &[2.0], [&[0.0], &[1.0], &[2.0, 3.0]]).unwrap_err();
        assert_eq!(error, "output 'a' has the shape [2], its predecessor's was [1]");
    }
}
