//! The flags that set the server's options, shared by the commands that need a configuration.

use std::path::PathBuf;

use super::Failure;
use crate::config::{self, Flag, Loaded};

/// Where the server is, or shall be, reached.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Ports {
    /// The configuration, a YAML file (config.example.yaml has every option)
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// HTTP port: HOST:PORT, unix:PATH or off [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// gRPC port: HOST:PORT, unix:PATH or off [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<String>,
    /// Operator's port, with metrics and health: HOST:PORT, unix:PATH or off [default: 127.0.0.1:8002]
    #[arg(long, value_name = "ADDR")]
    pub operator: Option<String>,
}

/// Flags win over the environment (ONNXD_HTTP, …), and that over the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Settings {
    /// Where the models are: a repository, one .onnx file, a directory that holds one, or the URL of an object store
    /// (s3://, gs://, az://, https://) [default: models]
    #[arg(long, value_name = "DIR|URL")]
    pub models: Option<String>,
    /// Where the copy of an object store's models is kept [default: in the state directory, else in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<String>,
    /// Which models are loaded at start: all, none, or names [default: all]
    #[arg(long, value_name = "NAME,...|none")]
    pub load: Option<String>,
    #[command(flatten)]
    pub ports: Ports,
    /// Let the data ports load and unload models
    #[arg(long)]
    pub control: bool,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// ONNX Runtime's library [default: looked for beside the executable and on the system]
    #[arg(long, value_name = "FILE")]
    pub onnxruntime_lib: Option<String>,
    /// Where the server keeps what it writes for itself
    #[arg(long, value_name = "DIR")]
    pub state: Option<String>,
}

impl Ports {
    /// The configuration they amount to, with file and environment.
    pub fn load(&self) -> Result<Loaded, Failure> {
        Settings { ports: self.clone(), ..Settings::default() }.load()
    }
}

impl Settings {
    /// The configuration they amount to, with file and environment.
    pub fn load(&self) -> Result<Loaded, Failure> {
        config::load(self.ports.config.as_deref(), &self.flags()).map_err(Failure::failed)
    }

    fn flags(&self) -> Vec<Flag> {
        let control = self.control.then(|| "true".to_owned());
        let all = [
            ("models", "--models", &self.models),
            ("store.mirror", "--mirror", &self.mirror),
            ("load", "--load", &self.load),
            ("http", "--http", &self.ports.http),
            ("grpc", "--grpc", &self.ports.grpc),
            ("operator", "--operator", &self.ports.operator),
            ("control", "--control", &control),
            ("log.format", "--log-format", &self.log_format),
            ("onnxruntime_lib", "--onnxruntime-lib", &self.onnxruntime_lib),
            ("state", "--state", &self.state),
        ];
        let given = |(key, flag, value): (_, _, &Option<String>)| {
            Some(Flag { key, flag, value: value.clone()? })
        };
        all.into_iter().filter_map(given).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn every_flag_reaches_its_option() {
        let args = "onnxd --models m --load a,b --http off --grpc 127.0.0.1:9 --operator unix:/o --control \
                    --log-format json --onnxruntime-lib /l.so --state /s --mirror /m";
        let only = Only::try_parse_from(args.split_whitespace()).expect("these flags are known");
        let loaded = only.settings.load().expect("and fit");
        let config = &loaded.config;
        assert_eq!(config.models.to_str(), Some("m"));
        assert!(config.load.wants("b") && !config.load.wants("c"));
        let addresses = [&config.http, &config.grpc, &config.operator].map(|a| a.to_string());
        assert_eq!(addresses, ["off", "127.0.0.1:9", "unix:/o"]);
        assert!(config.control);
        assert_eq!(config.log.format, crate::telemetry::logs::Format::Json);
        assert_eq!(config.onnxruntime_lib.to_str(), Some("/l.so"));
        assert_eq!(config.state.to_str(), Some("/s"));
        assert_eq!(config.store.mirror.to_str(), Some("/m"));
        assert_eq!(loaded.origins.len(), 10);
    }

    #[test]
    fn a_missing_file_is_named() {
        let settings = Ports { config: Some("no/such.yaml".into()), ..Ports::default() };
        let failure = settings.load().expect_err("there is no such file");
        assert_eq!(failure.code, 1);
        assert!(failure.message.starts_with("no/such.yaml: cannot be read"), "{}", failure.message);
    }
}
