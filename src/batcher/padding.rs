//! Opt-in padding: which axes are filled up so that requests of several lengths share a batch, and how answers are cut
//! back. Pure.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use half::{bf16, f16};
use smallvec::SmallVec;

use super::{assemble, options::PaddingOptions};
use crate::{
    runtime::session::Outputs,
    types::{
        datatype::Datatype,
        error::Error,
        model::{Dim, Signature, TensorSpec},
        tensor::{Dims, Tensor, element_count},
    },
};

/// How one version's requests are padded.
///
/// Invariant: a padded dimension has a name, every input that has it is padded along it, and every output dimension is
/// fixed or named by an input: so each answer can be cut back to what its request would have got alone.
#[derive(Clone, Debug)]
pub struct Padding {
    dims: Vec<PaddedDim>,
    /// In the signature's order; `None` for an input that is not padded.
    inputs: Vec<Option<PaddedInput>>,
    /// By output, its axes of a padded dimension.
    outputs: Vec<Axes>,
}

/// Axes of a tensor, each with the padded dimension (its place in `Padding::dims`) that it has.
type Axes = SmallVec<[(usize, usize); 2]>;

/// A request's length in each padded dimension.
type Lengths = SmallVec<[Option<i64>; 2]>;

#[derive(Clone, Debug)]
struct PaddedDim {
    name: Arc<str>,
    rounding: Rounding,
}

/// How one input is padded.
#[derive(Clone, Debug)]
pub struct PaddedInput {
    axes: Axes,
    /// One element of padding.
    element: SmallVec<[u8; 8]>,
}

/// Which lengths share a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rounding {
    /// Those with the same next multiple.
    Multiple(i64),
    /// Those with the same next boundary; beyond the last, only equal ones.
    Buckets(Vec<i64>),
}

impl Rounding {
    /// The length that stands for this one. Zero stands for itself: a model may treat an empty sequence like no other.
    fn up(&self, length: i64) -> i64 {
        match self {
            _ if length <= 0 => length,
            Rounding::Multiple(of) => {
                let missing = (of - length % of) % of;
                length.checked_add(missing).unwrap_or(length)
            }
            Rounding::Buckets(bounds) => {
                bounds.iter().copied().find(|bound| *bound >= length).unwrap_or(length)
            }
        }
    }
}

impl Padding {
    /// The padding that `options` (by input) ask for; `None` where they ask for none. The error says which of them the
    /// signature does not allow, and why.
    pub fn plan(
        signature: &Signature,
        options: &BTreeMap<String, PaddingOptions>,
    ) -> Result<Option<Padding>, String> {
        if options.is_empty() {
            return Ok(None);
        }
        if !signature.can_batch {
            return Err(
                "the graph has no common batch axis, so that no requests share a run".into()
            );
        }
        let nothing = vec![None; signature.inputs.len()];
        let mut plan = Padding { dims: Vec::new(), inputs: nothing, outputs: Vec::new() };
        for (name, options) in options {
            let index = signature.inputs.iter().position(|spec| *spec.name == **name);
            let index = index.ok_or_else(|| {
                let known: Vec<&str> = signature.inputs.iter().map(|spec| &*spec.name).collect();
                format!("there is no input '{name}': the model takes {}", known.join(", "))
            })?;
            plan.inputs[index] = Some(plan.input(&signature.inputs[index], options)?);
        }
        plan.covers(signature)?;
        for spec in &signature.outputs {
            let axes = plan.output(spec, signature)?;
            plan.outputs.push(axes);
        }
        Ok(Some(plan))
    }

