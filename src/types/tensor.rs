//! Shapes, and tensors as borrowed and as owned bytes.

use bytes::Bytes;
use smallvec::SmallVec;

use super::datatype::Datatype;

/// The dimensions of an actual tensor, outermost first; none is negative. Empty for a scalar.
pub type Dims = SmallVec<[i64; 6]>;

/// Elements in a tensor of these dimensions: 1 for a scalar, `None` where a dimension is negative or the product
/// does not fit.
pub fn element_count(dims: &[i64]) -> Option<usize> {
    // A zero anywhere makes the tensor empty, but never hides a negative or an overflow beside it.
    let mut count: usize = 1;
    let mut empty = false;
    for &dim in dims {
        let dim = usize::try_from(dim).ok()?;
        match dim {
            0 => empty = true,
            _ => count = count.checked_mul(dim)?,
        }
    }
    Some(if empty { 0 } else { count })
}

/// A tensor handed to a session: little-endian, row-major.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub datatype: Datatype,
    pub dims: &'a [i64],
    /// Aligned to at least 8 bytes unless the datatype is `Bytes` or the tensor is empty.
    pub data: &'a [u8],
}

/// A tensor that owns its bytes; `data` may be a view into memory of the runtime, which it keeps alive.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub datatype: Datatype,
    pub dims: Dims,
    pub data: Bytes,
}

/// Walks the elements of a BYTES tensor (`u32` length, bytes). Yields `None` once, last, where the framing is broken.
pub fn bytes_elements(mut data: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let element = data
            .split_first_chunk::<4>()
            .and_then(|(len, rest)| rest.split_at_checked(u32::from_le_bytes(*len) as usize));
        match element {
            Some((element, rest)) => {
                data = rest;
                Some(Some(element))
            }
            None => {
                data = &[];
                Some(None)
            }
        }
    })
}
