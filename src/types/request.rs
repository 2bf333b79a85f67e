//! An inference request and its answer, as both protocols read and write them.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    datatype::Datatype,
    model::Signature,
    tensor::{Dims, Tensor},
    text::Text,
};

/// A value of the protocol's `parameters`.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    Bool(bool),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    String(Text),
}

/// Headers that decide a request's route or go into its row of the prediction log, by name; nearly always none.
pub type RouteHeads = Option<Box<[(Arc<str>, Text)]>>;

/// A request as decoded: well formed, but not yet held against any model's signature.
#[derive(Clone, Debug, Default)]
pub struct InferRequest {
    pub model: Text,
    /// Empty: whatever version is current.
    pub version: Text,
    /// Echoed in the answer; empty where the client gave none.
    pub id: Text,
    /// All parameters of the request, those that we act on among them.
    pub parameters: Vec<(Text, Parameter)>,
    pub inputs: SmallVec<[InputTensor; 2]>,
    /// Empty: every output.
    pub outputs: SmallVec<[RequestedOutput; 2]>,
    /// HTTP's `binary_data_output`: the default for outputs that do not say.
    pub binary_output: bool,
    /// Tensors that lie in shared memory, or are to go there; their inputs have no data here.
    pub regions: Option<Box<Regions>>,
    /// Headers of the request that traffic rules and the prediction log look at.
    pub heads: RouteHeads,
    /// HTTP's raw binary request (`Inference-Header-Content-Length: 0`): `inputs` holds one tensor without name,
    /// datatype or shape, which the signature decides.
    pub raw_binary: bool,
    /// What it came by, as the prediction log calls it; empty: `http`.
    pub protocol: &'static str,
    /// Which way traffic rules sent it; `None`: there are none.
    pub sent: Option<Arc<Sent>>,
}

/// Which way a request was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The way's name, perhaps with `;` and more behind it, as the answer's header has it.
    pub said: Arc<str>,
    /// The rollout that was under way, and which of its steps was in effect.
    pub rollout: Option<Rollout>,
}

/// A rollout, by the generation of the traffic rules with which it began, and the generation in effect.
pub type Rollout = (Arc<str>, i32);

impl InferRequest {
    /// The value of a header that was kept for whoever looks at it.
    pub fn head(&self, name: &str) -> Option<&str> {
        let heads = self.heads.as_ref()?;
        heads.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.as_str())
    }
}

/// A part of a region of shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The region's, as it was registered.
    pub name: Text,
    /// Bytes from the region's beginning.
    pub offset: u64,
    pub byte_size: u64,
}

/// Where tensors of a request lie that are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// By place in the request's `inputs`.
    pub inputs: Vec<(usize, Region)>,
    /// By the output's name.
    pub outputs: Vec<(Text, Region)>,
}

/// One input as sent.
#[derive(Clone, Debug)]
pub struct InputTensor {
    pub name: Text,
    pub datatype: Datatype,
    /// As sent: may hold a negative dimension until the engine has checked it.
    pub dims: Dims,
    /// Little-endian, row-major, of any alignment; see `Datatype` for BOOL and BYTES. Its length is checked against
    /// `dims` by the decoder.
    pub data: Bytes,
}

/// One entry of the request's `outputs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestedOutput {
    pub name: Text,
    /// HTTP's `binary_data` for this output.
    pub binary: Option<bool>,
    /// Triton's classification extension: the best k; 0 when not asked for.
    pub classification: u32,
}

/// The answer to one request.
#[derive(Clone, Debug)]
pub struct InferResponse {
    pub model: Arc<str>,
    /// The version that served.
    pub version: Arc<str>,
    pub id: Text,
    pub outputs: SmallVec<[OutputTensor; 2]>,
    /// Outputs that went into shared memory, by their place in `outputs`; they have no data here.
    pub regions: Option<Box<Vec<(usize, Region)>>>,
    /// The way that the request took, where the model has traffic rules, as in `canary;version=4`.
    pub route: Option<Arc<str>>,
    /// Where outputs get their names: `OutputTensor::index` points into `signature.outputs`.
    pub signature: Arc<Signature>,
}

/// One output of an answer.
#[derive(Clone, Debug)]
pub struct OutputTensor {
    /// Which of the signature's outputs.
    pub index: usize,
    /// HTTP: as binary data (gRPC always answers raw).
    pub binary: bool,
    pub tensor: Tensor,
}

impl InferResponse {
    /// Where output `index` went, if it is in shared memory.
    pub fn region(&self, index: usize) -> Option<&Region> {
        let regions = self.regions.as_ref()?;
        regions.iter().find(|(at, _)| *at == index).map(|(_, region)| region)
    }

    pub fn output_name(&self, output: &OutputTensor) -> &str {
        &self.signature.outputs[output.index].name
    }
}
