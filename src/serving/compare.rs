//! How far two answers to the same request are apart: numbers, and the best class of each row.

use crate::{
    telemetry::shadow::Difference,
    types::{
        datatype::Datatype,
        request::OutputTensor,
        tensor::{Dims, Tensor},
    },
};

/// Compares output by output; `None` where they do not have the same outputs, datatypes and shapes.
pub fn compare(primary: &[OutputTensor], shadow: &[OutputTensor]) -> Option<Difference> {
    if primary.len() != shadow.len() {
        return None;
    }
    let (mut all, mut sum, mut count) = (Difference::default(), 0.0, 0u64);
    for (one, other) in primary.iter().zip(shadow) {
        let (one, other) = (&one.tensor, &other.tensor);
        if one.datatype != other.datatype || one.dims != other.dims {
            return None;
        }
        let rows = rows(&one.dims);
        all.rows = all.rows.max(rows);
        // Of several outputs the one with the most flips tells most.
        all.flips = all.flips.max(flips(one, other, rows));
        for (a, b) in values(one).zip(values(other)) {
            let apart = match (a.is_nan(), b.is_nan()) {
                (true, true) => 0.0,
                (false, false) if a == b => 0.0,
                (false, false) => (a - b).abs(),
                // As far as can be.
                _ => f64::MAX,
            };
            all.max = all.max.max(apart);
            sum += if apart < f64::MAX { apart } else { 0.0 };
            count += 1;
        }
    }
    all.mean = if count > 0 { sum / count as f64 } else { 0.0 };
    Some(all)
}

fn rows(dims: &Dims) -> u64 {
    dims.first().map_or(1, |rows| u64::try_from(*rows).unwrap_or(0))
}

/// Rows of which the answer is another: the place of the largest number where a row has several, else what it says where that is no
/// floating-point number.
fn flips(one: &Tensor, other: &Tensor, rows: u64) -> u64 {
    let Some(size) = one.datatype.size() else {
        return u64::from(one.data != other.data) * rows.max(1);
    };
    let Some(row) = usize::try_from(rows).ok().and_then(|rows| one.data.len().checked_div(rows))
    else {
        return 0;
    };
    if row == 0 {
        return 0;
    }
    let floating = one.datatype.is_float();
    let pairs = one.data.chunks_exact(row).zip(other.data.chunks_exact(row));
    let differ = |(a, b): &(&[u8], &[u8])| match (row / size, floating) {
        (1, true) => false,
        (_, true) => best(one.datatype, a) != best(one.datatype, b),
        (_, false) => a != b,
    };
    pairs.filter(differ).count() as u64
}

/// The place of the largest number.
fn best(datatype: Datatype, row: &[u8]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (at, value) in numbers(datatype, row).enumerate() {
        if value > best.1 {
            best = (at, value);
        }
    }
    best.0
}

fn values(tensor: &Tensor) -> impl Iterator<Item = f64> {
    numbers(tensor.datatype, &tensor.data)
}

fn numbers(datatype: Datatype, bytes: &[u8]) -> impl Iterator<Item = f64> {
    let size = datatype.size().unwrap_or(usize::MAX);
    let whole = if size == usize::MAX { &[] } else { bytes };
    whole.chunks_exact(size).filter_map(move |bytes| datatype.number(bytes))
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn floats(dims: &[i64], values: &[f32]) -> OutputTensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor { datatype: Datatype::Fp32, dims: dims.into(), data: data.into() };
        OutputTensor { index: 0, binary: false, tensor }
    }

    #[test]
    fn numbers_and_best_classes() {
        let one = floats(&[2, 3], &[0.1, 0.7, 0.2, 0.5, 0.3, 0.2]);
        let other = floats(&[2, 3], &[0.1, 0.2, 0.7, 0.5, 0.3, 0.2]);
        let one = [one];
        let apart = compare(&one, &[other]).unwrap();
        assert_eq!((apart.rows, apart.flips), (2, 1));
        assert!((apart.max - 0.5).abs() < 1e-6 && (apart.mean - 1.0 / 6.0).abs() < 1e-6);
        assert_eq!(compare(&one, &one).unwrap().max, 0.0);
        assert_eq!(compare(&one, &[floats(&[3, 2], &[0.0; 6])]), None);
        assert_eq!(compare(&one, &[]), None);
    }

    #[test]
    fn a_nan_is_as_far_as_can_be_and_texts_differ_or_not() {
        let nan = f32::NAN;
        let apart = compare(&[floats(&[2], &[1.0, nan])], &[floats(&[2], &[nan, nan])]).unwrap();
        assert_eq!((apart.max, apart.mean, apart.flips), (f64::MAX, 0.0, 0));
        let text = |data: &'static [u8]| OutputTensor {
            index: 0,
            binary: false,
            tensor: Tensor { datatype: Datatype::Bytes, dims: smallvec![1], data: data.into() },
        };
        assert_eq!(compare(&[text(b"\x01\0\0\0a")], &[text(b"\x01\0\0\0b")]).unwrap().flips, 1);
        let label = |value: i64| OutputTensor {
            index: 0,
            binary: false,
            tensor: Tensor {
                datatype: Datatype::Int64,
                dims: smallvec![1],
                data: value.to_le_bytes().to_vec().into(),
            },
        };
        assert_eq!(compare(&[label(1)], &[label(2)]).unwrap().flips, 1);
    }
}
