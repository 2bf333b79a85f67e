//! What a person can set about the runtime, per model: the runtime part of model.yaml.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

/// Which runtime opens the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// ONNX Runtime where its library is found, else tract.
    #[default]
    Auto,
    /// ONNX Runtime.
    Ort,
    /// tract, built in.
    Tract,
}

/// What runs the model inside ONNX Runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    #[default]
    Cpu,
    Cuda,
    TensorRt,
    OpenVino,
}

impl Provider {
    /// As configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
            Provider::OpenVino => "openvino",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much ONNX Runtime rewrites the graph at load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimization {
    Disable,
    /// Removes what is redundant; changes no number.
    Basic,
    /// And fuses nodes.
    Extended,
    /// And chooses memory layouts.
    Layout,
    #[default]
    All,
}

/// One entry of `providers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderOptions {
    /// `cpu`, `cuda`, `tensorrt` or `openvino`.
    pub name: Provider,
    /// Which of the machine's devices; 0, the first, by default. Means nothing for `cpu` and `openvino`.
    #[serde(default)]
    pub device_id: u32,
    /// Passed on to the provider as they are: its own names and values. For `openvino`, `device_type` (`CPU` by default, `GPU`,
    /// `NPU`) chooses the hardware.
    #[serde(default, deserialize_with = "scalars")]
    pub options: BTreeMap<String, String>,
    /// `tensorrt`: where built engines are kept, so that the next start need not build them. None by default.
    #[serde(default)]
    pub engine_cache_dir: Option<PathBuf>,
    /// `openvino`: the plug-in library of the provider (the wheel `onnxruntime-ep-openvino` has it). None by default: the
    /// provider is then expected inside ONNX Runtime's own library.
    #[serde(default)]
    pub library: Option<PathBuf>,
}

/// The runtime part of model.yaml and of the configuration's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionOptions {
    /// What may run the model's nodes, the preferred one first; the CPU takes what is left. Empty by default: the CPU.
    pub providers: Vec<ProviderOptions>,
    /// Whether a provider that is absent or fails is replaced by the next one, and in the end the CPU, with a warning. False by
    /// default: a model that was meant for a device should not quietly be slow.
    pub fallback: bool,
    /// Threads that one run uses, and executors that it holds: never more than the budget has. 1 by default: executors
    /// already keep every core busy, and requests parallelise better than one run does. 0: all of the budget where a
    /// measurement at load shows that a lone run is faster for it, else 1.
    pub intra_op_threads: usize,
    /// Whether those threads spin while they wait. False by default: spinning burns the cores that others need.
    pub spinning: bool,
    /// Whether ONNX Runtime keeps freed memory for the next run. Its own default (yes) when not set.
    pub arena: Option<bool>,
    /// `all` (default), `layout`, `extended`, `basic` or `disable`.
    pub optimization: Optimization,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            providers: Vec::new(),
            fallback: false,
            intra_op_threads: 1,
            spinning: false,
            arena: None,
            optimization: Optimization::All,
        }
    }
}

impl SessionOptions {
    /// What is wrong with these options, if anything; for use before a model is loaded.
    pub fn check(&self) -> Result<(), String> {
        if self.intra_op_threads > 1024 {
            let got = self.intra_op_threads;
            return Err(format!("intra_op_threads must be at most 1024, got {got}"));
        }
        for provider in &self.providers {
            provider.check()?;
        }
        Ok(())
    }

    /// Whether anything but the CPU is asked for.
    pub fn wants_device(&self) -> bool {
        self.providers.iter().any(|p| p.name != Provider::Cpu)
    }
}

