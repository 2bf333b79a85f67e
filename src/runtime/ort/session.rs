//! One opened model: built by the binding, run through the C API, which takes `&self` where the binding does not.

use std::{
    ffi::{CString, c_char},
    ptr,
    sync::Arc,
};

use ::ort::{
    AsPointer,
    logging::LogLevel,
    session::builder::{GraphOptimizationLevel, SessionBuilder},
    value::{Outlet, TensorElementType, ValueType},
};
use ort_sys::{OrtApi, OrtRunOptions, OrtValue};
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use super::{
    library::Library,
    providers::{self, Configured},
    value::{Failure, Inputs, Value, check, readable},
};
use crate::{
    runtime::{
        graph::Graph,
        options::{Optimization, SessionOptions},
        session::{Cancel, ModelSource, Outputs, RunError, Session},
    },
    types::{
        datatype::Datatype,
        model::{Dim, Signature, TensorSpec},
        tensor::TensorView,
    },
};

/// What outputs keep alive: ONNX Runtime's session, whose allocator their memory came from.
pub struct Inner {
    session: ::ort::session::Session,
}

pub struct OrtSession {
    library: Arc<Library>,
    inner: Arc<Inner>,
    signature: Arc<Signature>,
    providers: Vec<String>,
    warnings: Vec<String>,
    device: Option<String>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    /// Held over a run where a provider other than the CPU's takes part: only that one is known to run concurrently.
    serial: Option<Mutex<()>>,
}

impl OrtSession {
    pub fn open(
        library: &Arc<Library>,
        source: &ModelSource,
        options: &SessionOptions,
    ) -> Result<OrtSession, String> {
        options.check()?;
        let graph = &source.graph;
        if let Some(reason) = graph.unsupported.first() {
            return Err(reason.clone());
        }
        // Left to itself, the library would look for the file in the working directory.
        let given = |location: &&String| source.external.iter().any(|(name, _)| name == *location);
        if let Some(missing) = graph.external.iter().find(|location| !given(location)) {
            return Err(format!("the file {missing:?} of its external data is missing"));
        }
        let (session, placed) = match commit(library, source, options, false) {
            Err(Refusal { reason, by_device: true }) if options.fallback => {
                let (session, mut placed) =
                    commit(library, source, options, true).map_err(|e| e.reason)?;
                placed.warnings.push(format!("{reason}; the model runs on the CPU"));
                (session, placed)
            }
            other => other.map_err(|e| e.reason)?,
        };
        let Placed { providers, warnings, device } = placed;
        let signature = signature(graph, session.inputs(), session.outputs())?;
        let name = |spec: &TensorSpec| CString::new(&*spec.name).map_err(|e| e.to_string());
        Ok(OrtSession {
            library: library.clone(),
            input_names: signature.inputs.iter().map(name).collect::<Result<_, _>>()?,
            output_names: signature.outputs.iter().map(name).collect::<Result<_, _>>()?,
            signature: Arc::new(signature),
            serial: (providers.len() > 1).then(Mutex::default),
            providers,
            warnings,
            device,
            inner: Arc::new(Inner { session }),
        })
    }

