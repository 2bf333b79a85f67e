//! Execution providers: what runs a model's nodes, asked for by name and never replaced in silence.

use ::ort::{
    ep::{
        ArbitrarilyConfigurableExecutionProvider, CPU, CUDA, ExecutionProviderDispatch, OpenVINO,
        TensorRT,
    },
    memory::DeviceType,
    session::builder::SessionBuilder,
};

use super::library::Library;
use crate::runtime::options::{Provider, ProviderOptions, SessionOptions};

const CPU_NAME: &str = "CPUExecutionProvider";
const OPENVINO_NAME: &str = "OpenVINOExecutionProvider";

/// A session under construction, and what is going to run it.
pub struct Configured {
    pub builder: SessionBuilder,
    /// By ONNX Runtime's names, the preferred one first; the CPU, which takes what is left, last.
    pub names: Vec<String>,
    /// Providers that were replaced, and why.
    pub warnings: Vec<String>,
    /// The device of the preferred provider, where it is not the CPU.
    pub device: Option<String>,
}

impl Configured {
    /// Whether anything but the CPU's provider takes part.
    pub fn has_device(&self) -> bool {
        self.names.len() > 1
    }
}

/// Adds the providers that the options ask for; only the CPU where `cpu_only`.
///
/// # Errors
/// Names the provider that is absent or refuses, and why; with `fallback`, it is left out instead, with a warning.
pub fn configure(
    library: &Library,
    mut builder: SessionBuilder,
    options: &SessionOptions,
    cpu_only: bool,
) -> Result<Configured, String> {
    let (mut names, mut warnings, mut device) = (Vec::new(), Vec::new(), None);
    for provider in options.providers.iter().filter(|p| !cpu_only && p.name != Provider::Cpu) {
        let added = add(library, builder, provider);
        builder = added.0;
        match added.1 {
            Ok(name) => {
                names.push(name.to_owned());
                device = device.or_else(|| provider.device());
            }
            Err(reason) if !options.fallback => return Err(refused(provider, &reason)),
            Err(reason) => warnings.push(format!("{}; left out", refused(provider, &reason))),
        }
    }
    if let Some(arena) = options.arena {
        let cpu = CPU::default().with_arena_allocator(arena).build();
        builder = builder.with_execution_providers([cpu]).map_err(|e| e.to_string())?;
    }
    if names.is_empty() {
        // Where a plug-in is registered, a session that names no device may be placed on the plug-in's.
        let devices = library.environment.devices();
        let cpu = devices.filter(|d| d.ep().is_ok_and(|name| name == CPU_NAME));
        builder = builder.with_devices(cpu, None).map_err(|e| e.to_string())?;
    }
    names.push(CPU_NAME.to_owned());
    Ok(Configured { builder, names, warnings, device })
}

fn refused(provider: &ProviderOptions, reason: &str) -> String {
    format!("provider {}: {}", provider.name, reason.trim().trim_end_matches('.'))
}

/// The builder, unchanged where the provider was not added; the provider's name, or why it was not added.
type Added = (SessionBuilder, Result<&'static str, String>);

fn add(library: &Library, builder: SessionBuilder, provider: &ProviderOptions) -> Added {
    let device = i32::try_from(provider.device_id).unwrap_or(i32::MAX);
    match provider.name {
        Provider::Cpu => (builder, Ok(CPU_NAME)),
        Provider::Cuda => {
            if !library.has(c"CUDAExecutionProvider") {
                return (builder, Err(absent(library, "CUDA", "onnxruntime-gpu")));
            }
            let cuda = with(CUDA::default().with_device_id(device), provider).build();
            built_in(builder, cuda, "CUDAExecutionProvider")
        }
        Provider::TensorRt => {
            if !library.has(c"TensorrtExecutionProvider") {
                return (builder, Err(absent(library, "TensorRT", "onnxruntime-gpu")));
            }
            let mut trt = TensorRT::default().with_device_id(device);
            if let Some(folder) = &provider.engine_cache_dir {
                let folder = folder.display().to_string();
                if let Err(e) = std::fs::create_dir_all(&folder) {
                    return (builder, Err(format!("its engine_cache_dir {folder}: {e}")));
                }
                trt = trt.with_engine_cache(true).with_engine_cache_path(folder);
            }
            built_in(builder, with(trt, provider).build(), "TensorrtExecutionProvider")
        }
        Provider::OpenVino if provider.library.is_some() => plug_in(library, builder, provider),
        Provider::OpenVino => {
            if !library.has(c"OpenVINOExecutionProvider") {
                let mut reason = absent(library, "OpenVINO", "onnxruntime-openvino");
                reason.push_str(", or give the plug-in of onnxruntime-ep-openvino by `library`");
                return (builder, Err(reason));
            }
            built_in(builder, with(OpenVINO::default(), provider).build(), OPENVINO_NAME)
        }
    }
}

fn absent(library: &Library, name: &str, wheel: &str) -> String {
    let path = library.path.display();
    format!("{path} was built without {name}; use the library of the wheel {wheel}")
}

fn with<P: ArbitrarilyConfigurableExecutionProvider>(mut ep: P, provider: &ProviderOptions) -> P {
    for (key, value) in &provider.options {
        ep = ep.with_arbitrary_config(key, value);
    }
    ep
}

fn built_in(builder: SessionBuilder, ep: ExecutionProviderDispatch, name: &'static str) -> Added {
    // Without this an absent provider is replaced by the CPU without a word.
    match builder.with_execution_providers([ep.error_on_failure()]) {
        Ok(builder) => (builder, Ok(name)),
        Err(e) => {
            let reason = e.to_string();
            (e.recover(), Err(reason))
        }
    }
}

/// OpenVINO as a plug-in: its library registered, its devices named.
fn plug_in(library: &Library, builder: SessionBuilder, provider: &ProviderOptions) -> Added {
    let Some(path) = &provider.library else { return (builder, Err("no library".to_owned())) };
    if let Err(reason) = library.register(OPENVINO_NAME, path) {
        return (builder, Err(reason));
    }
    let wanted = provider.options.get("device_type").map_or("CPU", String::as_str);
    let kind = match wanted.to_ascii_uppercase().as_str() {
        "CPU" => DeviceType::CPU,
        "GPU" => DeviceType::GPU,
        "NPU" => DeviceType::NPU,
        _ => return (builder, Err(format!("device_type must be CPU, GPU or NPU, got {wanted}"))),
    };
    let devices = || {
        let all = library.environment.devices();
        all.filter(|d| {
            d.ep().is_ok_and(|name| name == OPENVINO_NAME) && d.hardware_device().ty() == kind
        })
    };
    if devices().next().is_none() {
        let offered: Vec<String> = library
            .environment
            .devices()
            .map(|d| format!("{} {:?}", d.ep().unwrap_or("?"), d.hardware_device().ty()))
            .collect();
        let offered = offered.join(", ");
        return (builder, Err(format!("it offers no {wanted} here; devices are {offered}")));
    }
    let options: Vec<(String, String)> = provider
        .options
        .iter()
        .filter(|(key, _)| *key != "device_type")
        .map(|(key, value)| (format!("{OPENVINO_NAME}.{key}"), value.clone()))
        .collect();
    match builder.with_devices(devices(), Some(&options)) {
        Ok(builder) => (builder, Ok(OPENVINO_NAME)),
        Err(e) => {
            let reason = e.to_string();
            (e.recover(), Err(reason))
        }
    }
}
