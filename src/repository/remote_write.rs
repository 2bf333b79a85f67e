//! An object store as a place to write to: objects that are replaced only as they were read, or made only where there are none.

use object_store::{Error, GetOptions, PutMode, PutOptions, UpdateVersion, path::Path};

use super::remote_source::{Listing, Source};
use crate::objects::plain;

/// Which content of an object was read.
pub type Tag = UpdateVersion;

/// What came of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Put {
    Done,
    /// The object is another than it was read, or there is one already.
    Taken,
}

impl Source {
    /// Whether this is a kind of store that takes objects one by one.
    pub fn takes_objects(&self) -> bool {
        matches!(self.listing, Listing::Prefix)
    }

    /// Whether a key begins so.
    ///
    /// # Errors
    /// What the store says.
    pub async fn has_any(&self, below: &str) -> Result<bool, String> {
        let path = self.path(below)?;
        let mut pages = self.store.list(Some(&path));
        Ok(self.next(&mut pages).await?.is_some())
    }

    /// The keys that begin so.
    ///
    /// # Errors
    /// What the store says.
    pub async fn keys(&self, below: &str) -> Result<Vec<String>, String> {
        let path = self.path(below)?;
        let mut pages = self.store.list(Some(&path));
        let mut keys = Vec::new();
        while let Some(meta) = self.next(&mut pages).await? {
            let key = meta.location.as_ref().strip_prefix(self.prefix.as_ref());
            keys.extend(key.map(|key| key.trim_start_matches('/').to_owned()));
        }
        Ok(keys)
    }

    /// An object of at most so many bytes, and which content that is; `None` where there is none.
    ///
    /// # Errors
    /// What the store says; that it is larger.
    pub async fn get(&self, key: &str, most: u64) -> Result<Option<(Vec<u8>, Tag)>, String> {
        let path = self.path(key)?;
        let asked = self.store.get_opts(&path, GetOptions::default());
        let answer = match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Error::NotFound { .. })) => return Ok(None),
            Ok(Err(error)) => return Err(plain(&error)),
            Err(_) => return Err(self.silent()),
        };
        if answer.meta.size > most {
            return Err(format!(
                "{key}: it has {} bytes, at most {most} are read",
                answer.meta.size
            ));
        }
        let tag = Tag { e_tag: answer.meta.e_tag.clone(), version: answer.meta.version.clone() };
        let bytes = self.wait(answer.bytes()).await?;
        Ok(Some((bytes.to_vec(), tag)))
    }

    /// Writes an object: in place of the content that was read, or where there is none.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put(&self, key: &str, bytes: Vec<u8>, tag: Option<Tag>) -> Result<Put, String> {
        let path = self.path(key)?;
        let replaces = tag.is_some();
        let options = PutOptions::from(tag.map_or(PutMode::Create, PutMode::Update));
        let asked = self.store.put_opts(&path, bytes.into(), options);
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(_)) => Ok(Put::Done),
            Ok(Err(Error::Precondition { .. } | Error::AlreadyExists { .. })) => Ok(Put::Taken),
            // What was to be replaced is gone; otherwise the bucket is.
            Ok(Err(Error::NotFound { .. })) if replaces => Ok(Put::Taken),
            Ok(Err(error)) => Err(plain(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    fn path(&self, key: &str) -> Result<Path, String> {
        let key = key.trim_end_matches('/');
        let full = match self.prefix.as_ref() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        Path::parse(full).map_err(|error| plain(&error))
    }
}
