//! An answer's bytes to its tensors, in each form of the protocol.

use prost::Message;
use serde_json::Value;

use super::{
    json,
    tensor::{Datatype, Tensor, push_bytes},
};
use crate::{
    plan::Protocol,
    proto::{Contents, ModelInferResponse},
};

/// The outputs of an answer. `header_length`: of its JSON head, where tensors stand behind it.
///
/// # Errors
/// In words: what came is no answer of the protocol.
pub fn outputs(
    protocol: Protocol,
    body: &[u8],
    header_length: Option<usize>,
) -> Result<Vec<Tensor>, String> {
    match protocol {
        Protocol::Grpc => grpc(body),
        Protocol::Json | Protocol::Binary => http(body, header_length),
    }
}

fn grpc(body: &[u8]) -> Result<Vec<Tensor>, String> {
    let read = ModelInferResponse::decode(body);
    let read = read.map_err(|e| format!("the answer is no ModelInferResponse: {e}"))?;
    let mut raws = read.raw_output_contents.into_iter();
    let outputs = read.outputs.into_iter().map(|output| {
        let datatype = Datatype::parse(&output.datatype)?;
        let axis = |axis: &i64| u64::try_from(*axis).map_err(|_| "a negative axis".to_owned());
        let shape = output.shape.iter().map(axis).collect::<Result<_, _>>()?;
        let raw = match output.contents {
            Some(contents) => typed(datatype, contents)?,
            None => {
                raws.next().ok_or_else(|| format!("output '{}' has no contents", output.name))?
            }
        };
        Ok(Tensor { name: output.name, datatype, shape, raw })
    });
    outputs.collect()
}

fn typed(datatype: Datatype, contents: Contents) -> Result<Vec<u8>, String> {
    let mut raw = Vec::new();
    contents.bools.iter().for_each(|value| raw.push(u8::from(*value)));
    contents.ints.iter().for_each(|value| datatype.push_whole((*value).into(), &mut raw));
    contents.int64s.iter().for_each(|value| datatype.push_whole((*value).into(), &mut raw));
    contents.uints.iter().for_each(|value| datatype.push_whole((*value).into(), &mut raw));
    contents.uint64s.iter().for_each(|value| datatype.push_whole((*value).into(), &mut raw));
    contents.fp32s.iter().for_each(|value| datatype.push_float((*value).into(), &mut raw));
    contents.fp64s.iter().for_each(|value| datatype.push_float(*value, &mut raw));
    contents.texts.iter().try_for_each(|value| push_bytes(value, &mut raw))?;
    Ok(raw)
}

fn http(body: &[u8], header_length: Option<usize>) -> Result<Vec<Tensor>, String> {
    let length = header_length.unwrap_or(body.len());
    let (head, mut rest) =
        body.split_at_checked(length).ok_or("the answer is shorter than its JSON head")?;
    // Python's writers leave NaN and Infinity bare.
    let value: Value =
        serde_json::from_slice(head).map_err(|e| format!("the answer is no JSON: {e}"))?;
    let outputs = value["outputs"].as_array().ok_or("the answer has no outputs")?;
    let read = outputs.iter().map(|output| {
        let text = |key: &str| {
            output[key].as_str().ok_or_else(|| format!("an output of the answer has no {key}"))
        };
        let (name, datatype) = (text("name")?, Datatype::parse(text("datatype")?)?);
        let shape = output["shape"].as_array().ok_or("an output of the answer has no shape")?;
        let shape: Option<Vec<u64>> = shape.iter().map(Value::as_u64).collect();
        let shape = shape.ok_or("an axis of an output is no number")?;
        match output["parameters"]["binary_data_size"].as_u64() {
            None => json::tensor(name, datatype, Some(&shape), &output["data"]),
            Some(size) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let (raw, after) =
                    rest.split_at_checked(size).ok_or("the answer's tensors are cut off")?;
                rest = after;
                Ok(Tensor { name: name.to_owned(), datatype, shape, raw: raw.to_vec() })
            }
        }
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::InferTensor;

    #[test]
    fn every_form_gives_the_same() {
        let expected = vec![Tensor {
            name: "y".to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![1, 2],
            raw: [1f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
        }];
        let json = br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1,-2]}]}"#;
        assert_eq!(outputs(Protocol::Json, json, None).unwrap(), expected);
        let head = br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}"#;
        let binary = [&head[..], &expected[0].raw].concat();
        assert_eq!(outputs(Protocol::Binary, &binary, Some(head.len())).unwrap(), expected);
        let tensor = InferTensor {
            name: "y".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 2],
            contents: None,
        };
        let mut message = ModelInferResponse { outputs: vec![tensor], ..Default::default() };
        message.raw_output_contents = vec![expected[0].raw.clone()];
        assert_eq!(outputs(Protocol::Grpc, &message.encode_to_vec(), None).unwrap(), expected);
        message.raw_output_contents.clear();
        let contents = Contents { fp32s: vec![1.0, -2.0], ..Default::default() };
        message.outputs[0].contents = Some(contents);
        assert_eq!(outputs(Protocol::Grpc, &message.encode_to_vec(), None).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..99), length in 0usize..120) {
            for protocol in [Protocol::Grpc, Protocol::Json] {
                let _ = outputs(protocol, &bytes, Some(length));
            }
        }
    }
}
