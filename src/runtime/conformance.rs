//! What every backend must do, run over every backend at hand.

use std::{sync::Arc, thread, time::Duration};

use super::{
    graph::Graph,
    onnx_writer::{Attr, GraphWriter},
    options::SessionOptions,
    session::{Backend, Cancel, RunError},
    testing::{backends, floats, framed, longs, open, ort, read_floats, run_one, source},
};
use crate::types::{
    datatype::Datatype,
    model::Dim,
    tensor::{Tensor, TensorView},
};

fn view<'a>(datatype: Datatype, dims: &'a [i64], data: &'a [u8]) -> Option<TensorView<'a>> {
    Some(TensorView { datatype, dims, data })
}

fn is_tract(backend: &Arc<dyn Backend>) -> bool {
    backend.name() == "tract"
}

/// So many elements, as bytes.
fn sample(datatype: Datatype, count: usize) -> Vec<u8> {
    match datatype {
        Datatype::Bytes => {
            let elements: [&[u8]; 4] = [b"", b"a\0b", &[0xff, 0xfe], "smørrebrød".as_bytes()];
            (0..count).flat_map(|i| framed(&[elements[i % 4]])).collect()
        }
        Datatype::Bool => (0..count).map(|i| (i % 3 == 0) as u8).collect(),
        Datatype::Fp32 => (0..count).flat_map(|i| (i as f32 * 0.5 - 1.0).to_le_bytes()).collect(),
        Datatype::Fp64 => (0..count).flat_map(|i| (i as f64 * 0.5 - 1.0).to_le_bytes()).collect(),
        other => (0..count * other.size().unwrap()).map(|i| (i % 100) as u8).collect(),
    }
}

#[test]
fn every_datatype_and_shape_comes_back_as_it_went_in() {
    for backend in backends() {
        for datatype in Datatype::ALL {
            let unsupported = matches!(datatype, Datatype::Bytes | Datatype::Bf16);
            let shapes: [&[i64]; 4] = [&[2, 3], &[0, 3], &[700, 3], &[1, 3]];
            let graph = GraphWriter::new()
                .node("Identity", &["x"], &["y"])
                .input("x", datatype, &["N", "3"])
                .output("y", datatype, &["N", "3"]);
            let session = open(&*backend, &graph);
            if is_tract(&backend) && unsupported {
                let error = session.err().expect("tract cannot do this");
                assert!(error.contains("ONNX Runtime"), "{error}");
                continue;
            }
            let session = session.unwrap();
            assert!(session.signature().can_batch);
            for dims in shapes {
                let data = sample(datatype, dims.iter().product::<i64>() as usize);
                let outputs = run_one(&*session, datatype, dims, &data).unwrap();
                let Tensor { datatype: got, dims: got_dims, data: got_data } = &outputs[0];
                assert_eq!((*got, got_dims.as_slice()), (datatype, dims), "{}", backend.name());
                assert_eq!(got_data, &data, "{datatype} {dims:?} {}", backend.name());
            }
        }
    }
}

#[test]
fn scalars_have_no_dimensions() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node("Neg", &["x"], &["y"])
            .input("x", Datatype::Fp32, &[])
            .output("y", Datatype::Fp32, &[]);
        let session = open(&*backend, &graph).unwrap();
        assert!(!session.signature().can_batch);
        let outputs = run_one(&*session, Datatype::Fp32, &[], &floats(&[2.5])).unwrap();
        assert_eq!(outputs[0].dims.as_slice(), [0i64; 0]);
        assert_eq!(read_floats(&outputs[0].data), [-2.5]);
    }
}

/// y = x + w over [N, 2].
fn add() -> GraphWriter {
    GraphWriter::new()
        .node("Add", &["x", "w"], &["y"])
        .init_f32("w", &[2], &[10.0, 20.0])
        .input("x", Datatype::Fp32, &["N", "2"])
        .output("y", Datatype::Fp32, &["?", "?"])
}

#[test]
fn shapes_of_outputs_are_completed_by_inference() {
    for backend in backends() {
        let session = open(&*backend, &add()).unwrap();
        let output = &session.signature().outputs[0];
        assert_eq!(output.dims, Some(vec![Dim::Symbol("N".into()), Dim::Fixed(2)]));
        assert!(session.signature().can_batch);
    }
}