    fn run_checked(
        &self,
        inputs: &[Option<TensorView<'_>>],
        options: *const OrtRunOptions,
    ) -> Result<Outputs, Failure> {
        if inputs.len() != self.input_names.len() {
            let (got, want) = (inputs.len(), self.input_names.len());
            return Err(Failure::new(format!("the model has {want} inputs, {got} were given")));
        }
        let api = self.library.api;
        let mut given = Inputs::default();
        let mut names: SmallVec<[*const c_char; 4]> = SmallVec::new();
        for (name, view) in self.input_names.iter().zip(inputs) {
            let Some(view) = view else { continue };
            // SAFETY: `given` is dropped before this function returns, and `inputs` outlives it; the CPU provider does not
            // write inputs, others copy them to their device.
            let value = unsafe { Value::tensor(&self.library, view) }.map_err(|e| Failure {
                message: format!("input {:?}: {}", name.to_string_lossy(), e.message),
                ..e
            })?;
            given.values.push(value);
            given.bytes.push(view.data);
            names.push(name.as_ptr());
        }
        let values: SmallVec<[*const OrtValue; 4]> =
            given.values.iter().map(|v| v.as_ptr().cast_const()).collect();
        let output_names: SmallVec<[*const c_char; 4]> =
            self.output_names.iter().map(|n| n.as_ptr()).collect();
        let mut made: SmallVec<[*mut OrtValue; 4]> = smallvec![ptr::null_mut(); output_names.len()];
        let serial = self.serial.as_ref().map(Mutex::lock);
        // SAFETY: every array is live and as long as the number given with it; Run does not change the session (the C API
        // says that it may be called concurrently, and where a provider may not keep that, `serial` is held).
        let status = unsafe {
            (api.Run)(
                self.inner.session.ptr().cast_mut(),
                options,
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                made.as_mut_ptr(),
            )
        };
        drop(serial);
        // All of them are owned before anything can fail.
        // SAFETY: Run made them for us, or left them null.
        let made: SmallVec<[Option<Value>; 4]> =
            made.into_iter().map(|value| unsafe { Value::take(api, value) }).collect();
        check(api, status)?;
        let mut outputs = Outputs::new();
        for (value, spec) in made.into_iter().zip(&self.signature.outputs) {
            let value = value.ok_or_else(|| Failure::new("it was not computed"));
            let tensor = value.and_then(|v| v.into_tensor(&self.inner, &given.bytes));
            outputs.push(
                tensor
                    .map_err(|e| Failure::new(format!("output {:?}: {}", spec.name, e.message)))?,
            );
        }
        Ok(outputs)
    }

    fn run_cancellable(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: &Cancel,
    ) -> Result<Outputs, Failure> {
        // Fresh ones for each run: the flag sticks.
        let options = RunOptions::new(self.library.api)?;
        let terminate = options.terminator();
        let attached = cancel.attach(Box::new(move || terminate.fire()));
        let result = self.run_checked(inputs, options.pointer);
        // Detached first: from then on nobody touches the options.
        drop(attached);
        drop(options);
        result
    }
}

impl Session for OrtSession {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        &self.providers
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        let result = match cancel {
            None => self.run_checked(inputs, ptr::null()),
            Some(cancel) if cancel.fired() => return Err(RunError::Cancelled),
            Some(cancel) => self.run_cancellable(inputs, cancel),
        };
        result.map_err(|failure| match failure {
            _ if cancel.is_some_and(Cancel::fired) => RunError::Cancelled,
            Failure { invalid: true, message } => RunError::Invalid(message),
            Failure { message, .. } => RunError::Failed(message),
        })
    }
}

struct RunOptions {
    api: &'static OrtApi,
    pointer: *mut OrtRunOptions,
}

impl RunOptions {
    fn new(api: &'static OrtApi) -> Result<RunOptions, Failure> {
        let mut pointer = ptr::null_mut();
        // SAFETY: a valid place.
        check(api, unsafe { (api.CreateRunOptions)(&mut pointer) })?;
        Ok(RunOptions { api, pointer })
    }

    fn terminator(&self) -> Terminator {
        Terminator { api: self.api, pointer: self.pointer }
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: ours, released once, after its terminator was detached.
        unsafe { (self.api.ReleaseRunOptions)(self.pointer) };
    }
}

struct Terminator {
    api: &'static OrtApi,
    pointer: *mut OrtRunOptions,
}

// SAFETY: the flag it sets may be set from any thread while a run reads it.
unsafe impl Send for Terminator {}

impl Terminator {
    fn fire(&self) {
        // SAFETY: called only while attached, and the options outlive that.
        let status = unsafe { (self.api.RunOptionsSetTerminate)(self.pointer) };
        // It has no way to fail; a run that goes on is the worst that could come of it.
        let _ = check(self.api, status);
    }
}

struct Refusal {
    reason: String,
    /// A provider other than the CPU's took part.
    by_device: bool,
}

/// What came of the providers that were asked for.
struct Placed {
    providers: Vec<String>,
    warnings: Vec<String>,
    device: Option<String>,
}

type Committed = (::ort::session::Session, Placed);

fn commit(
    library: &Library,
    source: &ModelSource,
    options: &SessionOptions,
    cpu_only: bool,
) -> Result<Committed, Refusal> {
    let plain = |reason| Refusal { reason, by_device: false };
    let builder = prepare(library, options).map_err(|e| plain(e.to_string()))?;
    let configured = providers::configure(library, builder, options, cpu_only).map_err(plain)?;
    let by_device = configured.has_device();
    let Configured { mut builder, names, warnings, device } = configured;
    let refuse = |reason: String| Refusal { reason, by_device };
    // Names and buffers stay where they are until the session is made; it copies what it needs of them.
    let files: Vec<CString> = source
        .external
        .iter()
        .map(|(location, _)| CString::new(location.as_str()).map_err(|e| plain(e.to_string())))
        .collect::<Result<_, _>>()?;
    give_external(library, &mut builder, &files, source).map_err(|e| plain(e.message))?;
    let session = builder.commit_from_memory(&source.bytes).map_err(|e| {
        let reason = match by_device {
            true => format!("with {}: {}", names.join(", "), explain(&e.to_string())),
            false => explain(&e.to_string()),
        };
        refuse(reason)
    })?;
    Ok((session, Placed { providers: names, warnings, device }))
}

