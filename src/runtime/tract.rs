//! tract: pure Rust, on the CPU, nothing to install. For plain networks; what it does badly it refuses.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use tract_onnx::{
    pb::{ModelProto, TensorProto, tensor_proto::DataLocation},
    prelude::*,
    tract_core::{ops::cast::wire_cast, plan},
    tract_hir::infer::Factoid as _,
};

use super::{
    graph::Graph,
    ops,
    options::SessionOptions,
    session::{Backend, Cancel, ModelSource, Outputs, RunError, Session},
};
use crate::types::{
    datatype::Datatype,
    model::{Dim, Signature, TensorSpec},
    tensor::{Dims, Tensor as OurTensor, TensorView, element_count},
};

/// Outputs up to this size are copied; larger ones stay in tract's tensor.
const COPY_UP_TO: usize = 1024;
/// Characters of tract's own account of what went wrong.
const MAX_REASON: usize = 600;

struct TractBackend;

/// tract, which is always there.
pub fn backend() -> Arc<dyn Backend> {
    Arc::new(TractBackend)
}

struct TractSession {
    plan: Arc<TypedSimplePlan>,
    signature: Arc<Signature>,
    warnings: Vec<String>,
}

impl Backend for TractBackend {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn describe(&self) -> String {
        "tract 0.23.9".to_owned()
    }

    fn open(
        &self,
        source: &ModelSource,
        options: &SessionOptions,
    ) -> Result<Arc<dyn Session>, String> {
        options.check()?;
        if options.wants_device() && !options.fallback {
            return Err(
                "tract runs on the CPU only; the providers asked for need ONNX Runtime".into()
            );
        }
        if let Some(reason) = source.graph.unsupported.first() {
            return Err(reason.clone());
        }
        if let Some(reason) = refuses(&source.graph) {
            return Err(format!("{reason}; install ONNX Runtime for this model"));
        }
        let mut session = catch_unwind(AssertUnwindSafe(|| open(source)))
            .unwrap_or_else(|_| Err("tract panicked while it opened the model".to_owned()))?;
        if options.wants_device() {
            session.warnings.push("tract runs on the CPU, not on the providers asked for".into());
        }
        Ok(Arc::new(session))
    }
}

/// Why tract should not, or cannot, run this graph.
fn refuses(graph: &Graph) -> Option<String> {
    if let Some(op) = graph.find_op(|_, op| op.starts_with("TreeEnsemble")) {
        return Some(format!("tract runs {op} a thousand times slower than ONNX Runtime does"));
    }
    let dynamic = |_: &str, op: &str| {
        matches!(op, "DynamicQuantizeLinear" | "MatMulInteger" | "ConvInteger")
            || op.starts_with("DynamicQuantize")
    };
    if let Some(op) = graph.find_op(dynamic) {
        return Some(format!("tract gives wrong numbers for dynamically quantised models ({op})"));
    }
    if let Some(op) = graph.find_op(ops::is_control_flow) {
        return Some(format!("tract does not run control flow ({op})"));
    }
    let both = graph.inputs.iter().chain(&graph.outputs);
    let mut bad = both.filter(|spec| datum(spec.datatype).is_none());
    bad.next().map(|spec| format!("tract has no {} ({:?})", spec.datatype, spec.name))
}

