//! What a run costs by batch size, and whether rows answer in a batch as they do alone: found out at load, on made-up input.

use std::time::{Duration, Instant};

use bytes::Bytes;
use half::{bf16, f16};
use smallvec::SmallVec;

use super::session::{Outputs, RunError, Session};
use crate::types::{
    datatype::Datatype,
    model::{Dim, Signature, TensorSpec},
    tensor::{Dims, Tensor, TensorView, bytes_elements, element_count},
};

/// What the timed runs may take together.
const BUDGET: Duration = Duration::from_millis(150);
/// What the timed runs of one size may take, so that slower models are still tried with a few sizes.
const SHARE: Duration = Duration::from_millis(15);
/// A first run that takes longer counts: what it allocates is little beside that.
const LONG: Duration = Duration::from_millis(30);
/// Larger batches are not tried once a run takes longer.
const SLOW: Duration = Duration::from_millis(100);
/// Nor is it checked whether rows keep apart, once a single run takes longer.
const TOO_SLOW: Duration = Duration::from_secs(1);
/// Runs of one size that are timed, at most; the fastest counts: the probe runs at low priority, often while others load
/// and serve, and what interrupts a run only ever adds to it.
const RUNS: usize = 5;
/// Bytes of made-up inputs, and elements of one input.
const MAX_BYTES: usize = 64 << 20;
/// Lengths tried for dynamic dimensions other than the batch, until the model takes one: sequences like the first, images
/// the next two, what must be of length 1 the last.
const LENGTHS: [i64; 4] = [16, 64, 224, 1];
/// Rows that are compared with themselves run alone.
const ROWS: usize = 4;
/// Two floats count as the same when they differ by less than `ABSOLUTE + RELATIVE * |the larger|`. Kernels sum in another
/// order for another batch size; a model whose rows touch each other is off by far more.
const ABSOLUTE: f64 = 1e-4;
const RELATIVE: f64 = 1e-3;
/// The same for FP16 and BF16.
const HALF_ABSOLUTE: f64 = 1e-2;
const HALF_RELATIVE: f64 = 5e-2;

/// What a probe found. The model's own errors on made-up input are in it; they say nothing against the model.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Rows of a run, and how long one took (the fastest of a few): for the sizes that were tried, the smallest first.
    pub rows: Vec<(usize, Duration)>,
    /// The largest difference between a row's answer in a batch and alone; or why they differ, or why that is not known.
    pub consistent: Result<f64, String>,
    /// Why made-up input did not do, where it did not.
    pub error: Option<String>,
}

/// Probes a session with these batch sizes (in rows; 1 is always tried). A model that cannot batch is run with 1 only.
pub fn probe(session: &dyn Session, sizes: &[usize]) -> Probe {
    let signature = session.signature();
    let mut probe = Probe {
        rows: Vec::new(),
        consistent: Err("the graph does not allow batches".to_owned()),
        error: None,
    };
    let (length, first) = match settle(session) {
        Ok(found) => found,
        Err(e) => {
            probe.consistent = Err(format!("the model does not take made-up input: {e}"));
            probe.error = Some(e);
            return probe;
        }
    };
    let mut sizes: Vec<usize> = sizes.iter().copied().filter(|n| *n > 1).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if !signature.can_batch {
        sizes.clear();
    }
    sizes.insert(0, 1);
    let start = Instant::now();
    for rows in sizes {
        match time(session, length, rows, start) {
            Ok(took) => probe.rows.push((rows, took)),
            Err(e) => {
                probe.error = Some(format!("with {rows} rows: {e}"));
                break;
            }
        }
        let slow = probe.rows.last().is_some_and(|(_, took)| *took > SLOW);
        if slow || start.elapsed() > BUDGET {
            break;
        }
    }
    if signature.can_batch {
        probe.consistent = match first > TOO_SLOW {
            true => Err(format!("a run takes {:.1} s: not checked", first.as_secs_f64())),
            false => compare(session, length, if first > SLOW { 2 } else { ROWS }),
        };
    }
    probe
}

