//! Tests of an input's `data`: datatypes, ranges, nesting, counts.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::sample::{assert_error, f32s, framed};
use crate::{
    types::error::{Code, Error},
    wire::json::decode_request,
};

fn decode(datatype: &str, shape: &str, data: &str) -> Result<Bytes, Error> {
    let body = format!(
        r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
    );
    let late = format!(
        r#"{{"inputs":[{{"data":{data},"name":"x","shape":{shape},"datatype":"{datatype}"}}]}}"#
    );
    let read = |body: String| Ok(decode_request(&body.into_bytes().into())?.inputs[0].data.clone());
    let (now, late): (Result<Bytes, Error>, Result<Bytes, Error>) = (read(body), read(late));
    // The order of keys decides nothing, but where an error in the text is.
    match (&now, &late) {
        (Err(a), Err(b)) if a.message.contains("byte") => assert_eq!(a.code, b.code),
        _ => assert_eq!(now, late),
    }
    now
}

#[track_caller]
fn refused(datatype: &str, shape: &str, data: &str, words: &[&str]) {
    assert_error(decode(datatype, shape, data), Code::InvalidArgument, words);
}

#[test]
fn reads_the_bounds_of_every_integer() {
    macro_rules! bounds {
        ($name:literal, $t:ty) => {{
            let (low, high) = (<$t>::MIN, <$t>::MAX);
            let expected = [low.to_le_bytes(), high.to_le_bytes()].concat();
            assert_eq!(decode($name, "[2]", &format!("[{low}, {high}]")).unwrap(), expected);
            let above = (high as i128 + 1).to_string();
            refused($name, "[2]", &format!("[0,{above}]"), &["'x'", "element 1", &above, $name]);
            let below = (low as i128 - 1).to_string();
            refused($name, "[1]", &format!("[{below}]"), &["'x'", "element 0", &below, $name]);
        }};
    }
    bounds!("INT8", i8);
    bounds!("INT16", i16);
    bounds!("INT32", i32);
    bounds!("INT64", i64);
    bounds!("UINT8", u8);
    bounds!("UINT16", u16);
    bounds!("UINT32", u32);
    bounds!("UINT64", u64);
    assert_eq!(decode("UINT8", "[1]", "[-0]").unwrap(), [0u8].as_slice());
}

#[test]
fn refuses_what_is_no_integer() {
    for bad in
        ["1.0", "1e2", "1.5", "\"7\"", "true", "null", "NaN", "{}", "99999999999999999999999"]
    {
        for datatype in ["INT32", "UINT64", "INT64"] {
            refused(datatype, "[1]", &format!("[{bad}]"), &["'x'", "element 0", datatype]);
        }
    }
}

#[test]
fn reads_booleans() {
    assert_eq!(decode("BOOL", "[4]", "[true, false,1,0]").unwrap(), [1u8, 0, 1, 0].as_slice());
    for bad in ["2", "-1", "\"true\"", "1.0", "null", "truex", "TRUE"] {
        assert!(decode("BOOL", "[1]", &format!("[{bad}]")).is_err(), "{bad}");
    }
}

#[test]
fn reads_floats_and_what_is_no_number() {
    let text = r#"[1, -0, 2.5e-3, "NaN", "Infinity", "-Infinity", NaN, Infinity, -Infinity]"#;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let expected = [1.0, -0.0, 2.5e-3, nan, inf, -inf, nan, inf, -inf];
    assert_eq!(decode("FP32", "[9]", text).unwrap(), f32s(&expected));
    let expected: Vec<u8> = expected
        .iter()
        .flat_map(|v| if *v == 2.5e-3 { 2.5e-3 } else { f64::from(*v) }.to_le_bytes())
        .collect();
    assert_eq!(decode("FP64", "[9]", text).unwrap(), expected);
    let expected = [0x3c00u16, 0x8000, 0x191f, 0x7e00, 0x7c00, 0xfc00, 0x7e00, 0x7c00, 0xfc00];
    let expected: Vec<u8> = expected.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(decode("FP16", "[9]", text).unwrap(), expected);
    for bad in [
        "\"nan\"", "\"inf\"", "\"1\"", "Inf", "+1", ".5", "1.", "01", "-", "1e", "true", "null",
        "\"NaN", "--1",
    ] {
        assert!(decode("FP32", "[1]", &format!("[{bad}]")).is_err(), "{bad}");
    }
}

