//! A backend for tests and benches: answers with its inputs, costs what it is told to, and fails on command.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    options::SessionOptions,
    session::{Backend, Cancel, ModelSource, Outputs, RunError, Session},
};
use crate::types::{
    datatype::Datatype,
    model::{Dim, Signature, TensorSpec},
    tensor::{Tensor, TensorView},
};

/// Runs that are remembered; a bench has more.
const MAX_RUNS: usize = 100_000;
/// How long a run hangs that nobody can cancel.
const MAX_HANG: Duration = Duration::from_secs(10);

/// What an echo session does beside echoing. A switch is thrown by a value of an FP32 input, so that one member of a batch
/// can spoil it.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    /// What each run costs, on the CPU.
    pub cost: Duration,
    /// What each row costs on top.
    pub cost_per_row: Duration,
    /// Spent asleep, once a run: a device, as it were.
    pub sleep: Duration,
    /// What the session calls its device, where it is to have one.
    pub device: Option<&'static str>,
    /// A run costs the less the more threads it has.
    pub spreads_runs: bool,
    /// The run fails (`RunError::Failed`).
    pub fail_on: Option<f32>,
    /// The run calls its input invalid.
    pub invalid_on: Option<f32>,
    /// The run panics.
    pub panic_on: Option<f32>,
    /// The run hangs until it is cancelled.
    pub hang_on: Option<f32>,
}

/// A session that answers output i with input i (counted round where there are more outputs).
pub struct EchoSession {
    signature: Arc<Signature>,
    echo: Echo,
    runs: Mutex<Vec<usize>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl EchoSession {
    /// A session of this signature; an output has the datatype of the input it echoes.
    pub fn new(signature: Signature, echo: Echo) -> EchoSession {
        EchoSession {
            signature: Arc::new(signature),
            echo,
            runs: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    /// Rows of each run so far (the length of the first axis of the first input), in the order in which they began.
    pub fn runs(&self) -> Vec<usize> {
        self.runs.lock().clone()
    }

    /// The most runs that were under way at once.
    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn answer(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        let echo = &self.echo;
        let rows = inputs.iter().flatten().next().and_then(|i| i.dims.first().copied());
        let rows = usize::try_from(rows.unwrap_or(1)).unwrap_or(0);
        let mut runs = self.runs.lock();
        if runs.len() < MAX_RUNS {
            runs.push(rows);
        }
        drop(runs);
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        spin(echo.cost + echo.cost_per_row.saturating_mul(rows), cancel)?;
        if !echo.sleep.is_zero() {
            thread::sleep(echo.sleep);
        }
        if holds(inputs, echo.hang_on) {
            hang(cancel)?;
        }
        assert!(!holds(inputs, echo.panic_on), "the echo session was told to panic");
        if holds(inputs, echo.fail_on) {
            return Err(RunError::Failed("the echo session was told to fail".to_owned()));
        }
        if holds(inputs, echo.invalid_on) {
            return Err(RunError::Invalid("the echo session was told to refuse".to_owned()));
        }
        let given: Vec<&TensorView<'_>> = inputs.iter().flatten().collect();
        if given.is_empty() {
            return Err(RunError::Invalid("nothing to echo".to_owned()));
        }
        let copy = |i: usize| {
            let input = given[i % given.len()];
            let data = Bytes::copy_from_slice(input.data);
            Tensor { datatype: input.datatype, dims: input.dims.into(), data }
        };
        Ok((0..self.signature.outputs.len()).map(copy).collect())
    }
}

impl Session for EchoSession {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        &[]
    }

    fn device(&self) -> Option<&str> {
        self.echo.device
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _leave = Leave(&self.running);
        self.most.fetch_max(running, Ordering::SeqCst);
        if cancel.is_some_and(Cancel::fired) {
            return Err(RunError::Cancelled);
        }
        self.answer(inputs, cancel)
    }
}

fn spin(cost: Duration, cancel: Option<&Cancel>) -> Result<(), RunError> {
    if cost.is_zero() {
        return Ok(());
    }
    let start = Instant::now();
    while start.elapsed() < cost {
        if cancel.is_some_and(Cancel::fired) {
            return Err(RunError::Cancelled);
        }
        std::hint::spin_loop();
    }
    Ok(())
}

fn hang(cancel: Option<&Cancel>) -> Result<(), RunError> {
    let start = Instant::now();
    while start.elapsed() < MAX_HANG {
        if cancel.is_some_and(Cancel::fired) {
            return Err(RunError::Cancelled);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(RunError::Failed("the echo session hung, and nobody cancelled it".to_owned()))
}

fn holds(inputs: &[Option<TensorView<'_>>], mark: Option<f32>) -> bool {
    let Some(mark) = mark.map(f32::to_le_bytes) else { return false };
    let floats = inputs.iter().flatten().filter(|i| i.datatype == Datatype::Fp32);
    floats.flat_map(|i| i.data.chunks_exact(4)).any(|element| element == mark)
}

/// `x` and `y` of this datatype: one row of `width` elements a request, in batches.
pub fn rows_of(datatype: Datatype, width: i64) -> Signature {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        datatype,
        dims: Some(vec![Dim::Symbol("N".into()), Dim::Fixed(width)]),
        optional: false,
        labels: None,
    };
    let (inputs, outputs) = (vec![spec("x")], vec![spec("y")]);
    let can_batch = Signature::batchable(&inputs, &outputs);
    Signature { inputs, outputs, can_batch }
}

/// Opens every model as an echo of the signature in its file.
#[derive(Default)]
pub struct EchoBackend {
    pub echo: Echo,
    /// While set, `open` fails.
    pub refuse: AtomicBool,
    opened: AtomicUsize,
}

impl EchoBackend {
    pub fn new(echo: Echo) -> EchoBackend {
        EchoBackend { echo, ..EchoBackend::default() }
    }

    /// Sessions opened so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Backend for EchoBackend {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn describe(&self) -> String {
        "echo".to_owned()
    }

    fn open(
        &self,
        source: &ModelSource,
        options: &SessionOptions,
    ) -> Result<Arc<dyn Session>, String> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err("the echo backend was told to refuse".to_owned());
        }
        let graph = &source.graph;
        if let Some(reason) = graph.unsupported.first() {
            return Err(reason.clone());
        }
        let (inputs, outputs) = (graph.inputs.clone(), graph.outputs.clone());
        let can_batch = Signature::batchable(&inputs, &outputs);
        self.opened.fetch_add(1, Ordering::SeqCst);
        let signature = Signature { inputs, outputs, can_batch };
        let mut echo = self.echo.clone();
        if echo.spreads_runs {
            let threads = u32::try_from(options.intra_op_threads).unwrap_or(1).max(1);
            (echo.cost, echo.sleep) = (echo.cost / threads, echo.sleep / threads);
        }
        Ok(Arc::new(EchoSession::new(signature, echo)))
    }

    fn spreads_runs(&self) -> bool {
        self.echo.spreads_runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        onnx_writer::GraphWriter,
        testing::{floats, open, read_floats, run_one},
    };

    fn session(echo: Echo) -> EchoSession {
        EchoSession::new(rows_of(Datatype::Fp32, 2), echo)
    }

    #[test]
    fn echoes_and_remembers() {
        let session = session(Echo::default());
        assert!(session.signature().can_batch);
        let data = floats(&[1.0, 2.0, 3.0, 4.0]);
        let outputs = run_one(&session, Datatype::Fp32, &[2, 2], &data).unwrap();
        assert_eq!(outputs[0].data, data);
        assert_eq!(session.runs(), [2]);
        assert_eq!(session.most_at_once(), 1);
        assert!(session.run(&[None], None).is_err());
    }

    #[test]
    fn costs_what_it_is_told() {
        let (cost, cost_per_row) = (Duration::from_millis(5), Duration::from_millis(2));
        let session = session(Echo { cost, cost_per_row, ..Echo::default() });
        let start = Instant::now();
        run_one(&session, Datatype::Fp32, &[3, 2], &floats(&[0.0; 6])).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(11));
    }

