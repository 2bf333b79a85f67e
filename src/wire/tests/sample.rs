//! Tensors and answers for the tests, fixed and random.

use std::sync::Arc;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::types::{
    datatype::Datatype,
    error::{Code, Error},
    model::{Signature, TensorSpec},
    request::{InferResponse, OutputTensor},
    tensor::Tensor,
    text::Text,
};

/// A BYTES tensor of these elements.
pub fn framed<T: AsRef<[u8]>>(elements: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    for element in elements {
        out.extend_from_slice(&(element.as_ref().len() as u32).to_le_bytes());
        out.extend_from_slice(element.as_ref());
    }
    out
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn tensor(datatype: Datatype, dims: &[i64], data: impl Into<Bytes>) -> Tensor {
    Tensor { datatype, dims: dims.into(), data: data.into() }
}

/// An answer of model `m`, version 3, with outputs `out0`, `out1`, …, each binary or not.
pub fn response(id: &str, outputs: Vec<(Tensor, bool)>) -> InferResponse {
    let specs = (0..outputs.len()).map(|n| TensorSpec {
        name: format!("out{n}").into(),
        datatype: outputs[n].0.datatype,
        dims: None,
        optional: false,
        labels: None,
    });
    let signature = Signature { outputs: specs.collect(), ..Signature::default() };
    let outputs = outputs.into_iter().enumerate();
    InferResponse {
        route: None,
        model: "m".into(),
        version: "3".into(),
        id: Text::from(id),
        outputs: outputs
            .map(|(index, (tensor, binary))| OutputTensor { index, binary, tensor })
            .collect(),
        regions: None,
        signature: Arc::new(signature),
    }
}

/// A tensor of any datatype, up to three dimensions, some of them zero.
pub fn any_tensor() -> impl Strategy<Value = Tensor> {
    (select(Datatype::ALL.as_slice()), vec(0i64..5, 0..4)).prop_flat_map(|(datatype, dims)| {
        let count = dims.iter().product::<i64>() as usize;
        let data = match datatype {
            Datatype::Bool => vec(0u8..2, count).boxed(),
            Datatype::Bytes => {
                vec(vec(any::<u8>(), 0..9), count).prop_map(|all| framed(&all)).boxed()
            }
            _ => vec(any::<u8>(), count * datatype.size().unwrap()).boxed(),
        };
        data.prop_map(move |data| tensor(datatype, &dims, data))
    })
}

/// Asserts that decoding failed with this code, and says every one of `words`.
#[track_caller]
pub fn assert_error<T: std::fmt::Debug>(result: Result<T, Error>, code: Code, words: &[&str]) {
    let error = result.expect_err("an error");
    assert_eq!(error.code, code, "{error}");
    for word in words {
        assert!(error.message.contains(word), "{word:?} is not in {:?}", error.message);
    }
    let first = error.message.chars().next().unwrap();
    assert!(!error.message.ends_with('.') && (!first.is_uppercase() || first == 'I'), "{error}");
}

/// Changes a few bytes, and cuts.
pub fn mutate(bytes: &mut Vec<u8>, changes: &[(usize, u8)], cut: Option<usize>) {
    for (at, to) in changes {
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = *to;
        }
    }
    if let Some(cut) = cut {
        bytes.truncate(cut % (bytes.len() + 1));
    }
}

/// Changes for `mutate`.
pub fn any_damage() -> impl Strategy<Value = (Vec<(usize, u8)>, Option<usize>)> {
    (vec((any::<usize>(), any::<u8>()), 0..5), proptest::option::of(any::<usize>()))
}
