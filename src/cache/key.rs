//! The key of a request: two requests have the same one only where the same answer is right for both.
//!
//! A keyed hash of 128 bits over all that an answer depends on: what the version is (its files, its number, the runtime,
//! how it was opened) and what it is given (which inputs, of which datatypes and shapes, byte for byte). The secret is the
//! process's own, so that nobody can construct two requests that collide.
//!
//! Not here: the outputs asked for and their form, since what is kept is every output as the model gave it, and each
//! request takes its own from that; parameters of the request, none of which reaches a model; the request's id.

use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    batcher::served::JobInputs,
    types::{datatype::Datatype, tensor::Tensor},
};

/// A request's key.
pub type Key = u128;

/// What nobody outside the process knows.
#[derive(Clone, Copy)]
pub struct Secret(u64, u64);

impl Secret {
    /// A fresh one, from the operating system's randomness.
    pub fn random() -> Secret {
        let random = || RandomState::new().build_hasher().finish();
        Secret(random(), random())
    }

    fn hasher(self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }

    /// What a version is, as one number: of its digest, its number and how it runs.
    pub fn identity(self, parts: &[&[u8]]) -> u128 {
        let mut hasher = self.hasher();
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    }

    /// The key of these inputs for that version; `epoch`: how often the cache was emptied before.
    pub fn key(self, identity: u128, epoch: u64, inputs: &JobInputs) -> Key {
        let mut hasher = self.hasher();
        hasher.write_u128(identity);
        hasher.write_u64(epoch);
        // In the order of the signature, which the identity stands for: a place is a name.
        for input in inputs {
            match input {
                None => hasher.write_u8(0),
                Some(tensor) => write(&mut hasher, tensor),
            }
        }
        hasher.finish128().as_u128()
    }
}

/// Every part has a length before it, or a fixed one: no two tensors write the same bytes.
fn write(hasher: &mut SipHasher13, tensor: &Tensor) {
    hasher.write_u8(1);
    hasher.write_u8(code(tensor.datatype));
    hasher.write_u64(tensor.dims.len() as u64);
    for dim in &tensor.dims {
        hasher.write_i64(*dim);
    }
    hasher.write_u64(tensor.data.len() as u64);
    hasher.write(&tensor.data);
}

fn code(datatype: Datatype) -> u8 {
    datatype as u8
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::types::tensor::Dims;

    const SECRET: Secret = Secret(7, 11);

    fn tensor(datatype: Datatype, dims: &[i64], data: &[u8]) -> Option<Tensor> {
        let data = Bytes::copy_from_slice(data);
        Some(Tensor { datatype, dims: Dims::from_slice(dims), data })
    }

    fn key(inputs: &[Option<Tensor>]) -> Key {
        SECRET.key(1, 0, &inputs.iter().cloned().collect())
    }

    #[test]
    fn equal_bytes_of_other_shapes_or_datatypes_are_other_requests() {
        let bytes = [3; 24];
        let of = |datatype, dims: &[i64]| key(&[tensor(datatype, dims, &bytes)]);
        let keys = [
            of(Datatype::Fp32, &[2, 3]),
            of(Datatype::Fp32, &[3, 2]),
            of(Datatype::Fp32, &[6]),
            of(Datatype::Fp32, &[1, 6]),
            of(Datatype::Int32, &[2, 3]),
            of(Datatype::Uint8, &[24]),
        ];
        let unique: std::collections::BTreeSet<Key> = keys.into_iter().collect();
        assert_eq!(unique.len(), keys.len());
    }

    #[test]
    fn an_input_that_is_left_out_is_none_that_is_empty() {
        let empty = tensor(Datatype::Fp32, &[0], &[]);
        let x = tensor(Datatype::Fp32, &[1], &[1, 2, 3, 4]);
        let keys = [
            key(&[x.clone(), None]),
            key(&[None, x.clone()]),
            key(&[x.clone(), empty.clone()]),
            key(&[empty, x.clone()]),
            key(&[x.clone(), x]),
        ];
        let unique: std::collections::BTreeSet<Key> = keys.into_iter().collect();
        assert_eq!(unique.len(), keys.len());
    }

    #[test]
    fn versions_and_emptied_caches_have_keys_of_their_own() {
        let inputs: JobInputs = [tensor(Datatype::Fp32, &[1], &[0; 4])].into_iter().collect();
        let identity = |sha: &str, number: u64| {
            SECRET.identity(&[sha.as_bytes(), &number.to_le_bytes(), b"ort"])
        };
        let keys = [
            SECRET.key(identity("aa", 1), 0, &inputs),
            SECRET.key(identity("ab", 1), 0, &inputs),
            SECRET.key(identity("aa", 2), 0, &inputs),
            SECRET.key(identity("aa", 1), 1, &inputs),
            Secret(7, 12).key(identity("aa", 1), 0, &inputs),
        ];
        let unique: std::collections::BTreeSet<Key> = keys.into_iter().collect();
        assert_eq!(unique.len(), keys.len());
        assert_ne!(SECRET.identity(&[b"ab", b"c"]), SECRET.identity(&[b"a", b"bc"]));
        assert_ne!(Secret::random().key(1, 0, &inputs), Secret::random().key(1, 0, &inputs));
    }

    fn any_tensor() -> impl Strategy<Value = Option<Tensor>> {
        let datatypes = prop::sample::select(vec![Datatype::Uint8, Datatype::Int8, Datatype::Bool]);
        // Few values, so that equal ones are met.
        let parts =
            (datatypes, prop::collection::vec(0i64..3, 0..3), prop::collection::vec(0u8..2, 0..4));
        prop::option::of(parts.prop_map(|(datatype, dims, data)| Tensor {
            datatype,
            dims: Dims::from_vec(dims),
            data: data.into(),
        }))
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_where_requests_are(
            a in prop::collection::vec(any_tensor(), 1..3),
            b in prop::collection::vec(any_tensor(), 1..3),
        ) {
            let same = a.len() == b.len() && a.iter().zip(&b).all(|pair| match pair {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    a.datatype == b.datatype && a.dims == b.dims && a.data == b.data
                }
                _ => false,
            });
            prop_assert_eq!(key(&a) == key(&b), same);
        }
    }
}
