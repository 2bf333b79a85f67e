//! The loader over the runtimes that are there: what it opens answers, and says what it is.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    batcher::{
        device::Devices,
        pool::{Pool, Threads},
    },
    repository::{
        fake::logs,
        loader::Backends,
        manager::{Deps, Manager},
        options::{Defaults, Options},
    },
    runtime::{
        echo::{Echo, EchoBackend},
        onnx_writer::{GraphWriter, ModelWriter},
        options::BackendChoice,
        testing,
    },
    types::{datatype::Datatype, tensor::TensorView},
};

fn put(root: &Path, file: &str, bytes: &[u8]) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// y = relu(x W), three classes with names.
fn classifier() -> Vec<u8> {
    let weights: Vec<f32> = (0..12).map(|i| i as f32 - 6.0).collect();
    let graph = GraphWriter::new()
        .input("x", Datatype::Fp32, &["N", "4"])
        .output("y", Datatype::Fp32, &["N", "3"])
        .init_f32("w", &[4, 3], &weights)
        .node("MatMul", &["x", "w"], &["h"])
        .node("Relu", &["h"], &["y"]);
    ModelWriter::default().property("labels", "a,b,c").write(&graph)
}

fn manager(root: &Path, backend: BackendChoice) -> Manager {
    manager_with_state(root, backend, None)
}

fn manager_with_state(root: &Path, backend: BackendChoice, state: Option<&Path>) -> Manager {
    let mut backends = Backends { ort: Err("it is left out of this test".into()), tract: None };
    for found in testing::backends() {
        match found.name() {
            "ort" => backends.ort = Ok(found),
            _ => backends.tract = Some(found),
        }
    }
    let pool = Pool::new(Threads { network: 1, executors: 1 });
    let defaults = Defaults { backend, ..Defaults::default() };
    let options = Options { models: root.to_path_buf(), defaults, ..Options::default() };
    let state = state.map(Path::to_path_buf);
    let deps = Deps { backends, pool, logs: logs(), devices: Arc::default(), cores: 2, state };
    let manager = Manager::start(&options, deps).unwrap();
    assert!(manager.wait_initial(Duration::from_secs(120)));
    manager
}

#[test]
fn a_real_model_loads_on_every_runtime_and_answers_on_every_thread() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "classes/1/model.onnx", &classifier());
    for backend in testing::backends() {
        let choice = match backend.name() {
            "ort" => BackendChoice::Ort,
            _ => BackendChoice::Tract,
        };
        let manager = manager(dir.path(), choice);
        let version = manager.table.load().resolve("classes", "").unwrap();
        assert_eq!(version.backend, backend.name());
        assert_eq!(version.platform.split('_').next_back(), Some("onnx"));
        assert!(version.signature.can_batch);
        assert_eq!(version.signature.outputs[0].labels.as_ref().unwrap()[2], "c");
        let explanation = &version.explanation;
        assert_eq!(explanation["runtime"], backend.describe());
        let table = explanation["probe"]["table"].as_array().unwrap();
        assert!(table.len() > 1 && table[0]["rows"] == 1, "{explanation:#}");
        assert!(table.iter().all(|row| row["microseconds"].as_f64().unwrap() > 0.0));

        let data: Vec<u8> = [1f32, 0.0, 0.0, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView { datatype: Datatype::Fp32, dims: &[1, 4], data: &data };
        for slot in 0..3 {
            let outputs = version.served.sessions.of(slot).run(&[Some(view)], None).unwrap();
            let values: Vec<f32> = outputs[0]
                .data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            assert_eq!(values, [0.0, 0.0, 1.0], "{} slot {slot}", backend.name());
        }
    }
}

#[test]
fn a_second_start_reads_what_the_first_measured() {
    let dir = TempDir::new().unwrap();
    let state = TempDir::new().unwrap();
    put(dir.path(), "classes/1/model.onnx", &classifier());
    for backend in testing::backends() {
        let choice = match backend.name() {
            "ort" => BackendChoice::Ort,
            _ => BackendChoice::Tract,
        };
        let probe = |repository: &Path, model: &str| {
            let manager = manager_with_state(repository, choice, Some(state.path()));
            let version = manager.table.load().resolve(model, "").unwrap();
            version.explanation["probe"].clone()
        };
        let first = probe(dir.path(), "classes");
        assert_eq!(first["measured"], "measured now", "{}", backend.name());
        let second = probe(dir.path(), "classes");
        let text = second["measured"].as_str().unwrap();
        assert!(text.starts_with("from the state directory, measured 2"), "{text}");
        assert_eq!(first["table"], second["table"]);

        // Another model with the same file; and one in the same process, loaded after it.
        let other = TempDir::new().unwrap();
        put(other.path(), "a/1/model.onnx", &classifier());
        put(other.path(), "a/2/model.onnx", &classifier());
        put(other.path(), "a/model.yaml", b"versions: all");
        assert_eq!(probe(other.path(), "a")["table"], first["table"]);
        let manager = manager(other.path(), choice);
        let table = manager.table.load();
        let measured = |version: &str| {
            table.resolve("a", version).unwrap().explanation["probe"]["measured"].to_string()
        };
        let mut both = [measured("1"), measured("2")];
        both.sort();
        assert!(both[0].contains("from a load of the same files"), "{both:?}");
        assert!(both[1].contains("measured now"), "{both:?}");
    }
}