fn prepare(library: &Library, options: &SessionOptions) -> ::ort::Result<SessionBuilder> {
    let level = match options.optimization {
        Optimization::Disable => GraphOptimizationLevel::Disable,
        Optimization::Basic => GraphOptimizationLevel::Level1,
        Optimization::Extended => GraphOptimizationLevel::Level2,
        Optimization::Layout => GraphOptimizationLevel::Level3,
        Optimization::All => GraphOptimizationLevel::All,
    };
    Ok(SessionBuilder::new(&library.environment)?
        .with_log_level(LogLevel::Error)?
        .with_intra_threads(options.intra_op_threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(options.spinning)?
        .with_inter_op_spinning(false)?
        .with_optimization_level(level)?)
}

/// Hands over the files of external data as bytes. (The binding's own way would copy each first.)
fn give_external(
    library: &Library,
    builder: &mut SessionBuilder,
    files: &[CString],
    source: &ModelSource,
) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    let names: Vec<*const c_char> = files.iter().map(|f| f.as_ptr()).collect();
    let buffers: Vec<*mut c_char> =
        source.external.iter().map(|(_, b)| b.as_ptr().cast_mut().cast()).collect();
    let lengths: Vec<usize> = source.external.iter().map(|(_, b)| b.len()).collect();
    // SAFETY: three arrays of the same length; names and buffers outlive the commit that reads them, and are not written.
    let status = unsafe {
        (library.api.AddExternalInitializersFromMemory)(
            builder.ptr_mut(),
            names.as_ptr(),
            buffers.as_ptr(),
            lengths.as_ptr(),
            files.len(),
        )
    };
    check(library.api, status)
}

/// A reason for a person: what to do beside what is wrong.
fn explain(message: &str) -> String {
    let message = readable(message);
    let message = message.trim_end_matches('.');
    if message.contains("locale") && message.contains("en_US.UTF-8") {
        return format!(
            "{message} (the model normalises text and needs the locale en_US.UTF-8 on this machine; on Debian: install the \
             package locales, enable it in /etc/locale.gen, run locale-gen)"
        );
    }
    message.to_owned()
}

/// The graph's signature, completed by what the session inferred.
fn signature(graph: &Graph, inputs: &[Outlet], outputs: &[Outlet]) -> Result<Signature, String> {
    // Two readers of one file must agree on it: what is checked against our signature is given to that session.
    let required = graph.inputs.iter().filter(|i| !i.optional);
    agree("input", required, inputs)?;
    agree("output", graph.outputs.iter(), outputs)?;
    let inputs = graph.inputs.clone();
    let mut specs = graph.outputs.clone();
    for (spec, outlet) in specs.iter_mut().zip(outputs) {
        let ValueType::Tensor { shape, dimension_symbols, .. } = outlet.dtype() else { continue };
        // An unknown rank reads as rank 0 here: only what the graph gives a rank is completed.
        let Some(dims) = spec.dims.as_mut().filter(|dims| dims.len() == shape.len()) else {
            if spec.dims.is_none() && !shape.is_empty() {
                let dim = |(n, symbol): (&i64, &String)| inferred(*n, symbol);
                spec.dims = Some(shape.iter().zip(dimension_symbols.iter()).map(dim).collect());
            }
            continue;
        };
        for (dim, (n, symbol)) in dims.iter_mut().zip(shape.iter().zip(dimension_symbols.iter())) {
            let better = inferred(*n, symbol);
            match (&*dim, &better) {
                (Dim::Fixed(_), _) | (_, Dim::Any) | (Dim::Symbol(_), Dim::Symbol(_)) => {}
                _ => *dim = better,
            }
        }
    }
    graph.attach_labels(&mut specs);
    let can_batch = Signature::batchable(&inputs, &specs);
    Ok(Signature { inputs, outputs: specs, can_batch })
}

fn inferred(n: i64, symbol: &str) -> Dim {
    match (n, symbol) {
        (0.., _) => Dim::Fixed(n),
        (_, name) => crate::runtime::graph::symbol(name),
    }
}

fn agree<'a>(
    what: &str,
    specs: impl Iterator<Item = &'a TensorSpec>,
    outlets: &[Outlet],
) -> Result<(), String> {
    let ours: Vec<_> = specs.map(|s| (&*s.name, Some(s.datatype))).collect();
    let theirs: Vec<_> = outlets.iter().map(|o| (o.name(), datatype(o.dtype()))).collect();
    if ours == theirs {
        return Ok(());
    }
    let text = |list: &[(&str, Option<Datatype>)]| {
        let list: Vec<String> = list
            .iter()
            .map(|(name, datatype)| {
                format!("{name:?} {}", datatype.map_or("of another type", Datatype::name))
            })
            .collect();
        list.join(", ")
    };
    Err(format!(
        "the file and ONNX Runtime disagree on the {what}s: {} in the file, {} in the session",
        text(&ours),
        text(&theirs)
    ))
}

fn datatype(value: &ValueType) -> Option<Datatype> {
    let ValueType::Tensor { ty, .. } = value else { return None };
    Some(match ty {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}
