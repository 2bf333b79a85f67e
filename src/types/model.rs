//! What a model takes and gives: its signature, read from the graph.

use std::{fmt, sync::Arc};

use super::datatype::Datatype;

/// One dimension as the graph declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(i64),
    /// Dynamic, by its name in the graph: equal names mean equal lengths.
    Symbol(Arc<str>),
    /// Dynamic, without a name.
    Any,
}

impl Dim {
    /// The protocol's number: -1 where it is dynamic.
    pub fn protocol(&self) -> i64 {
        match self {
            Dim::Fixed(n) => *n,
            _ => -1,
        }
    }

    pub fn accepts(&self, actual: i64) -> bool {
        match self {
            Dim::Fixed(n) => *n == actual,
            _ => actual >= 0,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Any => f.write_str("?"),
        }
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: Arc<str>,
    pub datatype: Datatype,
    /// `None` where the graph says nothing about the rank (outputs of data-dependent shape): anything goes.
    pub dims: Option<Vec<Dim>>,
    /// An input with a default in the graph (an initializer of the same name): a request may leave it out.
    pub optional: bool,
    /// Names of the classes, for an output that has them.
    pub labels: Option<Arc<[String]>>,
}

impl TensorSpec {
    /// The shape for a message: `[N, 3, 224]`, dynamic dimensions by their names.
    pub fn shape_text(&self) -> String {
        match &self.dims {
            None => "[...]".into(),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                format!("[{}]", dims.join(", "))
            }
        }
    }

    /// The shape as the protocol writes it, -1 for what is dynamic. An unknown rank reads as `[-1]`.
    pub fn protocol_dims(&self) -> Vec<i64> {
        self.dims.as_ref().map_or_else(|| vec![-1], |d| d.iter().map(Dim::protocol).collect())
    }
}

/// Inputs, outputs, and whether the first axis of all of them is one and the same dynamic batch axis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// The graph allows batches: every input and output begins with one shared symbolic dimension. Says nothing about
    /// whether batching pays (the probe decides that).
    pub can_batch: bool,
}

impl Signature {
    /// Whether the graph can batch: every input and output has a rank of at least one and starts with a dynamic
    /// dimension of the same name (unnamed ones count as the same only where all are unnamed).
    pub fn batchable(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> bool {
        let mut first: Option<&Dim> = None;
        for spec in inputs.iter().chain(outputs) {
            let Some(dim) = spec.dims.as_ref().and_then(|d| d.first()) else { return false };
            match (dim, first) {
                (Dim::Fixed(_), _) => return false,
                (_, None) => first = Some(dim),
                (_, Some(seen)) if seen != dim => return false,
                _ => {}
            }
        }
        first.is_some()
    }
}
