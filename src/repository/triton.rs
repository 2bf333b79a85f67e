//! config.pbtxt, Triton's configuration of a model, read as Triton means it: into our own options, with a line for each field
//! that is not honoured, and an error for what would make answers wrong.

use std::sync::Arc;

use super::{
    declared::{Declared, DeclaredTensor},
    options::{BatchAxis, Defaults, ModelOptions, Versions},
    pbtxt::{self, Field, Message, Value},
    store::{Repository, TRITON_FILE},
};
use crate::{
    runtime::options::{Optimization, Provider, ProviderOptions},
    types::datatype::Datatype,
};

/// Bytes of the cache where `response_cache` enables one and the defaults say nothing: Triton has one size for the server, given
/// when it starts.
const CACHE_BYTES: u64 = 64 << 20;

/// Reads a model's options, whichever kind of file has them: model.yaml or config.pbtxt.
pub fn read_any(
    repository: &Repository,
    file: &str,
    model: &str,
    defaults: &Defaults,
) -> Result<ModelOptions, String> {
    let text = repository.read_options(file)?;
    if !file.ends_with(TRITON_FILE) {
        return ModelOptions::read(&text, file, defaults);
    }
    let mut options = read(&text, file, model, defaults)?;
    let declared = options.declared.clone().unwrap_or_default();
    for (output, name) in &declared.label_files {
        let labels = repository.read_options(&file.replace(TRITON_FILE, name))?;
        let labels = labels.lines().map(|label| label.trim().to_owned());
        options.labels.insert(output.clone(), labels.collect());
    }
    Ok(options)
}

/// Reads `text` of a model's config.pbtxt over the server's defaults. `file` is its path relative to the repository, for errors and
/// notes, which name the line.
pub fn read(
    text: &str,
    file: &str,
    model: &str,
    defaults: &Defaults,
) -> Result<ModelOptions, String> {
    let config = pbtxt::parse(text).map_err(|(line, why)| format!("{file}, line {line}: {why}"))?;
    let mut options = ModelOptions::from(defaults);
    let declared = Declared { file: file.to_owned(), ..Declared::default() };
    let mut reader = Reader { file, options: &mut options, declared };
    reader.config(&config, model)?;
    let declared = reader.declared;
    options.declared = Some(Arc::new(declared));
    Ok(options)
}

struct Reader<'a> {
    file: &'a str,
    options: &'a mut ModelOptions,
    declared: Declared,
}

type Done = Result<(), String>;

