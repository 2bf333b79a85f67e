//! Tensors that stand in JSON: flat with a shape, or nested lists that are their own shape.

use serde_json::Value;

use super::tensor::{Datatype, Tensor, elements};

/// Lists within lists, at most.
const DEEPEST: usize = 32;

/// A tensor of nested lists (or one value, or a flat list with a shape beside it).
///
/// # Errors
/// In words: ragged lists, elements that are none of the datatype, another number of elements than the shape has.
pub fn tensor(
    name: &str,
    datatype: Datatype,
    shape: Option<&[u64]>,
    data: &Value,
) -> Result<Tensor, String> {
    let wrong = |why: String| format!("'{name}': {why}");
    let mut nested = Vec::new();
    let mut at = data;
    while let Value::Array(items) = at {
        if nested.len() == DEEPEST {
            return Err(wrong(format!("lists are nested deeper than {DEEPEST}")));
        }
        nested.push(items.len() as u64);
        match items.first() {
            Some(first) => at = first,
            None => break,
        }
    }
    let mut raw = Vec::new();
    let mut count = 0;
    fill(datatype, data, &nested, &mut raw, &mut count).map_err(wrong)?;
    let shape = match shape {
        None => nested,
        Some(shape) => {
            let expected = elements(shape).map_err(wrong)?;
            if expected != count {
                return Err(wrong(format!(
                    "the shape {shape:?} has {expected} elements, the data {count}"
                )));
            }
            shape.to_vec()
        }
    };
    Ok(Tensor { name: name.to_owned(), datatype, shape, raw })
}

fn fill(
    datatype: Datatype,
    data: &Value,
    shape: &[u64],
    raw: &mut Vec<u8>,
    count: &mut usize,
) -> Result<(), String> {
    match (data, shape.split_first()) {
        (Value::Array(items), Some((length, rest))) => {
            if items.len() as u64 != *length {
                return Err(format!("lists of {} and of {length} stand side by side", items.len()));
            }
            items.iter().try_for_each(|item| fill(datatype, item, rest, raw, count))
        }
        (Value::Array(_), None) => Err("a list stands where a value was expected".to_owned()),
        (_, Some(_)) => Err("a value stands where a list was expected".to_owned()),
        (value, None) => {
            *count += 1;
            datatype.push_json(value, raw)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_their_own_shape() {
        let read = |data, shape: Option<&[u64]>| tensor("x", Datatype::Int8, shape, &data);
        let nested = read(json!([[1, 2], [3, 4], [5, 6]]), None).unwrap();
        assert_eq!((nested.shape, nested.raw), (vec![3, 2], vec![1, 2, 3, 4, 5, 6]));
        let flat = read(json!([1, 2, 3, 4]), Some(&[2, 2])).unwrap();
        assert_eq!(flat.shape, [2, 2]);
        assert_eq!(read(json!(7), None).unwrap().shape, [0; 0]);
        assert_eq!(read(json!([[], []]), None).unwrap().shape, [2, 0]);
        for (data, shape, why) in [
            (json!([[1], [2, 3]]), None, "side by side"),
            (json!([1, [2]]), None, "a value was expected"),
            (json!([[1], 2]), None, "a list was expected"),
            (json!([1, 2]), Some(&[3u64][..]), "3 elements, the data 2"),
            (json!([300]), None, "300 is no INT8"),
        ] {
            let error = read(data, shape).unwrap_err();
            assert!(error.starts_with("'x': ") && error.contains(why), "{error}");
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert!(read(deep, None).unwrap_err().contains("deeper"));
    }

    proptest! {
        #[test]
        fn whole_rows_come_back(rows in proptest::collection::vec(any::<[i16; 3]>(), 1..9)) {
            let read = tensor("x", Datatype::Int16, None, &json!(rows)).unwrap();
            prop_assert_eq!(&read.shape, &vec![rows.len() as u64, 3]);
            prop_assert_eq!(read.json().unwrap(), rows.concat().into_iter().map(|v| json!(v)).collect::<Vec<_>>());
        }
    }
}
