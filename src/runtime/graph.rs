//! What an ONNX file says of itself: signature, operators, labels, external data; read without trusting the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    ops,
    protobuf::{Fields, Value},
    scan::Scan,
};
use crate::types::{
    datatype::Datatype,
    model::{Dim, TensorSpec},
};

/// Inputs, outputs, operator sets, metadata: more of any than this and the file is refused.
const MAX_ENTRIES: usize = 10_000;
const MAX_RANK: usize = 64;
/// Bytes of the `labels` property that are looked at.
const MAX_LABELS: usize = 4 << 20;

/// An ONNX model's own description. Weights are skipped, never copied.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub ir_version: i64,
    /// Name and version of the tool that wrote the file, as in `pytorch 2.9.0`; empty where it does not say.
    pub producer: String,
    /// Operator sets by domain; `""` is ONNX's own.
    pub opsets: BTreeMap<String, i64>,
    /// In the graph's order. One with a default (an initializer of the same name) is optional.
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// The model's `metadata_props`.
    pub metadata: BTreeMap<String, String>,
    /// Every operator used, also in subgraphs and functions, as (domain, name); `""` is ONNX's own domain.
    pub ops: BTreeSet<(String, String)>,
    /// Nodes, also those of subgraphs and functions.
    pub nodes: usize,
    /// It has If, Loop or Scan.
    pub control_flow: bool,
    /// The shape of some tensor hangs on the values of an input, so that rows of a batch may not be independent.
    pub data_dependent: bool,
    /// The same input may be answered differently each time.
    pub random: bool,
    /// Files of external data, as the graph names them. Not checked: they may say anything, also `../../etc/passwd`.
    pub external: Vec<String>,
    /// Bytes of the weights in this file (those in external files are not counted).
    pub initializer_bytes: u64,
    /// Why this model cannot be served, each naming the input or output; empty where it can.
    pub unsupported: Vec<String>,
    labels: Option<Labels>,
}

#[derive(Clone, Debug)]
struct Labels {
    names: Arc<[String]>,
    /// The output they belong to, where the file says so.
    output: Option<String>,
}

impl Graph {
    /// Reads a serialised ModelProto. Never panics, and takes memory in proportion to the file at most.
    ///
    /// # Errors
    /// `the file is not an ONNX model: ...`, with what is wrong.
    pub fn parse(file: &[u8]) -> Result<Graph, String> {
        parse(file).map_err(|e| format!("the file is not an ONNX model: {e}"))
    }

    /// Gives the model's labels to the output that they belong to: the one named by the property `labels_output`, or the only
    /// score matrix whose last dimension equals their number.
    pub fn attach_labels(&self, outputs: &mut [TensorSpec]) {
        let Some(labels) = &self.labels else { return };
        let count = labels.names.len() as i64;
        let last = |spec: &TensorSpec| spec.dims.as_ref().and_then(|d| d.last().cloned());
        let mut candidates: Vec<&mut TensorSpec> = match &labels.output {
            Some(name) => outputs
                .iter_mut()
                .filter(|o| *o.name == **name && last(o).is_none_or(|d| d.accepts(count)))
                .collect(),
            None => outputs
                .iter_mut()
                .filter(|o| is_score(o.datatype) && last(o) == Some(Dim::Fixed(count)))
                .collect(),
        };
        if let [output] = candidates.as_mut_slice() {
            output.labels = Some(labels.names.clone());
        }
    }

    /// The first operator used for which `is` holds, as `Name` or `domain.Name`.
    pub fn find_op(&self, is: impl Fn(&str, &str) -> bool) -> Option<String> {
        let (domain, op) = self.ops.iter().find(|(domain, op)| is(domain, op))?;
        Some(if domain.is_empty() { op.clone() } else { format!("{domain}.{op}") })
    }
}