fn open(source: &ModelSource) -> Result<TractSession, String> {
    let graph = &source.graph;
    let onnx = tract_onnx::onnx();
    let mut proto = onnx.proto_model_for_read(&mut &*source.bytes).map_err(|e| said(&e))?;
    inline(&mut proto, source)?;
    let mut model = onnx.model_for_proto_model(&proto).map_err(|e| said(&e))?;
    drop(proto);

    // What may be left out is a constant to tract, and can then not be given either: not an input, here.
    let (optional, inputs): (Vec<TensorSpec>, Vec<TensorSpec>) =
        graph.inputs.iter().cloned().partition(|spec| spec.optional);
    agree(&model, &inputs)?;
    let made = name_dims(&mut model)?;
    let mut outputs = graph.outputs.clone();
    let model = model
        .into_typed()
        .and_then(|m| as_declared(m, &outputs))
        .and_then(|m| m.into_optimized())
        .map_err(|e| said(&e))?;
    for (i, spec) in outputs.iter_mut().enumerate() {
        let fact = model.output_fact(i).map_err(|e| said(&e))?;
        complete(spec, fact.shape.iter().map(|dim| dim_of(dim, &made)).collect());
    }
    graph.attach_labels(&mut outputs);
    let plan = model.into_runnable().map_err(|e| said(&e))?;
    let can_batch = Signature::batchable(&inputs, &outputs);
    let warn = |spec: TensorSpec| {
        format!("the optional input {:?} cannot be given to tract: its default holds", spec.name)
    };
    Ok(TractSession {
        plan,
        signature: Arc::new(Signature { inputs, outputs, can_batch }),
        warnings: optional.into_iter().map(warn).collect(),
    })
}

/// Puts external data into the model itself: tract would open the files by their names.
fn inline(proto: &mut ModelProto, source: &ModelSource) -> Result<(), String> {
    let Some(graph) = &mut proto.graph else { return Ok(()) };
    for tensor in &mut graph.initializer {
        if tensor.data_location != Some(DataLocation::External as i32) {
            continue;
        }
        tensor.raw_data = external(tensor, source)?.to_vec();
        tensor.data_location = None;
        tensor.external_data.clear();
    }
    Ok(())
}

fn external<'a>(tensor: &TensorProto, source: &'a ModelSource) -> Result<&'a [u8], String> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| &*e.value);
    let location = entry("location").unwrap_or_default();
    let number = |key: &str| {
        let parse = |text: &str| {
            text.parse::<usize>().map_err(|_| {
                format!("external data of {:?}: {key} is {text:?}, not a number", tensor.name)
            })
        };
        entry(key).map(parse).transpose()
    };
    let file = source
        .external
        .iter()
        .find(|(name, _)| name == location)
        .map(|(_, bytes)| &**bytes)
        .ok_or_else(|| format!("the file {location:?} of its external data is missing"))?;
    let start = number("offset")?.unwrap_or(0);
    let end = match number("length")? {
        Some(length) => start.checked_add(length),
        None => Some(file.len()),
    };
    end.and_then(|end| file.get(start..end)).ok_or_else(|| {
        let len = file.len();
        format!(
            "external data of {:?} lies outside its file {location:?} ({len} bytes)",
            tensor.name
        )
    })
}

/// Casts outputs to the types that the graph declares: shapes, for one, are formulas over symbols in tract and integers in
/// ONNX, and only a node of the plan knows what the symbols stand for in a run.
fn as_declared(mut model: TypedModel, outputs: &[TensorSpec]) -> TractResult<TypedModel> {
    let mut outlets = model.output_outlets()?.to_vec();
    for (outlet, spec) in outlets.iter_mut().zip(outputs) {
        let Some(want) = datum(spec.datatype) else { continue };
        if model.outlet_fact(*outlet)?.datum_type.unquantized() != want {
            let name = format!("{}.as_declared", spec.name);
            *outlet = wire_cast(name, &mut model, &[*outlet], want)?[0];
        }
    }
    model.with_output_outlets(&outlets)
}

/// tract's reader and ours must agree on the inputs: what is checked against ours is given to its plan.
fn agree(model: &InferenceModel, inputs: &[TensorSpec]) -> Result<(), String> {
    let outlets = model.input_outlets().map_err(|e| said(&e))?;
    let theirs: Vec<&str> = outlets.iter().map(|o| &*model.node(o.node).name).collect();
    let ours: Vec<&str> = inputs.iter().map(|spec| &*spec.name).collect();
    if ours != theirs {
        return Err(format!(
            "the file and tract disagree on the inputs: {ours:?} in the file, {theirs:?} in tract"
        ));
    }
    Ok(())
}