#[test]
fn refuses_floats_that_overflow() {
    let cases = [
        ("FP16", "65520"),
        ("FP16", "-65520.0"),
        ("BF16", "3.3961775292304603e38"),
        ("FP32", "1e39"),
        ("FP32", "3.4028235677973367e38"),
        ("FP32", "-1e400"),
        ("FP64", "1e309"),
        ("FP64", "-1.7976931348623159e308"),
    ];
    for (datatype, value) in cases {
        refused(datatype, "[2]", &format!("[0,{value}]"), &["'x'", "element 1", value, datatype]);
    }
    for (datatype, value, bits) in [
        ("FP16", "65519.999", vec![0xff, 0x7b]),
        ("BF16", "3.3895313892515355e38", vec![0x7f, 0x7f]),
        ("FP32", "3.4028235677973366e38", f32::MAX.to_le_bytes().to_vec()),
        ("FP64", "1.7976931348623157e308", f64::MAX.to_le_bytes().to_vec()),
        ("FP32", "1e-400", vec![0; 4]),
    ] {
        assert_eq!(decode(datatype, "[1]", &format!("[{value}]")).unwrap(), bits, "{value}");
    }
}

#[test]
fn reads_strings() {
    let text = r#"["", "a\"\\\/\b\f\n\r\t", "\u00e9\u20ac\ud83d\ude00", "plain é€😀 long enough to be scanned by eights"]"#;
    let expected = framed(&[
        "",
        "a\"\\/\u{8}\u{c}\n\r\t",
        "é€😀",
        "plain é€😀 long enough to be scanned by eights",
    ]);
    assert_eq!(decode("BYTES", "[2,2]", text).unwrap(), expected);
    for bad in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\u0041""#,
        r#""\ud800x""#,
        r#""\udc00\udc00""#,
        r#""\udbff\ue000""#,
        r#""\u12""#,
        r#""\u+123""#,
        r#""\q""#,
        "\"\n\"",
        "\"open",
        "\"\\\"",
    ] {
        assert!(decode("BYTES", "[1]", &format!("[{bad}]")).is_err(), "{bad}");
    }
    for bad in ["5", "null", "true", "{}"] {
        refused("BYTES", "[2]", &format!("[\"a\",{bad}]"), &["'x'", "element 1", "a string"]);
    }
    let body =
        b"{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"\xff\"]}]}";
    assert_error(decode_request(&Bytes::from_static(body)), Code::InvalidArgument, &["UTF-8"]);
}

