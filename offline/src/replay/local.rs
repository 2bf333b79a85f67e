//! A version opened in this process: no server, no network.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use onnxd::{
    app,
    cli::settings::Settings,
    repository::{
        entry::entries,
        job::Job,
        loader::{self, Opened},
        measured::Measurements,
        options::{Load, ModelOptions},
        store::Repository,
    },
    types::{
        datatype::Datatype,
        model::{Dim, TensorSpec},
        request::InputTensor,
        tensor::{Tensor, TensorView},
    },
    wire::json::decode_request,
};
use serde_json::{Value as Json, json};

use super::{InputSpec, Output, Target, elements};

/// An opened version.
pub struct Local {
    opened: Opened,
    inputs: Vec<InputSpec>,
    model: String,
    version: u64,
    place: PathBuf,
}

impl Local {
    /// Opens `version` of `model`, the newest where none is named.
    pub fn open(settings: &Settings, model: &str, version: Option<u64>) -> Result<Local, String> {
        let config = settings.load().map_err(|failure| failure.message)?.config;
        let mut options = config.repository();
        options.load = Load::Names(vec![model.to_owned()]);
        let repository = Arc::new(Repository::scan(&options.models)?);
        let mut entries = entries(&repository, &options)?;
        let entry = entries.remove(model).ok_or_else(|| format!("there is no model {model}"))?;
        let found = &repository.models[model];
        let number = version.or_else(|| found.versions.keys().next_back().copied());
        let (number, file) = number
            .and_then(|number| Some((number, found.versions.get(&number)?.clone())))
            .ok_or_else(|| {
                let known: Vec<String> = found.versions.keys().map(u64::to_string).collect();
                let asked = version.map(|v| format!(" {v}")).unwrap_or_default();
                format!("model {model} has no version{asked}; it has {}", known.join(", "))
            })?;
        let job = Job {
            model: entry.name.clone(),
            number,
            repository: repository.clone(),
            file,
            bytes: 0,
            // Nothing is measured, since nothing is served.
            options: Arc::new(ModelOptions { warmup: false, ..(*entry.options).clone() }),
            reopens: None,
            wide: false,
            unless: None,
            predecessor: None,
            ticket: Arc::default(),
        };
        let (backends, measurements) = (app::backends(&config)?, Measurements::new(None));
        let opened = loader::guarded(|| loader::open(&backends, &measurements, 1, &job))?
            .ok_or_else(|| format!("{}: it could not be opened", job.file))?;
        let inputs = opened.signature.inputs.iter().map(spec).collect();
        Ok(Local {
            opened,
            inputs,
            model: model.to_owned(),
            version: number,
            place: options.models,
        })
    }
}

fn spec(spec: &TensorSpec) -> InputSpec {
    let dims = spec.dims.as_deref().unwrap_or_default().iter().map(Dim::protocol).collect();
    InputSpec { name: spec.name.to_string(), datatype: spec.datatype.name().to_owned(), dims }
}

impl Target for Local {
    fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    fn describe(&self) -> Json {
        json!({
            "model": self.model,
            "version": self.version.to_string(),
            "digest": self.opened.sha256,
            "where": format!("in process, from {}", self.place.display()),
            "runtime": self.opened.backend.describe(),
        })
    }

    fn ask(&mut self, body: &Json) -> Result<Vec<Output>, String> {
        let text = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let request = decode_request(&Bytes::from(text)).map_err(|error| error.to_string())?;
        let aligned: Vec<Option<Aligned>> = self
            .opened
            .signature
            .inputs
            .iter()
            .map(|spec| {
                request.inputs.iter().find(|input| *input.name == *spec.name).map(Aligned::of)
            })
            .collect();
        let views: Vec<Option<TensorView<'_>>> =
            aligned.iter().map(|input| input.as_ref().map(Aligned::view)).collect();
        let outputs = self.opened.session.run(&views, None).map_err(|error| error.to_string())?;
        let specs = &self.opened.signature.outputs;
        specs.iter().zip(&outputs).map(|(spec, tensor)| output(&spec.name, tensor)).collect()
    }
}

/// An input's bytes where a runtime may read numbers.
struct Aligned {
    datatype: Datatype,
    dims: Vec<i64>,
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    fn of(input: &InputTensor) -> Aligned {
        let words = input.data.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        Aligned {
            datatype: input.datatype,
            dims: input.dims.to_vec(),
            words: words.collect(),
            len: input.data.len(),
        }
    }

    fn view(&self) -> TensorView<'_> {
        // SAFETY: the words are initialised, of at least `len` bytes, and any of their bytes may be read as one.
        let data =
            unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast::<u8>(), self.len) };
        TensorView { datatype: self.datatype, dims: &self.dims, data }
    }
}

fn output(name: &str, tensor: &Tensor) -> Result<Output, String> {
    let values = elements::values(tensor.datatype, &tensor.data)
        .ok_or_else(|| format!("output {name} is malformed"))?;
    Ok(Output { name: name.to_owned(), dims: tensor.dims.to_vec(), values })
}