    fn input(
        &mut self,
        spec: &TensorSpec,
        options: &PaddingOptions,
    ) -> Result<PaddedInput, String> {
        let name = &spec.name;
        let shape = spec.shape_text();
        let dims = spec.dims.as_deref().unwrap_or_default();
        let dynamic = |axis: &usize| !matches!(dims[*axis], Dim::Fixed(_));
        let chosen: Vec<usize> = match options.axes.is_empty() {
            true => (1..dims.len()).filter(dynamic).collect(),
            false => options.axes.clone(),
        };
        if chosen.is_empty() {
            return Err(format!("input '{name}' has the shape {shape}: nothing in it is dynamic"));
        }
        let mut axes = Axes::new();
        for axis in chosen {
            let symbol = match dims.get(axis) {
                Some(Dim::Symbol(symbol)) if axis > 0 => symbol,
                Some(Dim::Any) if axis > 0 => {
                    return Err(format!(
                        "input '{name}' has the shape {shape}: its axis {axis} has no name, so that nothing says which \
                         outputs have it too (export the model with named dynamic axes, or choose others by `axes`)"
                    ));
                }
                _ => {
                    return Err(format!(
                        "input '{name}' has the shape {shape}: axis {axis} is none that can be padded"
                    ));
                }
            };
            axes.push((axis, self.dim(symbol, name, options)?));
        }
        let element = element(spec.datatype, options.value).ok_or_else(|| {
            format!(
                "input '{name}' is {}: it cannot be padded with {}",
                spec.datatype, options.value
            )
        })?;
        Ok(PaddedInput { axes, element })
    }

    /// The place of a dimension that this input pads.
    fn dim(
        &mut self,
        name: &Arc<str>,
        input: &str,
        options: &PaddingOptions,
    ) -> Result<usize, String> {
        let long = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let rounding = match options.buckets.is_empty() {
            true => Rounding::Multiple(long(options.multiple_of).max(1)),
            false => Rounding::Buckets(options.buckets.iter().copied().map(long).collect()),
        };
        let Some(at) = self.dims.iter().position(|dim| dim.name == *name) else {
            self.dims.push(PaddedDim { name: name.clone(), rounding });
            return Ok(self.dims.len() - 1);
        };
        if self.dims[at].rounding != rounding {
            return Err(format!(
                "input '{input}' rounds the dimension '{name}' in another way than an input before it"
            ));
        }
        Ok(at)
    }

    /// Every input that has a padded dimension must be padded along it.
    fn covers(&self, signature: &Signature) -> Result<(), String> {
        for (spec, padded) in signature.inputs.iter().zip(&self.inputs) {
            for (axis, dim) in spec.dims.iter().flatten().enumerate() {
                let Some(at) = self.named(dim) else { continue };
                let covered = padded.as_ref().is_some_and(|p| p.axes.contains(&(axis, at)));
                if !covered {
                    return Err(format!(
                        "input '{}' of shape {} has the padded dimension '{dim}' too, and must be padded with it",
                        spec.name,
                        spec.shape_text()
                    ));
                }
            }
        }
        Ok(())
    }

    fn output(&self, spec: &TensorSpec, signature: &Signature) -> Result<Axes, String> {
        let refuse = |why: &str| {
            let (name, shape) = (&spec.name, spec.shape_text());
            Err(format!("output '{name}' has the shape {shape}: {why}"))
        };
        let Some(dims) = &spec.dims else {
            return refuse("nothing says which of its axes grow with the padding");
        };
        let known = |symbol: &Dim| {
            signature
                .inputs
                .iter()
                .flat_map(|input| input.dims.iter().flatten())
                .any(|d| d == symbol)
        };
        let mut axes = Axes::new();
        for (axis, dim) in dims.iter().enumerate().skip(1) {
            match self.named(dim) {
                Some(at) => axes.push((axis, at)),
                None if matches!(dim, Dim::Fixed(_)) || (*dim != Dim::Any && known(dim)) => {}
                None => {
                    let why = format!(
                        "its axis {axis} is neither fixed nor a named dimension of an input, so that nothing says \
                         whether it grows with the padding"
                    );
                    return refuse(&why);
                }
            }
        }
        if dims.first().is_some_and(|first| self.named(first).is_some()) {
            return refuse("its batch axis is a padded dimension");
        }
        if !axes.is_empty() && spec.datatype == Datatype::Bytes {
            return refuse("BYTES cannot be cut back");
        }
        Ok(axes)
    }

