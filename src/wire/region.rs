//! The parameters that place a tensor in a region of shared memory.

use std::fmt;

use super::check::Shown;
use crate::types::{
    error::Error,
    request::{Parameter, Region},
    text::Text,
};

pub const REGION: &str = "shared_memory_region";
pub const BYTE_SIZE: &str = "shared_memory_byte_size";
pub const OFFSET: &str = "shared_memory_offset";

/// What a tensor's parameters have said of its place so far.
#[derive(Default)]
pub struct Placing {
    region: Option<Text>,
    byte_size: Option<u64>,
    offset: Option<u64>,
}

impl Placing {
    /// Whether the parameter is one of them.
    pub fn knows(key: &str) -> bool {
        matches!(key, REGION | BYTE_SIZE | OFFSET)
    }

    /// Takes one of them; `of` is the tensor's place, as in `inputs[2]`.
    pub fn take(
        &mut self,
        key: &str,
        value: Parameter,
        of: fmt::Arguments<'_>,
    ) -> Result<(), Error> {
        let number = match value {
            Parameter::String(name) if key == REGION => {
                self.region = Some(name);
                return Ok(());
            }
            Parameter::Int64(n) if key != REGION => u64::try_from(n).ok(),
            Parameter::Uint64(n) if key != REGION => Some(n),
            _ => None,
        };
        let place = if key == BYTE_SIZE { &mut self.byte_size } else { &mut self.offset };
        let expected = match (key, number) {
            (REGION, _) => "the name of a region",
            (_, Some(number)) => {
                *place = Some(number);
                return Ok(());
            }
            _ => "a number of bytes",
        };
        Err(Error::invalid(format!("{of}, '{key}': expected {expected}")))
    }

    /// The place, where one was given.
    pub fn finish(self, of: fmt::Arguments<'_>) -> Result<Option<Region>, Error> {
        let missing =
            |key| Error::invalid(format!("{of} has parameters of shared memory, but no '{key}'"));
        match (self.region, self.byte_size, self.offset) {
            (None, None, None) => Ok(None),
            (None, _, _) => Err(missing(REGION)),
            (Some(_), None, _) => Err(missing(BYTE_SIZE)),
            (Some(name), Some(_), _) if name.is_empty() => {
                Err(Error::invalid(format!("{of}, '{REGION}': the name is empty")))
            }
            (Some(name), Some(byte_size), offset) => {
                Ok(Some(Region { name, offset: offset.unwrap_or(0), byte_size }))
            }
        }
    }
}

/// The error for an input that has both data and a place.
#[cold]
pub fn both(name: &str, other: &str) -> Error {
    Error::invalid(format!(
        "input '{}' has both {other} and '{REGION}', expected one of the two",
        Shown(name)
    ))
}

/// The error for an output whose classes are to go into shared memory: nobody could say how long they are.
#[cold]
pub fn classes(of: fmt::Arguments<'_>) -> Error {
    Error::invalid(format!(
        "{of} has both 'classification' and '{REGION}', expected one of the two"
    ))
}