#[test]
fn several_inputs_and_outputs_keep_their_order() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node("Sub", &["b", "a"], &["z"])
            .node("Identity", &["c"], &["y"])
            .input("b", Datatype::Fp32, &["N"])
            .input("a", Datatype::Fp32, &["N"])
            .input("c", Datatype::Int64, &["M", "1"])
            .output("z", Datatype::Fp32, &["N"])
            .output("y", Datatype::Int64, &["M", "1"]);
        let session = open(&*backend, &graph).unwrap();
        assert!(!session.signature().can_batch);
        let (b, a, c) = (floats(&[5.0, 7.0]), floats(&[1.0, 2.0]), longs(&[1, 2, 3]));
        let inputs = [
            view(Datatype::Fp32, &[2], &b),
            view(Datatype::Fp32, &[2], &a),
            view(Datatype::Int64, &[3, 1], &c),
        ];
        let outputs = session.run(&inputs, None).unwrap();
        assert_eq!(read_floats(&outputs[0].data), [4.0, 5.0]);
        assert_eq!(outputs[1].data, c);
        assert_eq!(outputs[1].dims.as_slice(), [3, 1]);
    }
}

#[test]
fn outputs_outlive_session_and_inputs() {
    for backend in backends() {
        // One output is the input itself, which a runtime may answer with our own bytes; one is a weight.
        let weight: Vec<f32> = (0..2000).map(|i| i as f32).collect();
        let graph = GraphWriter::new()
            .node("Neg", &["x"], &["n"])
            .node("Identity", &["x"], &["i"])
            .node("Identity", &["w"], &["v"])
            .init_f32("w", &[1000, 2], &weight)
            .input("x", Datatype::Fp32, &["N", "2"])
            .output("n", Datatype::Fp32, &["N", "2"])
            .output("i", Datatype::Fp32, &["N", "2"])
            .output("v", Datatype::Fp32, &["1000", "2"]);
        let session = open(&*backend, &graph).unwrap();
        let mut data = floats(&weight);
        let outputs = run_one(&*session, Datatype::Fp32, &[1000, 2], &data).unwrap();
        data.fill(0xaa);
        drop(session);
        let negative: Vec<f32> = weight.iter().map(|v| -v).collect();
        assert_eq!(read_floats(&outputs[0].data), negative, "{}", backend.name());
        assert_eq!(read_floats(&outputs[1].data), weight);
        assert_eq!(read_floats(&outputs[2].data), weight);
        let part = outputs[0].data.slice(4000..4008);
        drop(outputs);
        assert_eq!(read_floats(&part), [-1000.0, -1001.0]);
    }
}

#[test]
fn an_input_that_is_an_output_is_copied() {
    let Some(backend) = ort() else { return };
    let graph = GraphWriter::new()
        .node("Neg", &["x"], &["n"])
        .input("x", Datatype::Fp32, &["N"])
        .output("x", Datatype::Fp32, &["N"])
        .output("n", Datatype::Fp32, &["N"]);
    let session = open(&*backend, &graph).unwrap();
    let values: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    let mut data = floats(&values);
    let outputs = run_one(&*session, Datatype::Fp32, &[5000], &data).unwrap();
    data.fill(0);
    assert_eq!(read_floats(&outputs[0].data), values);
}

#[test]
fn an_optional_input_may_be_left_out() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node("Mul", &["x", "scale"], &["y"])
            .init_f32("scale", &[1], &[3.0])
            .input("x", Datatype::Fp32, &["N"])
            .input("scale", Datatype::Fp32, &["1"])
            .output("y", Datatype::Fp32, &["N"]);
        let session = open(&*backend, &graph).unwrap();
        if is_tract(&backend) {
            // There, it is a constant.
            assert_eq!(session.signature().inputs.len(), 1);
            assert!(session.warnings()[0].contains("scale"));
            let outputs = run_one(&*session, Datatype::Fp32, &[2], &floats(&[1.0, 2.0])).unwrap();
            assert_eq!(read_floats(&outputs[0].data), [3.0, 6.0]);
            continue;
        }
        assert!(session.signature().inputs[1].optional);
        let (x, scale) = (floats(&[1.0, 2.0]), floats(&[10.0]));
        let x = view(Datatype::Fp32, &[2], &x);
        let left_out = session.run(&[x, None], None).unwrap();
        assert_eq!(read_floats(&left_out[0].data), [3.0, 6.0]);
        let given = session.run(&[x, view(Datatype::Fp32, &[1], &scale)], None).unwrap();
        assert_eq!(read_floats(&given[0].data), [10.0, 20.0]);
    }
}

