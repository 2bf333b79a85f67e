//! The bytes of a tensor as values: what the protocol has of it, as the log would. Pure.

use half::{bf16, f16};
use onnxd::{
    predlog::value::Value,
    types::{datatype::Datatype, tensor::bytes_elements},
};

/// The elements of a tensor's bytes, row-major; `None` where these are no such elements.
pub fn values(datatype: Datatype, bytes: &[u8]) -> Option<Vec<Value>> {
    match datatype.size() {
        None => bytes_elements(bytes)
            .map(|element| element.map(|e| Value::Text(String::from_utf8_lossy(e).into_owned())))
            .collect(),
        Some(size) => {
            let (elements, rest) = (bytes.chunks_exact(size), bytes.len() % size);
            (rest == 0).then(|| elements.map(|bytes| number(datatype, bytes)).collect())
        }
    }
}

/// A little-endian element of a fixed size.
fn number(datatype: Datatype, bytes: &[u8]) -> Value {
    let mut word = [0u8; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let raw = u64::from_le_bytes(word);
    let signed = |bits: u32| ((raw << (64 - bits)).cast_signed()) >> (64 - bits);
    match datatype {
        Datatype::Bool => Value::Bool(raw != 0),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Value::Int(raw.cast_signed()),
        Datatype::Uint64 => Value::Text(raw.to_string()),
        Datatype::Int8 => Value::Int(signed(8)),
        Datatype::Int16 => Value::Int(signed(16)),
        Datatype::Int32 => Value::Int(signed(32)),
        Datatype::Int64 => Value::Int(raw.cast_signed()),
        Datatype::Fp16 => Value::Float(f16::from_bits(raw as u16).to_f32()),
        Datatype::Bf16 => Value::Float(bf16::from_bits(raw as u16).to_f32()),
        Datatype::Fp32 => Value::Float(f32::from_bits(raw as u32)),
        Datatype::Fp64 => Value::Double(f64::from_bits(raw)),
        Datatype::Bytes => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_what_their_bytes_say() {
        assert_eq!(number(Datatype::Int8, &[0xff]), Value::Int(-1));
        assert_eq!(number(Datatype::Uint8, &[0xff]), Value::Int(255));
        assert_eq!(number(Datatype::Int32, &(-7i32).to_le_bytes()), Value::Int(-7));
        assert_eq!(number(Datatype::Int64, &i64::MIN.to_le_bytes()), Value::Int(i64::MIN));
        assert_eq!(
            number(Datatype::Uint64, &u64::MAX.to_le_bytes()),
            Value::Text(u64::MAX.to_string())
        );
        assert_eq!(number(Datatype::Fp32, &0.1f32.to_le_bytes()), Value::Float(0.1));
        assert_eq!(
            number(Datatype::Fp16, &f16::from_f32(0.5).to_bits().to_le_bytes()),
            Value::Float(0.5)
        );
        assert_eq!(values(Datatype::Int16, &[1, 0, 2, 0]), Some([1, 2].map(Value::Int).to_vec()));
        assert_eq!(values(Datatype::Int16, &[1, 0, 2]), None);
        assert_eq!(values(Datatype::Bytes, b"\x02\0\0\0hi"), Some(vec![Value::Text("hi".into())]));
        assert_eq!(values(Datatype::Bytes, b"\x03\0\0\0hi"), None);
    }
}
