//! Tests of `Graph::parse`: signatures, labels, what hangs on values, and files that lie.

use proptest::prelude::*;

use super::*;
use crate::runtime::onnx_writer::{
    Attr, GraphWriter, ModelWriter, element, int, len, node, tensor_type,
};

fn mlp() -> GraphWriter {
    GraphWriter::new()
        .node("MatMul", &["x", "w"], &["h"])
        .node("Softmax", &["h"], &["scores"])
        .init_f32("w", &[4, 3], &[0.5; 12])
        .input("x", Datatype::Fp32, &["N", "4"])
        .output("scores", Datatype::Fp32, &["N", "3"])
}

fn parse(graph: &GraphWriter) -> Graph {
    Graph::parse(&graph.model()).unwrap()
}

#[test]
fn reads_a_signature() {
    let graph = parse(&mlp());
    assert_eq!(graph.ir_version, 8);
    assert_eq!(graph.producer, "onnx_writer");
    assert_eq!(graph.opsets[""], 17);
    assert_eq!(graph.initializer_bytes, 48);
    assert_eq!(graph.nodes, 2);
    let x = &graph.inputs[0];
    assert_eq!((&*x.name, x.datatype, x.optional), ("x", Datatype::Fp32, false));
    assert_eq!(x.dims, Some(vec![Dim::Symbol("N".into()), Dim::Fixed(4)]));
    assert_eq!(graph.outputs[0].shape_text(), "[N, 3]");
    assert!(graph.ops.contains(&(String::new(), "MatMul".into())));
    assert!(!graph.control_flow && !graph.data_dependent && !graph.random);
    assert_eq!(graph.unsupported, Vec::<String>::new());
}

#[test]
fn every_datatype_and_every_kind_of_dimension() {
    for datatype in Datatype::ALL {
        let graph = GraphWriter::new()
            .node("Identity", &["x"], &["y"])
            .input("x", datatype, &["?", "-1", "0", "unk__7"])
            .output_unranked("y", datatype);
        let graph = parse(&graph);
        assert_eq!(graph.inputs[0].datatype, datatype);
        assert_eq!(graph.inputs[0].dims, Some(vec![Dim::Any, Dim::Any, Dim::Fixed(0), Dim::Any]));
        assert_eq!(graph.outputs[0].dims, None);
    }
}

#[test]
fn an_input_with_an_initializer_is_optional_since_ir_4_and_none_before() {
    let graph = mlp().input("w", Datatype::Fp32, &["4", "3"]);
    let new = parse(&graph);
    assert_eq!(new.inputs.len(), 2);
    assert!(!new.inputs[0].optional && new.inputs[1].optional);
    let old = ModelWriter { ir_version: 3, ..ModelWriter::default() }.write(&graph);
    let old = Graph::parse(&old).unwrap();
    assert_eq!(old.inputs.len(), 1);
}

