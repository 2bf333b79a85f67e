//! TensorFlow Serving's REST API, and with it KServe's v1 protocol: the paths of their calls, and their answers about models as
//! pure functions of the table.

use serde_json::{Map, Value, json};

use crate::{
    repository::table::{State, Table, Version},
    types::{
        datatype::Datatype,
        error::{Code, Error},
        model::{Signature, TensorSpec},
        text::Text,
    },
    wire::tfs::SIGNATURE,
};

/// What a call asks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Predict,
    Classify,
    Regress,
}

/// The version that a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Current,
    Number(Text),
    /// A name that model.yaml gives to a version (`version_labels`).
    Label(Text),
}

/// A call, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub model: Text,
    pub which: Which,
    pub verb: Verb,
}

/// `/v1/models/M[/versions/N|/labels/L]:VERB`; `None` where the path is something else.
pub fn call(path: &str) -> Option<Result<Call, Error>> {
    let (target, verb) = path.strip_prefix("/v1/models/")?.rsplit_once(':')?;
    let (model, rest) = target.split_once('/').unwrap_or((target, ""));
    let which = match rest.split_once('/') {
        None if rest.is_empty() && !target.contains('/') => None,
        Some((kind @ ("versions" | "labels"), name)) if !name.contains('/') => Some((kind, name)),
        _ => return None,
    };
    if model.is_empty() {
        return None;
    }
    let verb = match verb {
        "predict" => Ok(Verb::Predict),
        "classify" => Ok(Verb::Classify),
        "regress" => Ok(Verb::Regress),
        // KServe's: what explains an answer is a model of its own there.
        "explain" => Err(super::errors::not_here("':explain'")),
        _ => return None,
    };
    let decoded = |verb| {
        let which = match which {
            None => Which::Current,
            Some((kind, "")) => {
                let what = kind.trim_end_matches('s');
                return Err(Error::new(Code::NotFound, format!("the path names no {what}")));
            }
            Some(("labels", name)) => Which::Label(super::path::decode(name)?),
            Some((_, name)) => Which::Number(super::path::decode(name)?),
        };
        Ok(Call { model: super::path::decode(model)?, which, verb })
    };
    Some(verb.and_then(decoded))
}

/// The version that a request for `which` is to name; empty: the current one.
///
/// # Errors
/// `NotFound` for a label that the model has not.
pub fn version(table: &Table, model: &str, which: &Which) -> Result<Text, Error> {
    match which {
        Which::Current => Ok(Text::default()),
        Which::Number(number) => Ok(number.clone()),
        Which::Label(label) => {
            let model = table.model(model)?;
            let labels = model.current.as_ref().map(|version| &version.options.version_labels);
            if let Some(number) = labels.and_then(|labels| labels.get(&**label)) {
                return Ok(Text::from(number.to_string()));
            }
            let known: Vec<&str> =
                labels.into_iter().flatten().map(|(label, _)| label.as_str()).collect();
            Err(Error::new(
                Code::NotFound,
                format!(
                    "model '{}' has no label '{}' (it has {})",
                    model.name,
                    label.chars().take(128).flat_map(char::escape_debug).collect::<String>(),
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                ),
            ))
        }
    }
}

/// The models that serve, as KServe lists them.
pub fn models(table: &Table) -> Value {
    let mut names: Vec<&str> = table
        .models
        .values()
        .filter(|model| model.current.is_some())
        .map(|model| &*model.name)
        .collect();
    names.sort_unstable();
    json!({ "models": names })
}

/// Whether a model serves, as KServe says it, and how its versions stand, as TensorFlow Serving does.
///
/// # Errors
/// `NotFound` for what the table does not know.
pub fn status(table: &Table, model: &str, version: &str) -> Result<(bool, Value), Error> {
    let model = table.model(model)?;
    let (ready, versions) = match version {
        "" => {
            let all = model.versions.iter().rev();
            (model.current.is_some(), all.map(|(n, s)| standing(&n.to_string(), s)).collect())
        }
        version => {
            let state = model.state(version)?;
            (matches!(state, State::Ready(_)), vec![standing(version, state)])
        }
    };
    let body = json!({ "name": &*model.name, "ready": ready, "model_version_status": versions });
    Ok((ready, body))
}