    fn named(&self, dim: &Dim) -> Option<usize> {
        let Dim::Symbol(name) = dim else { return None };
        self.dims.iter().position(|dim| dim.name == *name)
    }

    /// How input `i` is padded.
    pub fn of(&self, i: usize) -> Option<&PaddedInput> {
        self.inputs.get(i)?.as_ref()
    }

    /// Whether a dimension of the signature is padded.
    pub fn pads(&self, dim: &Dim) -> bool {
        self.named(dim).is_some()
    }

    /// As `assemble::bucket_of`, with padded axes rounded. The error: one name has two lengths, which padding would hide
    /// from the model.
    pub fn bucket_of(&self, inputs: &[Option<Tensor>]) -> Result<u64, Error> {
        self.lengths(inputs)?;
        Ok(assemble::hash_of(inputs, |input, axis, length| {
            match self.of(input).and_then(|padded| padded.dim_of(axis)) {
                Some(dim) => self.dims[dim].rounding.up(length),
                None => length,
            }
        }))
    }

    /// A request's length in each padded dimension; `None` where no input of it has the dimension.
    fn lengths(&self, inputs: &[Option<Tensor>]) -> Result<Lengths, Error> {
        let mut lengths: Lengths = SmallVec::from_elem(None, self.dims.len());
        for (padded, tensor) in self.inputs.iter().zip(inputs) {
            let (Some(padded), Some(tensor)) = (padded, tensor) else { continue };
            for &(axis, dim) in &padded.axes {
                let Some(&length) = tensor.dims.get(axis) else { continue };
                let known = *lengths[dim].get_or_insert(length);
                if known != length {
                    let name = &self.dims[dim].name;
                    return Err(Error::invalid(format!(
                        "the inputs have the lengths {known} and {length} for the dimension '{name}': equal names mean \
                         equal lengths"
                    )));
                }
            }
        }
        Ok(lengths)
    }

    /// Cuts the part of a batch's outputs that is this request's back to the request's own lengths. What already has
    /// them is left where it is.
    pub fn cut(&self, outputs: &mut Outputs, inputs: &[Option<Tensor>]) -> Result<(), Error> {
        let lengths = self.lengths(inputs)?;
        for (axes, tensor) in self.outputs.iter().zip(outputs) {
            let mut own: Dims = tensor.dims.clone();
            for &(axis, dim) in axes {
                if let (Some(length), Some(mine)) = (lengths[dim], own.get_mut(axis)) {
                    *mine = length.min(*mine);
                }
            }
            if own == tensor.dims {
                continue;
            }
            let size = tensor.datatype.size().unwrap_or(1);
            let bytes = element_count(&own).and_then(|n| n.checked_mul(size)).unwrap_or(0);
            let mut data = Vec::with_capacity(bytes.min(tensor.data.len()));
            cut(&mut data, &tensor.data, &tensor.dims, &own);
            *tensor = Tensor { datatype: tensor.datatype, dims: own, data: Bytes::from(data) };
        }
        Ok(())
    }
}

impl PaddedInput {
    fn dim_of(&self, axis: usize) -> Option<usize> {
        self.axes.iter().find(|(padded, _)| *padded == axis).map(|(_, dim)| *dim)
    }

    /// Raises the padded axes of `dims` to those of `tensor` where they are longer; false where another axis behind the
    /// batch's differs.
    pub fn widen(&self, dims: &mut Dims, tensor: &Dims) -> bool {
        if dims.len() != tensor.len() {
            return false;
        }
        for (axis, (dim, &theirs)) in dims.iter_mut().zip(tensor).enumerate().skip(1) {
            if *dim != theirs {
                if self.dim_of(axis).is_none() {
                    return false;
                }
                *dim = theirs.max(*dim);
            }
        }
        true
    }

    /// Bytes of a padded tensor; `None` where no tensor is so large.
    pub fn bytes(&self, dims: &[i64]) -> Option<usize> {
        element_count(dims)?.checked_mul(self.element.len())
    }

