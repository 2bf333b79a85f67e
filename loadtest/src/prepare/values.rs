//! Generated inputs: shapes from the model and the entry, values from a seed.

use rand_pcg::{
    Pcg64Mcg,
    rand_core::{Rng, SeedableRng},
};

use super::{
    entry::Entry,
    tensor::{Datatype, Tensor, elements, push_bytes},
};
use crate::metadata::{ModelMetadata, TensorMetadata};

/// The inputs of one request; the same for the same seed and number.
pub fn generate(
    entry: &Entry,
    model: &ModelMetadata,
    seed: u64,
    number: u64,
) -> Result<Vec<Tensor>, String> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let batches = batches(model);
    let mut tensors = Vec::new();
    for input in &model.inputs {
        let datatype = Datatype::parse(&input.datatype)?;
        let shape = shape(entry, input, batches)?;
        let count = elements(&shape)?;
        let range = entry.ranges.get(&input.name).copied();
        let raw = fill(datatype, count, range, &mut rng)
            .map_err(|why| format!("input '{}': {why}", input.name))?;
        tensors.push(Tensor { name: input.name.clone(), datatype, shape, raw });
    }
    Ok(tensors)
}

/// Whether the first axis of every input and output is open: then it counts instances.
pub fn batches(model: &ModelMetadata) -> bool {
    let mut all = model.inputs.iter().chain(&model.outputs);
    !model.inputs.is_empty() && all.all(|tensor| tensor.shape.first() == Some(&-1))
}

/// The shape of an input in a request of `entry.rows` instances.
fn shape(entry: &Entry, input: &TensorMetadata, batches: bool) -> Result<Vec<u64>, String> {
    let given = entry.shapes.get(&input.name);
    let (front, axes) = match batches {
        true => (Some(entry.rows), &input.shape[1..]),
        false => (None, &input.shape[..]),
    };
    let rest: Vec<u64> = match given {
        Some(given) => {
            let fits = given.len() == axes.len()
                && given.iter().zip(axes).all(|(g, a)| *a == -1 || i64::try_from(*g) == Ok(*a));
            if !fits {
                return Err(format!(
                    "input '{}': the shape {given:?} does not fit the model's {axes:?}{}",
                    input.name,
                    if batches { " (without the first axis, which is `rows`)" } else { "" }
                ));
            }
            given.clone()
        }
        None => {
            let open = axes.iter().position(|axis| *axis < 0);
            // One instance of a model that cannot batch: its only open axis is the first one.
            let only_first = !batches && open == Some(0) && axes.iter().skip(1).all(|a| *a >= 0);
            match open {
                Some(_) if !only_first => {
                    return Err(format!(
                        "input '{}' has axes of any length, {axes:?}: say how long they are (shapes: {{{}: […]}})",
                        input.name, input.name
                    ));
                }
                _ => axes.iter().map(|a| u64::try_from(*a).unwrap_or(entry.rows)).collect(),
            }
        }
    };
    Ok(front.into_iter().chain(rest).collect())
}

fn unit(rng: &mut Pcg64Mcg) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Random elements within the range; by default 0 to 1 for floats, 0 to 9 for whole numbers (small ids, which every vocabulary has).
fn fill(
    datatype: Datatype,
    count: usize,
    range: Option<[f64; 2]>,
    rng: &mut Pcg64Mcg,
) -> Result<Vec<u8>, String> {
    let mut raw = Vec::with_capacity(count * datatype.size().unwrap_or(8));
    let default = if datatype.is_float() { [0.0, 1.0] } else { [0.0, 9.0] };
    let [least, most] = range.unwrap_or(default);
    if !(least <= most && least.is_finite() && most.is_finite()) {
        return Err(format!("the range [{least}, {most}] is none, expected the least value first"));
    }
    match datatype {
        Datatype::Bool => raw.extend((0..count).map(|_| (rng.next_u64() & 1) as u8)),
        Datatype::Bytes => {
            for _ in 0..count {
                push_bytes(format!("{:016x}", rng.next_u64()).as_bytes(), &mut raw)?;
            }
        }
        _ if datatype.is_float() => {
            for _ in 0..count {
                datatype.push_float(least + (most - least) * unit(rng), &mut raw);
            }
        }
        _ => {
            let (lowest, highest) = datatype.bounds().unwrap_or((0, 0));
            let (from, to) = (least.ceil() as i128, most.floor() as i128);
            if from < lowest || to > highest || from > to {
                return Err(format!(
                    "the range [{least}, {most}] is not within {}: {lowest} to {highest}",
                    datatype.name()
                ));
            }
            let width = (to - from + 1) as u128;
            for _ in 0..count {
                let value = from + (u128::from(rng.next_u64()) % width) as i128;
                datatype.push_whole(value, &mut raw);
            }
        }
    }
    Ok(raw)
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
