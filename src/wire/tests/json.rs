//! Tests of a request's JSON: its keys, its parameters, malformed text, and the answer.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::sample::{any_damage, any_tensor, assert_error, f32s, framed, mutate, response, tensor};
use crate::{
    types::{
        datatype::Datatype,
        error::{Code, Error},
        request::{InferRequest, Parameter, Region},
    },
    wire::json::{decode_request, encode_response},
};

fn decode(body: &str) -> Result<InferRequest, Error> {
    decode_request(&Bytes::copy_from_slice(body.as_bytes()))
}

#[track_caller]
fn refused(body: &str, words: &[&str]) {
    assert_error(decode(body), Code::InvalidArgument, words);
}

const INPUT: &str = r#"{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}"#;

/// A request with `INPUT` and one more top-level key.
fn with(key: &str) -> String {
    format!(r#"{{"inputs":[{INPUT}],{key}}}"#)
}

#[test]
fn reads_what_tritonclient_writes() {
    let body = concat!(
        r#"{"id":"abc-1","inputs":[{"name":"INPUT0","shape":[1,3],"datatype":"FP32","data":[1.0,-2.5,NaN]},"#,
        r#"{"name":"INPUT1","shape":[2],"datatype":"BYTES","data":["a","\u00fc\ud83d\ude00\n"]}],"#,
        r#""outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}},"#,
        r#"{"name":"OUTPUT1","parameters":{"classification":3,"binary_data":false}}],"#,
        r#""parameters":{"priority":1,"timeout":1000,"binary_data_output":true}}"#
    );
    let request = decode(body).unwrap();
    assert_eq!(&*request.id, "abc-1");
    assert_eq!(request.inputs[0].data, f32s(&[1.0, -2.5, f32::NAN]));
    assert_eq!(request.inputs[1].data, framed(&["a", "ü😀\n"]));
    assert_eq!(&*request.inputs[1].name, "INPUT1");
    assert_eq!((request.outputs[0].binary, request.outputs[0].classification), (Some(true), 0));
    assert_eq!((request.outputs[1].binary, request.outputs[1].classification), (Some(false), 3));
    assert!(request.binary_output && !request.raw_binary && request.model.is_empty());
    let expected = [
        ("priority", Parameter::Int64(1)),
        ("timeout", Parameter::Int64(1000)),
        ("binary_data_output", Parameter::Bool(true)),
    ];
    assert_eq!(request.parameters, expected.map(|(k, v)| (k.into(), v)));
}

#[test]
fn reads_what_python_writes_with_spaces_and_lines() {
    let body = "{\n \"inputs\" : [ { \"name\" : \"x\" , \"shape\" : [ 2 , 2 ] , \"datatype\" : \"FP32\" ,\r\n\t\"data\" : [ [ 1.5 , \
                2 ] ,\n [ -3 , Infinity ] ] } ] }\n";
    let request = decode(body).unwrap();
    assert_eq!(request.inputs[0].data, f32s(&[1.5, 2.0, -3.0, f32::INFINITY]));
    assert_eq!(request.inputs[0].dims.as_slice(), [2, 2]);
}

#[test]
fn keys_come_in_any_order() {
    let keys =
        [r#""name":"x""#, r#""shape":[1,2]"#, r#""datatype":"INT16""#, r#""data":[[258, 1]]"#];
    for a in 0..4 {
        for b in 0..4 {
            let mut order = keys.to_vec();
            order.swap(0, a);
            order.swap(1, b);
            let body =
                format!(r#"{{"inputs":[{{{}, "parameters":{{}}}}],"id":"7"}}"#, order.join(","));
            let request = decode(&body).unwrap();
            assert_eq!(request.inputs[0].data, [2u8, 1, 1, 0].as_slice(), "{body}");
        }
    }
}

#[test]
fn names_share_the_body() {
    let body = Bytes::copy_from_slice(with(r#""id":"same""#).as_bytes());
    let request = decode_request(&body).unwrap();
    assert!(body.as_ptr_range().contains(&request.id.as_ptr()));
    assert!(body.as_ptr_range().contains(&request.inputs[0].name.as_ptr()));
    let escaped = decode(&with(r#""i\u0064":"a\tb""#)).unwrap();
    assert_eq!(&*escaped.id, "a\tb");
}

#[test]
fn unknown_keys_are_ignored_but_are_json() {
    assert!(
        decode(&with(r#""extra":{"a":[1,{"b":null}],"c":"\ud83d\ude00"},"model_name":1"#)).is_ok()
    );
    for bad in [
        "[1,]",
        "{\"a\":}",
        "tru",
        "01",
        "1.",
        "\"\\x\"",
        "\"\\ud800\"",
        "[1}",
        "{\"a\" 1}",
        "NaN",
        "\"\u{1}\"",
    ] {
        refused(&with(&format!("\"extra\":{bad}")), &["malformed JSON at byte"]);
    }
}

#[test]
fn says_what_is_missing() {
    refused("", &["empty"]);
    refused("{}", &["no 'inputs'"]);
    refused(r#"{"inputs":[{}]}"#, &["inputs[0]", "name"]);
    refused(r#"{"inputs":[{"name":"x"}]}"#, &["'x'", "datatype"]);
    refused(r#"{"inputs":[{"name":"x","datatype":"FP32"}]}"#, &["'x'", "shape"]);
    refused(r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}"#, &["'x'", "data"]);
    refused(r#"{"inputs":[{"name":"","datatype":"FP32","shape":[1],"data":[1]}]}"#, &["name"]);
    refused(&with(r#""outputs":[{"parameters":{}}]"#), &["outputs[0]", "name"]);
}

#[test]
fn says_what_is_of_the_wrong_kind() {
    refused("[]", &["the request", "an object", "an array"]);
    refused("5", &["the request", "a number"]);
    refused(r#"{"inputs":{}}"#, &["'inputs'", "an array", "an object"]);
    refused(r#"{"inputs":[5]}"#, &["inputs[0]", "an object", "a number"]);
    refused(r#"{"inputs":[{"name":5}]}"#, &["inputs[0], 'name'", "a string", "a number"]);
    refused(r#"{"inputs":[{"shape":[1.0]}]}"#, &["'shape'", "integers"]);
    refused(r#"{"inputs":[{"shape":[9223372036854775808]}]}"#, &["'shape'", "integers"]);
    refused(&with(r#""id":5"#), &["'id'", "a string"]);
    refused(&with(r#""parameters":[]"#), &["'parameters'", "an object"]);
    refused(&with(r#""parameters":{"a":[]}"#), &["'a'", "an array"]);
    refused(&with(r#""parameters":{"a":null}"#), &["'a'", "null"]);
    refused(&with(r#""parameters":{"binary_data_output":1}"#), &["binary_data_output"]);
    refused(&with(r#""outputs":[{"name":"y","parameters":{"binary_data":1}}]"#), &["binary_data"]);
    refused(
        &with(r#""outputs":[{"name":"y","parameters":{"classification":-1}}]"#),
        &["classification"],
    );
    refused(
        &with(r#""outputs":[{"name":"y","parameters":{"classification":4294967296}}]"#),
        &["classification", "4294967296"],
    );
}

#[test]
fn a_key_may_stand_only_once() {
    refused(&with(r#""inputs":[]"#), &["'inputs'", "twice"]);
    refused(&with(r#""id":"a","id":"a""#), &["'id'", "twice"]);
    refused(&with(r#""parameters":{"a":1,"\u0061":2}"#), &["'a'", "twice"]);
    for key in [r#""name":"x""#, r#""shape":[1]"#, r#""datatype":"FP32""#, r#""data":[1]"#] {
        let body = format!(r#"{{"inputs":[{{{key},{key}}}]}}"#);
        refused(&body, &["twice"]);
    }
}

#[test]
fn parameters_keep_their_kind() {
    let keys = r#""parameters":{"b":true,"i":-9223372036854775808,"u":18446744073709551615,"d":1.5e3,"s":"x","z":0}"#;
    let request = decode(&with(keys)).unwrap();
    let expected = [
        ("b", Parameter::Bool(true)),
        ("i", Parameter::Int64(i64::MIN)),
        ("u", Parameter::Uint64(u64::MAX)),
        ("d", Parameter::Double(1500.0)),
        ("s", Parameter::String("x".into())),
        ("z", Parameter::Int64(0)),
    ];
    assert_eq!(request.parameters, expected.map(|(k, v)| (k.into(), v)));
    refused(&with(r#""parameters":{"a":18446744073709551616}"#), &["'a'", "64 bits"]);
    refused(&with(r#""parameters":{"a":1e999}"#), &["'a'"]);
    let many: Vec<String> = (0..257).map(|n| format!("\"p{n}\":1")).collect();
    refused(&with(&format!("\"parameters\":{{{}}}", many.join(","))), &["256 parameters"]);
}

#[test]
fn reserved_parameters_have_their_types() {
    for good in [
        r#""sequence_id":7"#,
        r#""sequence_id":"a""#,
        r#""sequence_start":true"#,
        r#""sequence_end":false"#,
        r#""priority":1"#,
        r#""headers":"mine""#,
    ] {
        let request = decode(&with(&format!("\"parameters\":{{{good}}}"))).expect(good);
        assert_eq!(request.parameters.len(), 1, "{good}");
    }
    for bad in [
        r#""sequence_id":1.5"#,
        r#""sequence_start":1"#,
        r#""sequence_end":"yes""#,
        r#""priority":-1"#,
        r#""priority":"high""#,
        r#""triton_enable_empty_final_response":true"#,
        r#""triton_mine":1"#,
    ] {
        let name = bad.split('"').nth(1).expect("a name");
        refused(&with(&format!("\"parameters\":{{{bad}}}")), &[name]);
    }
}

#[test]
fn null_stands_for_an_optional_key_left_out() {
    let request = decode(&with(r#""id":null,"parameters":null,"outputs":null"#)).unwrap();
    assert!(request.id.is_empty() && request.outputs.is_empty());
}

#[test]
fn reads_places_in_shared_memory_and_refuses_misplaced_binary_sizes() {
    let input = |parameters: &str, more: &str| {
        let body = format!(
            r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"FP32","parameters":{{{parameters}}}{more}}}]}}"#
        );
        decode(&body)
    };
    let place = r#""shared_memory_region":"r","shared_memory_byte_size":8"#;
    let regions = input(place, "").expect("it lies elsewhere").regions.expect("a region");
    let region = Region { name: "r".into(), offset: 0, byte_size: 8 };
    assert_eq!(regions.inputs, [(0, region)]);
    for (parameters, more, words) in [
        (r#""shared_memory_region":"r""#, "", &["inputs[0]", "no 'shared_memory_byte_size'"][..]),
        (r#""shared_memory_offset":1"#, "", &["inputs[0]", "no 'shared_memory_region'"]),
        (r#""shared_memory_region":1"#, "", &["'shared_memory_region'", "name"]),
        (r#""shared_memory_byte_size":-1"#, "", &["'shared_memory_byte_size'", "bytes"]),
        (place, r#","data":[1,2]"#, &["'x'", "both 'data'"]),
    ] {
        assert_error(input(parameters, more), Code::InvalidArgument, words);
    }
    let shared = with(
        r#""outputs":[{"name":"y","parameters":{"shared_memory_region":"r",
        "shared_memory_byte_size":8,"shared_memory_offset":4}}]"#,
    );
    let regions = decode(&shared).expect("it goes elsewhere").regions.expect("a region");
    let region = Region { name: "r".into(), offset: 4, byte_size: 8 };
    assert_eq!(regions.outputs, [("y".into(), region)]);
    let classes = with(
        r#""outputs":[{"name":"y","parameters":{"shared_memory_region":"r",
        "shared_memory_byte_size":8,"classification":2}}]"#,
    );
    assert_error(decode(&classes), Code::InvalidArgument, &["outputs[0]", "'classification'"]);
    refused(
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}"#,
        &["'x'", "binary_data_size", "Inference-Header-Content-Length"],
    );
}

#[test]
fn malformed_text_is_named_by_its_place() {
    refused(" ", &["byte 1", "the end of the body"]);
    refused("{", &["byte 1", "a key"]);
    refused(&format!("{} x", with(r#""id":"a""#)), &["the end of the body, got 'x'"]);
    refused(
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1 2]}]}"#,
        &["byte 63", "got '2'"],
    );
    refused(
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1,]}]}"#,
        &["byte 63", "got ']'"],
    );
    refused(
        r#"{"inputs":[{"data":[1}],"name":"x","shape":[1],"datatype":"FP32"}]}"#,
        &["malformed"],
    );
    refused(
        r#"{"inputs":[{"data":1 2,"name":"x","shape":[],"datatype":"FP32"}]}"#,
        &["malformed", "got '2'"],
    );
    assert_error(
        decode_request(&Bytes::from_static(b"{\"id\":\"\xff\"}")),
        Code::InvalidArgument,
        &["UTF-8", "byte 6"],
    );
    assert_error(
        decode_request(&Bytes::from_static(b"\xef\xbb\xbf{}")),
        Code::InvalidArgument,
        &["byte 0", "0xef"],
    );
}

#[test]
fn deep_nesting_is_refused_at_once_and_without_recursion() {
    let start = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":"#;
    let heads = [
        "",
        r#"{"a":"#,
        r#"{"inputs":"#,
        r#"{"parameters":{"a":"#,
        r#"{"inputs":[{"data":"#,
        start,
    ];
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let bomb = open.repeat(1_000_000);
        for head in heads {
            assert_error(decode(&format!("{head}{bomb}")), Code::InvalidArgument, &[]);
        }
    }
    let ok = |depth: usize| with(&format!("\"a\":{}{}", "[".repeat(depth), "]".repeat(depth)));
    assert!(decode(&ok(99)).is_ok());
    refused(&ok(100), &["deeper than 100"]);
}

#[test]
fn writes_an_answer() {
    let answer = response(
        "q\"7",
        vec![
            (tensor(Datatype::Fp32, &[1, 3], f32s(&[1.0, 0.1, f32::NAN])), false),
            (tensor(Datatype::Bytes, &[2], framed(&["a\"\\\n\u{1}ü", ""])), false),
            (tensor(Datatype::Bool, &[], vec![1]), false),
            (tensor(Datatype::Int64, &[0], vec![]), true),
        ],
    );
    let mut out = b"kept".to_vec();
    encode_response(&answer, &mut out).unwrap();
    let expected = concat!(
        r#"kept{"model_name":"m","model_version":"3","id":"q\"7","outputs":["#,
        r#"{"name":"out0","datatype":"FP32","shape":[1,3],"data":[1.0,0.1,"NaN"]},"#,
        r#"{"name":"out1","datatype":"BYTES","shape":[2],"data":["a\"\\\n\u0001ü",""]},"#,
        r#"{"name":"out2","datatype":"BOOL","shape":[],"data":[true]},"#,
        r#"{"name":"out3","datatype":"INT64","shape":[0],"data":[]}]}"#
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn writes_what_is_no_number_as_strings() {
    let values = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, -0.0];
    let short: Vec<u8> =
        values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let brain: Vec<u8> =
        values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let long: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    for (datatype, data) in [
        (Datatype::Fp16, short),
        (Datatype::Bf16, brain),
        (Datatype::Fp32, f32s(&values)),
        (Datatype::Fp64, long),
    ] {
        let mut out = Vec::new();
        let answer = response("", vec![(tensor(datatype, &[5], data), false)]);
        encode_response(&answer, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = r#""data":["Infinity","-Infinity","NaN","NaN",-0.0]}"#;
        assert!(out.contains(expected), "{out}");
    }
}

#[test]
fn leaves_out_an_empty_id_and_refuses_bytes_that_are_no_text() {
    let mut out = Vec::new();
    encode_response(&response("", vec![]), &mut out).unwrap();
    assert_eq!(out, br#"{"model_name":"m","model_version":"3","outputs":[]}"#);
    let data = framed(&[b"ok".as_slice(), b"\xff"]);
    let answer = response("", vec![(tensor(Datatype::Bytes, &[2], data), false)]);
    assert_error(
        encode_response(&answer, &mut out),
        Code::InvalidArgument,
        &["out0", "element 1", "binary"],
    );
}

/// Any JSON value, no deeper than both parsers go.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|v| if v.is_finite() { json!(v) } else { json!(0) }),
        "\\PC*".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn agrees_with_serde_json_on_what_is_json(
        value in any_json(),
        pretty in any::<bool>(),
        (changes, cut) in any_damage(),
        ascii in vec(prop::sample::select(b"[]{}\",:0-.eE\\u \n".as_slice()), 0..3),
    ) {
        let mut text = if pretty {
            serde_json::to_vec_pretty(&value).unwrap()
        } else {
            serde_json::to_vec(&value).unwrap()
        };
        let ours = |text: &[u8]| {
            let body = [br#"{"inputs":[],"a":"#.as_slice(), text, b"}"].concat();
            decode_request(&body.into())
        };
        prop_assert!(ours(&text).is_ok());
        mutate(&mut text, &changes, cut);
        let changes: Vec<_> = ascii.iter().zip(&changes).map(|(b, (at, _))| (*at, *b)).collect();
        mutate(&mut text, &changes, None);
        // serde_json calls 1e999 an error, JSON does not.
        let whole = [br#"{"inputs":[],"a":"#.as_slice(), &text, b"}"].concat();
        match serde_json::from_slice::<Value>(&whole) {
            Ok(_) => prop_assert!(ours(&text).is_ok(), "{:?}", String::from_utf8_lossy(&text)),
            Err(e) if e.to_string().contains("out of range") => {}
            Err(_) => prop_assert!(ours(&text).is_err(), "{:?}", String::from_utf8_lossy(&text)),
        }
    }

    #[test]
    fn damaged_requests_never_panic(
        tensors in vec(any_tensor(), 1..3),
        (changes, cut) in any_damage(),
    ) {
        let outputs = tensors.into_iter().filter(|t| t.datatype != Datatype::Bytes);
        let mut text = Vec::new();
        let answer = response("id", outputs.map(|t| (t, false)).collect());
        encode_response(&answer, &mut text).unwrap();
        let mut text = String::from_utf8(text).unwrap().replace("\"outputs\"", "\"inputs\"").into_bytes();
        prop_assert!(decode_request(&text.clone().into()).is_ok());
        mutate(&mut text, &changes, cut);
        if let Err(error) = decode_request(&text.into()) {
            prop_assert_eq!(error.code, Code::InvalidArgument);
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..100)) {
        let _ = decode_request(&bytes.into());
    }

    /// What we write is JSON that others read, and reading it gives the same bits (but a NaN's payload).
    #[test]
    fn tensors_round_trip(sent in any_tensor()) {
        prop_assume!(sent.datatype != Datatype::Bytes);
        let mut text = Vec::new();
        encode_response(&response("", vec![(sent.clone(), false)]), &mut text).unwrap();
        prop_assert!(serde_json::from_slice::<Value>(&text).is_ok());
        let text = String::from_utf8(text).unwrap().replace("\"outputs\"", "\"inputs\"");
        let read = decode(&text).unwrap();
        prop_assert_eq!(&read.inputs[0].dims, &sent.dims);
        let size = sent.datatype.size().unwrap();
        for (ours, theirs) in read.inputs[0].data.chunks(size).zip(sent.data.chunks(size)) {
            prop_assert!(ours == theirs || is_nan(sent.datatype, theirs), "{ours:?} {theirs:?} {text}");
        }
    }

    #[test]
    fn strings_round_trip(elements in vec(any::<String>(), 0..5)) {
        let sent = tensor(Datatype::Bytes, &[elements.len() as i64], framed(&elements));
        let mut text = Vec::new();
        encode_response(&response("", vec![(sent.clone(), false)]), &mut text).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(&value["outputs"][0]["data"], &json!(elements));
        let text = String::from_utf8(text).unwrap().replace("\"outputs\":[{", "\"inputs\":[{");
        prop_assert_eq!(&decode(&text).unwrap().inputs[0].data, &sent.data);
    }
}

fn is_nan(datatype: Datatype, bytes: &[u8]) -> bool {
    match datatype {
        Datatype::Fp16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        Datatype::Bf16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        Datatype::Fp32 => f32::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        Datatype::Fp64 => f64::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        _ => false,
    }
}
