//! Tests of the stream's messages against prost.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::{
    proto::{Choice, InferParameter, ModelInferRequest, ModelInferResponse},
    sample::{any_tensor, response},
};
use crate::{
    types::error::Error,
    wire::{
        grpc,
        stream::{asked, encode_error, encode_response},
    },
};

#[derive(Clone, PartialEq, Message)]
struct StreamResponse {
    #[prost(string, tag = "1")]
    error_message: String,
    #[prost(message, optional, tag = "2")]
    infer_response: Option<ModelInferResponse>,
}

fn read(chunks: &[Bytes]) -> StreamResponse {
    let bytes = chunks.concat();
    assert_eq!(bytes[0], 0);
    assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
    StreamResponse::decode(&bytes[5..]).unwrap()
}

fn is_final() -> HashMap<String, InferParameter> {
    [("triton_final_response".to_owned(), Choice::Bool(true).into())].into()
}

proptest! {
    #[test]
    fn answers_are_those_of_a_unary_call_in_an_envelope(
        tensors in vec(any_tensor(), 0..4),
        id in ".*",
        route in option::of("[a-z]{1,12};version=[0-9]{1,20}"),
    ) {
        let mut answer = response(&id, tensors.iter().map(|t| (t.clone(), true)).collect());
        answer.route = route.as_deref().map(Into::into);
        let unary = grpc::encode_response(&answer, &mut BytesMut::new()).unwrap().concat();
        let mut unary = ModelInferResponse::decode(&unary[5..]).unwrap();
        unary.parameters = is_final();
        // In a unary call's metadata; a stream has one of those for all of its answers.
        let route = route.map(|route| ("x-onnxd-route".to_owned(), Choice::String(route).into()));
        unary.parameters.extend(route);
        let streamed = read(&encode_response(&answer, &mut BytesMut::new()).unwrap());
        prop_assert_eq!(streamed.error_message, "");
        prop_assert_eq!(streamed.infer_response, Some(unary));
    }

    #[test]
    fn an_error_says_which_request_it_is_about(
        model in ".*", version in "[0-9]*", id in ".*", message in ".+", tail in vec(any::<u8>(), 0..20),
    ) {
        let sent = ModelInferRequest {
            model_name: model.clone(),
            model_version: version.clone(),
            id: id.clone(),
            parameters: [("p".to_owned(), Choice::Int64(1).into())].into(),
            ..Default::default()
        };
        // Whatever is wrong behind them, what comes first is read; none of it may panic.
        let broken = Bytes::from([sent.encode_to_vec(), vec![0x2a, 0xff, 0x7f], tail].concat());
        let asked = asked(&broken);
        prop_assert_eq!((&*asked.model, &*asked.version, &*asked.id), (&*model, &*version, &*id));
        let answer = read(&encode_error(&Error::invalid(message.clone()), &asked).unwrap());
        prop_assert_eq!(answer.error_message, message);
        let about = answer.infer_response.unwrap();
        prop_assert_eq!((about.model_name, about.model_version, about.id), (model, version, id));
        prop_assert_eq!(about.parameters, is_final());
    }
}
