//! Triton's classification extension: the best classes of an output in place of its numbers, as `value:index[:label]`.

use std::{cmp::Ordering, fmt::Display};

use half::{bf16, f16};
use smallvec::smallvec;

use crate::types::{
    datatype::Datatype,
    error::Error,
    model::TensorSpec,
    tensor::{Tensor, element_count},
};

/// Most classes of one row, as in Triton: ranking more would hold up everybody else on the network thread.
const MAX_CLASSES: usize = 1_000_000;

/// Refuses what has no order: asked before the model runs.
///
/// # Errors
/// `InvalidArgument` for an output that is not of numbers.
pub fn check(spec: &TensorSpec) -> Result<(), Error> {
    match spec.datatype {
        Datatype::Bool | Datatype::Bytes => Err(Error::invalid(format!(
            "output '{}' is {}: expected an output of numbers to classify",
            spec.name, spec.datatype
        ))),
        _ => Ok(()),
    }
}

/// The `k` best of each row (`batched`: the first axis counts rows, else the tensor is one row), best first; fewer where
/// there are fewer classes. Equal values come in the order of the classes, NaN comes last.
///
/// # Errors
/// `InvalidArgument` for an output that is not of numbers or has too many classes.
pub fn classify(
    tensor: &Tensor,
    spec: &TensorSpec,
    k: u32,
    batched: bool,
) -> Result<Tensor, Error> {
    check(spec)?;
    let (rows, dims) = match tensor.dims.split_first() {
        Some((rows, dims)) if batched => (Some(*rows), dims),
        _ => (None, tensor.dims.as_slice()),
    };
    let classes = element_count(dims).unwrap_or(0);
    if classes > MAX_CLASSES {
        return Err(Error::invalid(format!(
            "output '{}' has {classes} classes: at most {MAX_CLASSES} can be ranked",
            spec.name
        )));
    }
    let best = classes.min(usize::try_from(k).unwrap_or(usize::MAX));
    let mut out = Vec::new();
    for row in 0..rows.map_or(1, |rows| usize::try_from(rows).unwrap_or(0)) {
        let row = Row { data: &tensor.data, first: row * classes, classes, best, spec };
        row.write_any(tensor.datatype, &mut out);
    }
    let best = i64::try_from(best).unwrap_or(i64::MAX);
    let dims = match rows {
        Some(rows) => smallvec![rows, best],
        None => smallvec![best],
    };
    Ok(Tensor { datatype: Datatype::Bytes, dims, data: out.into() })
}

/// One row of an output, to be ranked.
struct Row<'a> {
    data: &'a [u8],
    /// The place of its first element.
    first: usize,
    classes: usize,
    best: usize,
    spec: &'a TensorSpec,
}