fn is_score(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

fn parse(file: &[u8]) -> Result<Graph, String> {
    if file.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut graph = Graph::default();
    let mut body = None;
    let mut functions = Vec::new();
    let mut producer = ("", "");
    let mut fields = Fields::of(file);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => graph.ir_version = value.int(),
            2 => producer.0 = value.text()?,
            3 => producer.1 = value.text()?,
            7 if body.replace(value.bytes()).is_some() => {
                return Err("it has two graphs".to_owned());
            }
            8 => opset(&mut graph, value.bytes())?,
            14 => property(&mut graph, value.bytes())?,
            25 if functions.len() < MAX_ENTRIES => functions.push(value.bytes()),
            25 => return Err(format!("it has more than {MAX_ENTRIES} functions")),
            _ => {}
        }
    }
    let Some(body) = body else { return Err("it holds no graph".to_owned()) };
    if graph.ir_version <= 0 {
        return Err("it names no IR version".to_owned());
    }
    graph.producer = format!("{} {}", producer.0, producer.1).trim().to_owned();
    graph.labels = labels(&graph.metadata);

    let mut scan = Scan::new(graph.ir_version);
    let io = scan.main(body)?;
    for function in functions {
        scan.function(function)?;
    }
    let found = scan.found;
    graph.ops = found.ops;
    graph.nodes = found.nodes;
    graph.control_flow = graph.ops.iter().any(|(d, op)| ops::is_control_flow(d, op));
    graph.data_dependent = found.data_dependent;
    graph.random = found.random;
    graph.external = found.external.into_iter().collect();
    graph.initializer_bytes = found.initializer_bytes;
    graph.unsupported = found.unsupported;

    for message in io.inputs {
        let Some(mut spec) = io_spec(&mut graph, message, "input")? else { continue };
        let initialized = io.initializers.contains(spec.name.as_bytes());
        // Before IR version 4, weights were listed among the inputs and are no inputs at all.
        if initialized && graph.ir_version < 4 {
            continue;
        }
        spec.optional = initialized;
        add(&mut graph.unsupported, &mut graph.inputs, spec, "input")?;
    }
    for message in io.outputs {
        let Some(spec) = io_spec(&mut graph, message, "output")? else { continue };
        add(&mut graph.unsupported, &mut graph.outputs, spec, "output")?;
    }
    let mut outputs = std::mem::take(&mut graph.outputs);
    graph.attach_labels(&mut outputs);
    graph.outputs = outputs;
    if graph.outputs.is_empty() && graph.unsupported.is_empty() {
        graph.unsupported.push("the graph has no outputs".to_owned());
    }
    Ok(graph)
}

fn add(
    unsupported: &mut Vec<String>,
    specs: &mut Vec<TensorSpec>,
    spec: TensorSpec,
    what: &str,
) -> Result<(), String> {
    if specs.len() >= MAX_ENTRIES {
        return Err(format!("it has more than {MAX_ENTRIES} {what}s"));
    }
    // Quadratic, but bounded by `MAX_ENTRIES`.
    if specs.iter().any(|s| s.name == spec.name) {
        unsupported.push(format!("{what} {:?} appears twice", spec.name));
    } else {
        specs.push(spec);
    }
    Ok(())
}

fn opset(graph: &mut Graph, message: &[u8]) -> Result<(), String> {
    let (mut domain, mut version) = ("", 0);
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => domain = value.text()?,
            2 => version = value.int(),
            _ => {}
        }
    }
    if graph.opsets.len() >= MAX_ENTRIES {
        return Err(format!("it names more than {MAX_ENTRIES} operator sets"));
    }
    graph.opsets.insert(super::scan::domain(domain).to_owned(), version);
    Ok(())
}

fn property(graph: &mut Graph, message: &[u8]) -> Result<(), String> {
    let (mut key, mut text): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => key = value.bytes(),
            2 => text = value.bytes(),
            _ => {}
        }
    }
    if graph.metadata.len() >= MAX_ENTRIES {
        return Err(format!("it has more than {MAX_ENTRIES} metadata properties"));
    }
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    graph.metadata.insert(lossy(key), lossy(text));
    Ok(())
}

/// `labels` or `class_labels`: a JSON array, or names separated by newlines or commas.
fn labels(metadata: &BTreeMap<String, String>) -> Option<Labels> {
    let text = metadata.get("labels").or_else(|| metadata.get("class_labels"))?.trim();
    if text.is_empty() || text.len() > MAX_LABELS {
        return None;
    }
    let names: Vec<String> = if text.starts_with('[') {
        let values: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
        let name = |value| match value {
            serde_json::Value::String(name) => name,
            other => other.to_string(),
        };
        values.into_iter().map(name).collect()
    } else {
        let separator = if text.contains('\n') { '\n' } else { ',' };
        text.split(separator).map(|name| name.trim().to_owned()).collect()
    };
    Some(Labels { names: names.into(), output: metadata.get("labels_output").cloned() })
}