#[test]
fn nesting_is_the_shapes_or_flat() {
    let flat: Vec<u8> = (1..=6).collect();
    for (shape, data) in [
        ("[2,3]", "[1,2,3,4,5,6]"),
        ("[2,3]", "[[1,2,3],[4,5,6]]"),
        ("[1,2,3]", "[ [ [1,2,3] , [4,5,6] ] ]"),
        ("[3,2,1]", "[[[1],[2]],[[3],[4]],[[5],[6]]]"),
        ("[3,1,2]", "[1,2,3,4,5,6]"),
    ] {
        assert_eq!(decode("UINT8", shape, data).unwrap(), flat, "{shape} {data}");
    }
    for (shape, data, word) in [
        ("[2,3]", "[[1,2],[3,4,5,6]]", "an array at depth 2 has 2 entries, expected 3"),
        ("[2,3]", "[[1,2,3,4],[5,6]]", "an array at depth 2 has 4 entries, expected 3"),
        ("[2,3]", "[[1,2,3]]", "an array at depth 1 has 1 entries, expected 2"),
        ("[2,3]", "[[1,2,3],[4,5,6],[]]", "an array at depth 2 has 0 entries, expected 3"),
        ("[2,3]", "[[1,2,3],[4,5,6,7]]", "6 elements, got 7"),
        ("[2,3]", "[[1,2,3],4,5,6]", "depth 1"),
        ("[2,3]", "[1,[2,3,4,5,6]]", "nested deeper"),
        ("[2,3]", "[[[1,2,3],[4,5,6]]]", "nested deeper"),
        ("[1,2,3]", "[[1,2,3,4,5,6]]", "depth 2"),
        ("[6]", "[[1,2,3,4,5,6]]", "nested deeper"),
        ("[]", "[[1]]", "nested deeper"),
        ("[2,3]", "[1,2,3,4,5]", "takes 6 elements, got 5"),
        ("[2,3]", "[1,2,3,4,5,6,7,8]", "takes 6 elements, got 8"),
        ("[2,3]", "[]", "takes 6 elements, got 0"),
        ("[2,3]", "5", "an array, got a number"),
        ("[-1]", "[1]", "negative"),
        ("[4611686018427387904,4]", "[1]", "more elements"),
        ("[1000000000000]", "[1,2]", "takes 1000000000000 elements, got 2"),
    ] {
        refused("UINT8", shape, data, &["'x'", word]);
    }
    refused("BYTES", "[1000000000000]", "[\"a\"]", &["takes 1000000000000 elements, got 1"]);
    refused("BYTES", "[1]", "[\"a\",\"b\"]", &["takes 1 elements, got 2"]);
}

#[test]
fn scalars_and_empty_tensors() {
    assert_eq!(decode("UINT8", "[]", "[7]").unwrap(), [7u8].as_slice());
    assert_eq!(decode("UINT8", "[]", "7").unwrap(), [7u8].as_slice());
    assert_eq!(decode("BYTES", "[]", "\"a\"").unwrap(), framed(&["a"]));
    refused("UINT8", "[]", "300", &["element 0", "300"]);
    for (shape, data) in [
        ("[0]", "[]"),
        ("[2,0]", "[[],[]]"),
        ("[2,0]", "[]"),
        ("[0,3]", "[ ]"),
        ("[2,0,3]", "[[],[]]"),
        ("[2,1,0]", "[[[]],[[]]]"),
    ] {
        assert!(decode("FP32", shape, data).unwrap().is_empty(), "{shape} {data}");
        assert!(decode("BYTES", shape, data).unwrap().is_empty(), "{shape} {data}");
    }
    refused("FP32", "[2,0]", "[[]]", &["depth 1 has 1 entries, expected 2"]);
    refused("FP32", "[0]", "[1]", &["takes 0 elements, got 1"]);
}

#[test]
fn unknown_datatypes_are_named() {
    refused("STRING", "[1]", "[1]", &["'x'", "'STRING'", "BYTES"]);
}

proptest! {
    /// Nested or flat, with any whitespace, the same bytes.
    #[test]
    fn nested_and_flat_are_the_same(
        rows in 1usize..5,
        columns in 1usize..5,
        values in vec(any::<i32>(), 16),
        space in "[ \n\t\r]{0,2}",
    ) {
        let values = &values[..rows * columns.min(16 / rows)];
        let columns = columns.min(16 / rows);
        let shape = format!("[{rows},{columns}]");
        let join = |all: &[i32]| {
            let texts: Vec<String> = all.iter().map(i32::to_string).collect();
            format!("[{space}{}{space}]", texts.join(&format!("{space},{space}")))
        };
        let nested: Vec<String> = values.chunks(columns).map(join).collect();
        let nested = format!("[{space}{}{space}]", nested.join(&format!("{space},{space}")));
        let expected: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        prop_assert_eq!(&decode("INT32", &shape, &join(values)).unwrap(), &expected);
        prop_assert_eq!(&decode("INT32", &shape, &nested).unwrap(), &expected);
    }
}