fn standing(version: &str, state: &State) -> Value {
    let name = match state {
        State::Loading | State::Warming => "LOADING",
        State::Ready(_) => "AVAILABLE",
        State::Draining | State::Kept(_) => "UNLOADING",
        State::Unloaded(_) | State::Failed(_) => "END",
    };
    let code = if matches!(state, State::Failed(_)) { "FAILED_PRECONDITION" } else { "OK" };
    json!({
        "version": version,
        "state": name,
        "status": { "error_code": code, "error_message": state.reason() },
    })
}

/// What a version takes and gives, in TensorFlow Serving's words.
pub fn metadata(version: &Version) -> Value {
    let Signature { inputs, outputs, .. } = &*version.signature;
    let signature = json!({
        "inputs": tensors(inputs),
        "outputs": tensors(outputs),
        "method_name": "tensorflow/serving/predict",
    });
    json!({
        "model_spec": {
            "name": &*version.model,
            "signature_name": "",
            "version": &*version.label,
        },
        "metadata": { "signature_def": { "signature_def": { SIGNATURE: signature } } },
    })
}

fn tensors(specs: &[TensorSpec]) -> Map<String, Value> {
    let tensor = |spec: &TensorSpec| {
        // 64-bit integers are strings in the JSON of Protocol Buffers.
        let dim = |size: &i64| json!({ "size": size.to_string(), "name": "" });
        let dims: Vec<Value> = match &spec.dims {
            None => Vec::new(),
            Some(_) => spec.protocol_dims().iter().map(dim).collect(),
        };
        let shape = json!({ "dim": dims, "unknown_rank": spec.dims.is_none() });
        let description = json!({
            "dtype": dtype(spec.datatype),
            "tensor_shape": shape,
            "name": &*spec.name,
        });
        (spec.name.to_string(), description)
    };
    specs.iter().map(tensor).collect()
}

/// TensorFlow's name of a datatype.
fn dtype(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "DT_BOOL",
        Datatype::Uint8 => "DT_UINT8",
        Datatype::Uint16 => "DT_UINT16",
        Datatype::Uint32 => "DT_UINT32",
        Datatype::Uint64 => "DT_UINT64",
        Datatype::Int8 => "DT_INT8",
        Datatype::Int16 => "DT_INT16",
        Datatype::Int32 => "DT_INT32",
        Datatype::Int64 => "DT_INT64",
        Datatype::Fp16 => "DT_HALF",
        Datatype::Bf16 => "DT_BFLOAT16",
        Datatype::Fp32 => "DT_FLOAT",
        Datatype::Fp64 => "DT_DOUBLE",
        Datatype::Bytes => "DT_STRING",
    }
}

