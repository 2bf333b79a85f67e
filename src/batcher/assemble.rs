//! Batches in bytes: stacks the members' inputs into aligned buffers, and splits the outputs among them. Pure.

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use smallvec::SmallVec;

use super::padding::{PaddedInput, Padding};
use crate::{
    runtime::session::Outputs,
    types::{
        datatype::Datatype,
        error::Error,
        model::{Signature, TensorSpec},
        tensor::{Dims, Tensor, TensorView, bytes_elements, element_count},
    },
};

/// Alignment of stacked buffers: a cache line, and what the widest vector instructions like.
const ALIGNMENT: usize = 64;
/// Alignment that a view needs at least, whatever its datatype.
const VIEW_ALIGNMENT: usize = 8;
/// Bytes that one idle buffer keeps.
const KEEP: usize = 4 << 20;
/// A buffer is not worth shrinking below this.
const SMALL_BUFFER: usize = 64 << 10;
/// So many uses decide how large a buffer needs to be.
const SHRINK_AFTER: u32 = 256;
/// Outputs up to this, batch and all, are copied out of the runtime's memory.
const SMALL_OUTPUT: usize = 64 << 10;
/// Bytes that one input of a padded batch may have. Two padded axes multiply: a batch of a long and a wide request could
/// need more memory than anybody sent. Such a batch runs request by request instead.
const MAX_PADDED: usize = 256 << 20;

/// The buffers in which one thread stacks its batches, one an input.
#[derive(Default)]
pub struct Scratch {
    buffers: Vec<Buffer>,
    dims: Vec<Dims>,
}

/// The inputs of one run, in the signature's order, borrowed from the scratch or from a lone member.
pub struct Stacked<'s> {
    pub inputs: SmallVec<[Option<TensorView<'s>>; 8]>,
    /// The batch axis's length; for a lone member of a model that cannot batch, 1.
    pub rows: usize,
    /// Elements of the inputs that padding is set for; 0 without padding.
    pub elements: u64,
    /// How many of them are padding.
    pub padding: u64,
}

