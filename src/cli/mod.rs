//! temp
use std::process::ExitCode;
pub fn run(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let args: Vec<String> = args.map(|a| a.into_string().unwrap_or_default()).collect();
    let mut config = crate::config::Config::default();
    let mut i = 2;
    while i < args.len() {
        let v = args.get(i + 1).cloned().unwrap_or_default();
        match &*args[i] {
            "--models" => config.models = v.into(),
            "--load" => config.load = v.parse().expect("load"),
            "--http" => config.http = v.parse().expect("addr"),
            "--grpc" => config.grpc = v.parse().expect("addr"),
            "--operator" => config.operator = v.parse().expect("addr"),
            "--control" => { config.control = true; i -= 1 }
            "--net" => config.network_threads = v.parse().expect("n"),
            "--log" => config.log.level = v,
            x => panic!("{x}"),
        }
        i += 2;
    }
    let _guard = crate::telemetry::logs::install(&config.log);
    match crate::app::serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => { eprintln!("{e}"); ExitCode::FAILURE }
    }
}