#[test]
fn a_wrong_input_is_an_error_and_the_session_serves_on() {
    for backend in backends() {
        let session = open(&*backend, &add()).unwrap();
        let wrong = floats(&[1.0, 2.0, 3.0]);
        let error = run_one(&*session, Datatype::Fp32, &[1, 3], &wrong).unwrap_err();
        assert!(matches!(error, RunError::Invalid(_)), "{error:?}");
        let error = run_one(&*session, Datatype::Fp32, &[1, 2], &wrong).unwrap_err();
        assert!(matches!(error, RunError::Invalid(_)), "{error:?}");
        let error = run_one(&*session, Datatype::Int64, &[1, 2], &longs(&[1, 2])).unwrap_err();
        assert!(matches!(error, RunError::Invalid(_)), "{error:?}");
        assert!(session.run(&[], None).is_err());
        assert!(session.run(&[None], None).is_err());
        let right = run_one(&*session, Datatype::Fp32, &[1, 2], &floats(&[1.0, 2.0])).unwrap();
        assert_eq!(read_floats(&right[0].data), [11.0, 22.0]);
    }
}

#[test]
fn an_index_out_of_range_is_an_error() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node("Gather", &["w", "x"], &["y"])
            .init_f32("w", &[3], &[1.0, 2.0, 3.0])
            .input("x", Datatype::Int64, &["N"])
            .output("y", Datatype::Fp32, &["N"]);
        let session = open(&*backend, &graph).unwrap();
        let right = run_one(&*session, Datatype::Int64, &[2], &longs(&[2, 0])).unwrap();
        assert_eq!(read_floats(&right[0].data), [3.0, 1.0]);
        assert!(run_one(&*session, Datatype::Int64, &[2], &longs(&[2, 7])).is_err());
    }
}

#[test]
fn one_session_runs_from_many_threads_at_once() {
    for backend in backends() {
        let session = open(&*backend, &add()).unwrap();
        thread::scope(|scope| {
            for t in 0..4 {
                let session = &session;
                scope.spawn(move || {
                    for i in 0..300i64 {
                        let rows = 1 + (i + t) % 200;
                        let x = vec![(i * 4 + t) as f32; rows as usize * 2];
                        let outputs =
                            run_one(&**session, Datatype::Fp32, &[rows, 2], &floats(&x)).unwrap();
                        let want: Vec<f32> = x
                            .iter()
                            .enumerate()
                            .map(|(i, v)| v + if i % 2 == 0 { 10.0 } else { 20.0 })
                            .collect();
                        assert_eq!(read_floats(&outputs[0].data), want);
                    }
                });
            }
        });
    }
}

#[test]
fn external_data_comes_as_bytes_and_is_never_looked_for() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node("Add", &["x", "w"], &["y"])
            .init_external("w", Datatype::Fp32, &[2], "sub/weights.bin", 4..12)
            .input("x", Datatype::Fp32, &["N", "2"])
            .output("y", Datatype::Fp32, &["N", "2"]);
        let mut model = source(graph.model()).unwrap();
        assert_eq!(model.graph.external, ["sub/weights.bin"]);
        let options = SessionOptions::default();
        let error = backend.open(&model, &options).err().unwrap();
        assert!(error.contains("sub/weights.bin"), "{error}");
        let file = floats(&[9.0, 1.0, 2.0]).into();
        model.external.push(("sub/weights.bin".into(), file));
        let session = backend.open(&model, &options).unwrap();
        drop(model);
        let outputs = run_one(&*session, Datatype::Fp32, &[1, 2], &floats(&[1.0, 1.0])).unwrap();
        assert_eq!(read_floats(&outputs[0].data), [2.0, 3.0]);
        // A file too short for what the graph wants of it.
        let mut model = source(graph.model()).unwrap();
        model.external.push(("sub/weights.bin".into(), floats(&[9.0]).into()));
        assert!(backend.open(&model, &options).is_err());
    }
}