/// Gives each unnamed dimension of an input a symbol, since tract types no others: one for all first axes, and one each for
/// the rest. Gives the names made up.
fn name_dims(model: &mut InferenceModel) -> Result<HashSet<String>, String> {
    let mut made = HashSet::new();
    for i in 0..model.input_outlets().map_err(|e| said(&e))?.len() {
        let mut fact = model.input_fact(i).map_err(|e| said(&e))?.clone();
        let rank = fact.shape.rank().concretize().unwrap_or(0);
        for axis in 0..usize::try_from(rank).unwrap_or(0) {
            if fact.shape.dim(axis).is_none_or(|dim| dim.concretize().is_some()) {
                continue;
            }
            let name =
                if axis == 0 { "unnamed_batch".to_owned() } else { format!("unnamed_{i}_{axis}") };
            let symbol = model.symbols.sym(&name);
            made.insert(name);
            fact.shape.set_dim(axis, symbol.into());
        }
        model.set_input_fact(i, fact).map_err(|e| said(&e))?;
    }
    Ok(made)
}

fn dim_of(dim: &TDim, made: &HashSet<String>) -> Dim {
    match dim.to_i64() {
        Ok(n) => Dim::Fixed(n),
        Err(_) => match dim.to_string() {
            name if made.contains(&name) => Dim::Any,
            // Also a formula such as `2*N`, which is not N.
            name => super::graph::symbol(&name),
        },
    }
}

/// Completes what the graph leaves open by what was inferred.
fn complete(spec: &mut TensorSpec, inferred: Vec<Dim>) {
    match &mut spec.dims {
        Some(dims) if dims.len() == inferred.len() => {
            for (dim, better) in dims.iter_mut().zip(inferred) {
                if *dim == Dim::Any || matches!((&*dim, &better), (Dim::Symbol(_), Dim::Fixed(_))) {
                    *dim = better;
                }
            }
        }
        Some(_) => {}
        none => *none = Some(inferred),
    }
}

impl Session for TractSession {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        &[]
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        if cancel.is_some_and(Cancel::fired) {
            return Err(RunError::Cancelled);
        }
        catch_unwind(AssertUnwindSafe(|| self.run_plan(inputs, cancel)))
            .unwrap_or_else(|_| Err(RunError::Panicked("tract panicked".to_owned())))
    }
}

impl TractSession {
    fn run_plan(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        let specs = &self.signature.inputs;
        if inputs.len() != specs.len() {
            let (got, want) = (inputs.len(), specs.len());
            let message = format!("the model has {want} inputs, {got} were given");
            return Err(RunError::Failed(message));
        }
        let mut values = TVec::new();
        for (spec, view) in specs.iter().zip(inputs) {
            let view = view
                .as_ref()
                .ok_or_else(|| RunError::Invalid(format!("input {:?} is missing", spec.name)))?;
            let value = input(spec, view)
                .map_err(|e| RunError::Invalid(format!("input {:?}: {e}", spec.name)))?;
            values.push(value);
        }
        // Looked at before each node, as ONNX Runtime does: a node under way is not interrupted.
        let results = self.plan.spawn().and_then(|mut state| {
            state.run_plan_with_eval(values, |context, state, node, inputs| {
                match cancel.is_some_and(Cancel::fired) {
                    true => Err(TractError::msg("cancelled")),
                    false => plan::eval(context, state, node, inputs),
                }
            })
        });
        let results = results.map_err(|e| match cancel.is_some_and(Cancel::fired) {
            true => RunError::Cancelled,
            false => RunError::Failed(said(&e)),
        })?;
        let mut outputs = Outputs::new();
        for (spec, value) in self.signature.outputs.iter().zip(results) {
            let tensor = output(spec, value)
                .map_err(|e| RunError::Failed(format!("output {:?}: {e}", spec.name)))?;
            outputs.push(tensor);
        }
        Ok(outputs)
    }
}

