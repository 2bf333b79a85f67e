//! Stacking and splitting: what went in comes out again, for every datatype and shape.

use proptest::prelude::*;

use super::*;
use crate::types::model::Dim;

fn spec(name: String, datatype: Datatype) -> TensorSpec {
    let dims = Some(vec![Dim::Symbol("N".into()), Dim::Any]);
    TensorSpec { name: name.into(), datatype, dims, optional: true, labels: None }
}

fn signature(datatypes: &[Datatype]) -> Signature {
    let specs = |kind: &str| {
        datatypes.iter().enumerate().map(|(i, d)| spec(format!("{kind}{i}"), *d)).collect()
    };
    Signature { inputs: specs("x"), outputs: specs("y"), can_batch: true }
}

/// Bytes with a start that is `off` past an aligned address.
fn at_offset(data: &[u8], off: usize) -> Bytes {
    let mut whole = vec![0u8; 16 + data.len() + 8];
    let pad = whole.as_ptr().align_offset(8) + off;
    whole[pad..pad + data.len()].copy_from_slice(data);
    Bytes::from(whole).slice(pad..pad + data.len())
}

/// A tensor of these dimensions whose content follows from `seed`.
fn tensor(datatype: Datatype, dims: &[i64], seed: u64) -> Tensor {
    let count = element_count(dims).unwrap();
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    let mut data = Vec::new();
    for _ in 0..count {
        let size = match datatype.size() {
            Some(size) => size,
            None => {
                let len = usize::from(byte() % 6);
                data.extend_from_slice(&(len as u32).to_le_bytes());
                len
            }
        };
        data.extend((0..size).map(|_| byte()));
    }
    Tensor { datatype, dims: Dims::from_slice(dims), data: at_offset(&data, seed as usize % 8) }
}

fn refs(members: &[Vec<Option<Tensor>>]) -> Vec<&[Option<Tensor>]> {
    members.iter().map(Vec::as_slice).collect()
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    a.datatype == b.datatype && a.dims == b.dims && a.data == b.data
}

/// What a model that answers with its inputs would answer.
fn identity(stacked: &Stacked<'_>) -> Outputs {
    let owned = |view: &TensorView<'_>| Tensor {
        datatype: view.datatype,
        dims: Dims::from_slice(view.dims),
        data: Bytes::copy_from_slice(view.data),
    };
    stacked.inputs.iter().flatten().map(owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn split_of_stack_is_what_went_in(
        inputs in prop::collection::vec((0usize..14, prop::collection::vec(0i64..4, 0..3), prop::bool::weighted(0.8)), 1..5),
        rows in prop::collection::vec(0i64..5, 1..6),
        seed in any::<u32>(),
    ) {
        let datatypes: Vec<Datatype> = inputs.iter().map(|(d, ..)| Datatype::ALL[*d]).collect();
        let mut signature = signature(&datatypes);
        let members: Vec<Vec<Option<Tensor>>> = rows.iter().enumerate().map(|(m, &rows)| {
            inputs.iter().enumerate().map(|(i, (d, tail, present))| {
                let mut dims = vec![rows];
                dims.extend_from_slice(tail);
                let seed = u64::from(seed) + (m * 31 + i) as u64;
                present.then(|| tensor(Datatype::ALL[*d], &dims, seed))
            }).collect()
        }).collect();
        // Outputs are only those inputs that are there.
        let mut there = inputs.iter().map(|(_, _, present)| *present);
        signature.outputs.retain(|_| there.next().unwrap_or(false));

        let buckets: Vec<u64> = members.iter().map(|m| bucket_of(m, true)).collect();
        prop_assert!(buckets.windows(2).all(|w| w[0] == w[1]), "rows do not count for the bucket");

        let mut scratch = Scratch::new();
        for _ in 0..2 {
            let members_ref = refs(&members);
            let stacked = scratch.stack(&signature, None, &members_ref).unwrap();
            let any = inputs.iter().any(|(_, _, present)| *present);
            let total = rows.iter().sum::<i64>();
            prop_assert!(!any || stacked.rows as i64 == total);
            for view in stacked.inputs.iter().flatten() {
                prop_assert_eq!(view.dims[0], total);
                let free = view.datatype == Datatype::Bytes || view.data.is_empty();
                prop_assert!(free || (view.data.as_ptr() as usize).is_multiple_of(8));
            }
            let rows: Vec<usize> = rows.iter().map(|r| *r as usize).collect();
            let mut seen = 0;
            split(identity(&stacked), &signature, &rows, |m, outputs| {
                assert_eq!(m, seen);
                seen += 1;
                let want: Vec<&Tensor> = members[m].iter().flatten().collect();
                assert_eq!(outputs.len(), want.len());
                assert!(outputs.iter().zip(want).all(|(a, b)| same(a, b)));
            }).unwrap();
            prop_assert_eq!(seen, rows.len());
        }
    }

    #[test]
    fn the_bucket_tells_shapes_and_presence_apart(
        a in prop::collection::vec(prop::option::of(prop::collection::vec(0i64..4, 1..4)), 3),
        b in prop::collection::vec(prop::option::of(prop::collection::vec(0i64..4, 1..4)), 3),
    ) {
        let make = |shapes: &[Option<Vec<i64>>]| -> Vec<Option<Tensor>> {
            shapes.iter().map(|s| s.as_ref().map(|d| tensor(Datatype::Uint8, d, 0))).collect()
        };
        let beyond = |shapes: &[Option<Vec<i64>>]| -> Vec<Option<Vec<i64>>> {
            shapes.iter().map(|s| s.as_ref().map(|d| d[1..].to_vec())).collect()
        };
        let equal = bucket_of(&make(&a), true) == bucket_of(&make(&b), true);
        prop_assert_eq!(equal, beyond(&a) == beyond(&b));
        prop_assert_eq!(bucket_of(&make(&a), false), 0);
    }
}

