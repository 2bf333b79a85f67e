//! Tensors and the protocol's datatypes: names, sizes, elements as JSON and back.

use half::{bf16, f16};
use serde_json::{Number, Value};

/// The protocol's datatypes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

use Datatype::*;

const NAMES: [(Datatype, &str); 14] = [
    (Bool, "BOOL"),
    (Uint8, "UINT8"),
    (Uint16, "UINT16"),
    (Uint32, "UINT32"),
    (Uint64, "UINT64"),
    (Int8, "INT8"),
    (Int16, "INT16"),
    (Int32, "INT32"),
    (Int64, "INT64"),
    (Fp16, "FP16"),
    (Bf16, "BF16"),
    (Fp32, "FP32"),
    (Fp64, "FP64"),
    (Bytes, "BYTES"),
];

impl Datatype {
    pub fn parse(name: &str) -> Result<Datatype, String> {
        let found = NAMES.iter().find(|(_, known)| *known == name);
        found
            .map(|(datatype, _)| *datatype)
            .ok_or_else(|| format!("'{name}' is no datatype of the protocol"))
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(datatype, _)| *datatype == self).map_or("", |(_, name)| name)
    }

    /// Bytes of an element; `None` for BYTES, whose elements have each their own.
    pub fn size(self) -> Option<usize> {
        match self {
            Bool | Uint8 | Int8 => Some(1),
            Uint16 | Int16 | Fp16 | Bf16 => Some(2),
            Uint32 | Int32 | Fp32 => Some(4),
            Uint64 | Int64 | Fp64 => Some(8),
            Bytes => None,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Fp16 | Bf16 | Fp32 | Fp64)
    }

    /// Least and greatest value of a whole number.
    pub fn bounds(self) -> Option<(i128, i128)> {
        Some(match self {
            Uint8 => (0, u8::MAX.into()),
            Uint16 => (0, u16::MAX.into()),
            Uint32 => (0, u32::MAX.into()),
            Uint64 => (0, u64::MAX.into()),
            Int8 => (i8::MIN.into(), i8::MAX.into()),
            Int16 => (i16::MIN.into(), i16::MAX.into()),
            Int32 => (i32::MIN.into(), i32::MAX.into()),
            Int64 => (i64::MIN.into(), i64::MAX.into()),
            _ => return None,
        })
    }

    /// Appends a whole number that is within the bounds, in the wire's form.
    pub fn push_whole(self, value: i128, raw: &mut Vec<u8>) {
        let bytes = value.to_le_bytes();
        raw.extend_from_slice(&bytes[..self.size().unwrap_or(0)]);
    }

    pub fn push_float(self, value: f64, raw: &mut Vec<u8>) {
        match self {
            Fp16 => raw.extend_from_slice(&f16::from_f64(value).to_le_bytes()),
            Bf16 => raw.extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
            Fp32 => raw.extend_from_slice(&(value as f32).to_le_bytes()),
            _ => raw.extend_from_slice(&value.to_le_bytes()),
        }
    }

    /// An element of a float tensor.
    pub fn float(self, bytes: &[u8]) -> f64 {
        match (self, bytes) {
            (Fp16, &[a, b]) => f16::from_le_bytes([a, b]).into(),
            (Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).into(),
            (Fp32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
            (Fp64, bytes) => bytes.try_into().map_or(f64::NAN, f64::from_le_bytes),
            _ => f64::NAN,
        }
    }

    /// An element of a tensor of whole numbers.
    pub fn whole(self, bytes: &[u8]) -> i128 {
        let mut wide = [0; 16];
        let signed = matches!(self, Int8 | Int16 | Int32 | Int64);
        if signed && bytes.last().is_some_and(|last| *last >= 128) {
            wide = [0xff; 16];
        }
        wide[..bytes.len()].copy_from_slice(bytes);
        i128::from_le_bytes(wide)
    }

    /// Appends an element that stands in JSON.
    pub fn push_json(self, value: &Value, raw: &mut Vec<u8>) -> Result<(), String> {
        let wrong = || format!("{} is no {}", shortened(value), self.name());
        match self {
            Bool => raw.push(match value {
                Value::Bool(value) => u8::from(*value),
                Value::Number(number) if number.as_u64().is_some_and(|n| n < 2) => {
                    u8::from(number.as_u64() == Some(1))
                }
                _ => return Err(wrong()),
            }),
            Bytes => {
                let text = value.as_str().ok_or_else(wrong)?;
                push_bytes(text.as_bytes(), raw)?;
            }
            Fp16 | Bf16 | Fp32 | Fp64 => {
                let number = match value {
                    Value::Number(number) => number.as_f64(),
                    Value::String(text) => match text.as_str() {
                        "NaN" => Some(f64::NAN),
                        "Infinity" => Some(f64::INFINITY),
                        "-Infinity" => Some(f64::NEG_INFINITY),
                        _ => None,
                    },
                    _ => None,
                };
                self.push_float(number.ok_or_else(wrong)?, raw);
            }
            _ => {
                let number = value.as_number().ok_or_else(wrong)?;
                let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
                let (least, most) = self.bounds().ok_or_else(wrong)?;
                let fits = whole.filter(|whole| (least..=most).contains(whole));
                self.push_whole(fits.ok_or_else(wrong)?, raw);
            }
        }
        Ok(())
    }

    /// An element as JSON.
    fn json(self, bytes: &[u8]) -> Result<Value, String> {
        Ok(match self {
            Bool => Value::Bool(bytes.first().is_some_and(|byte| *byte != 0)),
            Bytes => {
                let text = std::str::from_utf8(bytes);
                Value::from(text.map_err(|_| "BYTES that are no UTF-8 cannot travel as JSON")?)
            }
            Fp16 | Bf16 | Fp32 | Fp64 => {
                let value = self.float(bytes);
                // The shortest text that gives the same number in its own width.
                let shortest = if self == Fp64 {
                    value
                } else {
                    (value as f32).to_string().parse().unwrap_or(value)
                };
                match Number::from_f64(shortest) {
                    Some(number) => Value::Number(number),
                    None if value.is_nan() => Value::from("NaN"),
                    None if value > 0.0 => Value::from("Infinity"),
                    None => Value::from("-Infinity"),
                }
            }
            _ => {
                let whole = self.whole(bytes);
                match u64::try_from(whole) {
                    Ok(number) => Value::from(number),
                    Err(_) => Value::from(i64::try_from(whole).unwrap_or(i64::MIN)),
                }
            }
        })
    }
}

