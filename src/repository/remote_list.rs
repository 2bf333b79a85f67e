//! What the objects of a store are to a repository: models, their versions, and the files beside those.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    manifest::{self, Manifest},
    store::{MODEL_FILE, OPTIONS_FILE, check_name, version_number},
};

/// An index that a plain web server carries in place of a listing.
pub const INDEX_FILE: &str = "index.json";

/// Bytes of a part of a name, as file systems allow, and folders within a version's.
const MOST_NAME: usize = 255;
const DEEPEST: usize = 8;

/// An object as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to the repository, parts separated by slashes.
    pub key: String,
    /// `None`: not said.
    pub bytes: Option<u64>,
    /// Another tag is another content.
    pub tag: String,
    /// The store's entity tag, which a read can be bound to.
    pub etag: Option<String>,
    /// In hexadecimal, where an index says so.
    pub sha256: Option<String>,
}

/// A listing in the repository's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub models: BTreeMap<String, ListedModel>,
    /// Keys that are refused, with the reason.
    pub refused: Vec<(String, &'static str)>,
}

/// A model as it lies in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedModel {
    /// By number, the objects by their path inside the version's folder.
    pub versions: BTreeMap<u64, BTreeMap<String, Object>>,
    /// What lies beside the versions, by its path inside the model's folder.
    pub files: BTreeMap<String, Object>,
}

impl Listed {
    /// Sorts a listing. `name` is the model's where the place is laid out as one model; the error is one of the place.
    pub fn of(objects: Vec<Object>, name: &str) -> Result<Listed, String> {
        let mut listed = Listed::default();
        // A marker of a folder is an object with the folder's name.
        let folders: BTreeSet<String> = objects.iter().flat_map(|o| above(&o.key)).collect();
        let mut plain = Vec::new();
        for object in objects {
            match refusal(&object.key) {
                Some(why) => listed.refused.push((object.key, why)),
                None if hidden(&object.key) || folders.contains(&object.key) => {}
                None => plain.push(object),
            }
        }
        match plain.iter().any(|o| version_of(&o.key).is_some()) {
            true => plain.into_iter().for_each(|object| listed.sort(object)),
            false => listed.flat(plain, name)?,
        }
        Ok(listed)
    }

    fn sort(&mut self, object: Object) {
        // What lies at the top belongs to no model.
        let Some((model, rest)) = object.key.split_once('/') else { return };
        if check_name(model).is_err() {
            let why = "its folder has no name for a model";
            return self.refused.push((object.key, why));
        }
        let (rest, version) = (rest.to_owned(), version_of(&object.key));
        if version.is_none() && version_number(&rest).is_some() {
            return self.refused.push((object.key, "a version is a folder, not a file"));
        }
        let model = self.models.entry(model.to_owned()).or_default();
        match version {
            Some(number) => {
                let inside = rest.split_once('/').map_or("", |(_, inside)| inside).to_owned();
                model.versions.entry(number).or_default().insert(inside, object);
            }
            None => drop(model.files.insert(rest, object)),
        }
    }

    /// One model's folder that holds one .onnx file: version 1, as on a local path.
    fn flat(&mut self, objects: Vec<Object>, name: &str) -> Result<(), String> {
        let onnx = |o: &&Object| !o.key.contains('/') && o.key.ends_with(".onnx");
        let Some(model) = objects.iter().find(onnx).map(|o| o.key.clone()) else {
            objects.into_iter().for_each(|object| self.sort(object));
            return Ok(());
        };
        if let Some(other) = objects.iter().filter(onnx).find(|o| o.key != model) {
            return Err(format!(
                "it holds {model} and {}: expected one .onnx file, or <model>/<version>/{MODEL_FILE}",
                other.key
            ));
        }
        if model != MODEL_FILE && objects.iter().any(|o| o.key == manifest::FILE) {
            return Err(format!(
                "its {} lists {model}: where one model lies alone and has a manifest, its file is called {MODEL_FILE}",
                manifest::FILE
            ));
        }
        check_name(name)?;
        let slot = self.models.entry(name.to_owned()).or_default();
        for object in objects {
            let beside = matches!(&*object.key, OPTIONS_FILE | "config.pbtxt" | "traffic.yaml")
                || object.key.starts_with("traffic.audit/");
            let path = if object.key == model { MODEL_FILE } else { &*object.key }.to_owned();
            match beside {
                true => drop(slot.files.insert(path, object)),
                false => drop(slot.versions.entry(1).or_default().insert(path, object)),
            }
        }
        Ok(())
    }
}

/// Every folder that a key lies in.
fn above(key: &str) -> impl Iterator<Item = String> {
    key.match_indices('/').map(|(at, _)| key[..at].to_owned())
}

fn hidden(key: &str) -> bool {
    key.split('/').any(|part| part.starts_with('.'))
}

/// `<model>/<version>/<file>`.
fn version_of(key: &str) -> Option<u64> {
    let mut parts = key.splitn(3, '/');
    let (_, version, _) = (parts.next()?, parts.next()?, parts.next()?);
    version_number(version)
}

/// Why a key is made no file of, where that is so.
fn refusal(key: &str) -> Option<&'static str> {
    let parts: Vec<&str> = key.split('/').collect();
    if parts.len() > DEEPEST + 3 {
        return Some("it lies too deep");
    }
    parts.iter().find_map(|part| match *part {
        "" => Some("a part of its name is empty"),
        "." | ".." => Some("its name leads out of its folder"),
        part if part.len() > MOST_NAME => Some("a part of its name is too long"),
        part if part.contains('\\') || part.chars().any(char::is_control) => {
            Some("its name has a character that no file's should")
        }
        _ => None,
    })
}

/// `index.json`.
#[derive(Deserialize)]
struct Index {
    format: u64,
    files: Vec<IndexFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexFile {
    path: String,
    sha256: String,
    #[serde(default)]
    bytes: Option<u64>,
}

/// The objects that an `index.json` lists.
pub fn read_index(bytes: &[u8]) -> Result<Vec<Object>, String> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if index.format != 1 {
        return Err(format!("format: expected 1, got {}", index.format));
    }
    let object = |file: IndexFile| {
        let digest = file.sha256.to_ascii_lowercase();
        if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            let shown = file.path.escape_debug();
            return Err(format!("'{shown}': sha256: expected 64 hexadecimal digits"));
        }
        Ok(listed(file.path, file.bytes, digest))
    };
    index.files.into_iter().map(object).collect()
}

/// The objects that a listing as of `sha256sum` has.
pub fn read_sums(bytes: &[u8]) -> Result<Vec<Object>, String> {
    let sums = Manifest::read(bytes)?;
    let object = |(path, digest): (&str, &str)| listed(path.to_owned(), None, digest.to_owned());
    Ok(sums.files().map(object).collect())
}

fn listed(key: String, bytes: Option<u64>, sha256: String) -> Object {
    Object { key, bytes, tag: sha256.clone(), etag: None, sha256: Some(sha256) }
}

#[cfg(test)]
#[path = "remote_list_tests.rs"]
mod tests;