#[test]
fn a_lone_aligned_member_is_borrowed_and_an_unaligned_one_copied() {
    let signature = signature(&[Datatype::Fp32, Datatype::Fp32, Datatype::Bytes]);
    let aligned = Tensor { data: at_offset(&[7; 16], 0), ..tensor(Datatype::Fp32, &[2, 2], 0) };
    let unaligned = Tensor { data: at_offset(&[9; 16], 4), ..aligned.clone() };
    let text = tensor(Datatype::Bytes, &[2, 2], 3);
    let members = [vec![Some(aligned.clone()), Some(unaligned.clone()), Some(text.clone())]];
    let members = refs(&members);
    let mut scratch = Scratch::new();
    let stacked = scratch.stack(&signature, None, &members).unwrap();
    let view = |i: usize| stacked.inputs[i].unwrap().data;
    assert_eq!(view(0).as_ptr(), aligned.data.as_ptr());
    assert_eq!(view(2).as_ptr(), text.data.as_ptr());
    assert_ne!(view(1).as_ptr(), unaligned.data.as_ptr());
    assert!((view(1).as_ptr() as usize).is_multiple_of(64));
    assert_eq!(view(1), &unaligned.data[..]);
    assert_eq!(stacked.rows, 2);
}

#[test]
fn requests_that_do_not_fit_together_are_told_apart_by_name() {
    let sig = signature(&[Datatype::Fp32, Datatype::Fp32]);
    let fp = |dims: &[i64]| Some(tensor(Datatype::Fp32, dims, 0));
    let good = vec![fp(&[2, 3]), fp(&[2, 3])];
    for (other, says) in [
        (vec![fp(&[1, 3]), None], "only some"),
        (vec![fp(&[1, 3]), fp(&[1, 4])], "shapes differ"),
        (vec![fp(&[1, 3]), fp(&[2, 3])], "first axis"),
        (vec![fp(&[1, 3]), Some(tensor(Datatype::Int32, &[1, 3], 0))], "datatypes"),
        (vec![fp(&[1, 3]), fp(&[])], "shapes differ"),
    ] {
        let members = [good.clone(), other];
        let error = Scratch::new().stack(&sig, None, &refs(&members)).err().unwrap();
        assert!(error.message.contains("'x1'") && error.message.contains(says), "{error}");
    }
    assert!(Scratch::new().stack(&sig, None, &[]).is_err());
    assert!(Scratch::new().stack(&sig, None, &[&good[..1]]).is_err());
    let single = Signature { can_batch: false, ..sig };
    assert!(Scratch::new().stack(&single, None, &[&good, &good]).is_err());
    assert_eq!(Scratch::new().stack(&single, None, &[&good]).unwrap().rows, 1);
}

#[test]
fn an_output_without_the_batchs_rows_is_an_error_before_anyone_gets_anything() {
    let sig = signature(&[Datatype::Fp32]);
    let short = Tensor { data: Bytes::from_static(&[0; 20]), ..tensor(Datatype::Fp32, &[3, 2], 0) };
    let framing = Tensor {
        datatype: Datatype::Bytes,
        dims: Dims::from_slice(&[3]),
        data: Bytes::from_static(&[1, 0, 0, 0, b'a', 9, 0, 0, 0]),
    };
    let few = Tensor { data: Bytes::from_static(&[0; 8]), ..framing.clone() };
    for bad in
        [tensor(Datatype::Fp32, &[2, 2], 0), tensor(Datatype::Fp32, &[], 0), short, framing, few]
    {
        let outputs: Outputs = std::iter::once(bad).collect();
        let error = split(outputs, &sig, &[1, 2], |_, _| panic!("dealt out")).unwrap_err();
        assert!(error.message.contains("'y0'"), "{error}");
    }
}

#[test]
fn small_outputs_leave_the_runtimes_memory_and_large_ones_do_not() {
    let sig = signature(&[Datatype::Uint8, Datatype::Uint8, Datatype::Uint8]);
    let big = tensor(Datatype::Uint8, &[2, 40_000], 8);
    let (small, tiny) =
        (tensor(Datatype::Uint8, &[2, 100], 0), tensor(Datatype::Uint8, &[2, 1], 1));
    let outputs: Outputs = [small.clone(), big.clone(), tiny].into_iter().collect();
    let mut parts = Vec::new();
    split(outputs, &sig, &[1, 1], |_, part| parts.push(part)).unwrap();
    let address = |bytes: &Bytes| bytes.as_ptr() as usize;
    assert_eq!(address(&parts[1][1].data), address(&big.data) + 40_000);
    assert_ne!(address(&parts[0][0].data), address(&small.data));
    // One copy for all small outputs of all members.
    assert_eq!(address(&parts[1][2].data), address(&parts[0][0].data) + 201);
}

#[test]
fn buffers_shrink_when_what_made_them_large_is_over() {
    let sig = signature(&[Datatype::Uint8]);
    let mut scratch = Scratch::new();
    let mut run = |bytes: i64, times: usize| {
        let member = [Some(tensor(Datatype::Uint8, &[1, bytes], 0))];
        for _ in 0..times {
            scratch.stack(&sig, None, &[&member, &member]).unwrap();
        }
        scratch.trim();
        scratch.held()
    };
    assert!(run(1 << 20, 1) >= 2 << 20);
    assert!(run(100, 10) >= 2 << 20, "one large batch may be followed by another");
    assert!(run(100, 600) < 8 << 10);
    assert_eq!(run(4 << 20, 1), 0, "more than a thread may keep");
}
