//! The columns that signatures and options lead to.

use super::*;

fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
    let dims = dims.iter().map(|&n| if n < 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(n) });
    let dims = Some(dims.collect());
    TensorSpec { name: name.into(), datatype, dims, optional: false, labels: None }
}

fn signature(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Signature {
    Signature { can_batch: Signature::batchable(&inputs, &outputs), inputs, outputs }
}

fn classifier() -> Signature {
    let inputs = vec![spec("x", Datatype::Fp32, &[-1, 3]), spec("note", Datatype::Bytes, &[-1, 1])];
    let label = spec("label", Datatype::Int64, &[-1]);
    signature(inputs, vec![label, spec("probabilities", Datatype::Fp32, &[-1, 2])])
}

fn own(columns: &Columns) -> Vec<(String, String)> {
    let own = columns.columns.iter().filter(|c| !matches!(c.source, Source::Meta(_)));
    own.map(|column| (column.name.to_string(), column.kind.name())).collect()
}

fn decided(signature: &Signature, options: &LogOptions) -> Columns {
    decide(signature, &BTreeMap::new(), options).expect("decided")
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn a_classifier_is_a_table() {
    let columns = decided(&classifier(), &LogOptions::default());
    assert!(columns.table);
    let expected = [
        ("in_x", "list<float>"),
        ("out_label", "int64"),
        ("out_probabilities", "list<float>"),
        ("pred_label", "string"),
        ("pred_score", "double"),
    ];
    assert_eq!(own(&columns), pairs(&expected));
    assert_eq!(columns.absent, [Absent { name: "in_note".into(), why: FREE_TEXT }]);
    assert_eq!((columns.label, columns.score), (Some(Labelled::By(0)), Some(1)));
    let meta: Vec<&str> = columns.columns.iter().take(META.len()).map(|c| &*c.name).collect();
    assert_eq!(meta, META.map(|(_, name, _, _)| name));
}

#[test]
fn features_get_their_names_from_the_model_or_its_owner() {
    let metadata = [("feature_names".to_owned(), r#"["a","b","B"]"#.to_owned())].into();
    let columns = decide(&classifier(), &metadata, &LogOptions::default()).expect("decided");
    let names: Vec<String> = own(&columns).into_iter().map(|(name, _)| name).take(3).collect();
    assert_eq!(names, ["in_a", "in_b", "in_B_2"], "readers fold case");
    let given = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        LogOptions { feature_names: [("x".to_owned(), names)].into(), ..LogOptions::default() }
    };
    let columns = decide(&classifier(), &metadata, &given(&["p", "q", "r"])).expect("decided");
    assert_eq!(own(&columns)[0], ("in_p".into(), "float".into()));
    let error = decide(&classifier(), &metadata, &given(&["p"])).expect_err("refused");
    assert_eq!(error, "feature_names: 'x' has the shape [N, 3], and 1 names are given");
}

#[test]
fn large_and_open_tensors_have_digest_and_shape() {
    let inputs = vec![spec("image", Datatype::Uint8, &[3, 100, 100])];
    let outputs = vec![spec("boxes", Datatype::Fp32, &[-1, 4])];
    let columns = decided(&signature(inputs, outputs), &LogOptions::default());
    assert!(!columns.table);
    let expected = [
        ("in_image_sha256", "string"),
        ("out_boxes", "list<float>"),
        ("out_boxes_shape", "list<int32>"),
        ("out_boxes_sha256", "string"),
        ("pred_score", "double"),
    ];
    assert_eq!(own(&columns), pairs(&expected));
}

#[test]
fn blobs_have_a_reference_that_no_rule_may_change() {
    let signature = signature(
        vec![spec("image", Datatype::Uint8, &[3, 100, 100])],
        vec![spec("boxes", Datatype::Fp32, &[-1, 4])],
    );
    let options = LogOptions { large: Large::Blob, ..LogOptions::default() };
    let expected = [
        ("in_image_ref", "string"),
        ("in_image_sha256", "string"),
        ("out_boxes", "list<float>"),
        ("out_boxes_shape", "list<int32>"),
        ("out_boxes_ref", "string"),
        ("out_boxes_sha256", "string"),
        ("pred_score", "double"),
    ];
    assert_eq!(own(&decided(&signature, &options)), pairs(&expected));
    let with = |name: &str, rule: Rule| LogOptions {
        redact: [(name.to_owned(), rule)].into(),
        ..options.clone()
    };
    // What is withheld is kept nowhere.
    let columns = decided(&signature, &with("in_image*", Rule::Hash));
    assert!(own(&columns).iter().all(|(name, _)| !name.starts_with("in_")), "{columns:?}");
    let dropped = decided(&signature, &with("in_image_ref", Rule::Drop));
    assert_eq!(own(&dropped)[0].0, "in_image_sha256");
    let hashed = decide(&signature, &BTreeMap::new(), &with("in_image_ref", Rule::Hash));
    assert_eq!(
        hashed.expect_err("refused"),
        "redact.in_image_ref: hash: a reference is as it is, or dropped"
    );
}

#[test]
fn rules_change_types_and_slips_are_refused() {
    let rules = |rules: &[(&str, Rule)]| LogOptions {
        redact: rules.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect(),
        ..LogOptions::default()
    };
    let all =
        rules(&[("in_x", Rule::Hash), ("in_note", Rule::Truncate(3)), ("caller", Rule::Drop)]);
    let columns = decided(&classifier(), &all);
    let expected = pairs(&[("in_x", "list<string>"), ("in_note", "string")]);
    assert_eq!(own(&columns)[..2], expected);
    assert!(columns.absent.iter().any(|absent| absent.name == "caller"));
    let refused = |options| decide(&classifier(), &BTreeMap::new(), &options).expect_err("refused");
    let slip = refused(rules(&[("in_y", Rule::Drop)]));
    assert!(slip.starts_with("redact.in_y: there is no such column"), "{slip}");
    let needed = refused(rules(&[("request_id", Rule::Drop)]));
    assert_eq!(needed, "redact.request_id: drop: every row has this column");
    decided(&classifier(), &rules(&[("*zip*", Rule::Drop)]));
}

#[test]
fn an_allow_list_is_all_there_is() {
    let only = vec!["out_*".to_owned(), "pred_label".to_owned()];
    let columns = decided(&classifier(), &LogOptions { only, ..LogOptions::default() });
    let names: Vec<String> = own(&columns).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["out_label", "out_probabilities", "pred_label"]);
    let column = |name: &str| columns.columns.iter().any(|column| *column.name == *name);
    assert!(column("request_id") && !column("caller") && !column("trace_id"));
}

#[test]
fn what_withheld_columns_would_give_away_is_withheld_too() {
    let inputs = vec![spec("image", Datatype::Uint8, &[3, 100, 100])];
    let outputs = vec![spec("y", Datatype::Fp32, &[1])];
    let redact = [("in_image*".to_owned(), Rule::Drop)].into();
    let options = LogOptions { redact, ..LogOptions::default() };
    let columns = decided(&signature(inputs, outputs), &options);
    assert_eq!(own(&columns)[0].0, "out_y");
    assert_eq!(columns.absent, [Absent { name: "in_image_sha256".into(), why: WITHHELD }]);
}