    #[test]
    fn switches_are_thrown_by_values() {
        let session = session(Echo {
            fail_on: Some(13.0),
            invalid_on: Some(14.0),
            panic_on: Some(15.0),
            hang_on: Some(16.0),
            ..Echo::default()
        });
        let run = |value: f32| run_one(&session, Datatype::Fp32, &[1, 2], &floats(&[0.0, value]));
        assert!(matches!(run(13.0), Err(RunError::Failed(_))));
        assert!(matches!(run(14.0), Err(RunError::Invalid(_))));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(15.0))).is_err());
        assert_eq!(read_floats(&run(1.0).unwrap()[0].data), [0.0, 1.0]);

        let cancel = Cancel::default();
        let data = floats(&[16.0, 0.0]);
        thread::scope(|scope| {
            let hanging = scope.spawn(|| {
                let view = TensorView { datatype: Datatype::Fp32, dims: &[1, 2], data: &data };
                session.run(&[Some(view)], Some(&cancel)).map(drop)
            });
            thread::sleep(Duration::from_millis(20));
            cancel.fire();
            assert_eq!(hanging.join().unwrap(), Err(RunError::Cancelled));
        });
    }

    #[test]
    fn the_backend_opens_any_file() {
        let backend = EchoBackend::default();
        let graph = GraphWriter::new().input("x", Datatype::Int64, &["N"]).output(
            "y",
            Datatype::Int64,
            &["N"],
        );
        let session = open(&backend, &graph).unwrap();
        assert_eq!(&*session.signature().inputs[0].name, "x");
        assert_eq!(backend.opened(), 1);
        backend.refuse.store(true, Ordering::SeqCst);
        assert!(open(&backend, &graph).is_err());
    }
}
