//! Writes an answer as JSON: shortest numbers that read back the same, strings escaped.

use half::{bf16, f16};

use crate::types::{
    datatype::Datatype, error::Error, request::InferResponse, tensor::bytes_elements,
};

/// Writes the answer. With `binary`, outputs that are to be binary say how many bytes they take instead of their data.
pub(super) fn response(
    response: &InferResponse,
    out: &mut Vec<u8>,
    binary: bool,
) -> Result<(), Error> {
    out.reserve(estimate(response, binary));
    out.extend_from_slice(b"{\"model_name\":");
    string(&response.model, out);
    out.extend_from_slice(b",\"model_version\":");
    string(&response.version, out);
    if !response.id.is_empty() {
        out.extend_from_slice(b",\"id\":");
        string(&response.id, out);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (n, output) in response.outputs.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let name = response.output_name(output);
        out.extend_from_slice(b"{\"name\":");
        string(name, out);
        out.extend_from_slice(b",\"datatype\":\"");
        out.extend_from_slice(output.tensor.datatype.name().as_bytes());
        out.extend_from_slice(b"\",\"shape\":[");
        list(&output.tensor.dims, out, |dim, out| integer(*dim, out));
        if let Some(region) = response.region(n) {
            out.extend_from_slice(b"],\"parameters\":{\"shared_memory_region\":");
            string(&region.name, out);
            if region.offset > 0 {
                out.extend_from_slice(b",\"shared_memory_offset\":");
                integer(region.offset, out);
            }
            out.extend_from_slice(b",\"shared_memory_byte_size\":");
            integer(region.byte_size, out);
            out.extend_from_slice(b"}}");
        } else if binary && output.binary {
            out.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
            integer(output.tensor.data.len(), out);
            out.extend_from_slice(b"}}");
        } else {
            out.extend_from_slice(b"],\"data\":[");
            elements::<false>(name, output.tensor.datatype, &output.tensor.data, out)?;
            out.extend_from_slice(b"]}");
        }
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// About what the answer takes, on the high side for usual numbers, so that it is seldom moved while it grows.
fn estimate(response: &InferResponse, binary: bool) -> usize {
    let head = 128 + response.model.len() + response.id.len();
    let outputs = response.outputs.iter().map(|output| {
        let bytes = output.tensor.data.len();
        let data = match output.tensor.datatype {
            _ if binary && output.binary => 32,
            Datatype::Bytes => bytes + bytes / 8,
            Datatype::Bool => bytes * 6,
            Datatype::Int8 | Datatype::Uint8 => bytes * 4,
            Datatype::Fp16 | Datatype::Bf16 => bytes * 6,
            _ => bytes * 3,
        };
        96 + response.output_name(output).len() + 8 * output.tensor.dims.len() + data
    });
    head + outputs.sum::<usize>()
}

/// The elements between the brackets. `BARE`: floats that are no numbers are bare tokens, which is no JSON, in place of strings.
pub(super) fn elements<const BARE: bool>(
    name: &str,
    datatype: Datatype,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    /// The elements as numbers of `$t`, each written by `$write`.
    macro_rules! numbers {
        ($t:ty, $write:expr) => {{
            let (elements, _) = data.as_chunks::<{ size_of::<$t>() }>();
            list(elements, out, |bytes, out| $write(<$t>::from_le_bytes(*bytes), out))
        }};
    }
    match datatype {
        Datatype::Bool => list(data, out, |byte, out| {
            out.extend_from_slice(if *byte == 0 { b"false" } else { b"true" });
        }),
        Datatype::Uint8 => numbers!(u8, integer),
        Datatype::Uint16 => numbers!(u16, integer),
        Datatype::Uint32 => numbers!(u32, integer),
        Datatype::Uint64 => numbers!(u64, integer),
        Datatype::Int8 => numbers!(i8, integer),
        Datatype::Int16 => numbers!(i16, integer),
        Datatype::Int32 => numbers!(i32, integer),
        Datatype::Int64 => numbers!(i64, integer),
        Datatype::Fp16 => numbers!(f16, |v: f16, out: &mut _| float::<_, BARE>(v.to_f32(), out)),
        Datatype::Bf16 => numbers!(bf16, |v: bf16, out: &mut _| float::<_, BARE>(v.to_f32(), out)),
        Datatype::Fp32 => numbers!(f32, float::<_, BARE>),
        Datatype::Fp64 => numbers!(f64, float::<_, BARE>),
        Datatype::Bytes => return strings(name, data, out),
    }
    Ok(())
}

/// Writes items with commas between them.
#[inline(always)]
fn list<T>(items: &[T], out: &mut Vec<u8>, mut write: impl FnMut(&T, &mut Vec<u8>)) {
    for item in items {
        write(item, out);
        out.push(b',');
    }
    if !items.is_empty() {
        out.pop();
    }
}

#[inline(always)]
fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A float by its shortest text; what JSON has no number for as a string, or as a bare token.
#[inline(always)]
fn float<F: zmij::Float + Into<f64> + Copy, const BARE: bool>(value: F, out: &mut Vec<u8>) {
    let wide: f64 = value.into();
    if wide.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(special::<BARE>(wide));
    }
}

#[cold]
fn special<const BARE: bool>(value: f64) -> &'static [u8] {
    let quoted: &[u8] = if value.is_nan() {
        b"\"NaN\""
    } else if value > 0.0 {
        b"\"Infinity\""
    } else {
        b"\"-Infinity\""
    };
    if BARE { &quoted[1..quoted.len() - 1] } else { quoted }
}

fn strings(name: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    for (index, element) in bytes_elements(data).enumerate() {
        let Some(element) = element else {
            return Err(Error::internal(format!(
                "output '{name}': element {index} of the BYTES tensor is cut short"
            )));
        };
        let Ok(text) = std::str::from_utf8(element) else {
            return Err(Error::invalid(format!(
                "output '{name}': element {index} is not UTF-8, which JSON cannot carry: ask for binary data of this \
                 output"
            )));
        };
        if index > 0 {
            out.push(b',');
        }
        string(text, out);
    }
    Ok(())
}

/// Per byte, 0 for what a string holds as it is, else the letter of its escape.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[8] = b'b';
    table[9] = b't';
    table[10] = b'n';
    table[12] = b'f';
    table[13] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// A string with its quotes.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[*byte as usize];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            out.extend_from_slice(b"00");
            out.extend_from_slice(&[HEX[*byte as usize >> 4], HEX[*byte as usize & 15]]);
        }
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}