/// Runs the session once on made-up input, for what the first run does to it. The error is the model's own.
pub fn warm(session: &dyn Session) -> Result<(), String> {
    settle(session).map(drop)
}

/// Finds a length for the dynamic dimensions that the model takes. Gives also how long the first run took.
pub fn settle(session: &dyn Session) -> Result<(i64, Duration), String> {
    let mut first_error = None;
    for length in LENGTHS {
        let start = Instant::now();
        match run(session, length, 0..1) {
            Ok(_) => return Ok((length, start.elapsed())),
            Err(e) => first_error.get_or_insert(e),
        };
        if !dynamic(session.signature()) {
            break;
        }
    }
    Err(first_error.unwrap_or_default())
}

/// Row `number` of made-up input, alone, with these lengths of its dynamic dimensions.
pub fn row(
    signature: &Signature,
    number: usize,
    length: &dyn Fn(&Dim) -> i64,
) -> Result<Vec<Option<Tensor>>, String> {
    let made = generate(signature, length, number..number + 1)?;
    Ok(made.into_iter().map(|input| input.map(Generated::into_tensor)).collect())
}

/// Whether `LENGTHS` matter: an input has a dynamic dimension beside the batch.
fn dynamic(signature: &Signature) -> bool {
    let skip = usize::from(signature.can_batch);
    let dims = signature.inputs.iter().filter_map(|i| i.dims.as_ref());
    dims.flat_map(|d| d.iter().skip(skip)).any(|d| !matches!(d, Dim::Fixed(_)))
}

fn time(
    session: &dyn Session,
    length: i64,
    rows: usize,
    start: Instant,
) -> Result<Duration, String> {
    let inputs = generate(session.signature(), &|_| length, 0..rows)?;
    let mut took = Vec::with_capacity(RUNS);
    let size = Instant::now();
    // The first does not count: it allocates.
    for i in 0..=RUNS {
        let begin = Instant::now();
        run_with(session, &inputs)?;
        let elapsed = begin.elapsed();
        if i > 0 || elapsed > LONG {
            took.push(elapsed);
        }
        // Two at least: one alone may be mostly somebody else's time.
        let enough = size.elapsed() > SHARE || start.elapsed() > BUDGET;
        if (enough && took.len() >= 2) || elapsed > TOO_SLOW {
            break;
        }
    }
    took.into_iter().min().ok_or_else(|| "nothing was timed".into())
}

/// Runs these rows of made-up input, each of which is the same in every run that it is in.
fn run(
    session: &dyn Session,
    length: i64,
    rows: std::ops::Range<usize>,
) -> Result<Outputs, String> {
    run_with(session, &generate(session.signature(), &|_| length, rows)?)
}

fn run_with(session: &dyn Session, inputs: &[Option<Generated>]) -> Result<Outputs, String> {
    let views: SmallVec<[Option<TensorView<'_>>; 4]> =
        inputs.iter().map(|i| i.as_ref().map(Generated::view)).collect();
    session.run(&views, None).map_err(|e: RunError| e.to_string())
}

/// A made-up input.
struct Generated {
    datatype: Datatype,
    dims: Dims,
    /// Longer than the tensor: it begins at `start`, which is aligned.
    buffer: Vec<u8>,
    start: usize,
    len: usize,
}

impl Generated {
    fn view(&self) -> TensorView<'_> {
        let data = self.buffer.get(self.start..self.start + self.len).unwrap_or(&[]);
        TensorView { datatype: self.datatype, dims: &self.dims, data }
    }

    fn into_tensor(self) -> Tensor {
        let data = Bytes::from(self.buffer).slice(self.start..self.start + self.len);
        Tensor { datatype: self.datatype, dims: self.dims, data }
    }
}