#[test]
fn wrong_files_are_refused_with_a_reason() {
    let whole = add().model();
    for backend in backends() {
        for file in [Vec::new(), whole[..whole.len() / 2].to_vec(), b"not a model at all".to_vec()]
        {
            let error = source(file).err().unwrap();
            assert!(error.contains("not an ONNX model"), "{error}");
        }
        // Bytes that our reader takes and the runtime does not: a graph of its own beside a torn file.
        let mut torn = source(whole.clone()).unwrap();
        torn.bytes = torn.bytes.slice(..whole.len() / 2);
        let error = backend.open(&torn, &SessionOptions::default()).err().unwrap();
        assert!(!error.is_empty());
        let unknown = GraphWriter::new()
            .node("NoSuchOperator", &["x"], &["y"])
            .input("x", Datatype::Fp32, &["N"])
            .output("y", Datatype::Fp32, &["N"]);
        let error = open(&*backend, &unknown).err().unwrap();
        assert!(error.contains("NoSuchOperator"), "{}: {error}", backend.name());
        let mut other = source(whole.clone()).unwrap();
        let named_otherwise = GraphWriter::new().input("a", Datatype::Fp32, &["N", "2"]).output(
            "y",
            Datatype::Fp32,
            &["?", "?"],
        );
        other.graph = Arc::new(Graph::parse(&named_otherwise.model()).unwrap());
        let error = backend.open(&other, &SessionOptions::default()).err().unwrap();
        assert!(error.contains("disagree"), "{error}");
        let nothing = add().output_of_type("bad", &[]);
        let error = open(&*backend, &nothing).err().unwrap();
        assert!(error.contains("bad"), "{error}");
    }
}

/// Counts to `n`, adding 1 to `x` each time: as long as anybody wants.
fn counting() -> GraphWriter {
    let body = GraphWriter::new()
        .node("Identity", &["go_in"], &["go_out"])
        .node("Add", &["v_in", "one"], &["v_out"])
        .init_f32("one", &[1], &[1.0])
        .input("i", Datatype::Int64, &[])
        .input("go_in", Datatype::Bool, &[])
        .input("v_in", Datatype::Fp32, &["1"])
        .output("go_out", Datatype::Bool, &[])
        .output("v_out", Datatype::Fp32, &["1"]);
    GraphWriter::new()
        .node_with("", "Loop", &["n", "go", "x"], &["y"], &[Attr::Graph("body", body)])
        .init("go", Datatype::Bool, &[], &[1])
        .input("n", Datatype::Int64, &[])
        .input("x", Datatype::Fp32, &["1"])
        .output("y", Datatype::Fp32, &["1"])
}