impl Reader<'_> {
    fn fail<T>(&self, field: &Field, why: impl AsRef<str>) -> Result<T, String> {
        let (file, line, name) = (self.file, field.line, &field.name);
        Err(format!("{file}, line {line}: {name}: {}", why.as_ref()))
    }

    /// Notes that a field is not honoured, and why, or what is done instead.
    fn note(&mut self, field: &Field, why: &str) {
        let (file, line, name) = (self.file, field.line, &field.name);
        self.declared.notes.push(format!("{file}, line {line}: {name} is not honoured: {why}"));
    }

    fn message<'m>(&self, field: &'m Field) -> Result<&'m Message, String> {
        match &field.value {
            Value::Message(message) => Ok(message),
            _ => self.fail(field, "expected a message, as in { … }"),
        }
    }

    fn text<'m>(&self, field: &'m Field) -> Result<&'m str, String> {
        match &field.value {
            Value::Text(text) => Ok(text),
            _ => self.fail(field, "expected text in quotes"),
        }
    }

    fn word<'m>(&self, field: &'m Field) -> Result<&'m str, String> {
        match &field.value {
            Value::Word(word) => Ok(word),
            _ => self.fail(field, "expected a name without quotes"),
        }
    }

    fn number<T: TryFrom<i128>>(&self, field: &Field) -> Result<T, String> {
        let number = match &field.value {
            Value::Word(word) => pbtxt::integer(word).and_then(|n| T::try_from(n).ok()),
            _ => None,
        };
        number.map_or_else(|| self.fail(field, "expected a number in its range"), Ok)
    }

    fn boolean(&self, field: &Field) -> Result<bool, String> {
        match &field.value {
            Value::Word(word) => match word.as_str() {
                "true" | "True" | "t" | "1" => Ok(true),
                "false" | "False" | "f" | "0" => Ok(false),
                _ => self.fail(field, "expected true or false"),
            },
            _ => self.fail(field, "expected true or false"),
        }
    }

    fn unknown(&self, field: &Field, of: &str) -> Done {
        self.fail(field, format!("unknown field of {of}"))
    }

    fn config(&mut self, config: &Message, model: &str) -> Done {
        let mut instances = Vec::new();
        for field in &config.0 {
            match field.name.as_str() {
                "name" if self.text(field)? != model && !self.text(field)?.is_empty() => {
                    let name = self.text(field)?.escape_debug();
                    return self.fail(field, format!("'{name}', in the directory of '{model}'"));
                }
                "name" => {}
                "platform" => self.one_of(field, &["onnxruntime_onnx", ""])?,
                "backend" => self.one_of(field, &["onnxruntime", ""])?,
                "version_policy" => self.versions(field)?,
                "max_batch_size" => self.batch_size(field)?,
                "input" => self.input(field)?,
                "output" => self.output(field)?,
                "dynamic_batching" => self.batching(field)?,
                "instance_group" => instances.push(field),
                "optimization" => self.optimization(field)?,
                "parameters" => self.parameter(field)?,
                "response_cache" => self.cache(field)?,
                "model_warmup" => self.warmup(field)?,
                "model_transaction_policy" => self.transactions(field)?,
                "default_model_filename" => self.one_of(field, &["model.onnx", ""])?,
                "sequence_batching" => {
                    return self.fail(field, "models with state are not served here");
                }
                "ensemble_scheduling" => return self.fail(field, "ensembles are not served here"),
                "batch_input" | "batch_output" => {
                    return self.fail(field, "ragged batches are not served here");
                }
                "model_repository_agents" => {
                    return self.fail(field, "files are served as they are: there are no agents");
                }
                "model_operations" => {
                    return self.fail(field, "libraries of operators are not loaded here");
                }
                "cc_model_filenames" => self.note(field, "model.onnx is served on every device"),
                "metric_tags" => self.note(field, "metrics have the labels of docs/metrics.md"),
                "model_metrics" => self.note(field, "metrics are those of docs/metrics.md"),
                "runtime" => self.note(field, "the runtime is ONNX Runtime's library"),
                _ => return self.unknown(field, "ModelConfig"),
            }
        }
        self.instances(&instances)
    }

    fn one_of(&self, field: &Field, known: &[&str]) -> Done {
        let text = self.text(field)?;
        if known.contains(&text) {
            return Ok(());
        }
        let (text, known) = (text.escape_debug(), known[0]);
        self.fail(field, format!("'{text}': expected {known}, the only kind that is served here"))
    }

    fn versions(&mut self, field: &Field) -> Done {
        for choice in &self.message(field)?.0 {
            let inner = &self.message(choice)?.0;
            self.options.versions = match choice.name.as_str() {
                "latest" => {
                    let count = inner.iter().find(|f| f.name == "num_versions");
                    let count: u32 = count.map_or(Ok(1), |field| self.number(field))?;
                    Versions::Latest(count.max(1) as usize)
                }
                "all" => Versions::All,
                "specific" => {
                    let numbers = inner.iter().filter(|f| f.name == "versions");
                    let mut numbers: Vec<u64> =
                        numbers.map(|field| self.number(field)).collect::<Result<_, _>>()?;
                    numbers.sort_unstable();
                    numbers.dedup();
                    if numbers.first().is_none_or(|first| *first == 0) {
                        return self.fail(choice, "expected versions, which are positive numbers");
                    }
                    Versions::Only(numbers)
                }
                _ => return self.unknown(choice, "version_policy"),
            };
        }
        Ok(())
    }

    fn batch_size(&mut self, field: &Field) -> Done {
        let rows: u32 = self.number(field)?;
        // 0, as it stands there, says that the dimensions are whole.
        self.options.batch_axis = if rows == 0 { BatchAxis::None } else { BatchAxis::First };
        self.declared.batch = rows > 0;
        if rows > 0 {
            self.options.batching.max_batch_size = rows as usize;
        }
        Ok(())
    }

    fn input(&mut self, field: &Field) -> Done {
        let mut tensor = DeclaredTensor { line: field.line, ..DeclaredTensor::default() };
        for inner in &self.message(field)?.0 {
            match inner.name.as_str() {
                "format" => self.note(inner, "tensors are taken as the graph has them"),
                "optional" => {
                    if self.boolean(inner)? {
                        self.note(
                            inner,
                            "an input is optional where the graph has a default for it",
                        );
                    }
                }
                "allow_ragged_batch" => {
                    if self.boolean(inner)? {
                        self.note(
                            inner,
                            "only requests of equal shapes share a batch (batching.padding)",
                        );
                    }
                }
                _ => self.tensor(inner, &mut tensor, "ModelInput")?,
            }
        }
        self.declared.inputs.push(self.named(field, tensor)?);
        Ok(())
    }

    fn output(&mut self, field: &Field) -> Done {
        let mut tensor = DeclaredTensor { line: field.line, ..DeclaredTensor::default() };
        let mut labels = None;
        for inner in &self.message(field)?.0 {
            match inner.name.as_str() {
                "label_filename" => labels = Some(self.text(inner)?.to_owned()),
                _ => self.tensor(inner, &mut tensor, "ModelOutput")?,
            }
        }
        let tensor = self.named(field, tensor)?;
        if let Some(file) = labels.filter(|file| !file.is_empty()) {
            if file.contains(['/', '\0']) || file.starts_with('.') {
                let file = file.escape_debug();
                return self
                    .fail(field, format!("label_filename '{file}': expected a file's name"));
            }
            self.declared.label_files.push((tensor.name.clone(), file));
        }
        self.declared.outputs.push(tensor);
        Ok(())
    }

    fn tensor(&self, field: &Field, tensor: &mut DeclaredTensor, of: &str) -> Done {
        match field.name.as_str() {
            "name" => tensor.name = self.text(field)?.to_owned(),
            "data_type" => {
                let word = self.word(field)?;
                let known = super::config::data_type;
                tensor.datatype = Datatype::ALL.into_iter().find(|d| known(*d) == word);
                if tensor.datatype.is_none() {
                    let word = word.escape_debug();
                    return self.fail(field, format!("'{word}': expected as in TYPE_FP32"));
                }
            }
            "dims" => tensor.dims.get_or_insert_default().push(self.number(field)?),
            "reshape" => {
                return self.fail(field, "shapes are the graph's own: there is no reshape here");
            }
            "is_shape_tensor" | "is_non_linear_format_io" if !self.boolean(field)? => {}
            "is_shape_tensor" | "is_non_linear_format_io" => {
                return self.fail(field, "these are TensorRT's, which is not served by itself");
            }
            _ => return self.unknown(field, of),
        }
        Ok(())
    }

    fn named(&self, field: &Field, tensor: DeclaredTensor) -> Result<DeclaredTensor, String> {
        match tensor.name.is_empty() {
            true => self.fail(field, "it has no 'name'"),
            false => Ok(tensor),
        }
    }

    fn batching(&mut self, field: &Field) -> Done {
        for inner in &self.message(field)?.0 {
            match inner.name.as_str() {
                "preferred_batch_size" => {
                    let rows: u32 = self.number(inner)?;
                    let preferred = &mut self.options.batching.preferred_batch_size;
                    *preferred = (*preferred).max(rows as usize);
                }
                "max_queue_delay_microseconds" => {
                    self.options.batching.max_queue_delay_us = self.number(inner)?;
                }
                "preserve_ordering" => {
                    if self.boolean(inner)? {
                        self.note(inner, "answers come as they are ready");
                    }
                }
                // How many there are does not matter: each number is a level of its own.
                "priority_levels" => drop(self.number::<u64>(inner)?),
                "default_priority_level" => match self.number::<u64>(inner)? {
                    level @ 1..=255 => self.options.batching.default_priority = level as u8,
                    0 => {}
                    _ => self.note(inner, "255 is the lowest"),
                },
                "default_queue_policy" => self.queue_policy(inner)?,
                "priority_queue_policy" => {
                    self.note(inner, "one policy holds for every priority");
                }
                _ => return self.unknown(inner, "dynamic_batching"),
            }
        }
        Ok(())
    }

    fn queue_policy(&mut self, field: &Field) -> Done {
        let (mut timeout, mut overridden) = (None, None);
        for inner in &self.message(field)?.0 {
            match inner.name.as_str() {
                "timeout_action" if self.word(inner)? == "DELAY" => {
                    self.note(inner, "what is late is refused, never run after the others");
                }
                "timeout_action" => {}
                "default_timeout_microseconds" => timeout = Some(self.number::<u64>(inner)?),
                "allow_timeout_override" => overridden = Some(inner),
                "max_queue_size" => match self.number::<u32>(inner)? {
                    0 => {}
                    most => self.options.batching.max_queue_requests = most as usize,
                },
                _ => return self.unknown(inner, "default_queue_policy"),
            }
        }
        if let Some(timeout) = timeout {
            // Rounded up: 0 would be none.
            self.options.default_timeout_ms = timeout.div_ceil(1000);
        }
        match overridden {
            Some(inner) if timeout.is_some() && !self.boolean(inner)? => {
                self.note(inner, "a request's own timeout counts");
            }
            _ => {}
        }
        Ok(())
    }

    fn instances(&mut self, groups: &[&Field]) -> Done {
        let mut count = 0;
        for field in groups {
            let (mut own, mut gpu) = (1u32, None);
            for inner in &self.message(field)?.0 {
                match inner.name.as_str() {
                    "name" => {}
                    "count" => own = self.number::<u32>(inner)?.max(1),
                    "kind" => match self.word(inner)? {
                        "KIND_GPU" => gpu = gpu.or(Some(0)),
                        "KIND_CPU" | "KIND_AUTO" => {}
                        "KIND_MODEL" => self.note(inner, "the model runs where providers say"),
                        _ => return self.fail(inner, "expected KIND_CPU, KIND_GPU or KIND_AUTO"),
                    },
                    "gpus" => {
                        let device: u32 = self.number(inner)?;
                        match gpu {
                            Some(first) if first != device && first != 0 => {
                                self.note(inner, "a version runs on one device: the first");
                            }
                            _ => gpu = Some(device),
                        }
                    }
                    "rate_limiter" | "secondary_devices" | "profile" | "passive"
                    | "host_policy" => {
                        self.note(inner, "executors are shared by all models");
                    }
                    _ => return self.unknown(inner, "instance_group"),
                }
            }
            count += own as usize;
            if let Some(device) = gpu {
                self.provider(Provider::Cuda, device);
            }
        }
        self.options.batching.instances = count;
        Ok(())
    }

    /// The provider's entry, made where there is none.
    fn provider(&mut self, name: Provider, device_id: u32) -> &mut ProviderOptions {
        let providers = &mut self.options.session.providers;
        let at = providers.iter().position(|provider| provider.name == name);
        let at = at.unwrap_or_else(|| {
            providers.push(ProviderOptions { name, ..ProviderOptions::default() });
            providers.len() - 1
        });
        let provider = &mut providers[at];
        provider.device_id = provider.device_id.max(device_id);
        provider
    }

    fn optimization(&mut self, field: &Field) -> Done {
        for inner in &self.message(field)?.0 {
            match inner.name.as_str() {
                "graph" => {
                    let level = self.message(inner)?.0.iter().find(|f| f.name == "level");
                    let level = level.map_or(Ok(0), |field| self.number::<i32>(field))?;
                    self.options.session.optimization = match level {
                        -1 => Optimization::Basic,
                        1 => Optimization::Extended,
                        2 => Optimization::Disable,
                        _ => Optimization::All,
                    };
                }
                "execution_accelerators" => self.accelerators(inner)?,
                "priority" => self.note(inner, "models share executors by what they cost"),
                "cuda" => self.note(inner, "CUDA's options are a provider's in model.yaml"),
                "input_pinned_memory" | "output_pinned_memory" => {
                    self.note(inner, "the runtime copies between host and device");
                }
                "gather_kernel_buffer_threshold" | "eager_batching" => {
                    self.note(inner, "batches are stacked when they run");
                }
                _ => return self.unknown(inner, "optimization"),
            }
        }
        Ok(())
    }

    fn accelerators(&mut self, field: &Field) -> Done {
        for inner in &self.message(field)?.0 {
            let gpu = match inner.name.as_str() {
                "gpu_execution_accelerator" => true,
                "cpu_execution_accelerator" => false,
                _ => return self.unknown(inner, "execution_accelerators"),
            };
            let fields = &self.message(inner)?.0;
            let name = fields.iter().find(|f| f.name == "name");
            let name = name.map_or(Ok(""), |field| self.text(field))?;
            let provider = match (gpu, name) {
                (true, "tensorrt") => Provider::TensorRt,
                (true, "cuda") => Provider::Cuda,
                (false, "openvino") => Provider::OpenVino,
                _ => {
                    let name = name.escape_debug();
                    return self.fail(
                        inner,
                        format!(
                            "'{name}': expected tensorrt or cuda for a GPU, openvino for the CPU"
                        ),
                    );
                }
            };
            let mut given = Vec::new();
            for field in fields.iter().filter(|f| f.name == "parameters") {
                given.push((field, self.entry(field)?));
            }
            self.provider(provider, 0);
            for (field, (key, value)) in given {
                self.accelerator(provider, field, key, value)?;
            }
        }
        Ok(())
    }

    /// One parameter of an accelerator, under the name that ONNX Runtime has for it.
    fn accelerator(
        &mut self,
        provider: Provider,
        field: &Field,
        key: String,
        value: String,
    ) -> Done {
        let flag = |value: &str| if matches!(value, "true" | "1") { "1" } else { "0" }.to_owned();
        let (key, value) = match (provider, key.as_str()) {
            (Provider::TensorRt, "precision_mode") => match value.as_str() {
                "FP32" => return Ok(()),
                "FP16" => ("trt_fp16_enable".to_owned(), "1".to_owned()),
                "INT8" => ("trt_int8_enable".to_owned(), "1".to_owned()),
                _ => return self.fail(field, "precision_mode: expected FP32, FP16 or INT8"),
            },
            (Provider::TensorRt, "max_workspace_size_bytes") => {
                ("trt_max_workspace_size".to_owned(), value)
            }
            (Provider::TensorRt, "int8_calibration_table_name") => {
                ("trt_int8_calibration_table_name".to_owned(), value)
            }
            (Provider::TensorRt, "int8_use_native_calibration_table") => {
                ("trt_int8_use_native_calibration_table".to_owned(), flag(&value))
            }
            (Provider::TensorRt, key) if key.ends_with("_enable") => (key.to_owned(), flag(&value)),
            _ => (key, value),
        };
        self.provider(provider, 0).options.insert(key, value);
        Ok(())
    }

    /// Key and value of a map's entry, both text; a value may be wrapped as in `{ string_value: "…" }`.
    fn entry(&self, field: &Field) -> Result<(String, String), String> {
        let (mut key, mut value) = (String::new(), String::new());
        for inner in &self.message(field)?.0 {
            match (inner.name.as_str(), &inner.value) {
                ("key", _) => key = self.text(inner)?.to_owned(),
                ("value", Value::Message(wrapped)) => {
                    let text = wrapped.0.iter().find(|f| f.name == "string_value");
                    value = text.map_or(Ok(""), |field| self.text(field))?.to_owned();
                }
                ("value", _) => value = self.text(inner)?.to_owned(),
                _ => return self.unknown(inner, "a map's entry").map(|()| (key, value)),
            }
        }
        Ok((key, value))
    }

    fn parameter(&mut self, field: &Field) -> Done {
        let (key, value) = self.entry(field)?;
        match key.as_str() {
            "intra_op_thread_count" => match value.parse::<usize>() {
                Ok(threads) => self.options.session.intra_op_threads = threads,
                Err(_) => return self.fail(field, "intra_op_thread_count: expected a number"),
            },
            "enable_mem_arena" => {
                self.options.session.arena = Some(matches!(&*value, "1" | "true"))
            }
            _ => {
                let key = key.escape_debug().to_string();
                self.note(field, &format!("'{key}' is no parameter that is known here"));
            }
        }
        Ok(())
    }

    fn cache(&mut self, field: &Field) -> Done {
        for inner in &self.message(field)?.0 {
            if inner.name != "enable" {
                return self.unknown(inner, "response_cache");
            }
            let enable = self.boolean(inner)?;
            let bytes = &mut self.options.cache.max_bytes;
            *bytes = match (enable, *bytes) {
                (true, 0) => CACHE_BYTES,
                (true, given) => given,
                (false, _) => 0,
            };
        }
        Ok(())
    }

    fn warmup(&mut self, field: &Field) -> Done {
        let inputs = self.message(field)?.0.iter().filter(|f| f.name == "inputs");
        let recorded = |entry: &Field| {
            let Value::Message(entry) = &entry.value else { return false };
            entry.0.iter().any(|f| match &f.value {
                Value::Message(input) => input.0.iter().any(|f| f.name == "input_data_file"),
                _ => false,
            })
        };
        self.options.warmup = true;
        if inputs.into_iter().any(recorded) {
            self.note(field, "a version is warmed with input that is made up");
        }
        Ok(())
    }

    fn transactions(&self, field: &Field) -> Done {
        for inner in &self.message(field)?.0 {
            if inner.name == "decoupled" && self.boolean(inner)? {
                return self.fail(inner, "a request has one answer here");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "triton_tests.rs"]
mod tests;