fn generate(
    signature: &Signature,
    length: &dyn Fn(&Dim) -> i64,
    rows: std::ops::Range<usize>,
) -> Result<Vec<Option<Generated>>, String> {
    let mut left = MAX_BYTES;
    let make = |(i, spec): (usize, &TensorSpec)| {
        if spec.optional {
            return Ok(None);
        }
        let dims = dims_of(spec, signature.can_batch, length, rows.len());
        // A BYTES element is a length and one byte.
        let size = spec.datatype.size().unwrap_or(5);
        let bytes = element_count(&dims).and_then(|count| count.checked_mul(size));
        let Some(len) = bytes.filter(|bytes| *bytes <= left) else {
            return Err(format!("input {:?} of {:?} is too large to make up", spec.name, &*dims));
        };
        left -= len;
        let mut buffer = vec![0u8; len + 64];
        let start = buffer.as_ptr().align_offset(64).min(64);
        let data = &mut buffer[start..start + len];
        // Rows are filled one by one, so that a row's values do not hang on its neighbours. Without batches there is one.
        let row = if signature.can_batch { len / rows.len().max(1) } else { len };
        if row > 0 {
            for (chunk, number) in data.chunks_exact_mut(row).zip(rows.clone()) {
                fill(spec.datatype, chunk, ((i as u64) << 32) | number as u64);
            }
        }
        Ok(Some(Generated { datatype: spec.datatype, dims, buffer, start, len }))
    };
    signature.inputs.iter().enumerate().map(make).collect()
}

/// Bytes of one row as the probe makes it up, where the model takes the shortest length: how wide the rows are whose cost
/// was measured. 0 where nothing can be made up.
pub fn row_bytes(signature: &Signature) -> usize {
    let row = generate(signature, &|_| LENGTHS[0], 0..1).unwrap_or_default();
    row.iter().flatten().map(|input| input.len).sum()
}

fn dims_of(spec: &TensorSpec, can_batch: bool, length: &dyn Fn(&Dim) -> i64, rows: usize) -> Dims {
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    let Some(dims) = &spec.dims else { return Dims::from_slice(&[1]) };
    let dim = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(n) => *n,
        _ if axis == 0 && can_batch => rows,
        // Most likely a batch all the same.
        _ if axis == 0 => 1,
        _ => length(dim),
    };
    dims.iter().enumerate().map(dim).collect()
}

/// Values of one row: floats uniform in 0..1, integers 0 or 1 (they may be indices), strings `a`.
fn fill(datatype: Datatype, row: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let size = datatype.size().unwrap_or(5);
    for element in row.chunks_exact_mut(size) {
        let bits = next();
        let unit = (bits >> 40) as f32 / (1u32 << 24) as f32;
        match datatype {
            Datatype::Fp32 => element.copy_from_slice(&unit.to_le_bytes()),
            Datatype::Fp64 => element.copy_from_slice(&f64::from(unit).to_le_bytes()),
            Datatype::Fp16 => element.copy_from_slice(&f16::from_f32(unit).to_le_bytes()),
            Datatype::Bf16 => element.copy_from_slice(&bf16::from_f32(unit).to_le_bytes()),
            Datatype::Bytes => element.copy_from_slice(&[1, 0, 0, 0, b'a']),
            // 0 or 1 in the lowest byte, the others stay 0.
            _ => element[0] = (bits >> 63) as u8,
        }
    }
}

/// Runs `rows` rows together and alone, and compares.
fn compare(session: &dyn Session, length: i64, rows: usize) -> Result<f64, String> {
    let together = run(session, length, 0..rows).map_err(|e| format!("with {rows} rows: {e}"))?;
    let mut largest = 0.0f64;
    for row in 0..rows {
        let alone = run(session, length, row..row + 1)?;
        let specs = &session.signature().outputs;
        for ((spec, batch), single) in specs.iter().zip(&together).zip(&alone) {
            let difference = same(batch, single, row, rows)
                .map_err(|e| format!("output {:?}, row {row} of {rows}: {e}", spec.name))?;
            largest = largest.max(difference);
        }
    }
    Ok(largest)
}