/// Where an input's view points.
#[derive(Clone, Copy)]
enum Place {
    Absent,
    /// Into the lone member's own bytes.
    Member,
    /// Into the scratch buffer, with the lone member's dims.
    Copied,
    /// Into the scratch buffer, with the dims beside it.
    Stacked,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Lays the members' inputs one behind the other. A lone member's are only borrowed, or copied once where they are
    /// not aligned. With several, the signature must be one that can batch, and their bucket one and the same; those
    /// that are shorter in a padded axis are filled up to the longest. The error (a collision of hashes, a slip of
    /// ours, more padding than memory is for) says what does not fit, and nothing has run.
    pub fn stack<'s>(
        &'s mut self,
        signature: &Signature,
        padding: Option<&Padding>,
        members: &'s [&'s [Option<Tensor>]],
    ) -> Result<Stacked<'s>, Error> {
        let count = signature.inputs.len();
        if members.is_empty() || members.iter().any(|m| m.len() != count) {
            return Err(Error::internal(format!(
                "a batch of {} requests does not have {count} inputs each",
                members.len()
            )));
        }
        if members.len() > 1 && !signature.can_batch {
            return Err(Error::internal("a model without a batch axis was given a batch"));
        }
        if self.buffers.len() < count {
            self.buffers.resize_with(count, Buffer::default);
            self.dims.resize_with(count, Dims::new);
        }
        let rows = match members {
            [_] if !signature.can_batch => 1,
            _ => members.iter().fold(0usize, |sum, m| sum.saturating_add(rows_of(m))),
        };
        let mut places: SmallVec<[Place; 8]> = SmallVec::with_capacity(count);
        for (i, spec) in signature.inputs.iter().enumerate() {
            places.push(match members {
                [lone] => self.buffers[i].borrow_or_copy(&lone[i]),
                _ => self.lay(i, spec, members, rows, padding.and_then(|p| p.of(i)))?,
            });
        }
        let this: &'s Scratch = self;
        let lone = members[0];
        let view = |(i, place): (usize, &Place)| {
            let tensor = lone[i].as_ref()?;
            let (dims, data) = match place {
                Place::Absent => return None,
                Place::Member => (&tensor.dims[..], &tensor.data[..]),
                Place::Copied => (&tensor.dims[..], this.buffers[i].bytes()),
                Place::Stacked => (&this.dims[i][..], this.buffers[i].bytes()),
            };
            Some(TensorView { datatype: tensor.datatype, dims, data })
        };
        let inputs: SmallVec<[Option<TensorView<'s>>; 8]> =
            places.iter().enumerate().map(view).collect();
        let (elements, padding) = padding.map_or((0, 0), |p| fill(p, &inputs, members));
        Ok(Stacked { inputs, rows, elements, padding })
    }

    /// Gives back what is more than an idle thread should hold; for after a run.
    pub fn trim(&mut self) {
        for buffer in &mut self.buffers {
            buffer.trim();
        }
    }

    /// Bytes that the buffers hold.
    pub fn held(&self) -> usize {
        self.buffers.iter().map(|b| b.data.capacity()).sum()
    }

    /// Stacks input `i` of several members.
    fn lay(
        &mut self,
        i: usize,
        spec: &TensorSpec,
        members: &[&[Option<Tensor>]],
        rows: usize,
        padded: Option<&PaddedInput>,
    ) -> Result<Place, Error> {
        let first = members[0][i].as_ref();
        let dims = &mut self.dims[i];
        dims.clear();
        dims.extend_from_slice(first.map_or(&[], |tensor| &tensor.dims));
        let mut bytes = 0usize;
        for member in members {
            let (first, other) = match (first, member[i].as_ref()) {
                (None, None) => continue,
                (Some(first), Some(other)) => (first, other),
                _ => return Err(differ(spec, "only some of the requests give it")),
            };
            if first.datatype != other.datatype {
                return Err(differ(spec, "their datatypes differ"));
            }
            let fits = match padded {
                Some(padded) => padded.widen(dims, &other.dims),
                None => other.dims.get(1..) == first.dims.get(1..),
            };
            if other.dims.is_empty() || !fits {
                return Err(differ(spec, "their shapes differ beyond the first axis"));
            }
            if usize::try_from(other.dims[0]).ok() != Some(rows_of(member)) {
                return Err(differ(
                    spec,
                    "its first axis is not that of the request's other inputs",
                ));
            }
            bytes = bytes.saturating_add(other.data.len());
        }
        if first.is_none() {
            return Ok(Place::Absent);
        }
        dims[0] = i64::try_from(rows).map_err(|_| differ(spec, "they have too many rows"))?;
        let buffer = &mut self.buffers[i];
        let tensors = members.iter().filter_map(|m| m[i].as_ref());
        match padded {
            None => {
                buffer.start(bytes);
                tensors.for_each(|tensor| buffer.data.extend_from_slice(&tensor.data));
            }
            Some(padded) => {
                let bytes = padded.bytes(dims).filter(|padded| *padded <= MAX_PADDED.max(bytes));
                buffer.start(bytes.ok_or_else(|| differ(spec, "padded they are too large"))?);
                tensors.for_each(|tensor| padded.append(&mut buffer.data, tensor, dims));
            }
        }
        Ok(Place::Stacked)
    }
}

