//! An object store as a place to read from: opened by its URL, listed, and read part by part.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};

use super::{
    manifest,
    remote_list::{INDEX_FILE, Object, read_index, read_sums},
};
use crate::objects::{Place, plain, shown};

/// Objects of one repository, and bytes of an index: far more than any has, so that a wrong prefix fills no memory.
const MOST_OBJECTS: usize = 200_000;
const MOST_INDEX: u64 = 64 << 20;

/// Where models are read from.
#[derive(Debug)]
pub struct Source {
    /// As it was named.
    pub url: String,
    /// What a model is called that lies there alone.
    pub name: String,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) listing: Listing,
    pub(super) patience: Duration,
}

/// How one learns what there is.
#[derive(Debug)]
pub(super) enum Listing {
    /// The store lists what begins with the prefix.
    Prefix,
    /// One object.
    Single,
    /// A file of the server's says what there is.
    Index,
}

impl Source {
    /// Credentials come from the environment, as the provider's own tools read them. Nothing is asked of the store yet.
    pub fn open(url: &str, patience: Duration) -> Result<Source, String> {
        let fail = |why: String| format!("models: '{}': {why}", shown(url));
        let place = Place::read(url).map_err(fail)?;
        let built = place.open(patience).map_err(fail)?;
        // A web server's path is part of its address.
        let path = if place.is_web() { "" } else { place.path };
        let prefix = Path::parse(path).map_err(|e| fail(plain(&e)))?;
        let listing = match (place.is_web(), place.path.ends_with(".onnx")) {
            (true, true) => {
                return Err(fail(format!(
                    "expected a directory with {INDEX_FILE} or {}, not one file",
                    manifest::FILE
                )));
            }
            (true, false) => Listing::Index,
            (false, true) => Listing::Single,
            (false, false) => Listing::Prefix,
        };
        let last = place.path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(place.host);
        let name = last.strip_suffix(".onnx").unwrap_or(last).to_owned();
        Ok(Source { url: place.url.to_owned(), name, store: built, prefix, listing, patience })
    }

    /// The repository `name` of a store that is here already.
    #[cfg(test)]
    pub fn at(store: Arc<dyn ObjectStore>, name: &str) -> Source {
        let (url, prefix) = (format!("s3://test/{name}"), Path::from(name));
        let (listing, patience) = (Listing::Prefix, Duration::from_secs(60));
        Source { url, name: name.to_owned(), store, prefix, listing, patience }
    }

    /// Everything there is.
    pub async fn list(&self) -> Result<Vec<Object>, String> {
        match self.listing {
            Listing::Index => self.index().await,
            Listing::Single => {
                let meta = self.wait(self.store.head(&self.prefix)).await?;
                let key = self.prefix.filename().unwrap_or_default().to_owned();
                Ok(vec![object(key, meta)])
            }
            Listing::Prefix => {
                let mut objects = Vec::new();
                let mut pages = self.store.list(Some(&self.prefix));
                while let Some(meta) = self.next(&mut pages).await? {
                    let below = meta.location.as_ref().strip_prefix(self.prefix.as_ref());
                    let key = below.unwrap_or_default().trim_start_matches('/').to_owned();
                    if objects.len() == MOST_OBJECTS {
                        return Err(format!("it has more than {MOST_OBJECTS} objects"));
                    }
                    objects.push(object(key, meta));
                }
                Ok(objects)
            }
        }
    }

    async fn index(&self) -> Result<Vec<Object>, String> {
        type Read = fn(&[u8]) -> Result<Vec<Object>, String>;
        let kinds: [(&str, Read); 2] = [(INDEX_FILE, read_index), (manifest::FILE, read_sums)];
        for (file, read) in kinds {
            let mut bytes = Vec::new();
            let index = Object {
                key: file.to_owned(),
                bytes: None,
                tag: String::new(),
                etag: None,
                sha256: None,
            };
            let take = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            match self.read(&index, MOST_INDEX, take).await {
                Ok(_) => {
                    let objects = read(&bytes).map_err(|why| format!("{file}: {why}"))?;
                    return match objects.len() <= MOST_OBJECTS {
                        true => Ok(objects),
                        false => Err(format!("{file}: it has more than {MOST_OBJECTS} files")),
                    };
                }
                Err(Failed::Missing(_)) => {}
                Err(failed) => return Err(failed.into_text()),
            }
        }
        Err(format!("it has neither {INDEX_FILE} nor {}", manifest::FILE))
    }

