//! What every codec holds a tensor to, the limits they share, and how a message shows what a client wrote.

use std::fmt::{self, Write};

use crate::types::{
    datatype::Datatype,
    error::Error,
    request::Parameter,
    tensor::{bytes_elements, element_count},
    text::Text,
};

/// Most dimensions of a tensor (numpy's limit as well).
pub const MAX_RANK: usize = 64;

/// Most inputs, and most outputs asked for: far above any model, low enough that two bytes on the wire for each cannot
/// grow into gigabytes here.
pub const MAX_TENSORS: usize = 65_536;

/// Most parameters of one object, and most bytes of a parameter's key: keys are compared with each other.
pub const MAX_PARAMETERS: usize = 256;
pub const MAX_KEY: usize = 256;

/// Text of a client in a message: its beginning, control characters escaped.
pub struct Shown<'a>(pub &'a str);

const SHOWN_CHARS: usize = 64;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, c) in self.0.chars().enumerate() {
            if n == SHOWN_CHARS {
                return f.write_str("...");
            }
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// The datatype of that name, or the error that lists them.
pub fn datatype(input: &str, name: &str) -> Result<Datatype, Error> {
    Datatype::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Datatype::ALL.iter().map(|d| d.name()).collect();
        Error::invalid(format!(
            "input '{}': unknown datatype '{}', expected one of {}",
            Shown(input),
            Shown(name),
            known.join(", ")
        ))
    })
}

/// Elements of an input of these dimensions.
///
/// # Errors
/// A negative dimension, or a product that no buffer could hold.
pub fn elements(input: &str, dims: &[i64]) -> Result<usize, Error> {
    element_count(dims).filter(|n| *n <= isize::MAX as usize / 8).ok_or_else(|| {
        let why = if dims.iter().any(|d| *d < 0) {
            "has a negative dimension"
        } else {
            "has more elements than memory could hold"
        };
        Error::invalid(format!("input '{}': the shape {dims:?} {why}", Shown(input)))
    })
}

/// The error for a number of elements that is not the shape's.
#[cold]
pub fn wrong_count(input: &str, dims: &[i64], expected: usize, got: usize) -> Error {
    Error::invalid(format!(
        "input '{}': the shape {dims:?} takes {expected} elements, got {got}",
        Shown(input)
    ))
}

/// Holds the bytes of an input against its shape and datatype: their number, 0 or 1 for BOOL, the framing for BYTES.
pub fn data(input: &str, datatype: Datatype, dims: &[i64], data: &[u8]) -> Result<(), Error> {
    let count = elements(input, dims)?;
    let Some(size) = datatype.size() else { return framing(input, dims, count, data) };
    if data.len() != count * size {
        return Err(Error::invalid(format!(
            "input '{}': {datatype} of shape {dims:?} takes {} bytes, got {}",
            Shown(input),
            count * size,
            data.len()
        )));
    }
    // One pass without a branch; which one it was matters only when there is one.
    if datatype == Datatype::Bool && data.iter().fold(0, |all, b| all | b) > 1 {
        let at = data.iter().position(|b| *b > 1).unwrap_or(0);
        return Err(Error::invalid(format!(
            "input '{}': element {at} is the byte {}, expected 0 or 1 for BOOL",
            Shown(input),
            data[at]
        )));
    }
    Ok(())
}

fn framing(input: &str, dims: &[i64], count: usize, data: &[u8]) -> Result<(), Error> {
    let mut got = 0;
    for element in bytes_elements(data) {
        if element.is_none() {
            return Err(Error::invalid(format!(
                "input '{}': element {got} of the BYTES tensor is cut short, expected a length of 4 bytes and as many \
                 bytes as it says",
                Shown(input)
            )));
        }
        got += 1;
    }
    if got == count { Ok(()) } else { Err(wrong_count(input, dims, count, got)) }
}

/// Refuses one more of what there are `len` of already, when that is too many.
pub fn room(len: usize, limit: usize, what: &str) -> Result<(), Error> {
    if len < limit {
        return Ok(());
    }
    Err(Error::invalid(format!("more than {limit} {what}")))
}

/// Refuses a parameter's key that is too long.
pub fn key(key: &str) -> Result<(), Error> {
    if key.len() <= MAX_KEY {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the parameter '{}' has a name of {} bytes, the limit is {MAX_KEY}",
        Shown(key),
        key.len()
    )))
}

/// The one parameter under Triton's own prefix that a request may have, over gRPC: in a stream, whether responses say that
/// they are the last.
pub const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// Holds a request's parameter to the type that the protocol gives it. Sequences are a property of stateful models, of which
/// there are none: their parameters change nothing, as in Triton. `own`: which of Triton's own names there may be.
pub fn reserved(key: &str, value: &Parameter, own: &[&str]) -> Result<(), Error> {
    use Parameter::{Bool, Int64, String, Uint64};
    let (fits, expected) = match key {
        "sequence_id" => {
            (matches!(value, Int64(_) | Uint64(_) | String(_)), "an integer or a string")
        }
        "sequence_start" | "sequence_end" => (matches!(value, Bool(_)), "a boolean"),
        "priority" => (matches!(value, Int64(0..) | Uint64(_)), "an integer that is not negative"),
        _ if !key.starts_with("triton_") => return Ok(()),
        _ if own.contains(&key) => (matches!(value, Bool(_)), "a boolean"),
        _ => {
            let allowed = if own.is_empty() { "none over HTTP".into() } else { own.join(", ") };
            return Err(Error::invalid(format!(
                "the parameter '{}': names that begin with 'triton_' are reserved, and of those a request may have {allowed}",
                Shown(key)
            )));
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("the parameter '{key}' is {value:?}, expected {expected}")))
}

/// Refuses the empty name of an input or output. `of` is its place, as in `inputs[2]`.
pub fn named(name: &Text, of: fmt::Arguments<'_>) -> Result<(), Error> {
    if name.is_empty() { Err(Error::invalid(format!("{of} has no 'name'"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json_read::MAX_DEPTH;

    #[test]
    fn the_fixed_limits_are_documented() {
        let document = include_str!("../../docs/limits.md");
        for (what, limit) in [
            ("nesting of a JSON request", MAX_DEPTH as usize),
            ("inputs, or outputs asked for, of one request", MAX_TENSORS),
            ("dimensions of a tensor", MAX_RANK),
            ("parameters of a request or of a tensor", MAX_PARAMETERS),
            ("bytes of a parameter's name", MAX_KEY),
        ] {
            assert!(document.contains(&format!("\n| {what} | {limit} |")), "{what}: {limit}");
        }
    }
}
