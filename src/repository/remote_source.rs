//! An object store as a place to read from: opened by its URL, listed, and read part by part.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt,
    RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    path::Path,
};

use super::{
    manifest,
    remote_list::{INDEX_FILE, Object, read_index, read_sums},
};

/// Objects of one repository, and bytes of an index: far more than any has, so that a wrong prefix fills no memory.
const MOST_OBJECTS: usize = 200_000;
const MOST_INDEX: u64 = 64 << 20;
/// Characters of an error: stores answer with whole documents.
const MOST_ERROR: usize = 400;
/// Tries after the first one, within the patience.
const RETRIES: usize = 2;

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
        let built = build(&place, patience).map_err(|e| fail(plain(&e)))?;
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

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    scheme: &'a str,
    /// Or bucket, or container.
    host: &'a str,
    path: &'a str,
    url: &'a str,
}

impl Place<'_> {
    fn read(url: &str) -> Result<Place<'_>, String> {
        let url = url.trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").ok_or("expected a URL")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !["s3", "gs", "az", "http", "https"].contains(&scheme) {
            return Err("expected s3://, gs://, az://, https:// or http://, or a local path".into());
        }
        if host.is_empty() {
            return Err("expected a bucket, a container or a server's name after ://".into());
        }
        // They would be shown wherever the URL is.
        if host.contains('@') || url.contains(['?', '#']) {
            return Err(
                "expected no credentials, query or fragment in it: credentials come from the environment (docs/operations.md)"
                    .into(),
            );
        }
        let place = Place { scheme, host, path, url };
        match place.is_web() && is_link_local(host) {
            true => Err("a link-local address is where clouds keep credentials, not models".into()),
            false => Ok(place),
        }
    }

    fn is_web(&self) -> bool {
        matches!(self.scheme, "http" | "https")
    }
}

fn is_link_local(host: &str) -> bool {
    host.starts_with("169.254.") || host.to_ascii_lowercase().starts_with("[fe80:")
}

fn build(place: &Place<'_>, patience: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: patience / 4, ..BackoffConfig::default() },
        max_retries: RETRIES,
        retry_timeout: patience,
    };
    let seconds = format!("{}ms", patience.as_millis());
    // A whole answer may take as long as it likes: what must not last is silence.
    let client =
        [(ClientConfigKey::ConnectTimeout, &*seconds), (ClientConfigKey::Timeout, "30days")];
    let name = place.host;
    Ok(match place.scheme {
        "s3" => {
            let mut s3 = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retry);
            for (key, value) in client {
                s3 = s3.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            // Who names such an endpoint means it.
            let endpoint = s3.get_config_value(&AmazonS3ConfigKey::Endpoint);
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                s3 = s3.with_allow_http(true);
            }
            Arc::new(s3.build()?)
        }
        "gs" => {
            let mut gs =
                GoogleCloudStorageBuilder::from_env().with_bucket_name(name).with_retry(retry);
            for (key, value) in client {
                gs = gs.with_config(GoogleConfigKey::Client(key), value);
            }
            Arc::new(gs.build()?)
        }
        "az" => {
            let mut az =
                MicrosoftAzureBuilder::from_env().with_container_name(name).with_retry(retry);
            for (key, value) in client {
                az = az.with_config(AzureConfigKey::Client(key), value);
            }
            Arc::new(az.build()?)
        }
        scheme => {
            let mut web = HttpBuilder::new().with_url(place.url).with_retry(retry);
            for (key, value) in client {
                web = web.with_config(key, value);
            }
            let plain = (scheme == "http").to_string();
            Arc::new(web.with_config(ClientConfigKey::AllowHttp, plain).build()?)
        }
    })
}

/// An error on one line, without what a URL's query holds (signatures, for some stores), and not too long.
pub(super) fn plain(error: &impl std::fmt::Display) -> String {
    scrub(&error.to_string())
}

fn scrub(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.split_once("://") {
        Some((_, rest)) if rest.contains(['?', '@']) => "(a URL)",
        _ => word,
    });
    let text = words.collect::<Vec<_>>().join(" ");
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    match text.char_indices().nth(MOST_ERROR) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A URL for a message, without what might be a secret in it.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    }
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

    #[test]
    fn no_secret_is_shown() {
        let error = scrub("GET https://a.net/b?sig=abc failed\n after \u{7}2 tries");
        assert_eq!(error, "GET (a URL) failed after 2 tries");
        assert_eq!(shown("https://me:pw@host/x?y=1"), "https://***@host/x");
        assert_eq!(scrub(&"x".repeat(1000)).chars().count(), MOST_ERROR + 1);
    }
}
