//! The datatypes of the Open Inference Protocol, with their names and sizes.

use std::fmt;

use half::{bf16, f16};

/// An element type of the Open Inference Protocol, v2. On the wire and in our buffers a tensor is little-endian and
/// row-major; `Bool` is one byte, 0 or 1; `Bytes` is a `u32` length and that many bytes, element after element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
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
    Fp32,
    Fp64,
    Bf16,
    Bytes,
}

impl Datatype {
    /// Every datatype, in the protocol's order.
    pub const ALL: [Datatype; 14] = [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Bf16,
        Datatype::Bytes,
    ];

    /// The protocol's name, as in `"datatype": "FP32"`.
    pub const fn name(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Bf16 => "BF16",
            Datatype::Bytes => "BYTES",
        }
    }

    /// The datatype of that name, exactly as the protocol spells it.
    pub fn parse(name: &str) -> Option<Datatype> {
        Datatype::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Bytes of one element; `None` for `Bytes`, whose elements carry their own length.
    pub const fn is_float(self) -> bool {
        matches!(self, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
    }

    /// One element as a number; `None` for what is none, or has another size.
    pub fn number(self, bytes: &[u8]) -> Option<f64> {
        Some(match self {
            Datatype::Bool | Datatype::Uint8 => f64::from(*bytes.first()?),
            Datatype::Int8 => f64::from(i8::from_le_bytes(bytes.try_into().ok()?)),
            Datatype::Uint16 => f64::from(u16::from_le_bytes(bytes.try_into().ok()?)),
            Datatype::Int16 => f64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
            Datatype::Uint32 => f64::from(u32::from_le_bytes(bytes.try_into().ok()?)),
            Datatype::Int32 => f64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
            Datatype::Uint64 => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
            Datatype::Int64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
            Datatype::Fp16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
            Datatype::Bf16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
            Datatype::Fp32 => f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
            Datatype::Fp64 => f64::from_le_bytes(bytes.try_into().ok()?),
            Datatype::Bytes => return None,
        })
    }

    pub const fn size(self) -> Option<usize> {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => Some(2),
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
            Datatype::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