    /// Hands an object on part by part, and gives how many bytes it had. It is read as it was listed, or not at all.
    pub async fn read(
        &self,
        object: &Object,
        most: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<u64, Failed> {
        let path = match self.listing {
            Listing::Single => self.prefix.clone(),
            _ if self.prefix.as_ref().is_empty() => parse(&object.key)?,
            _ => parse(&format!("{}/{}", self.prefix, object.key))?,
        };
        let options = GetOptions { if_match: object.etag.clone(), ..GetOptions::default() };
        let answer = tokio::time::timeout(self.patience, self.store.get_opts(&path, options));
        let answer = match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error @ object_store::Error::NotFound { .. })) => {
                return Err(Failed::Missing(plain(&error)));
            }
            Ok(Err(error)) => return Err(Failed::Other(plain(&error))),
            Err(_) => return Err(Failed::Other(self.silent())),
        };
        let most = object.bytes.unwrap_or(most).min(most);
        let (mut parts, mut bytes) = (answer.into_stream(), 0u64);
        while let Some(part) = self.next(&mut parts).await.map_err(Failed::Other)? {
            bytes = bytes.saturating_add(part.len() as u64);
            if bytes > most {
                return Err(Failed::Other(format!("it has more than the {most} bytes expected")));
            }
            take(&part).map_err(Failed::Other)?;
        }
        match object.bytes.filter(|listed| *listed != bytes) {
            Some(listed) => Err(Failed::Other(format!("it ended after {bytes} of {listed} bytes"))),
            None => Ok(bytes),
        }
    }

    pub(super) async fn next<T, S>(&self, stream: &mut S) -> Result<Option<T>, String>
    where
        S: StreamExt<Item = object_store::Result<T>> + Unpin,
    {
        match tokio::time::timeout(self.patience, stream.next()).await {
            Ok(item) => item.transpose().map_err(|error| plain(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    pub(super) async fn wait<T>(
        &self,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer.map_err(|error| plain(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    pub(super) fn silent(&self) -> String {
        format!("it was silent for {} ms", self.patience.as_millis())
    }
}

/// Why an object was not read.
#[derive(Debug)]
pub enum Failed {
    /// There is none.
    Missing(String),
    Other(String),
}

impl Failed {
    pub fn into_text(self) -> String {
        let (Failed::Missing(why) | Failed::Other(why)) = self;
        why
    }
}

fn parse(key: &str) -> Result<Path, Failed> {
    Path::parse(key).map_err(|error| Failed::Other(plain(&error)))
}

fn object(key: String, meta: ObjectMeta) -> Object {
    let tag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
    Object { key, bytes: Some(meta.size), tag, etag: meta.e_tag, sha256: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    #[test]
    fn places_are_told_apart_and_slips_are_named() {
        for (url, name) in [
            ("s3://bucket", "bucket"),
            ("s3://bucket/models/", "models"),
            ("gs://bucket/a/iris.onnx", "iris"),
            ("http://127.0.0.1:9/x/models", "models"),
        ] {
            // gs wants credentials or the machine's own, which nobody asks for yet.
            let source = Source::open(url, PATIENCE);
            assert_eq!(source.unwrap_or_else(|e| panic!("{url}: {e}")).name, name);
        }
        for (url, why) in [
            ("ftp://host/x", "expected s3://"),
            ("s3:///x", "expected a bucket"),
            ("https://user:secret@host/x", "expected no credentials"),
            ("https://host/x?sig=secret", "expected no credentials"),
            ("http://169.254.169.254/latest", "link-local"),
            ("https://host/m.onnx", "index.json"),
            ("s3://bucket/a//b", "s3://bucket/a//b"),
        ] {
            let error = Source::open(url, PATIENCE).unwrap_err();
            assert!(error.contains(why) && error.starts_with("models: '"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