impl Row<'_> {
    fn write_any(&self, datatype: Datatype, out: &mut Vec<u8>) {
        match datatype {
            Datatype::Uint8 => self.write(u8::from_le_bytes, u8::cmp, out),
            Datatype::Uint16 => self.write(u16::from_le_bytes, u16::cmp, out),
            Datatype::Uint32 => self.write(u32::from_le_bytes, u32::cmp, out),
            Datatype::Uint64 => self.write(u64::from_le_bytes, u64::cmp, out),
            Datatype::Int8 => self.write(i8::from_le_bytes, i8::cmp, out),
            Datatype::Int16 => self.write(i16::from_le_bytes, i16::cmp, out),
            Datatype::Int32 => self.write(i32::from_le_bytes, i32::cmp, out),
            Datatype::Int64 => self.write(i64::from_le_bytes, i64::cmp, out),
            Datatype::Fp16 => self.write(|b| float(f16::from_le_bytes(b)), order, out),
            Datatype::Bf16 => self.write(|b| float(bf16::from_le_bytes(b)), order, out),
            Datatype::Fp32 => self.write(|b| float(f32::from_le_bytes(b)), order, out),
            Datatype::Fp64 => self.write(|b| float(f64::from_le_bytes(b)), order, out),
            // `check` has refused these.
            Datatype::Bool | Datatype::Bytes => {}
        }
    }

    /// Appends the row's best as elements of a BYTES tensor.
    fn write<T: Display, const N: usize>(
        &self,
        read: impl Fn([u8; N]) -> T,
        order: impl Fn(&T, &T) -> Ordering,
        out: &mut Vec<u8>,
    ) {
        let bytes = self.data.get(self.first * N..).unwrap_or_default();
        let (values, _) = bytes.as_chunks::<N>();
        let mut ranked: Vec<(T, usize)> =
            values.iter().take(self.classes).map(|value| read(*value)).zip(0..).collect();
        // The index decides between equals, so that the order is one and the same however it is found.
        let better = |a: &(T, usize), b: &(T, usize)| order(&b.0, &a.0).then(a.1.cmp(&b.1));
        if self.best < ranked.len() && self.best > 0 {
            ranked.select_nth_unstable_by(self.best - 1, better);
        }
        ranked.truncate(self.best);
        ranked.sort_unstable_by(better);
        for (value, index) in ranked {
            let mut text = format!("{value}:{index}");
            let labels = self.spec.labels.as_deref().unwrap_or_default();
            if let Some(label) = labels.get(index) {
                text.push(':');
                text.push_str(label);
            }
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// A float, written as C's `%f` (which is what C++'s `std::to_string` gives).
struct Float(f64);

fn float(value: impl Into<f64>) -> Float {
    Float(value.into())
}

impl Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_nan() { f.write_str("nan") } else { write!(f, "{:.6}", self.0) }
    }
}