#[test]
fn a_run_is_cancelled_and_the_next_one_is_not() {
    for backend in backends() {
        let session = match open(&*backend, &counting()) {
            Ok(session) => session,
            Err(e) if is_tract(&backend) => {
                assert!(e.contains("Loop") && e.contains("ONNX Runtime"), "{e}");
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let run = |n: i64, cancel: Option<&Cancel>| {
            let (n, x) = (longs(&[n]), floats(&[0.5]));
            let inputs = [view(Datatype::Int64, &[], &n), view(Datatype::Fp32, &[1], &x)];
            session.run(&inputs, cancel).map(|outputs| read_floats(&outputs[0].data))
        };
        assert_eq!(run(3, None), Ok(vec![3.5]));
        let cancel = Cancel::default();
        assert_eq!(run(4, Some(&cancel)), Ok(vec![4.5]));
        thread::scope(|scope| {
            let long = scope.spawn(|| run(i64::MAX, Some(&cancel)));
            thread::sleep(Duration::from_millis(50));
            assert!(!long.is_finished());
            cancel.fire();
            assert_eq!(long.join().unwrap(), Err(RunError::Cancelled));
        });
        assert_eq!(run(1, Some(&cancel)), Err(RunError::Cancelled));
        assert_eq!(run(2, Some(&Cancel::default())), Ok(vec![2.5]));
        assert_eq!(run(2, None), Ok(vec![2.5]));
    }
}

#[test]
fn an_output_of_unknown_rank_takes_what_comes() {
    let Some(backend) = ort() else { return };
    let graph = GraphWriter::new()
        .node("Reshape", &["x", "s"], &["y"])
        .input("x", Datatype::Fp32, &["N"])
        .input("s", Datatype::Int64, &["R"])
        .output_unranked("y", Datatype::Fp32);
    let session = open(&*backend, &graph).unwrap();
    assert_eq!(session.signature().outputs[0].dims, None);
    let (x, s) = (floats(&[1.0, 2.0, 3.0, 4.0]), longs(&[2, 2, 1]));
    let outputs = session
        .run(&[view(Datatype::Fp32, &[4], &x), view(Datatype::Int64, &[3], &s)], None)
        .unwrap();
    assert_eq!(outputs[0].dims.as_slice(), [2, 2, 1]);
}

#[test]
fn a_broken_bytes_tensor_never_reaches_the_runtime() {
    let Some(backend) = ort() else { return };
    let graph = GraphWriter::new()
        .node("Identity", &["x"], &["y"])
        .input("x", Datatype::Bytes, &["N"])
        .output("y", Datatype::Bytes, &["N"]);
    let session = open(&*backend, &graph).unwrap();
    for (dims, data) in [
        (&[2i64][..], framed(&[b"a"])),
        (&[1][..], vec![9, 0, 0, 0, 1]),
        (&[i64::MAX][..], framed(&[b"a"])),
        (&[i64::MAX, i64::MAX][..], framed(&[b"a"])),
    ] {
        let error = run_one(&*session, Datatype::Bytes, dims, &data).unwrap_err();
        assert!(matches!(error, RunError::Invalid(_)), "{error:?}");
    }
}

#[test]
fn unnamed_first_dimensions_are_one_batch() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node("MatMul", &["x", "w"], &["y"])
            .init_f32("w", &[2, 1], &[1.0, 10.0])
            .input("x", Datatype::Fp32, &["unk__1", "2"])
            .output("y", Datatype::Fp32, &["unk__2", "1"]);
        let session = open(&*backend, &graph).unwrap();
        assert!(session.signature().can_batch, "{:?}", session.signature());
        for rows in [1, 3, 2] {
            let x = floats(&[1.0, 2.0].repeat(rows as usize));
            let outputs = run_one(&*session, Datatype::Fp32, &[rows, 2], &x).unwrap();
            assert_eq!(read_floats(&outputs[0].data), vec![21.0; rows as usize]);
        }
    }
}

#[test]
fn a_batch_that_grows_or_shrinks_is_no_batch() {
    for backend in backends() {
        let graph = GraphWriter::new()
            .node_with("", "Concat", &["x", "x"], &["y"], &[Attr::Int("axis", 0)])
            .input("x", Datatype::Fp32, &["N", "2"])
            .output("y", Datatype::Fp32, &["?", "2"]);
        let session = open(&*backend, &graph).unwrap();
        assert!(!session.signature().can_batch, "{}", backend.name());
    }
}

#[test]
fn a_missing_locale_comes_with_advice() {
    let Some(backend) = ort() else { return };
    let graph = GraphWriter::new()
        .node_with(
            "",
            "StringNormalizer",
            &["x"],
            &["y"],
            &[Attr::Text("case_change_action", "LOWER")],
        )
        .input("x", Datatype::Bytes, &["N"])
        .output("y", Datatype::Bytes, &["?"]);
    match open(&*backend, &graph) {
        Ok(session) => {
            let outputs = run_one(&*session, Datatype::Bytes, &[1], &framed(&[b"ABC"])).unwrap();
            assert_eq!(outputs[0].data, framed(&[b"abc"]));
        }
        Err(e) => assert!(e.contains("locale-gen"), "{e}"),
    }
}
