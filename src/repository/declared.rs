//! What config.pbtxt says of a model's tensors, held against what the graph has.

use crate::types::{
    datatype::Datatype,
    model::{Dim, Signature, TensorSpec},
};

/// What config.pbtxt says that options do not hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// Its path, relative to the repository.
    pub file: String,
    pub inputs: Vec<DeclaredTensor>,
    pub outputs: Vec<DeclaredTensor>,
    /// Dimensions are without the batch's.
    pub batch: bool,
    /// Outputs whose classes have names in a file beside it.
    pub label_files: Vec<(String, String)>,
    /// What is not honoured, a line each.
    pub notes: Vec<String>,
}

/// One `input` or `output`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeclaredTensor {
    pub name: String,
    /// In config.pbtxt.
    pub line: usize,
    pub datatype: Option<Datatype>,
    pub dims: Option<Vec<i64>>,
}

impl Declared {
    /// Holds what was declared against the signature that the graph has.
    pub fn check(&self, signature: &Signature) -> Result<(), String> {
        let file = &self.file;
        let batch = self.batch && signature.can_batch;
        for (what, declared, specs) in [
            ("input", &self.inputs, &signature.inputs),
            ("output", &self.outputs, &signature.outputs),
        ] {
            for tensor in declared {
                tensor.check(specs, batch).map_err(|why| {
                    format!("{file}, line {}: {what} '{}' {why}", tensor.line, tensor.name)
                })?;
            }
        }
        Ok(())
    }
}

impl DeclaredTensor {
    fn check(&self, specs: &[TensorSpec], batch: bool) -> Result<(), String> {
        let Some(spec) = specs.iter().find(|spec| *spec.name == *self.name) else {
            let names: Vec<String> = specs.iter().map(|spec| format!("'{}'", spec.name)).collect();
            return Err(format!("is not in the graph, which has {}", names.join(", ")));
        };
        if let Some(datatype) = self.datatype.filter(|datatype| *datatype != spec.datatype) {
            return Err(format!("is {datatype}, and {} in the graph", spec.datatype));
        }
        let (Some(declared), Some(dims)) = (&self.dims, &spec.dims) else { return Ok(()) };
        let dims = dims.get(usize::from(batch)..).unwrap_or_default();
        let fits = |(declared, dim): (&i64, &Dim)| *declared < 0 || dim.accepts(*declared);
        if declared.len() == dims.len() && declared.iter().zip(dims).all(fits) {
            return Ok(());
        }
        let shown = if batch { " (without the batch's)" } else { "" };
        Err(format!(
            "has the dimensions {declared:?}{shown}, and {} in the graph",
            spec.shape_text()
        ))
    }
}