/// A graph input or output. `None` where its type cannot be served; the reason then is in `unsupported`.
fn io_spec(graph: &mut Graph, message: &[u8], what: &str) -> Result<Option<TensorSpec>, String> {
    let (mut name, mut typ): (&str, &[u8]) = ("", &[]);
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => name = value.text()?,
            2 => typ = value.bytes(),
            _ => {}
        }
    }
    if name.is_empty() || name.contains('\0') {
        graph.unsupported.push(format!("an {what} has the name {name:?}"));
        return Ok(None);
    }
    match tensor_type(typ)? {
        Ok((datatype, dims)) => Ok(Some(TensorSpec {
            name: name.into(),
            datatype,
            dims,
            optional: false,
            labels: None,
        })),
        Err(kind) => {
            let zipmap = graph.ops.iter().any(|(d, op)| d == "ai.onnx.ml" && op == "ZipMap");
            let advice = match (kind.contains("map"), zipmap) {
                (true, true) => {
                    "; convert the model with zipmap=False (skl2onnx: options={'zipmap': False})"
                }
                _ => "",
            };
            graph.unsupported.push(format!(
                "{what} {name:?} is {kind}, which the protocol cannot carry{advice}"
            ));
            Ok(None)
        }
    }
}

type TensorType = (Datatype, Option<Vec<Dim>>);

/// Datatype and dimensions of a TypeProto, or what it is instead.
fn tensor_type(typ: &[u8]) -> Result<Result<TensorType, String>, String> {
    let mut fields = Fields::of(typ);
    let mut found = None;
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => found = Some(value.bytes()),
            4 => return Ok(Err(format!("a sequence of {}", sequence_of(value)?))),
            5 => return Ok(Err("a map".to_owned())),
            8 => return Ok(Err("a sparse tensor".to_owned())),
            9 => return Ok(Err("an optional value".to_owned())),
            7 => return Ok(Err("of an opaque type".to_owned())),
            _ => {}
        }
    }
    let Some(tensor) = found else { return Ok(Err("of no type".to_owned())) };
    let (mut element, mut dims) = (0, None);
    let mut fields = Fields::of(tensor);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => element = value.int(),
            2 => dims = Some(shape(value.bytes())?),
            _ => {}
        }
    }
    match datatype(element) {
        Ok(datatype) => Ok(Ok((datatype, dims))),
        Err(name) => Ok(Err(format!("a tensor of {name}"))),
    }
}

fn sequence_of(sequence: Value<'_>) -> Result<&'static str, String> {
    let mut fields = Fields::of(sequence.bytes());
    while let Some((field, value)) = fields.next()? {
        if field == 1 {
            return Ok(match Fields::of(value.bytes()).next()? {
                Some((1, _)) => "tensors",
                Some((5, _)) => "maps",
                _ => "values",
            });
        }
    }
    Ok("values")
}

fn shape(message: &[u8]) -> Result<Vec<Dim>, String> {
    let mut dims = Vec::new();
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        if field != 1 {
            continue;
        }
        if dims.len() >= MAX_RANK {
            return Err(format!("a shape has more than {MAX_RANK} dimensions"));
        }
        let mut dim = Dim::Any;
        let mut parts = Fields::of(value.bytes());
        while let Some((part, value)) = parts.next()? {
            match part {
                // Some exporters write -1 for a dynamic dimension.
                1 if value.int() >= 0 => dim = Dim::Fixed(value.int()),
                2 => dim = symbol(value.text()?),
                _ => {}
            }
        }
        dims.push(dim);
    }
    Ok(dims)
}

/// A dynamic dimension by its name. `unk__12` is how tf2onnx numbers those that have none, each differently.
pub fn symbol(name: &str) -> Dim {
    if name.is_empty() || name.starts_with("unk__") { Dim::Any } else { Dim::Symbol(name.into()) }
}

/// The protocol's datatype of an ONNX element type, or that type's name.
pub fn datatype(element: i64) -> Result<Datatype, String> {
    Ok(match element {
        1 => Datatype::Fp32,
        2 => Datatype::Uint8,
        3 => Datatype::Int8,
        4 => Datatype::Uint16,
        5 => Datatype::Int16,
        6 => Datatype::Int32,
        7 => Datatype::Int64,
        8 => Datatype::Bytes,
        9 => Datatype::Bool,
        10 => Datatype::Fp16,
        11 => Datatype::Fp64,
        12 => Datatype::Uint32,
        13 => Datatype::Uint64,
        16 => Datatype::Bf16,
        other => {
            return Err(match other {
                0 => "no element type",
                14 => "complex64",
                15 => "complex128",
                17 => "float8e4m3fn",
                18 => "float8e4m3fnuz",
                19 => "float8e5m2",
                20 => "float8e5m2fnuz",
                21 => "uint4",
                22 => "int4",
                23 => "float4e2m1",
                24 => "float8e8m0",
                25 => "uint2",
                26 => "int2",
                other => return Err(format!("element type {other}")),
            }
            .to_owned());
        }
    })
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