#[test]
fn labels_find_their_output() {
    let two =
        mlp().node("ArgMax", &["h"], &["class"]).output("class", Datatype::Int64, &["N", "1"]);
    let labels = |properties: &[(&str, &str)], graph: &GraphWriter| {
        let mut model = ModelWriter::default();
        for (key, value) in properties {
            model = model.property(key, value);
        }
        let graph = Graph::parse(&model.write(graph)).unwrap();
        graph.outputs.iter().map(|o| o.labels.as_ref().map(|l| l.join("|"))).collect::<Vec<_>>()
    };
    let abc = Some("a|b|c".to_owned());
    assert_eq!(labels(&[("labels", r#"["a", "b", "c"]"#)], &two), [abc.clone(), None]);
    assert_eq!(labels(&[("class_labels", "a, b,c")], &two), [abc.clone(), None]);
    assert_eq!(labels(&[("labels", "a\nb\nc\n")], &two), [abc.clone(), None]);
    assert_eq!(labels(&[("labels", "[1, 2, 3]")], &two)[0], Some("1|2|3".into()));
    assert_eq!(labels(&[("labels", "a,b")], &two), [None, None]);
    let both = two.output("h", Datatype::Fp32, &["N", "3"]);
    assert_eq!(labels(&[("labels", "a,b,c")], &both), [None, None, None]);
    let named = [("labels", "a,b,c"), ("labels_output", "h")];
    assert_eq!(labels(&named, &both), [None, None, abc]);
}

fn reshape(node: impl Fn(GraphWriter) -> GraphWriter) -> Graph {
    let graph = node(GraphWriter::new())
        .node("Reshape", &["x", "shape"], &["y"])
        .input("x", Datatype::Fp32, &["N", "4"])
        .input("k", Datatype::Int64, &["2"])
        .init_i64("one", &[1], &[1])
        .output("y", Datatype::Fp32, &["?", "?"]);
    parse(&graph)
}

#[test]
fn a_shape_from_values_is_data_dependent_and_one_from_shapes_is_not() {
    assert!(!reshape(|g| g.node("Shape", &["x"], &["shape"])).data_dependent);
    assert!(!reshape(|g| g.init_i64("shape", &[2], &[-1, 2])).data_dependent);
    assert!(
        !reshape(|g| g.node("Shape", &["x"], &["s"]).node("Mul", &["s", "one"], &["shape"]))
            .data_dependent
    );
    assert!(reshape(|g| g.node("Identity", &["k"], &["shape"])).data_dependent);
    assert!(reshape(|g| g.node("Mul", &["k", "one"], &["shape"])).data_dependent);
    let nonzero = GraphWriter::new()
        .node("NonZero", &["x"], &["y"])
        .input("x", Datatype::Fp32, &["N"])
        .output("y", Datatype::Int64, &["1", "?"]);
    assert!(parse(&nonzero).data_dependent);
    // The same operator over constants is a constant.
    let fixed = GraphWriter::new()
        .node("NonZero", &["c"], &["i"])
        .node("Gather", &["x", "i"], &["y"])
        .init_f32("c", &[2], &[0.0, 1.0])
        .input("x", Datatype::Fp32, &["N"])
        .output("y", Datatype::Fp32, &["1", "1"]);
    assert!(!parse(&fixed).data_dependent);
}

#[test]
fn subgraphs_and_functions_are_looked_into() {
    let branch =
        |op: &str| GraphWriter::new().node(op, &["x"], &["b"]).output("b", Datatype::Fp32, &["?"]);
    let with_if = |cond: &str, op: &str| {
        let graph = GraphWriter::new()
            .node_with(
                "",
                "If",
                &[cond],
                &["y"],
                &[
                    Attr::Graph("then_branch", branch(op)),
                    Attr::Graph("else_branch", branch("Abs")),
                ],
            )
            .init("yes", Datatype::Bool, &[], &[1])
            .input("x", Datatype::Fp32, &["N"])
            .input("c", Datatype::Bool, &[])
            .output("y", Datatype::Fp32, &["?"]);
        parse(&graph)
    };
    let plain = with_if("yes", "Neg");
    assert!(plain.control_flow && !plain.data_dependent && plain.nodes == 3);
    assert!(plain.ops.contains(&(String::new(), "Neg".into())));
    assert!(with_if("yes", "NonZero").data_dependent);
    assert!(with_if("c", "Neg").data_dependent);
    assert!(with_if("yes", "RandomNormalLike").random);

    let mut function = Vec::new();
    len(&mut function, 1, b"mine");
    len(&mut function, 4, b"a");
    len(&mut function, 7, &node("", "Bernoulli", &["a"], &["b"], &[]));
    let model = ModelWriter { functions: vec![function], ..ModelWriter::default() };
    assert!(Graph::parse(&model.write(&mlp())).unwrap().random);
}

#[test]
fn dropout_is_random_only_where_it_trains() {
    let dropout = |flag: &[u8]| {
        let graph = GraphWriter::new()
            .node("Dropout", &["x", "", "train"], &["y"])
            .init("train", Datatype::Bool, &[], flag)
            .input("x", Datatype::Fp32, &["N"])
            .output("y", Datatype::Fp32, &["N"]);
        parse(&graph).random
    };
    assert!(dropout(&[1]));
    assert!(!dropout(&[0]));
}

#[test]
fn a_loop_is_followed() {
    let body = |condition: &str| {
        GraphWriter::new()
            .input("i", Datatype::Int64, &[])
            .input("c", Datatype::Bool, &[])
            .input("v", Datatype::Fp32, &["N"])
            .node("Identity", &["c"], &["c2"])
            .node("Greater", &["v", "v"], &["found"])
            .node("Neg", &["v"], &["v2"])
            .output(condition, Datatype::Bool, &[])
            .output("v2", Datatype::Fp32, &["N"])
    };
    let graph = |trips: &str, condition: &str| {
        let body = [Attr::Graph("body", body(condition))];
        let graph = GraphWriter::new()
            .node_with("", "Loop", &[trips, "go", "x"], &["y"], &body)
            .init("go", Datatype::Bool, &[], &[1])
            .init_i64("three", &[], &[3])
            .input("x", Datatype::Fp32, &["N"])
            .input("k", Datatype::Int64, &[])
            .output("y", Datatype::Fp32, &["N"]);
        parse(&graph)
    };
    assert!(graph("three", "c2").control_flow);
    assert!(!graph("three", "c2").data_dependent);
    assert!(graph("k", "c2").data_dependent);
    assert!(graph("three", "found").data_dependent);
}

#[test]
fn what_cannot_be_served_is_named() {
    let reason = |graph: &GraphWriter| parse(graph).unsupported.join("; ");
    // seq(map(int64, float))
    let mut map = Vec::new();
    len(&mut map, 5, &[]);
    let mut sequence = Vec::new();
    len(&mut sequence, 1, &map);
    let mut typ = Vec::new();
    len(&mut typ, 4, &sequence);
    let zipmap = mlp().node_with("ai.onnx.ml", "ZipMap", &["scores"], &["p"], &[]);
    let said = reason(&zipmap.output_of_type("p", &typ));
    assert!(said.contains("\"p\"") && said.contains("sequence of maps"), "{said}");
    assert!(said.contains("zipmap=False"), "{said}");
    let said = reason(&mlp().output_of_type("q", &tensor_type(17, Some(&["N"]))));
    assert!(said.contains("\"q\"") && said.contains("float8e4m3fn"), "{said}");
    let said = reason(&mlp().output_of_type("q", &tensor_type(14, None)));
    assert!(said.contains("complex64"), "{said}");
    assert!(reason(&mlp().output_of_type("q", &[])).contains("of no type"));
    assert!(reason(&mlp().output("scores", Datatype::Fp32, &[])).contains("twice"));
    assert!(reason(&mlp().output("a\0b", Datatype::Fp32, &[])).contains("a\\0b"));
    assert!(reason(&GraphWriter::new()).contains("no outputs"));
}

#[test]
fn external_data_is_listed_and_addresses_in_memory_are_refused() {
    let external = |location: &str| {
        let graph = mlp().init_external("e", Datatype::Fp32, &[2], location, 0..8);
        Graph::parse(&graph.model())
    };
    let graph = external("weights.bin").unwrap();
    assert_eq!(graph.external, ["weights.bin"]);
    assert_eq!(graph.initializer_bytes, 48);
    let graph = external("*/_ORT_MEM_ADDR_/*").unwrap();
    assert!(graph.external.is_empty());
    assert!(graph.unsupported[0].contains("memory"));
    assert!(external("").unwrap_err().contains("no file"));
}

#[test]
fn wrong_files_are_called_so() {
    let wrong = |bytes: &[u8]| {
        let error = Graph::parse(bytes).unwrap_err();
        assert!(error.contains("is not an ONNX model: "), "{error}");
        error
    };
    assert!(wrong(b"").contains("empty"));
    assert!(wrong(b"version https://git-lfs.github.com/spec/v1").contains("field"));
    assert!(wrong(&[8, 8]).contains("no graph"));
    let model = mlp().model();
    for cut in 1..model.len() {
        // Cuts between two top-level fields leave a shorter message that is well formed.
        if let Err(error) = Graph::parse(&model[..cut]) {
            assert!(error.contains("truncated") || error.contains("no graph"), "{error}");
        }
    }
    assert!(Graph::parse(&model[..model.len() / 2]).is_err());
}

#[test]
fn nesting_is_bounded() {
    let mut graph = GraphWriter::new();
    for _ in 0..200 {
        graph = GraphWriter::new().node_with("", "If", &["c"], &[], &[Attr::Graph("g", graph)]);
    }
    assert!(Graph::parse(&graph.model()).unwrap_err().contains("deep"));
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    let mut file = Vec::new();
    int(&mut file, 1, 8);
    file.extend_from_slice(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0]);
    assert!(Graph::parse(&file).unwrap_err().contains("truncated"));
}

#[test]
fn elements_and_datatypes_agree() {
    for datatype in Datatype::ALL {
        assert_eq!(super::datatype(element(datatype)), Ok(datatype));
    }
}

proptest! {
    #[test]
    fn never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut model = ModelWriter::default().property("labels", "a,b,c").write(
            &mlp().init_external("e", Datatype::Fp32, &[2], "w", 0..8),
        );
        let at = at.index(model.len());
        model[at] = byte;
        let _ = Graph::parse(&model);
        model.truncate(cut.index(model.len()));
        let _ = Graph::parse(&model);
    }
}