/// The largest difference between row `row` of a batch of `rows` and the same row alone; the error says what is more than
/// a difference of rounding.
pub fn same(batch: &Tensor, single: &Tensor, row: usize, rows: usize) -> Result<f64, String> {
    let ours = |tensor: &Tensor, n: usize| tensor.dims.first().copied() == i64::try_from(n).ok();
    if !ours(batch, rows) || !ours(single, 1) || batch.dims[1..] != single.dims[1..] {
        return Err(format!(
            "the shape is {:?} in the batch and {:?} alone",
            &*batch.dims, &*single.dims
        ));
    }
    let Some(size) = batch.datatype.size() else {
        let each = element_count(&single.dims).unwrap_or(0);
        let in_batch = bytes_elements(&batch.data).skip(row * each).take(each);
        return match in_batch.eq(bytes_elements(&single.data)) {
            true => Ok(0.0),
            false => Err("the strings differ".to_owned()),
        };
    };
    let len = single.data.len();
    let part = batch.data.get(row * len..(row + 1) * len).ok_or("the batch is too short")?;
    let mut largest = 0.0f64;
    for (a, b) in part.chunks_exact(size).zip(single.data.chunks_exact(size)) {
        if a != b {
            largest = largest.max(difference(batch.datatype, a, b)?);
        }
    }
    Ok(largest)
}

fn difference(datatype: Datatype, a: &[u8], b: &[u8]) -> Result<f64, String> {
    let half = matches!(datatype, Datatype::Fp16 | Datatype::Bf16);
    let (Some(x), Some(y)) = (float(datatype, a), float(datatype, b)) else {
        return Err("the values differ".to_owned());
    };
    if (x.is_nan() && y.is_nan()) || x == y {
        return Ok(0.0);
    }
    let (absolute, relative) =
        if half { (HALF_ABSOLUTE, HALF_RELATIVE) } else { (ABSOLUTE, RELATIVE) };
    let difference = (x - y).abs();
    // Written so that a NaN beside a number, or an infinity, fails it.
    let close = difference <= absolute + relative * x.abs().max(y.abs()) && difference.is_finite();
    if close { Ok(difference) } else { Err(format!("{x} in the batch, {y} alone")) }
}