impl ProviderOptions {
    /// The device whose work a run waits for, as in `cuda:0`; `None`: the work is the CPU's. CUDA and TensorRT share one.
    pub fn device(&self) -> Option<String> {
        match self.name {
            Provider::Cpu => None,
            Provider::Cuda | Provider::TensorRt => Some(format!("cuda:{}", self.device_id)),
            Provider::OpenVino => {
                let kind = self.options.get("device_type").map_or("CPU", String::as_str);
                let kind = kind.to_ascii_lowercase();
                (kind != "cpu").then(|| format!("openvino:{kind}"))
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let name = self.name;
        if self.engine_cache_dir.is_some() && name != Provider::TensorRt {
            return Err(format!("engine_cache_dir belongs to tensorrt, not to provider {name}"));
        }
        if self.library.is_some() && name != Provider::OpenVino {
            return Err(format!("library belongs to openvino, not to provider {name}"));
        }
        if name == Provider::Cpu && !self.options.is_empty() {
            return Err("provider cpu has no options".to_owned());
        }
        for (key, value) in &self.options {
            if key.is_empty() || key.contains('\0') || value.contains('\0') {
                return Err(format!("provider {name}: option {key:?} is empty or holds a NUL"));
            }
        }
        if self.options.get("device_type").is_some_and(|_| name != Provider::OpenVino) {
            return Err(format!("device_type belongs to openvino, not to provider {name}"));
        }
        Ok(())
    }
}

/// YAML writes `1` and `true` where a provider wants text.
fn scalars<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Bool(bool),
        Int(i64),
        Float(f64),
        Text(String),
    }
    let map = BTreeMap::<String, Scalar>::deserialize(from)?;
    let text = |value| match value {
        Scalar::Bool(v) => v.to_string(),
        Scalar::Int(v) => v.to_string(),
        Scalar::Float(v) => v.to_string(),
        Scalar::Text(v) => v,
    };
    Ok(map.into_iter().map(|(key, value)| (key, text(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<SessionOptions, String> {
        serde_saphyr::from_str(yaml).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_all_of_it() {
        let options = read(
            "fallback: true\nintra_op_threads: 2\noptimization: basic\narena: false\n\
             providers:\n- name: tensorrt\n  device_id: 1\n  engine_cache_dir: /var/cache/trt\n  \
             options: {trt_fp16_enable: true, trt_max_workspace_size: 1024, x: a}\n- name: cpu\n",
        )
        .unwrap();
        assert_eq!(options.arena, Some(false));
        assert_eq!(options.optimization, Optimization::Basic);
        let provider = &options.providers[0];
        assert_eq!((provider.name, provider.device_id), (Provider::TensorRt, 1));
        assert_eq!(provider.options["trt_fp16_enable"], "true");
        assert_eq!(provider.options["trt_max_workspace_size"], "1024");
        assert_eq!(options.providers[1].name, Provider::Cpu);
        assert_eq!(options.check(), Ok(()));
        assert!(options.wants_device());
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let options = read("{}").unwrap();
        assert_eq!(options, SessionOptions::default());
        assert_eq!(options.intra_op_threads, 1);
        assert!(!options.spinning && !options.fallback && !options.wants_device());
    }

    #[test]
    fn a_device_is_what_is_not_the_cpu() {
        let device = |yaml: &str| {
            let options = read(&format!("providers: [{yaml}]")).unwrap();
            options.providers[0].device()
        };
        assert_eq!(device("{name: cpu}"), None);
        assert_eq!(device("{name: openvino}"), None);
        assert_eq!(device("{name: openvino, options: {device_type: CPU}}"), None);
        assert_eq!(device("{name: cuda, device_id: 1}").as_deref(), Some("cuda:1"));
        assert_eq!(device("{name: tensorrt, device_id: 1}").as_deref(), Some("cuda:1"));
        let gpu = device("{name: openvino, options: {device_type: GPU}}");
        assert_eq!(gpu.as_deref(), Some("openvino:gpu"));
    }

    #[test]
    fn unknown_keys_and_misplaced_options_are_refused() {
        assert!(read("intra_threads: 2").unwrap_err().contains("intra_threads"));
        assert!(read("providers: [{name: cpu, id: 2}]").is_err());
        assert!(read("providers: [{device_id: 2}]").is_err());
        let wrong = |yaml| read(yaml).unwrap().check().unwrap_err();
        assert!(wrong("intra_op_threads: 1025").contains("intra_op_threads"));
        assert!(wrong("providers: [{name: cuda, library: a}]").contains("openvino"));
        assert!(wrong("providers: [{name: cuda, engine_cache_dir: a}]").contains("tensorrt"));
        assert!(wrong("providers: [{name: cpu, options: {a: b}}]").contains("no options"));
    }
}