/// By value, -0 equal to 0; NaN below everything.
fn order(a: &Float, b: &Float) -> Ordering {
    a.0.partial_cmp(&b.0).unwrap_or_else(|| b.0.is_nan().cmp(&a.0.is_nan()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::types::tensor::bytes_elements;

    fn spec(datatype: Datatype, labels: &[&str]) -> TensorSpec {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        TensorSpec {
            name: "y".into(),
            datatype,
            dims: None,
            optional: false,
            labels: (!labels.is_empty()).then(|| Arc::from(labels)),
        }
    }

    fn tensor<const N: usize>(datatype: Datatype, dims: &[i64], values: &[[u8; N]]) -> Tensor {
        Tensor { datatype, dims: dims.into(), data: values.concat().into() }
    }

    fn texts(tensor: &Tensor) -> Vec<String> {
        assert_eq!(tensor.datatype, Datatype::Bytes);
        let all: Option<Vec<&[u8]>> = bytes_elements(&tensor.data).collect();
        let all = all.expect("well framed");
        assert_eq!(Some(all.len()), element_count(&tensor.dims));
        all.into_iter().map(|text| String::from_utf8(text.to_vec()).expect("UTF-8")).collect()
    }

    fn floats(
        dims: &[i64],
        values: &[f32],
        k: u32,
        batched: bool,
        labels: &[&str],
    ) -> (Vec<i64>, Vec<String>) {
        let values: Vec<_> = values.iter().map(|v| v.to_le_bytes()).collect();
        let given = tensor(Datatype::Fp32, dims, &values);
        let best = classify(&given, &spec(Datatype::Fp32, labels), k, batched).expect("numbers");
        (best.dims.to_vec(), texts(&best))
    }

    #[test]
    fn values_read_as_tritons() {
        let values = [0.25, 1e-7, -0.0, f32::NAN, f32::INFINITY, 0.0078125];
        let (dims, texts) = floats(&[6], &values, 9, false, &[]);
        assert_eq!(dims, [6]);
        assert_eq!(
            texts,
            ["inf:4", "0.250000:0", "0.007812:5", "0.000000:1", "-0.000000:2", "nan:3"]
        );
        let given = tensor(Datatype::Int8, &[3], &[[0xff], [5], [5]]);
        let best = classify(&given, &spec(Datatype::Int8, &[]), 3, false).expect("numbers");
        assert_eq!(texts_of(&best), "5:1 5:2 -1:0");
        let given = tensor(Datatype::Uint64, &[2], &[1u64.to_le_bytes(), u64::MAX.to_le_bytes()]);
        let best = classify(&given, &spec(Datatype::Uint64, &[]), 1, false).expect("numbers");
        assert_eq!(texts_of(&best), "18446744073709551615:1");
        let half = [f16::from_f32(0.5).to_le_bytes(), f16::from_f32(2.0).to_le_bytes()];
        let best =
            classify(&tensor(Datatype::Fp16, &[2], &half), &spec(Datatype::Fp16, &[]), 2, false);
        assert_eq!(texts_of(&best.expect("numbers")), "2.000000:1 0.500000:0");
    }

    fn texts_of(tensor: &Tensor) -> String {
        texts(tensor).join(" ")
    }

    #[test]
    fn each_row_has_its_own_best() {
        let values = [0.1, 0.7, 0.2, 0.5, 0.5, 0.0];
        let (dims, best) = floats(&[2, 3], &values, 2, true, &["a", "b", "c"]);
        assert_eq!(dims, [2, 2]);
        assert_eq!(best, ["0.700000:1:b", "0.200000:2:c", "0.500000:0:a", "0.500000:1:b"]);
        // Without a batch axis the whole tensor is one row; a class without a label goes without.
        let (dims, best) = floats(&[2, 3], &values, 2, false, &["a"]);
        assert_eq!((dims, best), (vec![2], vec!["0.700000:1".to_owned(), "0.500000:3".to_owned()]));
        let (dims, best) = floats(&[0, 3], &[], 2, true, &[]);
        assert_eq!((dims, best.len()), (vec![0, 2], 0));
        let (dims, best) = floats(&[2], &[1.0, 2.0], 5, true, &[]);
        assert_eq!((dims, best.join(" ")), (vec![2, 1], "1.000000:0 2.000000:0".to_owned()));
    }

    #[test]
    fn what_has_no_order_is_refused() {
        for datatype in [Datatype::Bool, Datatype::Bytes] {
            let refused = check(&spec(datatype, &[])).expect_err("no numbers");
            assert!(refused.message.contains("'y'") && refused.message.contains(datatype.name()));
        }
        let rows = tensor::<1>(Datatype::Uint8, &[1, 1_000_001], &[]);
        let rows = Tensor { data: vec![0; 1_000_001].into(), ..rows };
        assert!(classify(&rows, &spec(Datatype::Uint8, &[]), 1, true).is_err());
    }

    proptest! {
        /// The best k are those that a whole, stable sort puts first.
        #[test]
        fn the_best_are_the_first_of_a_stable_sort(
            rows in 0usize..4,
            classes in 1usize..20,
            k in 1u32..25,
            bits in proptest::collection::vec(prop_oneof![Just(f32::NAN), (-2i8..3).prop_map(f32::from), any::<f32>()], 80),
        ) {
            let values = &bits[..rows * classes];
            let (dims, got) = floats(&[rows as i64, classes as i64], values, k, true, &[]);
            let best = classes.min(k as usize);
            prop_assert_eq!(dims, vec![rows as i64, best as i64]);
            let mut expected = Vec::new();
            for row in values.chunks(classes) {
                let mut order: Vec<usize> = (0..classes).collect();
                order.sort_by(|&a, &b| match (row[a].is_nan(), row[b].is_nan()) {
                    (false, false) => row[b].partial_cmp(&row[a]).unwrap(),
                    (a, b) => a.cmp(&b),
                });
                expected.extend(order.into_iter().take(best));
            }
            let indices: Vec<usize> = got.iter().map(|t| t.rsplit(':').next().unwrap().parse().unwrap()).collect();
            prop_assert_eq!(indices, expected);
        }

        #[test]
        fn no_tensor_makes_it_panic(datatype in 0usize..14, rows in 0i64..5, classes in 0i64..5, k in any::<u32>(), data in proptest::collection::vec(any::<u8>(), 0..200), batched in any::<bool>()) {
            let datatype = Datatype::ALL[datatype];
            let given = Tensor { datatype, dims: smallvec![rows, classes], data: data.into() };
            let _ = classify(&given, &spec(datatype, &["a"]), k, batched);
        }
    }
}
