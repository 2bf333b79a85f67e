//! What is asked of the store that files go to: each question with a limit, each failure with its kind.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, path::Path,
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::marks::Content;
use crate::{
    objects::{self, Place},
    telemetry::predictions::UploadFailure as Kind,
};

/// What a slow line carries in a second: a large file is given more time than a small one.
const SLOW_BYTES: u64 = 256 << 10;
/// How often a question under way looks whether somebody wants to leave.
const LOOK: Duration = Duration::from_millis(50);

/// Why something was not done.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    Store(Kind, String),
    /// The server stops.
    Leaving,
}

/// Whether nobody waits any more.
pub type Leaving<'a> = &'a (dyn Fn() -> bool + Sync);

/// A store, and the place in it.
pub struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// Versions say nothing of whether older ones are kept.
    generations: bool,
    patience: Duration,
}

impl Remote {
    /// # Errors
    /// What is wrong with the URI, or with the environment that credentials come from.
    pub fn open(uri: &str, patience: Duration) -> Result<Remote, String> {
        let place = Place::read(uri)?;
        let mut remote = Remote::at(place.open(patience)?, place.path, patience);
        remote.generations = place.scheme == "gs";
        Ok(remote)
    }

    pub fn at(store: Arc<dyn ObjectStore>, prefix: &str, patience: Duration) -> Remote {
        Remote { store, prefix: prefix.trim_matches('/').to_owned(), generations: false, patience }
    }

    fn path(&self, key: &str) -> Result<Path, Failed> {
        let whole =
            if self.prefix.is_empty() { key.into() } else { format!("{}/{key}", self.prefix) };
        Path::parse(whole).map_err(|error| Failed::Store(Kind::Refused, objects::plain(&error)))
    }

    /// Puts an object where none is, or in place of `instead`. What lies there with the same content already counts as put.
    /// `ours`: the digest of a content that is ours to replace.
    pub async fn put(
        &self,
        key: &str,
        bytes: Vec<u8>,
        (instead, ours): (Option<&Content>, Option<&str>),
        leaving: Leaving<'_>,
    ) -> Result<Content, Failed> {
        let path = self.path(key)?;
        let mut content = content(&bytes);
        let payload = PutPayload::from(bytes);
        let slow = Duration::from_secs(content.bytes / SLOW_BYTES);
        let mut mode = instead.map_or(PutMode::Create, update);
        for _ in 0..2 {
            let put = self.store.put_opts(&path, payload.clone(), mode.into());
            let error = match self.within(slow, leaving, put).await? {
                Ok(result) => {
                    (content.etag, content.version) = (result.e_tag, result.version);
                    return Ok(content);
                }
                Err(error @ (Error::AlreadyExists { .. } | Error::Precondition { .. })) => error,
                Err(error) => return Err(failed(&error)),
            };
            mode = match self.read(&path, leaving).await? {
                None => PutMode::Create,
                Some(there) if there.sha256 == content.sha256 => return Ok(there),
                Some(there) if ours == Some(&there.sha256) => update(&there),
                Some(_) => {
                    let why = objects::plain(&error);
                    let why = format!("an object with other content is there: {why}");
                    return Err(Failed::Store(Kind::Conflict, why));
                }
            };
        }
        Err(Failed::Store(Kind::Conflict, "it changes while it is replaced".into()))
    }

    /// Removes an object; that there is none is as well. If `looks`, says whether older versions of it stay, as far as is known.
    pub async fn delete(
        &self,
        key: &str,
        looks: bool,
        leaving: Leaving<'_>,
    ) -> Result<Option<bool>, Failed> {
        let path = self.path(key)?;
        let mut older = None;
        if looks {
            let head = self.store.head(&path);
            match self.within(Duration::ZERO, leaving, head).await? {
                Ok(meta) => older = self.keeps(meta.version.as_deref()),
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(failed(&error)),
            }
        }
        let delete = self.store.delete(&path);
        match self.within(Duration::ZERO, leaving, delete).await? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(older),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Whether older versions of an object stay in the store when this one is replaced; `None` where it does not tell.
    pub fn keeps(&self, version: Option<&str>) -> Option<bool> {
        // There, every object has a generation, whether or not older ones are kept.
        (!self.generations).then_some(version.is_some())
    }

    /// What an object holds; `None` where there is none.
    async fn read(&self, path: &Path, leaving: Leaving<'_>) -> Result<Option<Content>, Failed> {
        let found = match self.within(Duration::ZERO, leaving, self.store.get(path)).await? {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let (etag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let (mut parts, mut digest, mut bytes) = (found.into_stream(), Sha256::new(), 0);
        while let Some(part) = self.within(Duration::ZERO, leaving, parts.next()).await? {
            let part = part.map_err(|error| failed(&error))?;
            bytes += part.len() as u64;
            digest.update(&part);
        }
        Ok(Some(Content { bytes, sha256: hex::encode(digest.finalize()), etag, version }))
    }

    async fn within<T>(
        &self,
        more: Duration,
        leaving: Leaving<'_>,
        answer: impl Future<Output = T>,
    ) -> Result<T, Failed> {
        let until = Instant::now() + self.patience + more;
        let mut answer = std::pin::pin!(answer);
        loop {
            match tokio::time::timeout(LOOK, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if leaving() => return Err(Failed::Leaving),
                Err(_) if Instant::now() >= until => {
                    let ms = (self.patience + more).as_millis();
                    let why = format!("it was silent for {ms} ms");
                    return Err(Failed::Store(Kind::Unreachable, why));
                }
                Err(_) => {}
            }
        }
    }
}

fn update(there: &Content) -> PutMode {
    let Content { etag: e_tag, version, .. } = there.clone();
    match e_tag.is_some() || version.is_some() {
        true => PutMode::Update(UpdateVersion { e_tag, version }),
        false => PutMode::Overwrite,
    }
}

/// What these bytes are as an object.
pub fn content(bytes: &[u8]) -> Content {
    let sha256 = crate::predlog::digest::bytes(bytes);
    Content { bytes: bytes.len() as u64, sha256, etag: None, version: None }
}

fn failed(error: &Error) -> Failed {
    let kind = match error {
        Error::NotFound { .. }
        | Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::UnknownConfigurationKey { .. } => Kind::Refused,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => Kind::Conflict,
        _ => Kind::Unreachable,
    };
    Failed::Store(kind, objects::plain(error))
}
