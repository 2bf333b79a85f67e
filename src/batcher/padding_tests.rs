//! Padding: what is filled in and cut back again leaves what went in; lengths share a bucket as set; what the signature
//! does not allow is refused by name.

use proptest::prelude::*;

use super::*;
use crate::batcher::assemble::{Scratch, bucket_of, split};

/// Dimensions by their text: a number is fixed, `?` has no name.
fn spec(name: &str, datatype: Datatype, dims: &[&str]) -> TensorSpec {
    let dim = |text: &&str| match text.parse() {
        Ok(n) => Dim::Fixed(n),
        Err(_) if *text == "?" => Dim::Any,
        Err(_) => Dim::Symbol((*text).into()),
    };
    let dims = Some(dims.iter().map(dim).collect());
    TensorSpec { name: name.into(), datatype, dims, optional: false, labels: None }
}

fn signature(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Signature {
    let can_batch = Signature::batchable(&inputs, &outputs);
    Signature { inputs, outputs, can_batch }
}

fn options(of: &[(&str, PaddingOptions)]) -> BTreeMap<String, PaddingOptions> {
    of.iter().map(|(name, options)| ((*name).to_owned(), options.clone())).collect()
}

fn multiple(of: usize, value: f64) -> PaddingOptions {
    PaddingOptions { multiple_of: of, value, ..PaddingOptions::default() }
}

/// A tensor of bytes that follow from `seed`, none of them 255.
fn tensor(dims: &[i64], seed: u64) -> Tensor {
    let count = element_count(dims).unwrap() as u64;
    let byte = |n: u64| (seed.wrapping_mul(31).wrapping_add(n * 7) % 251) as u8;
    let data: Vec<u8> = (0..count).map(byte).collect();
    Tensor { datatype: Datatype::Uint8, dims: dims.into(), data: data.into() }
}

proptest! {
    #[test]
    fn what_is_padded_and_cut_is_what_went_in(
        shape in prop::collection::vec((0i64..5, 0i64..4), 1..5),
        size in prop::sample::select(vec![1usize, 2, 4, 8]),
    ) {
        let from: Vec<i64> = shape.iter().map(|(own, _)| *own).collect();
        let to: Vec<i64> = shape.iter().map(|(own, more)| own + more).collect();
        let own = element_count(&from).unwrap();
        let data: Vec<u8> = (0..own * size).map(|n| (n % 200) as u8).collect();
        let element = vec![0xff; size];
        let (mut padded, mut back) = (Vec::new(), Vec::new());
        pad(&mut padded, &data, &from, &to, &element);
        prop_assert_eq!(padded.len(), element_count(&to).unwrap() * size);
        let filled = padded.iter().filter(|b| **b == 0xff).count();
        prop_assert_eq!(filled, padded.len() - data.len(), "all the rest is padding");
        cut(&mut back, &padded, &to, &from);
        prop_assert_eq!(back, data);
    }

    #[test]
    fn rounding_goes_up_once_and_keeps_the_order(
        a in 0i64..300, b in 0i64..300, of in 1i64..70,
        bounds in prop::collection::btree_set(1i64..200, 1..5),
    ) {
        for rounding in [Rounding::Multiple(of), Rounding::Buckets(bounds.into_iter().collect())] {
            let up = rounding.up(a);
            prop_assert!(up >= a && rounding.up(up) == up, "{rounding:?} {a} {up}");
            prop_assert!(a > b || up <= rounding.up(b));
            prop_assert_eq!(up == 0, a == 0, "an empty one shares with none but empty ones");
        }
        prop_assert!(Rounding::Multiple(of).up(a) < a + of);
        prop_assert!(Rounding::Multiple(of).up(i64::MAX - 1) >= i64::MAX - 1);
    }

    /// A model that answers with its inputs: each request gets its own back, however long its neighbours are.
    #[test]
    fn a_padded_batch_deals_out_what_went_in(
        requests in prop::collection::vec((0i64..4, 1i64..9, 1i64..9), 1..6),
        seed in any::<u32>(),
    ) {
        let (x, y) = (["N", "3", "S"], ["N", "T", "2", "S"]);
        let specs = |a, b| vec![spec(a, Datatype::Uint8, &x), spec(b, Datatype::Uint8, &y)];
        let signature = signature(specs("a", "b"), specs("c", "d"));
        let set = options(&[("a", multiple(8, 255.0)), ("b", multiple(8, 255.0))]);
        let plan = Padding::plan(&signature, &set).unwrap().unwrap();
        let members: Vec<Vec<Option<Tensor>>> = requests.iter().enumerate().map(|(n, (rows, s, t))| {
            let seed = u64::from(seed) + n as u64;
            vec![Some(tensor(&[*rows, 3, *s], seed)), Some(tensor(&[*rows, *t, 2, *s], seed + 9))]
        }).collect();
        let buckets: Vec<u64> = members.iter().map(|m| plan.bucket_of(m).unwrap()).collect();
        prop_assert!(buckets.windows(2).all(|pair| pair[0] == pair[1]));

        let refs: Vec<&[Option<Tensor>]> = members.iter().map(Vec::as_slice).collect();
        let mut scratch = Scratch::new();
        let stacked = scratch.stack(&signature, Some(&plan), &refs).unwrap();
        let all: usize = stacked.inputs.iter().flatten().map(|view| view.data.len()).sum();
        let own: usize = members.iter().flatten().flatten().map(|t| t.data.len()).sum();
        prop_assert_eq!((stacked.elements, stacked.padding), (all as u64, (all - own) as u64));
        let filled = stacked.inputs.iter().flatten().flat_map(|view| view.data);
        prop_assert_eq!(filled.filter(|byte| **byte == 255).count(), all - own);

        let echo = |view: &crate::types::tensor::TensorView<'_>| Tensor {
            datatype: view.datatype,
            dims: view.dims.into(),
            data: Bytes::copy_from_slice(view.data),
        };
        let outputs: Outputs = stacked.inputs.iter().flatten().map(echo).collect();
        let rows: Vec<usize> = requests.iter().map(|(rows, ..)| *rows as usize).collect();
        let mut parts = Vec::new();
        split(outputs, &signature, &rows, |_, part| parts.push(part)).unwrap();
        for (mut part, member) in parts.into_iter().zip(&members) {
            plan.cut(&mut part, member).unwrap();
            for (got, sent) in part.iter().zip(member.iter().flatten()) {
                prop_assert_eq!(&got.dims, &sent.dims);
                prop_assert_eq!(&got.data, &sent.data);
            }
        }
    }

    #[test]
    fn lengths_share_a_bucket_where_they_round_alike(a in 1i64..70, b in 1i64..70, of in 1usize..40) {
        let both = |name| vec![spec(name, Datatype::Uint8, &["N", "S", "4"])];
        let signature = signature(both("x"), both("y"));
        let plan = Padding::plan(&signature, &options(&[("x", multiple(of, 0.0))])).unwrap().unwrap();
        let request = |length: i64| [Some(tensor(&[1, length, 4], 0))];
        let same = plan.bucket_of(&request(a)).unwrap() == plan.bucket_of(&request(b)).unwrap();
        prop_assert_eq!(same, (a as usize).div_ceil(of) == (b as usize).div_ceil(of));
        let alone = bucket_of(&request(a), true) == bucket_of(&request(b), true);
        prop_assert_eq!(alone, a == b, "without padding only equal lengths share");
        let wider = [Some(tensor(&[1, a, 5], 0))];
        prop_assert!(plan.bucket_of(&wider).unwrap() != plan.bucket_of(&request(a)).unwrap());
    }
}

