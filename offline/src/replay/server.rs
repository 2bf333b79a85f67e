//! A version that a running server has, asked over HTTP.

use std::time::Duration;

use onnxd::predlog::layout::encode;
use serde_json::{Value as Json, json};

use super::{InputSpec, Output, Target, element, http::Client};

/// A server's version.
pub struct Server {
    client: Client,
    path: String,
    inputs: Vec<InputSpec>,
    model: String,
    version: Option<String>,
}

impl Server {
    /// Asks the server what the version takes.
    pub fn connect(
        url: &str,
        model: &str,
        version: Option<u64>,
        timeout: Duration,
    ) -> Result<Server, String> {
        let mut client = Client::new(url, timeout)?;
        let mut path = format!("/v2/models/{}", encode(model));
        if let Some(version) = version {
            path += &format!("/versions/{version}");
        }
        let about = said(client.ask("GET", &path, b"")?)?;
        let inputs = about["inputs"].as_array().map_or(&[][..], Vec::as_slice);
        let inputs: Option<Vec<InputSpec>> = inputs.iter().map(spec).collect();
        Ok(Server {
            inputs: inputs
                .ok_or_else(|| format!("{url}: its metadata of {model} cannot be read"))?,
            client,
            path: path + "/infer",
            model: model.to_owned(),
            version: version.map(|version| version.to_string()),
        })
    }
}

fn spec(input: &Json) -> Option<InputSpec> {
    Some(InputSpec {
        name: input["name"].as_str()?.to_owned(),
        datatype: input["datatype"].as_str()?.to_owned(),
        dims: input["shape"].as_array()?.iter().map(Json::as_i64).collect::<Option<_>>()?,
    })
}

/// A good answer's JSON; the error's text of another.
fn said((status, body): (u16, Vec<u8>)) -> Result<Json, String> {
    let json: Json =
        serde_json::from_slice(&body).map_err(|_| format!("it answers {status} and no JSON"))?;
    match status {
        200 => Ok(json),
        _ => Err(format!("{} ({status})", json["error"].as_str().unwrap_or("no reason is given"))),
    }
}

impl Target for Server {
    fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    fn describe(&self) -> Json {
        json!({"model": self.model, "version": self.version, "where": format!("http://{}", self.client.address())})
    }

    fn ask(&mut self, body: &Json) -> Result<Vec<Output>, String> {
        // It was asked before: where the server logs, its row says so.
        let mut body = body.clone();
        body["parameters"] = json!({"replay": true});
        let text = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        let answer = said(self.client.ask("POST", &self.path, &text)?)?;
        let outputs = answer["outputs"].as_array().map_or(&[][..], Vec::as_slice);
        let read = |output: &Json| -> Option<Output> {
            let datatype = output["datatype"].as_str()?;
            Some(Output {
                name: output["name"].as_str()?.to_owned(),
                dims: output["shape"]
                    .as_array()?
                    .iter()
                    .map(Json::as_i64)
                    .collect::<Option<_>>()?,
                values: output["data"].as_array()?.iter().map(|v| element(datatype, v)).collect(),
            })
        };
        let outputs: Option<Vec<Output>> = outputs.iter().map(read).collect();
        outputs.ok_or_else(|| "an answer that is none of the protocol's".to_owned())
    }
}
