//! Calls that change which versions serve, as both protocols and the operator bring them.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::state::Api;
use crate::{
    repository::{
        calls::{Command, Target},
        store::check_name,
    },
    types::error::{Code, Error},
};

/// What a call does to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Load,
    Unload,
}

impl Verb {
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Load => "load",
            Verb::Unload => "unload",
        }
    }

    pub fn command(self, targets: Vec<Target>) -> Command {
        match self {
            Verb::Load => Command::Load(targets),
            Verb::Unload => Command::Unload(targets),
        }
    }
}

impl Api {
    /// Whether a call about this model may go on, by what is known before anything else of it is read: first the name,
    /// then whether this port carries such calls.
    ///
    /// # Errors
    /// `InvalidArgument` for what can be no name; where the port does not carry such calls, `NotFound` for a model that is
    /// not there, else `PermissionDenied`.
    pub fn may_control(&self, model: &str) -> Result<(), Error> {
        check_name(model).map_err(Error::invalid)?;
        if self.control {
            // Whether it is in the repository, which may have changed, is found out by looking.
            return Ok(());
        }
        self.table.load().model(model)?;
        Err(Error::new(
            Code::PermissionDenied,
            "this port does not load or unload models: start the server with --control, or call the operator port",
        ))
    }

    /// Does what a call that may go on asks for, and comes back when it is done.
    ///
    /// # Errors
    /// As `version` and `Control::ask`.
    pub async fn control(
        &self,
        verb: Verb,
        model: &str,
        parameters: &Map<String, Value>,
    ) -> Result<(), Error> {
        let version = version(verb, parameters)?;
        let target = Target { model: model.to_owned(), version };
        self.calls.ask(verb.command(vec![target])).await
    }
}

/// What a call's parameters say: the one version that is meant, if it is one.
///
/// # Errors
/// `InvalidArgument` for a parameter that is not honoured, which is named.
fn version(verb: Verb, parameters: &Map<String, Value>) -> Result<Option<u64>, Error> {
    let mut version = None;
    for (name, value) in parameters {
        match &**name {
            "version" => version = Some(number(value)?),
            // There are no models that depend on others: nothing more is to be unloaded.
            "unload_dependents" if value.is_boolean() => {}
            "unload_dependents" => {
                return Err(Error::invalid(format!(
                    "parameter 'unload_dependents': expected true or false, got {}",
                    shown(&value.to_string())
                )));
            }
            "config" => {
                return Err(Error::invalid(
                    "parameter 'config' is not honoured: a model's options are its model.yaml in the repository",
                ));
            }
            file if file.starts_with("file:") => {
                return Err(Error::invalid(format!(
                    "parameter '{}' is not honoured: a model's files are those in the repository",
                    shown(file)
                )));
            }
            other => {
                return Err(Error::invalid(format!(
                    "there is no parameter '{}' of {}, expected version or unload_dependents",
                    shown(other),
                    verb.name()
                )));
            }
        }
    }
    Ok(version)
}

/// A version's number, as a number or as its digits.
fn number(value: &Value) -> Result<u64, Error> {
    let read = match value {
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        value => value.as_u64(),
    };
    read.filter(|number| *number > 0).ok_or_else(|| {
        Error::invalid(format!(
            "parameter 'version': expected a version's number, got {}",
            shown(&value.to_string())
        ))
    })
}

fn shown(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_debug).collect()
}

/// The body of a load or unload call; an empty one asks for the model as its directory has it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct ControlRequest {
    /// `version`: that version alone; `unload_dependents`: accepted, there are none.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
}

/// Several models, or versions, that change as one: all of them, or none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelsRequest {
    pub models: Vec<ModelTarget>,
}

/// A model, or one version of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelTarget {
    pub name: String,
    /// None: what its directory and model.yaml say.
    #[serde(default)]
    #[schema(nullable = false)]
    pub version: Option<u64>,
}

impl ModelsRequest {
    pub fn targets(self) -> Vec<Target> {
        let target = |ModelTarget { name, version }: ModelTarget| Target { model: name, version };
        self.models.into_iter().map(target).collect()
    }
}

/// The models that are given back to their directories, while the whole repository is looked at.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RescanRequest {
    pub models: Vec<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(parameters: Value) -> Result<Option<u64>, String> {
        let Value::Object(map) = parameters else { panic!("a map") };
        version(Verb::Load, &map).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_honoured_or_named() {
        assert_eq!(read(json!({})), Ok(None));
        assert_eq!(read(json!({"unload_dependents": false})), Ok(None));
        assert_eq!(read(json!({"version": 3})), Ok(Some(3)));
        assert_eq!(read(json!({"version": "3"})), Ok(Some(3)));
        for (parameters, named) in [
            (json!({"config": "{}"}), "'config'"),
            (json!({"file:1/model.onnx": "AA=="}), "'file:1/model.onnx'"),
            (json!({"speed": 1}), "'speed'"),
            (json!({"unload_dependents": 1}), "'unload_dependents'"),
            (json!({"version": 0}), "'version'"),
            (json!({"version": -1}), "'version'"),
            (json!({"version": "1.5"}), "'version'"),
            (json!({"version": ""}), "'version'"),
            (json!({"version": [1]}), "'version'"),
        ] {
            let error = read(parameters.clone()).unwrap_err();
            assert!(error.contains(named), "{parameters}: {error}");
        }
    }
}