#[test]
fn one_name_with_two_lengths_is_the_clients_mistake() {
    let ids = |name| spec(name, Datatype::Uint8, &["N", "S"]);
    let signature = signature(vec![ids("ids"), ids("mask")], vec![ids("y")]);
    let set = options(&[("ids", multiple(8, 0.0)), ("mask", multiple(8, 0.0))]);
    let plan = Padding::plan(&signature, &set).unwrap().unwrap();
    let error = plan.bucket_of(&[Some(tensor(&[1, 5], 0)), Some(tensor(&[1, 7], 0))]).unwrap_err();
    assert_eq!(error.code, crate::types::error::Code::InvalidArgument);
    assert!(error.message.contains("'S'") && error.message.contains("5 and 7"), "{error}");
}

#[test]
fn more_padding_than_memory_is_for_is_no_batch() {
    let image = |name| vec![spec(name, Datatype::Uint8, &["N", "H", "W"])];
    let signature = signature(image("x"), image("y"));
    let plan = Padding::plan(&signature, &options(&[("x", multiple(1 << 20, 0.0))]));
    let plan = plan.unwrap().unwrap();
    let (wide, high) = ([Some(tensor(&[1, 1, 100_000], 0))], [Some(tensor(&[1, 100_000, 1], 0))]);
    assert_eq!(plan.bucket_of(&wide).unwrap(), plan.bucket_of(&high).unwrap());
    let mut scratch = Scratch::new();
    let error = scratch.stack(&signature, Some(&plan), &[&wide, &high]).err().unwrap();
    assert!(error.message.contains("too large"), "{error}");
    assert!(scratch.held() < 1 << 20, "nothing was made room for");
}

