//! Writes small ONNX models for tests, so that a test says what its model is and no file is needed.

use crate::types::datatype::Datatype;

/// A graph under construction.
#[derive(Clone, Default)]
pub struct GraphWriter {
    message: Vec<u8>,
}

/// An attribute of a node.
pub enum Attr<'a> {
    Int(&'a str, i64),
    Ints(&'a str, &'a [i64]),
    Float(&'a str, f32),
    Text(&'a str, &'a str),
    /// Name, datatype, dimensions, raw little-endian data.
    Tensor(&'a str, Datatype, &'a [i64], &'a [u8]),
    Graph(&'a str, GraphWriter),
}

/// What surrounds the graph in the file.
pub struct ModelWriter {
    pub ir_version: i64,
    pub opsets: Vec<(&'static str, i64)>,
    pub metadata: Vec<(String, String)>,
    /// Serialised FunctionProtos.
    pub functions: Vec<Vec<u8>>,
}

impl Default for ModelWriter {
    fn default() -> Self {
        ModelWriter {
            ir_version: 8,
            opsets: vec![("", 17), ("ai.onnx.ml", 3)],
            metadata: Vec::new(),
            functions: Vec::new(),
        }
    }
}

impl ModelWriter {
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// The file.
    pub fn write(&self, graph: &GraphWriter) -> Vec<u8> {
        let mut out = Vec::new();
        int(&mut out, 1, self.ir_version);
        len(&mut out, 2, b"onnx_writer");
        len(&mut out, 7, &graph.message);
        for (domain, version) in &self.opsets {
            let mut opset = Vec::new();
            len(&mut opset, 1, domain.as_bytes());
            int(&mut opset, 2, *version);
            len(&mut out, 8, &opset);
        }
        for (key, value) in &self.metadata {
            len(&mut out, 14, &pair(key, value));
        }
        for function in &self.functions {
            len(&mut out, 25, function);
        }
        out
    }
}

impl GraphWriter {
    pub fn new() -> GraphWriter {
        let mut graph = GraphWriter::default();
        len(&mut graph.message, 2, b"test");
        graph
    }

    /// The file, with opset 17 and IR version 8.
    pub fn model(&self) -> Vec<u8> {
        ModelWriter::default().write(self)
    }

    /// Dimensions are written as `"3"`, `"N"` (a symbol) or `"?"` (dynamic, unnamed).
    pub fn input(self, name: &str, datatype: Datatype, dims: &[&str]) -> Self {
        self.value(11, name, &tensor_type(element(datatype), Some(dims)))
    }

    pub fn output(self, name: &str, datatype: Datatype, dims: &[&str]) -> Self {
        self.value(12, name, &tensor_type(element(datatype), Some(dims)))
    }

    /// An output of which the graph gives no rank.
    pub fn output_unranked(self, name: &str, datatype: Datatype) -> Self {
        self.value(12, name, &tensor_type(element(datatype), None))
    }

    /// An output of any type: a serialised TypeProto.
    pub fn output_of_type(self, name: &str, typ: &[u8]) -> Self {
        self.value(12, name, typ)
    }

    fn value(mut self, field: u32, name: &str, typ: &[u8]) -> Self {
        let mut info = Vec::new();
        len(&mut info, 1, name.as_bytes());
        len(&mut info, 2, typ);
        len(&mut self.message, field, &info);
        self
    }

    pub fn node(self, op: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.node_with("", op, inputs, outputs, &[])
    }

    pub fn node_with(
        mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[Attr<'_>],
    ) -> Self {
        let node = node(domain, op, inputs, outputs, attributes);
        len(&mut self.message, 1, &node);
        self
    }

    /// A weight, in raw little-endian bytes.
    pub fn init(mut self, name: &str, datatype: Datatype, dims: &[i64], raw: &[u8]) -> Self {
        let tensor = tensor(name, datatype, dims, raw);
        len(&mut self.message, 5, &tensor);
        self
    }

    pub fn init_f32(self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.init(name, Datatype::Fp32, dims, &raw)
    }

    pub fn init_i64(self, name: &str, dims: &[i64], values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.init(name, Datatype::Int64, dims, &raw)
    }

    /// A weight whose bytes are in another file.
    pub fn init_external(
        mut self,
        name: &str,
        datatype: Datatype,
        dims: &[i64],
        location: &str,
        bytes: std::ops::Range<usize>,
    ) -> Self {
        let mut out = Vec::new();
        dims.iter().for_each(|d| int(&mut out, 1, *d));
        int(&mut out, 2, element(datatype));
        len(&mut out, 8, name.as_bytes());
        len(&mut out, 13, &pair("location", location));
        len(&mut out, 13, &pair("offset", &bytes.start.to_string()));
        len(&mut out, 13, &pair("length", &bytes.len().to_string()));
        int(&mut out, 14, 1);
        len(&mut self.message, 5, &out);
        self
    }
}

/// A serialised NodeProto.
pub fn node(
    domain: &str,
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[Attr<'_>],
) -> Vec<u8> {
    let mut out = Vec::new();
    inputs.iter().for_each(|n| len(&mut out, 1, n.as_bytes()));
    outputs.iter().for_each(|n| len(&mut out, 2, n.as_bytes()));
    len(&mut out, 4, op.as_bytes());
    for attr in attributes {
        len(&mut out, 5, &attribute(attr));
    }
    if !domain.is_empty() {
        len(&mut out, 7, domain.as_bytes());
    }
    out
}

fn attribute(attr: &Attr<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut head = |name: &str, kind: i64| {
        len(&mut out, 1, name.as_bytes());
        int(&mut out, 20, kind);
        std::mem::take(&mut out)
    };
    match attr {
        Attr::Float(name, v) => {
            let mut out = head(name, 1);
            varint(&mut out, 2 << 3 | 5);
            out.extend_from_slice(&v.to_le_bytes());
            out
        }
        Attr::Int(name, v) => {
            let mut out = head(name, 2);
            int(&mut out, 3, *v);
            out
        }
        Attr::Text(name, v) => {
            let mut out = head(name, 3);
            len(&mut out, 4, v.as_bytes());
            out
        }
        Attr::Tensor(name, datatype, dims, raw) => {
            let mut out = head(name, 4);
            len(&mut out, 5, &tensor("", *datatype, dims, raw));
            out
        }
        Attr::Graph(name, graph) => {
            let mut out = head(name, 5);
            len(&mut out, 6, &graph.message);
            out
        }
        Attr::Ints(name, v) => {
            let mut out = head(name, 7);
            v.iter().for_each(|n| int(&mut out, 8, *n));
            out
        }
    }
}

fn tensor(name: &str, datatype: Datatype, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    dims.iter().for_each(|d| int(&mut out, 1, *d));
    int(&mut out, 2, element(datatype));
    len(&mut out, 8, name.as_bytes());
    if datatype == Datatype::Bytes {
        for text in crate::types::tensor::bytes_elements(raw) {
            len(&mut out, 6, text.expect("broken BYTES framing in a test"));
        }
    } else {
        len(&mut out, 9, raw);
    }
    out
}

/// A serialised TypeProto of a tensor; `element` is ONNX's number.
pub fn tensor_type(element: i64, dims: Option<&[&str]>) -> Vec<u8> {
    let mut tensor = Vec::new();
    int(&mut tensor, 1, element);
    if let Some(dims) = dims {
        let mut shape = Vec::new();
        for dim in dims {
            let mut out = Vec::new();
            match dim.parse::<i64>() {
                Ok(n) => int(&mut out, 1, n),
                Err(_) if *dim == "?" => {}
                Err(_) => len(&mut out, 2, dim.as_bytes()),
            }
            len(&mut shape, 1, &out);
        }
        len(&mut tensor, 2, &shape);
    }
    let mut out = Vec::new();
    len(&mut out, 1, &tensor);
    out
}

/// ONNX's number of a datatype.
pub fn element(datatype: Datatype) -> i64 {
    (1..=16).find(|n| super::graph::datatype(*n) == Ok(datatype)).expect("every datatype has one")
}

fn pair(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    len(&mut out, 1, key.as_bytes());
    len(&mut out, 2, value.as_bytes());
    out
}

/// Appends a varint field.
pub fn int(out: &mut Vec<u8>, field: u32, value: i64) {
    varint(out, u64::from(field) << 3);
    varint(out, value as u64);
}

/// Appends a length-delimited field.
pub fn len(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