#[test]
fn auto_takes_onnx_runtime_where_it_is() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "classes/1/model.onnx", &classifier());
    let manager = manager(dir.path(), BackendChoice::Auto);
    let version = manager.table.load().resolve("classes", "").unwrap();
    let has_ort = testing::backends().iter().any(|b| b.name() == "ort");
    assert_eq!(version.backend, if has_ort { "ort" } else { "tract" });
    assert!(version.explanation["backend_reason"].as_str().unwrap().starts_with("auto: "));
}

#[test]
fn what_a_runtime_lacks_fails_that_model_with_file_and_reason() {
    let dir = TempDir::new().unwrap();
    let unknown = GraphWriter::new()
        .input("x", Datatype::Fp32, &["N"])
        .output("y", Datatype::Fp32, &["N"])
        .node("Frobnicate", &["x"], &["y"]);
    let good = classifier();
    put(dir.path(), "unknown/1/model.onnx", &unknown.model());
    put(dir.path(), "truncated/1/model.onnx", &good[..good.len() / 2]);
    put(dir.path(), "classes/1/model.onnx", &good);
    for backend in testing::backends() {
        let choice = match backend.name() {
            "ort" => BackendChoice::Ort,
            _ => BackendChoice::Tract,
        };
        let manager = manager(dir.path(), choice);
        let table = manager.table.load();
        assert!(table.resolve("classes", "").is_ok());
        for (name, word) in [("unknown", "Frobnicate"), ("truncated", "truncated/1/model.onnx")] {
            let error = table.resolve(name, "").err().unwrap().to_string();
            assert!(error.contains(&format!("{name}/1/model.onnx")), "{error}");
            assert!(error.contains(word), "{}: {error}", backend.name());
        }
    }
}

/// The explanation of model `m`, as `echo` runs it beside four executors, with this model.yaml; and the manager.
fn echoed(echo: Echo, yaml: &str) -> (serde_json::Value, Manager, Arc<Devices>) {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "m/1/model.onnx", &classifier());
    put(dir.path(), "m/model.yaml", yaml.as_bytes());
    let tract: Arc<dyn crate::runtime::session::Backend> = Arc::new(EchoBackend::new(echo));
    let backends = Backends { ort: Err("there is none here".into()), tract: Some(tract) };
    let pool = Pool::new(Threads { network: 1, executors: 4 });
    let devices = Arc::new(Devices::default());
    let options = Options { models: dir.path().to_path_buf(), ..Options::default() };
    let deps =
        Deps { backends, pool, logs: logs(), devices: devices.clone(), cores: 4, state: None };
    let manager = Manager::start(&options, deps).unwrap();
    assert!(manager.wait_initial(Duration::from_secs(120)));
    let explanation = manager.table.load().resolve("m", "").unwrap().explanation.clone();
    (explanation, manager, devices)
}

#[test]
fn latency_mode_is_offered_where_a_lone_run_gains_and_taken_where_asked_for() {
    // Asleep and for long, so that a busy machine changes little about what is measured.
    let echo = |sleep| Echo { sleep, spreads_runs: true, ..Echo::default() };
    let slow = || echo(Duration::from_millis(200));
    let (offered, ..) = echoed(slow(), "{}");
    assert_eq!(
        (&offered["threads_a_run"], &offered["latency_mode"]["in_effect"]),
        (&1.into(), &false.into())
    );
    let says = offered["latency_mode"]["says"].as_str().unwrap();
    assert!(says.contains("intra_op_threads: 0"), "{says}");

    let (taken, ..) = echoed(slow(), "session: {intra_op_threads: 0}");
    assert_eq!(
        (&taken["threads_a_run"], &taken["latency_mode"]["in_effect"]),
        (&4.into(), &true.into())
    );
    let probed = taken["probe"]["table"][0]["microseconds"].as_f64().unwrap();
    assert!(probed < 160_000.0, "what serves is what is measured: {probed}");
    assert_eq!(taken["own_sessions"], 0);

    let (short, ..) = echoed(echo(Duration::ZERO), "session: {intra_op_threads: 0}");
    assert_eq!((&short["threads_a_run"], short["latency_mode"].is_null()), (&1.into(), true));
    let (too_many, ..) = echoed(slow(), "session: {intra_op_threads: 64}");
    assert_eq!(too_many["threads_a_run"], 4, "no run has more threads than the budget");
    let nothing = Echo { spreads_runs: false, ..slow() };
    assert!(echoed(nothing, "session: {intra_op_threads: 0}").0["latency_mode"].is_null());
}

#[test]
fn a_version_on_a_device_runs_in_its_lane_while_it_serves() {
    let echo = Echo { device: Some("npu:0"), ..Echo::default() };
    let (explanation, manager, devices) = echoed(echo, "{}");
    assert_eq!(
        (&explanation["device"], &explanation["own_sessions"]),
        (&"npu:0".into(), &0.into())
    );
    assert_ne!(
        explanation["mode"], "turn",
        "no network thread waits for a device: {explanation:#}"
    );
    assert_eq!(devices.living(), 1);
    assert!(manager.close(Duration::from_secs(60)));
    let end = Instant::now() + Duration::from_secs(60);
    while devices.living() > 0 {
        assert!(Instant::now() < end, "the lane has no version left and goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    devices.stop();
}