    /// Appends `tensor`, filled up to the shape `dims` behind its batch axis.
    pub fn append(&self, out: &mut Vec<u8>, tensor: &Tensor, dims: &[i64]) {
        let mut to = Dims::from_slice(dims);
        if let (Some(rows), Some(own)) = (to.first_mut(), tensor.dims.first()) {
            *rows = *own;
        }
        pad(out, &tensor.data, &tensor.dims, &to, &self.element);
    }
}

/// Appends `data` of shape `from`, with `element` behind each end that `to`, nowhere shorter, has further out.
fn pad(out: &mut Vec<u8>, data: &[u8], from: &[i64], to: &[i64], element: &[u8]) {
    if from == to {
        return out.extend_from_slice(data);
    }
    let ([own, from @ ..], [all, to @ ..]) = (from, to) else { return };
    let count = usize::try_from(*own).unwrap_or(0);
    for part in parts(data, count) {
        pad(out, part, from, to, element);
    }
    let missing = usize::try_from(all - own).unwrap_or(0) * element_count(to).unwrap_or(0);
    if element.iter().all(|byte| *byte == 0) {
        return out.resize(out.len() + missing * element.len(), 0);
    }
    for _ in 0..missing {
        out.extend_from_slice(element);
    }
}

/// Appends what of `data`, of shape `from`, lies within `to`, which is nowhere longer.
fn cut(out: &mut Vec<u8>, data: &[u8], from: &[i64], to: &[i64]) {
    if from == to {
        return out.extend_from_slice(data);
    }
    let ([all, from @ ..], [own, to @ ..]) = (from, to) else { return };
    let own = usize::try_from(*own).unwrap_or(0);
    for part in parts(data, usize::try_from(*all).unwrap_or(0)).take(own) {
        cut(out, part, from, to);
    }
}

/// `data` in so many equal parts.
fn parts(data: &[u8], count: usize) -> impl Iterator<Item = &[u8]> {
    let each = data.len().checked_div(count).unwrap_or(0);
    (0..count).map(move |n| &data[n * each..(n + 1) * each])
}

/// One element with this value; `None` where the datatype has no such value.
fn element(datatype: Datatype, value: f64) -> Option<SmallVec<[u8; 8]>> {
    /// From here on not every integer is a `f64`.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let integer = |least: f64, most: f64| {
        let whole = value.fract() == 0.0 && value.abs() <= EXACT;
        (whole && value >= least && value <= most).then_some(value as i64)
    };
    let signed =
        |bits: u32| integer(-(2f64.powi(bits as i32 - 1)), 2f64.powi(bits as i32 - 1) - 1.0);
    let unsigned = |bits: u32| integer(0.0, 2f64.powi(bits as i32) - 1.0);
    let low = |value: i64, size: usize| SmallVec::from_slice(&value.to_le_bytes()[..size]);
    Some(match datatype {
        Datatype::Bool => low(integer(0.0, 1.0)?, 1),
        Datatype::Uint8 => low(unsigned(8)?, 1),
        Datatype::Uint16 => low(unsigned(16)?, 2),
        Datatype::Uint32 => low(unsigned(32)?, 4),
        Datatype::Uint64 => low(unsigned(64)?, 8),
        Datatype::Int8 => low(signed(8)?, 1),
        Datatype::Int16 => low(signed(16)?, 2),
        Datatype::Int32 => low(signed(32)?, 4),
        Datatype::Int64 => low(signed(64)?, 8),
        Datatype::Fp16 => SmallVec::from_slice(&f16::from_f64(value).to_le_bytes()),
        Datatype::Bf16 => SmallVec::from_slice(&bf16::from_f64(value).to_le_bytes()),
        Datatype::Fp32 => SmallVec::from_slice(&(value as f32).to_le_bytes()),
        Datatype::Fp64 => SmallVec::from_slice(&value.to_le_bytes()),
        Datatype::Bytes => return None,
    })
}

#[cfg(test)]
#[path = "padding_tests.rs"]
mod tests;
