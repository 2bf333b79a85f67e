//! Execution providers: chosen, absent, replaced; and telemetry that stays off.

use std::path::PathBuf;

use crate::{
    runtime::{
        onnx_writer::GraphWriter,
        options::{Provider, ProviderOptions, SessionOptions},
        session::Session,
        testing::{fetched, floats, open, ort, read_floats, run_one, source},
    },
    types::datatype::Datatype,
};

fn model() -> GraphWriter {
    GraphWriter::new()
        .node("MatMul", &["x", "w"], &["h"])
        .node("Relu", &["h"], &["y"])
        .init_f32("w", &[2, 2], &[1.0, -1.0, 2.0, 0.5])
        .input("x", Datatype::Fp32, &["N", "2"])
        .output("y", Datatype::Fp32, &["N", "2"])
}

fn check(session: &dyn Session) {
    let outputs =
        run_one(session, Datatype::Fp32, &[2, 2], &floats(&[1.0, 2.0, 3.0, 4.0])).unwrap();
    let got = read_floats(&outputs[0].data);
    let want = [5.0, 0.0, 11.0, 0.0];
    // A provider may compute in bf16.
    assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 0.1), "{got:?}");
}

fn asking_for(name: Provider) -> SessionOptions {
    let providers = vec![ProviderOptions { name, ..ProviderOptions::default() }];
    SessionOptions { providers, ..SessionOptions::default() }
}

#[test]
fn the_cpu_is_named_and_takes_every_option() {
    let Some(backend) = ort() else { return };
    assert!(backend.describe().starts_with("ONNX Runtime 1."), "{}", backend.describe());
    for arena in [None, Some(true), Some(false)] {
        for intra_op_threads in [1, 2] {
            let options = SessionOptions {
                arena,
                intra_op_threads,
                optimization: crate::runtime::options::Optimization::Basic,
                ..asking_for(Provider::Cpu)
            };
            let session = backend.open(&source(model().model()).unwrap(), &options).unwrap();
            assert_eq!(session.providers(), ["CPUExecutionProvider"]);
            assert!(session.warnings().is_empty());
            check(&*session);
        }
    }
}

#[test]
fn an_absent_provider_is_an_error_that_names_it_unless_fallback_is_allowed() {
    let Some(backend) = ort() else { return };
    let source = source(model().model()).unwrap();
    for name in [Provider::Cuda, Provider::TensorRt, Provider::OpenVino] {
        let mut options = asking_for(name);
        let error = backend.open(&source, &options).err().unwrap();
        assert!(error.contains(&format!("provider {name}")), "{error}");
        assert!(error.contains("built without"), "{error}");
        options.fallback = true;
        let session = backend.open(&source, &options).unwrap();
        assert_eq!(session.providers(), ["CPUExecutionProvider"]);
        assert!(session.warnings()[0].contains(&format!("provider {name}")));
        check(&*session);
    }
}

#[test]
fn options_are_checked_before_anything_is_opened() {
    let Some(backend) = ort() else { return };
    let mut options = asking_for(Provider::Cuda);
    options.providers[0].options.insert("a\0b".into(), "1".into());
    let error = backend.open(&source(model().model()).unwrap(), &options).err().unwrap();
    assert!(error.contains("NUL"), "{error}");
}

/// OpenVINO's plug-in, as `scripts/fetch-onnxruntime.sh --openvino` leaves it.
fn openvino() -> Option<PathBuf> {
    let folder = fetched()?.join("openvino");
    let library = folder.join("libonnxruntime_providers_openvino_plugin.so");
    if !library.is_file() {
        eprintln!("tests of the OpenVINO provider are left out: no {}", library.display());
        return None;
    }
    Some(library)
}

#[test]
fn a_plug_in_provider_runs_the_model_where_it_is_asked_for_and_nowhere_else() {
    let (Some(backend), Some(library)) = (ort(), openvino()) else { return };
    let source = source(model().model()).unwrap();
    let mut options = asking_for(Provider::OpenVino);
    options.providers[0].library = Some(library);
    let precise = r#"{"CPU":{"INFERENCE_PRECISION_HINT":"f32","INFERENCE_NUM_THREADS":"1"}}"#;
    options.providers[0].options.insert("load_config".into(), precise.into());
    let session = match backend.open(&source, &options) {
        Ok(session) => session,
        // It takes Intel's hardware only.
        Err(e) if e.contains("it offers no CPU here") => {
            assert!(e.starts_with("provider openvino: "), "{e}");
            options.fallback = true;
            let session = backend.open(&source, &options).unwrap();
            assert_eq!(session.providers(), ["CPUExecutionProvider"]);
            assert_eq!(session.warnings(), [format!("{e}; left out")]);
            return check(&*session);
        }
        Err(e) => panic!("{e}"),
    };
    assert_eq!(session.providers(), ["OpenVINOExecutionProvider", "CPUExecutionProvider"]);
    assert_eq!(session.device(), None, "OpenVINO on the CPU is the CPU");
    check(&*session);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..20).for_each(|_| check(&*session)));
        }
    });
    // Registered now, it would take over every session that names no device.
    let plain = open(&*backend, &model()).unwrap();
    assert_eq!(plain.providers(), ["CPUExecutionProvider"]);
    check(&*plain);

    options.providers[0].options.insert("load_config".into(), "no json".into());
    let error = backend.open(&source, &options).err().unwrap();
    assert!(error.contains("OpenVINOExecutionProvider"), "{error}");
    options.fallback = true;
    let session = backend.open(&source, &options).unwrap();
    assert_eq!(session.providers(), ["CPUExecutionProvider"]);
    assert!(session.warnings()[0].contains("OpenVINO"), "{:?}", session.warnings());
    check(&*session);

    options.fallback = false;
    options.providers[0].options.insert("device_type".into(), "TPU".into());
    let error = backend.open(&source, &options).err().unwrap();
    assert!(error.contains("provider openvino: device_type must be"), "{error}");
}

#[test]
fn a_plug_in_that_is_no_plug_in_is_an_error() {
    let Some(backend) = ort() else { return };
    let source = source(model().model()).unwrap();
    let mut options = asking_for(Provider::OpenVino);
    options.providers[0].library = Some("/nowhere/plugin.so".into());
    let error = backend.open(&source, &options).err().unwrap();
    assert!(error.contains("provider openvino") && error.contains("/nowhere"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.so");
    std::fs::write(&file, "no library").unwrap();
    options.providers[0].library = Some(file.clone());
    let error = backend.open(&source, &options).err().unwrap();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    options.fallback = true;
    check(&*backend.open(&source, &options).unwrap());
}

#[test]
fn a_second_library_is_refused() {
    let Some(backend) = ort() else { return };
    let again = super::open_library(None).unwrap();
    assert_eq!(again.describe(), backend.describe());
    let error = super::open_library(Some("/nowhere/libonnxruntime.so".as_ref())).err().unwrap();
    assert!(error.contains("already"), "{error}");
}