/// The number in an element's bytes; `None` for what is not a float.
fn float(datatype: Datatype, bytes: &[u8]) -> Option<f64> {
    Some(match datatype {
        Datatype::Fp32 => f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
        Datatype::Fp64 => f64::from_le_bytes(bytes.try_into().ok()?),
        Datatype::Fp16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        Datatype::Bf16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        echo::{Echo, EchoSession, rows_of},
        onnx_writer::{Attr, GraphWriter},
        testing::{backends, open, ort},
    };

    const SIZES: [usize; 5] = [1, 2, 4, 8, 16];

    #[test]
    fn times_grow_with_rows_and_stop_when_slow() {
        let cost_per_row = Duration::from_micros(500);
        let echo = Echo { cost_per_row, ..Echo::default() };
        let session = EchoSession::new(rows_of(Datatype::Fp32, 3), echo);
        let probe = probe(&session, &SIZES);
        assert_eq!(probe.error, None);
        assert_eq!(probe.consistent, Ok(0.0));
        let rows: Vec<usize> = probe.rows.iter().map(|(rows, _)| *rows).collect();
        assert!(rows.starts_with(&[1, 2, 4, 8]), "{rows:?}");
        assert!(probe.rows.iter().all(|(n, took)| *took >= cost_per_row * *n as u32));

        let echo = Echo { cost: Duration::from_millis(120), ..Echo::default() };
        let session = EchoSession::new(rows_of(Datatype::Fp32, 3), echo);
        let slow = super::probe(&session, &SIZES);
        assert_eq!(slow.rows.len(), 1);
        assert_eq!(slow.consistent, Ok(0.0));
    }

    #[test]
    fn every_datatype_is_made_up() {
        for datatype in Datatype::ALL {
            let session = EchoSession::new(rows_of(datatype, 3), Echo::default());
            let probe = probe(&session, &[1, 4]);
            assert_eq!((probe.error, probe.consistent), (None, Ok(0.0)), "{datatype}");
        }
    }

    #[test]
    fn rows_that_touch_each_other_are_found() {
        for backend in backends() {
            let graph = |axis: i64| {
                let axes = [Attr::Ints("axes", &[axis]), Attr::Int("keepdims", 1)];
                GraphWriter::new()
                    .node_with("", "ReduceMean", &["x"], &["m"], &axes)
                    .node("Sub", &["x", "m"], &["y"])
                    .input("x", Datatype::Fp32, &["N", "8"])
                    .output("y", Datatype::Fp32, &["N", "8"])
            };
            let apart = open(&*backend, &graph(1)).unwrap();
            let difference = probe(&*apart, &SIZES).consistent.unwrap();
            assert!(difference < 1e-4);
            // The mean over the batch: each row hangs on all.
            let touching = open(&*backend, &graph(0)).unwrap();
            let reason = probe(&*touching, &SIZES).consistent.unwrap_err();
            assert!(reason.contains("\"y\""), "{reason}");
        }
    }

    #[test]
    fn a_model_that_cannot_batch_runs_alone() {
        for backend in backends() {
            let graph = GraphWriter::new()
                .node("Neg", &["x"], &["y"])
                .input("x", Datatype::Fp32, &["2", "N"])
                .output("y", Datatype::Fp32, &["2", "N"]);
            let session = open(&*backend, &graph).unwrap();
            let probe = probe(&*session, &SIZES);
            assert_eq!(probe.rows.len(), 1);
            assert!(probe.error.is_none() && probe.consistent.is_err());
        }
    }

    #[test]
    fn another_length_is_tried_and_failure_is_no_failure_of_the_model() {
        let Some(backend) = ort() else { return };
        // Adds a row of three to one of dynamic length: works for 3 and 1 only.
        let graph = |fixed: i64| {
            GraphWriter::new()
                .node("Add", &["x", "w"], &["y"])
                .init_f32("w", &[fixed], &vec![1.0; fixed as usize])
                .input("x", Datatype::Fp32, &["N", "L"])
                .output("y", Datatype::Fp32, &["N", "?"])
        };
        let one = open(&*backend, &graph(3)).unwrap();
        let found = probe(&*one, &[1, 2]);
        assert_eq!((found.error, found.consistent), (None, Ok(0.0)));
        let reshape = GraphWriter::new()
            .node("Reshape", &["x", "s"], &["y"])
            .init_i64("s", &[2], &[-1, 7])
            .input("x", Datatype::Fp32, &["N", "L"])
            .output("y", Datatype::Fp32, &["?", "7"]);
        let never = open(&*backend, &reshape).unwrap();
        let found = probe(&*never, &[1]);
        let error = found.error.clone().unwrap_or_default();
        assert!(error.contains("Reshape") || found.rows.len() == 1, "{found:?}");
    }

    #[test]
    fn numbers_are_compared_with_tolerance() {
        let close = |a: f32, b: f32| difference(Datatype::Fp32, &a.to_le_bytes(), &b.to_le_bytes());
        assert_eq!(close(f32::NAN, f32::NAN), Ok(0.0));
        assert_eq!(close(f32::INFINITY, f32::INFINITY), Ok(0.0));
        assert!(close(1.0, 1.000_5).is_ok());
        assert!(close(1.0, 1.01).is_err());
        assert!(close(f32::NAN, 1.0).is_err());
        assert!(close(f32::INFINITY, 1.0).is_err());
        assert!(difference(Datatype::Int8, &[1], &[2]).is_err());
    }

    #[test]
    fn what_is_too_large_is_not_made_up() {
        let session = EchoSession::new(rows_of(Datatype::Fp32, 1 << 40), Echo::default());
        let found = probe(&session, &[1]);
        assert!(found.error.unwrap().contains("too large"));
        assert!(session.runs().is_empty());
    }
}
