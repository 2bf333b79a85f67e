//! Cells of a log's columns as elements of tensors, in the wire's form: exactly as they were sent, or not at all.

use arrow_array::{Array, ArrayRef, cast::AsArray, types};
use arrow_schema::DataType;

use crate::prepare::tensor::{Datatype, push_bytes};

/// What a column holds that has elements of this datatype.
pub fn column_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bool => DataType::Boolean,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => DataType::Int32,
        Datatype::Uint8 | Datatype::Uint16 => DataType::Int32,
        Datatype::Int64 | Datatype::Uint32 => DataType::Int64,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 => DataType::Float32,
        Datatype::Fp64 => DataType::Float64,
        // No type that all readers share holds 64 bits without a sign.
        Datatype::Uint64 | Datatype::Bytes => DataType::Utf8,
    }
}

/// Appends an element of a column that has the type of its datatype.
///
/// # Errors
/// Why what stands there is not what was sent.
pub fn push(
    array: &ArrayRef,
    at: usize,
    datatype: Datatype,
    raw: &mut Vec<u8>,
) -> Result<(), &'static str> {
    if array.is_null(at) {
        return Err("an element of it is null");
    }
    let whole = |value: i64, raw: &mut Vec<u8>| {
        let (least, most) = datatype.bounds().ok_or("it is no whole number")?;
        match i128::from(value) {
            value if (least..=most).contains(&value) => datatype.push_whole(value, raw),
            _ => return Err("a value is beyond its datatype"),
        }
        Ok(())
    };
    match column_type(datatype) {
        DataType::Boolean => raw.push(array.as_boolean().value(at).into()),
        DataType::Int32 => {
            whole(array.as_primitive::<types::Int32Type>().value(at).into(), raw)?;
        }
        DataType::Int64 => whole(array.as_primitive::<types::Int64Type>().value(at), raw)?,
        DataType::Float32 => {
            let value = array.as_primitive::<types::Float32Type>().value(at);
            match datatype {
                // Bit by bit: a NaN has some of its own.
                Datatype::Fp32 => raw.extend_from_slice(&value.to_le_bytes()),
                _ => datatype.push_float(value.into(), raw),
            }
        }
        DataType::Float64 => {
            let value = array.as_primitive::<types::Float64Type>().value(at);
            raw.extend_from_slice(&value.to_le_bytes());
        }
        _ => text(array.as_string::<i32>().value(at), datatype, raw)?,
    }
    Ok(())
}

fn text(text: &str, datatype: Datatype, raw: &mut Vec<u8>) -> Result<(), &'static str> {
    if datatype == Datatype::Uint64 {
        let number: u64 = text.parse().map_err(|_| "a value is no UINT64")?;
        raw.extend_from_slice(&number.to_le_bytes());
        return Ok(());
    }
    // The log has this in place of what was no UTF-8; whether it was sent so, nobody knows any more.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err("its text has replacement characters, which may stand for other bytes");
    }
    push_bytes(text.as_bytes(), raw).map_err(|_| "a text has 4 GiB or more")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    };

    use super::*;

    fn pushed(array: ArrayRef, datatype: Datatype) -> Result<Vec<u8>, &'static str> {
        assert_eq!(*array.data_type(), column_type(datatype), "{}", datatype.name());
        let mut raw = Vec::new();
        for at in 0..array.len() {
            push(&array, at, datatype, &mut raw)?;
        }
        Ok(raw)
    }

    #[test]
    fn elements_are_the_bytes_that_were_sent() {
        use Datatype::*;
        let nan = f32::from_bits(0x7fc0_1234);
        let floats = || Arc::new(Float32Array::from(vec![1.5, nan, f32::NEG_INFINITY]));
        let raw = pushed(floats(), Fp32).unwrap();
        assert_eq!(raw[4..8], nan.to_le_bytes());
        for (at, datatype) in [Fp16, Bf16].into_iter().enumerate() {
            let raw = pushed(floats(), datatype).unwrap();
            let value = |n: usize| datatype.float(&raw[2 * n..2 * n + 2]);
            assert_eq!((value(0), value(2)), (1.5, f64::NEG_INFINITY), "{at}");
            assert!(value(1).is_nan());
        }
        let doubles = Arc::new(Float64Array::from(vec![0.1, f64::NAN]));
        assert_eq!(pushed(doubles, Fp64).unwrap()[..8], 0.1f64.to_le_bytes());
        let ints = |values: &[i32]| Arc::new(Int32Array::from(values.to_vec()));
        assert_eq!(pushed(ints(&[-1, 127]), Int8), Ok(vec![255, 127]));
        assert_eq!(pushed(ints(&[65535]), Uint16), Ok(vec![255, 255]));
        assert!(pushed(ints(&[256]), Uint8).is_err());
        let longs = Arc::new(Int64Array::from(vec![i64::from(u32::MAX)]));
        assert_eq!(pushed(longs, Uint32), Ok(vec![255; 4]));
        let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec()));
        assert_eq!(pushed(texts(&["18446744073709551615"]), Uint64), Ok(vec![255; 8]));
        assert!(pushed(texts(&["-1"]), Uint64).is_err());
        assert_eq!(pushed(texts(&["hi", ""]), Bytes), Ok(b"\x02\0\0\0hi\0\0\0\0".to_vec()));
        assert!(pushed(texts(&["a\u{fffd}"]), Bytes).is_err());
        assert_eq!(pushed(Arc::new(BooleanArray::from(vec![true, false])), Bool), Ok(vec![1, 0]));
        assert!(pushed(Arc::new(BooleanArray::from(vec![None])), Bool).is_err());
    }
}