#[test]
fn what_the_signature_does_not_allow_is_refused_by_name() {
    let ids = || spec("ids", Datatype::Int64, &["N", "S"]);
    let mask = || spec("mask", Datatype::Int64, &["N", "S"]);
    let y = |dims: &[&str]| vec![spec("y", Datatype::Fp32, dims)];
    let one = || options(&[("ids", multiple(8, 0.0))]);
    let why = |inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, set| {
        Padding::plan(&signature(inputs, outputs), &set).unwrap_err()
    };
    for (says, error) in [
        (
            "no input 'idz': the model takes ids",
            why(vec![ids()], y(&["N", "2"]), options(&[("idz", multiple(8, 0.0))])),
        ),
        (
            "no common batch axis",
            why(vec![spec("ids", Datatype::Int64, &["2", "S"])], y(&["N"]), one()),
        ),
        ("'mask' of shape [N, S]", why(vec![ids(), mask()], y(&["N", "2"]), one())),
        (
            "axis 1 has no name",
            why(vec![spec("ids", Datatype::Int64, &["N", "?"])], y(&["N", "2"]), one()),
        ),
        (
            "nothing in it is dynamic",
            why(vec![spec("ids", Datatype::Int64, &["N", "7"])], y(&["N"]), one()),
        ),
        ("BYTES", why(vec![spec("ids", Datatype::Bytes, &["N", "S"])], y(&["N"]), one())),
        ("padded with 0.5", why(vec![ids()], y(&["N"]), options(&[("ids", multiple(8, 0.5))]))),
        (
            "padded with 300",
            why(
                vec![spec("ids", Datatype::Uint8, &["N", "S"])],
                y(&["N"]),
                options(&[("ids", multiple(8, 300.0))]),
            ),
        ),
        ("output 'y' has the shape [N, ?]: its axis 1", why(vec![ids()], y(&["N", "?"]), one())),
        ("output 'y' has the shape [N, 2*S]", why(vec![ids()], y(&["N", "2*S"]), one())),
        (
            "another way",
            why(
                vec![ids(), mask()],
                y(&["N"]),
                options(&[("ids", multiple(8, 0.0)), ("mask", multiple(16, 0.0))]),
            ),
        ),
        (
            "axis 0 is none",
            why(
                vec![ids()],
                y(&["N"]),
                options(&[("ids", PaddingOptions { axes: vec![0], ..multiple(8, 0.0) })]),
            ),
        ),
        (
            "axis 2 is none",
            why(
                vec![ids()],
                y(&["N"]),
                options(&[("ids", PaddingOptions { axes: vec![2], ..multiple(8, 0.0) })]),
            ),
        ),
    ] {
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn an_output_without_a_rank_is_refused_and_one_with_the_padded_name_allowed() {
    let ids = || vec![spec("ids", Datatype::Int64, &["N", "S"])];
    let one = options(&[("ids", multiple(8, 0.0))]);
    let unknown = vec![TensorSpec { dims: None, ..spec("y", Datatype::Fp32, &[]) }];
    let known = Signature { can_batch: true, ..signature(ids(), unknown) };
    assert!(Padding::plan(&known, &one).unwrap_err().contains("grow"));
    assert!(Padding::plan(&known, &BTreeMap::new()).unwrap().is_none(), "nothing asked for");
    let allowed = signature(ids(), vec![spec("y", Datatype::Fp32, &["N", "S", "3"])]);
    assert!(Padding::plan(&allowed, &one).unwrap().is_some());
}

#[test]
fn an_element_has_the_value_in_its_datatype() {
    let bytes = |datatype, value| element(datatype, value).map(|e| e.to_vec());
    assert_eq!(bytes(Datatype::Int64, -100.0), Some((-100i64).to_le_bytes().to_vec()));
    assert_eq!(bytes(Datatype::Int8, -128.0), Some(vec![128]));
    assert_eq!(bytes(Datatype::Fp32, -1e4), Some((-1e4f32).to_le_bytes().to_vec()));
    assert_eq!(bytes(Datatype::Fp16, 1.0), Some(vec![0, 0x3c]));
    assert_eq!(bytes(Datatype::Bool, 1.0), Some(vec![1]));
    for (datatype, value) in [
        (Datatype::Int8, 128.0),
        (Datatype::Uint64, -1.0),
        (Datatype::Bool, 2.0),
        (Datatype::Int64, 1e17),
        (Datatype::Bytes, 0.0),
    ] {
        assert_eq!(bytes(datatype, value), None, "{datatype} {value}");
    }
    for datatype in Datatype::ALL.into_iter().filter(|d| d.size().is_some()) {
        assert_eq!(bytes(datatype, 0.0).map(|b| b.len()), datatype.size(), "{datatype}");
    }
}