/// The elements of the padded inputs of a run, and how many of them are padding.
fn fill(
    padding: &Padding,
    inputs: &[Option<TensorView<'_>>],
    members: &[&[Option<Tensor>]],
) -> (u64, u64) {
    let count = |dims: &[i64]| element_count(dims).unwrap_or(0) as u64;
    let (mut all, mut own) = (0, 0);
    for (i, view) in inputs.iter().enumerate().filter(|(i, _)| padding.of(*i).is_some()) {
        all += view.map_or(0, |view| count(view.dims));
        own += members.iter().filter_map(|m| m[i].as_ref()).map(|t| count(&t.dims)).sum::<u64>();
    }
    (all, all.saturating_sub(own))
}

/// A request's rows: the first axis of its first input that is there.
fn rows_of(inputs: &[Option<Tensor>]) -> usize {
    let first = inputs.iter().flatten().next().and_then(|t| t.dims.first());
    first.map_or(1, |&rows| usize::try_from(rows).unwrap_or(0))
}

fn differ(spec: &TensorSpec, what: &str) -> Error {
    Error::internal(format!(
        "requests of one batch do not fit together in input '{}': {what}",
        spec.name
    ))
}

/// Bytes from an aligned address on. The vector's own start is not aligned, so up to a line of padding goes before.
#[derive(Default)]
struct Buffer {
    data: Vec<u8>,
    offset: usize,
    /// The largest need since the last look, and uses since.
    peak: usize,
    uses: u32,
}

impl Buffer {
    /// Empties the buffer and makes room for `bytes`, which then do not move while they are filled in.
    fn start(&mut self, bytes: usize) {
        let need = bytes.saturating_add(ALIGNMENT);
        self.peak = self.peak.max(need);
        self.uses += 1;
        self.data.clear();
        if self.uses >= SHRINK_AFTER {
            if self.data.capacity() > SMALL_BUFFER.max(self.peak.saturating_mul(4)) {
                self.data.shrink_to(self.peak);
            }
            (self.peak, self.uses) = (need, 0);
        }
        self.data.reserve(need);
        let address = self.data.as_ptr() as usize;
        self.offset = address.next_multiple_of(ALIGNMENT) - address;
        self.data.resize(self.offset, 0);
    }

    fn bytes(&self) -> &[u8] {
        &self.data[self.offset..]
    }

    fn borrow_or_copy(&mut self, tensor: &Option<Tensor>) -> Place {
        let Some(tensor) = tensor else { return Place::Absent };
        let aligned = (tensor.data.as_ptr() as usize).is_multiple_of(VIEW_ALIGNMENT);
        if aligned || tensor.datatype == Datatype::Bytes || tensor.data.is_empty() {
            return Place::Member;
        }
        self.start(tensor.data.len());
        self.data.extend_from_slice(&tensor.data);
        Place::Copied
    }

    fn trim(&mut self) {
        if self.data.capacity() > KEEP + ALIGNMENT {
            *self = Buffer::default();
        }
    }
}

/// Deals a run's outputs out to its members: `rows[m]` rows each, in order, `per_member` once for every member. Small
/// outputs are copied into one buffer that the members share, so that none holds on to the runtime's memory; of large
/// ones each gets a slice. A lone member gets them as they are. On an error (an output that does not have the batch's
/// rows) no member got anything.
pub fn split(
    outputs: Outputs,
    signature: &Signature,
    rows: &[usize],
    mut per_member: impl FnMut(usize, Outputs),
) -> Result<(), Error> {
    if rows.len() == 1 {
        per_member(0, outputs);
        return Ok(());
    }
    let total = rows.iter().fold(0usize, |sum, &r| sum.saturating_add(r));
    let mut shares: SmallVec<[Share; 4]> = SmallVec::with_capacity(outputs.len());
    for (i, tensor) in outputs.iter().enumerate() {
        let share = Share::of(tensor, total).map_err(|what| {
            let name = signature.outputs.get(i).map_or("?", |spec| &spec.name);
            Error::internal(format!("output '{name}' cannot be split among {total} rows: {what}"))
        })?;
        shares.push(share);
    }
    let outputs = copy_small(outputs);
    for (member, &rows) in rows.iter().enumerate() {
        let deal = |(tensor, share): (&Tensor, &mut Share)| {
            let from = share.at;
            share.at += share.unit.bytes(&tensor.data[from..], rows);
            let mut dims = tensor.dims.clone();
            dims[0] = rows as i64;
            Tensor { datatype: tensor.datatype, dims, data: tensor.data.slice(from..share.at) }
        };
        per_member(member, outputs.iter().zip(&mut shares).map(deal).collect());
    }
    Ok(())
}

/// How far one output is dealt out.
struct Share {
    unit: Unit,
    at: usize,
}

enum Unit {
    /// Bytes a row.
    Fixed(usize),
    /// BYTES elements a row.
    Elements(usize),
}

impl Share {
    /// Checks that the output really holds `total` rows, so that dealing it out cannot fail.
    fn of(tensor: &Tensor, total: usize) -> Result<Share, String> {
        if tensor.dims.first().and_then(|&d| usize::try_from(d).ok()) != Some(total) {
            return Err(format!("its shape is {:?}", &tensor.dims[..]));
        }
        let shape = || format!("{:?} does not fit {} bytes", &tensor.dims[..], tensor.data.len());
        let a_row = element_count(&tensor.dims[1..]).ok_or_else(shape)?;
        let elements = a_row.checked_mul(total).ok_or_else(shape)?;
        let unit = match tensor.datatype.size() {
            Some(size) => {
                if elements.checked_mul(size) != Some(tensor.data.len()) {
                    return Err(shape());
                }
                Unit::Fixed(a_row * size)
            }
            None => {
                let mut found = 0;
                for element in bytes_elements(&tensor.data) {
                    element.ok_or("its strings are not framed properly")?;
                    found += 1;
                }
                if found != elements {
                    return Err(format!(
                        "it has {found} strings for the shape {:?}",
                        &tensor.dims[..]
                    ));
                }
                Unit::Elements(a_row)
            }
        };
        Ok(Share { unit, at: 0 })
    }
}

impl Unit {
    /// Bytes of the next `rows` rows.
    fn bytes(&self, data: &[u8], rows: usize) -> usize {
        match self {
            Unit::Fixed(bytes) => bytes * rows,
            Unit::Elements(count) => {
                let elements = bytes_elements(data).take(count * rows).flatten();
                elements.map(|element| 4 + element.len()).sum()
            }
        }
    }
}

/// Puts all small outputs into one fresh buffer.
fn copy_small(mut outputs: Outputs) -> Outputs {
    let small = |t: &Tensor| !t.data.is_empty() && t.data.len() <= SMALL_OUTPUT;
    let size = outputs.iter().filter(|t| small(t)).map(|t| t.data.len()).sum();
    if size == 0 {
        return outputs;
    }
    let mut copy = Vec::with_capacity(size);
    for tensor in outputs.iter().filter(|t| small(t)) {
        copy.extend_from_slice(&tensor.data);
    }
    let copy = Bytes::from(copy);
    let mut at = 0;
    for tensor in outputs.iter_mut().filter(|t| small(t)) {
        let end = at + tensor.data.len();
        tensor.data = copy.slice(at..end);
        at = end;
    }
    outputs
}

/// Hash of what must be equal for requests to share a batch: which inputs are there, and their shapes beyond the first
/// axis. 0 where nothing is ever batched. Inputs are in the signature's order.
pub fn bucket_of(inputs: &[Option<Tensor>], can_batch: bool) -> u64 {
    if !can_batch {
        return 0;
    }
    hash_of(inputs, |_, _, length| length)
}

/// The hash behind `bucket_of`; `shown` says, of input, axis and length, which length counts.
pub fn hash_of(inputs: &[Option<Tensor>], shown: impl Fn(usize, usize, i64) -> i64) -> u64 {
    let mut hasher = foldhash::fast::FixedState::with_seed(0x6f6e_6e78).build_hasher();
    for (i, input) in inputs.iter().enumerate() {
        let dims = input.as_ref().map(|t| t.dims.get(1..).unwrap_or_default());
        // The rank goes in, so that neighbours' dimensions cannot be taken for each other's.
        hasher.write_u64(dims.map_or(u64::MAX, |d| d.len() as u64));
        for (behind, &dim) in dims.unwrap_or_default().iter().enumerate() {
            hasher.write_u64(shown(i, behind + 1, dim) as u64);
        }
    }
    hasher.finish()
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