/// The output that `:classify` ranks, or whose values `:regress` gives: the one with labels, or else the only one of floats with
/// that many dimensions.
///
/// # Errors
/// `InvalidArgument` where there is none, or more than one.
pub fn scores(signature: &Signature, verb: Verb) -> Result<usize, Error> {
    let outputs = || signature.outputs.iter().enumerate();
    let float = |spec: &TensorSpec| {
        use Datatype::{Bf16, Fp16, Fp32, Fp64};
        matches!(spec.datatype, Fp16 | Bf16 | Fp32 | Fp64)
    };
    let classes = verb == Verb::Classify;
    if classes && let Some((index, _)) = outputs().find(|(_, o)| o.labels.is_some() && float(o)) {
        return Ok(index);
    }
    let fits = |spec: &TensorSpec| match &spec.dims {
        None => true,
        Some(dims) if classes => dims.len() == 2,
        Some(dims) => dims.len() == 1 || dims.len() == 2 && dims[1].accepts(1),
    };
    let found: Vec<(usize, &TensorSpec)> =
        outputs().filter(|(_, spec)| float(spec) && fits(spec)).collect();
    if let [(index, _)] = *found {
        return Ok(index);
    }
    let what = if classes { "a score for each class" } else { "one number for each example" };
    let names = |specs: Vec<&TensorSpec>| {
        specs.iter().map(|s| format!("'{}'", s.name)).collect::<Vec<_>>().join(", ")
    };
    Err(Error::invalid(match found.as_slice() {
        [] => format!(
            "none of the model's outputs, {}, has {what}: ask by ':predict'",
            names(signature.outputs.iter().collect())
        ),
        several => format!(
            "several of the model's outputs have {what}, {}: ask by ':predict'",
            names(several.iter().map(|(_, spec)| *spec).collect())
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture;

    #[test]
    fn calls_are_told_from_other_paths() {
        let of = |path| match call(path) {
            Some(Ok(Call { model, which, verb })) => Some((model.to_string(), which, verb)),
            _ => None,
        };
        let iris = |which, verb| Some(("iris".to_owned(), which, verb));
        assert_eq!(of("/v1/models/iris:predict"), iris(Which::Current, Verb::Predict));
        let third = Which::Number("3".into());
        assert_eq!(of("/v1/models/iris/versions/3:regress"), iris(third, Verb::Regress));
        let canary = Which::Label("a b".into());
        assert_eq!(of("/v1/models/iris/labels/a%20b:classify"), iris(canary, Verb::Classify));
        for path in [
            "/v1/models/iris",
            "/v1/models/:predict",
            "/v1/models/iris:train",
            "/v1/models/iris:Predict",
            "/v1/models/iris/versions:predict",
            "/v1/models/iris/versions/3/4:predict",
            "/v1/models/iris/tags/3:predict",
            "/v1/models/a/b:predict",
            "/v1/models/iris:predict/",
            "/v2/models/iris:predict",
        ] {
            assert_eq!(call(path), None, "{path}");
        }
        let explain = call("/v1/models/iris:explain").expect("a call").expect_err("not here");
        assert_eq!(explain.code, Code::Unimplemented);
        assert!(call("/v1/models/%zz:predict").expect("a call").is_err());
        let nameless =
            call("/v1/models/iris/versions/:predict").expect("a call").expect_err("no name");
        assert_eq!(nameless.code, Code::NotFound);
    }

    #[test]
    fn how_a_model_stands() {
        let api = fixture::api();
        let table = api.table.load();
        let (ready, body) = status(&table, "digits", "").expect("known");
        assert!(ready);
        assert_eq!(body["name"], "digits");
        let states: Vec<(&str, &str)> = body["model_version_status"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| (v["version"].as_str().expect("text"), v["state"].as_str().expect("text")))
            .collect();
        assert!(states.contains(&("2", "AVAILABLE")) && states.contains(&("4", "END")), "{body}");
        let (ready, body) = status(&table, "digits", "4").expect("known");
        assert!(!ready);
        let said = &body["model_version_status"][0]["status"];
        assert_eq!(said["error_message"], "the file is cut off");
        assert_eq!(status(&table, "nosuch", "").expect_err("unknown").code, Code::NotFound);
        let label = Which::Label("canary".into());
        let unknown = version(&table, "digits", &label).expect_err("no such label");
        assert_eq!(unknown.message, "model 'digits' has no label 'canary' (it has none)");
    }

    #[test]
    fn the_output_that_has_the_scores() {
        let spec = |name: &str, datatype, rank: usize, labels: bool| TensorSpec {
            name: name.into(),
            datatype,
            dims: Some(vec![crate::types::model::Dim::Any; rank]),
            optional: false,
            labels: labels.then(|| vec!["a".to_owned()].into()),
        };
        let of = |outputs: Vec<TensorSpec>, verb| {
            scores(&Signature { outputs, ..Signature::default() }, verb)
        };
        let label = || spec("label", Datatype::Int64, 1, false);
        let p = |labels| spec("p", Datatype::Fp32, 2, labels);
        assert_eq!(of(vec![label(), p(false)], Verb::Classify), Ok(1));
        assert_eq!(of(vec![p(false), p(true)], Verb::Classify), Ok(1));
        let error = of(vec![p(false), p(false)], Verb::Classify).expect_err("two");
        assert!(error.message.starts_with("several of the model's outputs"), "{error}");
        let error = of(vec![label()], Verb::Regress).expect_err("none");
        assert!(error.message.starts_with("none of the model's outputs, 'label', has one number"));
        assert_eq!(of(vec![spec("y", Datatype::Fp64, 1, false)], Verb::Regress), Ok(0));
    }
}