fn input(spec: &TensorSpec, view: &TensorView<'_>) -> Result<TValue, String> {
    let accepted = match &spec.dims {
        None => true,
        Some(dims) => {
            dims.len() == view.dims.len()
                && dims.iter().zip(view.dims).all(|(dim, n)| dim.accepts(*n))
        }
    };
    if spec.datatype != view.datatype || !accepted {
        let want = spec.shape_text();
        return Err(format!(
            "expected {} {want}, got {} {:?}",
            spec.datatype, view.datatype, view.dims
        ));
    }
    let datum = datum(view.datatype).ok_or("tract has no such datatype")?;
    let count = element_count(view.dims).ok_or("no tensor has this shape")?;
    let shape: TVec<usize> = view.dims.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
    if Some(view.data.len()) != view.datatype.size().and_then(|size| count.checked_mul(size)) {
        return Err(format!("{} bytes for {} of {:?}", view.data.len(), view.datatype, view.dims));
    }
    if view.datatype == Datatype::Bool && view.data.iter().any(|b| *b > 1) {
        return Err("a BOOL is neither 0 nor 1".to_owned());
    }
    // SAFETY: a plain number type, of which every bit pattern is a value, or `bool`, checked above.
    let tensor = unsafe { Tensor::from_raw_dt(datum, &shape, view.data) }.map_err(|e| said(&e))?;
    Ok(tensor.into())
}