/// Appends one element of BYTES.
pub fn push_bytes(bytes: &[u8], raw: &mut Vec<u8>) -> Result<(), String> {
    let length = u32::try_from(bytes.len()).map_err(|_| "an element of BYTES has 4 GiB or more")?;
    raw.extend_from_slice(&length.to_le_bytes());
    raw.extend_from_slice(bytes);
    Ok(())
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}

/// A tensor in the wire's own form.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<u64>,
    /// Little-endian, row-major; elements of BYTES behind their lengths.
    pub raw: Vec<u8>,
}

/// Elements that a shape has; an error where no memory holds them.
pub fn elements(shape: &[u64]) -> Result<usize, String> {
    let product = shape.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
    let count =
        product.filter(|count| *count <= 1 << 32).and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| format!("the shape {shape:?} has more elements than a request holds"))
}

impl Tensor {
    /// Its elements, each as its bytes.
    pub fn elements(&self) -> Result<Vec<&[u8]>, String> {
        let count = elements(&self.shape)?;
        let cut = || {
            format!(
                "'{}': {} bytes are not what the shape {:?} asks for",
                self.name,
                self.raw.len(),
                self.shape
            )
        };
        let Some(size) = self.datatype.size() else {
            let mut all = Vec::new();
            let mut rest = &self.raw[..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                let (element, after) = after.split_at_checked(length).ok_or_else(cut)?;
                all.push(element);
                rest = after;
            }
            return if rest.is_empty() && all.len() == count { Ok(all) } else { Err(cut()) };
        };
        if Some(self.raw.len()) != count.checked_mul(size) {
            return Err(cut());
        }
        Ok(self.raw.chunks_exact(size).collect())
    }

    /// Its elements as JSON, in one flat list.
    pub fn json(&self) -> Result<Vec<Value>, String> {
        self.elements()?.into_iter().map(|element| self.datatype.json(element)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_go_through_json_and_back() {
        for (datatype, values) in [
            (Bool, json!([true, false])),
            (Uint8, json!([0, 255])),
            (Int8, json!([-128, 127])),
            (Uint64, json!([0, u64::MAX])),
            (Int64, json!([i64::MIN, i64::MAX])),
            (Fp16, json!([0.5, "NaN", "Infinity"])),
            (Bf16, json!([1.5, "-Infinity"])),
            (Fp32, json!([0.1, -3.4e38])),
            (Fp64, json!([0.1, 1e300])),
            (Bytes, json!(["", "grüß"])),
        ] {
            let values = values.as_array().unwrap();
            let mut raw = Vec::new();
            values.iter().for_each(|value| datatype.push_json(value, &mut raw).unwrap());
            let shape = vec![values.len() as u64];
            let tensor = Tensor { name: "x".to_owned(), datatype, shape, raw };
            assert_eq!(&tensor.json().unwrap(), values, "{}", datatype.name());
            assert_eq!(Datatype::parse(datatype.name()), Ok(datatype));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (datatype, value) in [
            (Bool, json!(2)),
            (Uint8, json!(256)),
            (Uint8, json!(-1)),
            (Int64, json!(1.5)),
            (Int8, json!("1")),
            (Fp32, json!("one")),
            (Bytes, json!(1)),
        ] {
            let error = datatype.push_json(&value, &mut Vec::new()).unwrap_err();
            assert_eq!(error, format!("{value} is no {}", datatype.name()));
        }
        assert!(elements(&[u64::MAX, 2]).is_err() && elements(&[1 << 40]).is_err());
        let tensor = |datatype, raw: &[u8]| Tensor {
            name: "x".to_owned(),
            datatype,
            shape: vec![1],
            raw: raw.to_vec(),
        };
        assert!(tensor(Fp32, &[0; 3]).elements().is_err());
        assert!(tensor(Bytes, &[9, 0, 0, 0, 1]).elements().is_err());
        assert!(Datatype::parse("FLOAT").is_err());
    }

    proptest! {
        #[test]
        fn whole_numbers_come_back(value in any::<i64>(), at in 0usize..14) {
            let datatype = NAMES[at].0;
            if let Some((least, most)) = datatype.bounds() {
                let value = i128::from(value).clamp(least, most);
                let mut raw = Vec::new();
                datatype.push_whole(value, &mut raw);
                prop_assert_eq!(datatype.whole(&raw), value);
            }
        }
    }
}