/// tract's tensor as bytes that it keeps alive.
struct Owner(Arc<Tensor>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn output(spec: &TensorSpec, value: TValue) -> Result<OurTensor, String> {
    let want = datum(spec.datatype).ok_or("tract has no such datatype")?;
    let mut tensor: Arc<Tensor> = value.into_arc_tensor();
    if tensor.datum_type().unquantized() != want {
        let cast = tensor.cast_to_dt(want).map_err(|e| said(&e))?.into_owned();
        tensor = Arc::new(cast);
    }
    let dims: Dims = tensor.shape().iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect();
    let view = tensor.try_as_plain_ram().map_err(|e| said(&e))?;
    let data = view.as_bytes();
    let bytes = spec.datatype.size().unwrap_or(0) * tensor.len();
    if data.len() != bytes {
        return Err(format!("{} bytes for {} of {dims:?}", data.len(), spec.datatype));
    }
    let data = if bytes <= COPY_UP_TO {
        Bytes::copy_from_slice(data)
    } else {
        Bytes::from_owner(Owner(tensor.clone()))
    };
    Ok(OurTensor { datatype: spec.datatype, dims, data })
}

fn datum(datatype: Datatype) -> Option<DatumType> {
    Some(match datatype {
        Datatype::Bool => DatumType::Bool,
        Datatype::Uint8 => DatumType::U8,
        Datatype::Uint16 => DatumType::U16,
        Datatype::Uint32 => DatumType::U32,
        Datatype::Uint64 => DatumType::U64,
        Datatype::Int8 => DatumType::I8,
        Datatype::Int16 => DatumType::I16,
        Datatype::Int32 => DatumType::I32,
        Datatype::Int64 => DatumType::I64,
        Datatype::Fp16 => DatumType::F16,
        Datatype::Fp32 => DatumType::F32,
        Datatype::Fp64 => DatumType::F64,
        Datatype::Bf16 | Datatype::Bytes => return None,
    })
}

/// tract's chain of reasons, in one line of bounded length.
fn said(error: &TractError) -> String {
    let text = format!("{error:#}");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        onnx_writer::{Attr, GraphWriter},
        options::{Provider, ProviderOptions},
        testing::{longs, open as open_on, run_one, source},
    };

    #[test]
    fn what_tract_does_badly_is_refused_with_advice() {
        let with = |domain: &str, op: &str| {
            let graph = GraphWriter::new()
                .node_with(domain, op, &["x"], &["y"], &[])
                .input("x", Datatype::Fp32, &["N", "2"])
                .output("y", Datatype::Fp32, &["N", "2"]);
            open_on(&TractBackend, &graph).err().unwrap()
        };
        for (domain, op, why) in [
            ("ai.onnx.ml", "TreeEnsembleClassifier", "slower"),
            ("ai.onnx.ml", "TreeEnsemble", "slower"),
            ("", "DynamicQuantizeLinear", "wrong numbers"),
            ("", "MatMulInteger", "wrong numbers"),
            ("", "ConvInteger", "wrong numbers"),
            ("", "Scan", "control flow"),
        ] {
            let error = with(domain, op);
            assert!(error.contains(op) && error.contains(why), "{error}");
            assert!(error.contains("install ONNX Runtime"), "{error}");
        }
    }

    #[test]
    fn shapes_come_out_as_integers() {
        let graph = GraphWriter::new()
            .node("Shape", &["x"], &["y"])
            .input("x", Datatype::Int64, &["N", "2"])
            .output("y", Datatype::Int64, &["2"]);
        let session = open_on(&TractBackend, &graph).unwrap();
        let outputs = run_one(&*session, Datatype::Int64, &[3, 2], &longs(&[0; 6])).unwrap();
        assert_eq!(outputs[0].data, longs(&[3, 2]));
    }

    #[test]
    fn a_run_ends_between_two_nodes_once_nobody_waits_for_it() {
        const NODES: usize = 400;
        let names: Vec<String> = (0..=NODES).map(|n| format!("v{n}")).collect();
        let mut graph = GraphWriter::new().input(&names[0], Datatype::Fp32, &["N", "4096"]).output(
            &names[NODES],
            Datatype::Fp32,
            &["N", "4096"],
        );
        for pair in names.windows(2) {
            graph =
                graph.node_with("", "Softmax", &[&pair[0]], &[&pair[1]], &[Attr::Int("axis", 1)]);
        }
        let session = open_on(&TractBackend, &graph).unwrap();
        let run = |rows: i64, cancel: &Cancel| {
            let data = vec![0u8; usize::try_from(rows).unwrap() * 4096 * 4];
            let view = TensorView { datatype: Datatype::Fp32, dims: &[rows, 4096], data: &data };
            session.run(&[Some(view)], Some(cancel)).map(|outputs| outputs[0].dims[0])
        };
        let cancel = Cancel::default();
        assert_eq!(run(1, &cancel), Ok(1));
        std::thread::scope(|scope| {
            // Seconds of work.
            let long = scope.spawn(|| run(1024, &cancel));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!long.is_finished());
            cancel.fire();
            assert_eq!(long.join().unwrap(), Err(RunError::Cancelled));
        });
        assert_eq!(run(1, &cancel), Err(RunError::Cancelled));
        assert_eq!(run(1, &Cancel::default()), Ok(1));
    }

    #[test]
    fn providers_are_not_its_business() {
        let graph = GraphWriter::new()
            .node_with("", "Cast", &["x"], &["y"], &[Attr::Int("to", 7)])
            .input("x", Datatype::Fp32, &["N"])
            .output("y", Datatype::Int64, &["N"]);
        let source = source(graph.model()).unwrap();
        let cuda = ProviderOptions { name: Provider::Cuda, ..ProviderOptions::default() };
        let mut options = SessionOptions { providers: vec![cuda], ..SessionOptions::default() };
        let error = TractBackend.open(&source, &options).err().unwrap();
        assert!(error.contains("ONNX Runtime"), "{error}");
        options.fallback = true;
        assert_eq!(TractBackend.open(&source, &options).unwrap().warnings().len(), 1);
    }
}
