//! Reads what a mirror lacks into a folder of its own, checks it, and shows it once it is whole.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    manifest::{self, Manifest},
    mirror::{self, Mirror},
    print,
    remote_list::Object,
    remote_plan::{Job, Mark, Mirrored, Surplus, Version},
    remote_source::{Failed, Source},
};

/// What it takes to read.
pub struct Fetch<'a> {
    pub source: &'a Source,
    pub mirror: &'a Mirror,
    /// Bytes that one object may have.
    pub most: u64,
}

/// What was read for a job, and lies whole in a staged folder.
#[derive(Debug)]
pub struct Fetched {
    folder: PathBuf,
    /// Bytes that came from the store.
    pub bytes: u64,
    marks: BTreeMap<u64, Mark>,
}

/// Why something was not read.
#[derive(Debug)]
pub enum Trouble {
    /// To be tried again.
    Failed(String),
    /// Its manifest lists what the store does not have yet.
    Incomplete(String),
    /// Not to be tried again until it changes.
    Wrong { number: u64, print: String, why: String },
}

/// What a version's files were held to, and did not fit.
struct Mismatch {
    why: String,
    /// Whoever loads it from the mirror finds that out as well.
    visible: bool,
}

impl Fetch<'_> {
    /// Reads what a job needs; nothing of it shows yet. Of a new model it may be a part of its versions.
    pub async fn job(&self, job: Job) -> (Job, Option<Fetched>, Vec<Trouble>) {
        let folder = match self.mirror.stage() {
            Ok(folder) => folder,
            Err(error) => {
                let trouble = Trouble::Failed(format!("the mirror cannot be written: {error}"));
                return (job, None, vec![trouble]);
            }
        };
        let mut fetched = Fetched { folder, bytes: 0, marks: BTreeMap::new() };
        let mut troubles = Vec::new();
        let result = self.fetch(&job, &mut fetched, &mut troubles).await;
        troubles.extend(result.err());
        let whole = match &job {
            Job::File { .. } => troubles.is_empty(),
            _ => !fetched.marks.is_empty(),
        };
        if !whole {
            // What is left there goes at the next start.
            let _ = fs::remove_dir_all(&fetched.folder);
        }
        (job, whole.then_some(fetched), troubles)
    }

    async fn fetch(
        &self,
        job: &Job,
        fetched: &mut Fetched,
        troubles: &mut Vec<Trouble>,
    ) -> Result<(), Trouble> {
        let folder = fetched.folder.clone();
        match job {
            Job::File { object, .. } => {
                let digest = self.file(object, &folder, "file", &mut fetched.bytes).await?;
                object_is(object, &digest).map_err(Trouble::Failed)
            }
            Job::Version { version, .. } => self.version(version, &folder, fetched).await,
            Job::Model { files, versions, .. } => {
                for version in versions {
                    let own = folder.join(version.number.to_string());
                    if let Err(trouble) = self.version(version, &own, fetched).await {
                        let _ = fs::remove_dir_all(&own);
                        troubles.push(trouble);
                    }
                }
                for (path, object) in files {
                    let digest = self.file(object, &folder, path, &mut fetched.bytes).await;
                    let read = digest
                        .and_then(|digest| object_is(object, &digest).map_err(Trouble::Failed));
                    if let Err(trouble) = read {
                        // Without its options it would be served otherwise than meant.
                        fetched.marks.clear();
                        return Err(trouble);
                    }
                }
                Ok(())
            }
        }
    }

    async fn version(
        &self,
        version: &Version,
        folder: &Path,
        fetched: &mut Fetched,
    ) -> Result<(), Trouble> {
        let Version { number, print, objects, replaces } = version;
        let manifest = self.manifest(version, folder, &mut fetched.bytes).await?;
        let mut mismatch = match &manifest {
            Some(Err(why)) => Some(Mismatch { why: why.clone(), visible: true }),
            _ => None,
        };
        let listed = manifest.as_ref().and_then(|manifest| manifest.as_ref().ok());
        for (path, object) in objects.iter().filter(|(path, _)| *path != manifest::FILE) {
            let mut held = Err(None);
            // A second time, should the wire have been at fault.
            for _ in 0..2 {
                let digest = self.file(object, folder, path, &mut fetched.bytes).await?;
                held = hold(path, object, listed, &digest).map_err(Some);
                if held.is_ok() {
                    break;
                }
            }
            mismatch = mismatch.or(held.err().flatten());
        }
        if manifest.is_none() {
            write_sums(objects, folder).map_err(|e| broken("its digests", &e))?;
        }
        if let Some(Mismatch { why, visible }) = mismatch {
            // Where the number is new, whoever loads it says what is wrong with it, where people look for that.
            if *replaces || !visible {
                return Err(Trouble::Wrong { number: *number, print: print.clone(), why });
            }
            tracing::warn!(version = number, why, "mirrored as it is");
        }
        let (_, bytes) = print::of_folder(folder);
        let mark = Mark { print: print.clone(), bytes };
        self.mirror.note_version(folder, &mark).map_err(|e| broken("its note", &e))?;
        fetched.marks.insert(*number, mark);
        Ok(())
    }

    /// The version's own manifest, as it is read and as far as it can be.
    async fn manifest(
        &self,
        version: &Version,
        folder: &Path,
        bytes: &mut u64,
    ) -> Result<Option<Result<Manifest, String>>, Trouble> {
        let Some(object) = version.objects.get(manifest::FILE) else { return Ok(None) };
        if object.bytes.is_some_and(|bytes| bytes > manifest::MOST_BYTES) {
            let why = format!("{}: it has more than {} bytes", object.key, manifest::MOST_BYTES);
            let (number, print) = (version.number, version.print.clone());
            return Err(Trouble::Wrong { number, print, why });
        }
        let digest = self.file(object, folder, manifest::FILE, bytes).await?;
        object_is(object, &digest).map_err(Trouble::Failed)?;
        let text = fs::read(folder.join(manifest::FILE)).map_err(|e| broken(&object.key, &e))?;
        let read = Manifest::read(&text).map_err(|why| format!("{}: {why}", object.key));
        if let Ok(manifest) = &read {
            let missing = |(name, _): &(&str, &str)| !version.objects.contains_key(*name);
            if let Some((name, _)) = manifest.files().find(missing) {
                return Err(Trouble::Incomplete(format!(
                    "{} lists '{}', which is not there",
                    object.key,
                    name.escape_debug()
                )));
            }
        }
        Ok(Some(read))
    }

    /// Reads one object into a file of a folder, in place of what was read there before; gives its SHA-256.
    async fn file(
        &self,
        object: &Object,
        folder: &Path,
        path: &str,
        bytes: &mut u64,
    ) -> Result<String, Trouble> {
        let broken = |error: io::Error| broken(&object.key, &error);
        match fs::remove_file(folder.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error)),
            _ => {}
        }
        let mut file = mirror::create(folder, path).map_err(broken)?;
        let mut hasher = Sha256::new();
        let take = |part: &[u8]| {
            hasher.update(part);
            file.write_all(part).map_err(|error| format!("the mirror cannot be written: {error}"))
        };
        let read = self.source.read(object, self.most, take).await;
        *bytes += read.map_err(|failed| {
            let (Failed::Missing(why) | Failed::Other(why)) = failed;
            Trouble::Failed(format!("{}: {why}", object.key))
        })?;
        // Whole on the disk before its name is.
        file.sync_all().map_err(broken)?;
        Ok(hex::encode(hasher.finalize()))
    }
}

fn broken(what: &str, error: &io::Error) -> Trouble {
    Trouble::Failed(format!("{what}: the mirror cannot be written: {error}"))
}

/// Whether an object is what the index says.
fn object_is(object: &Object, digest: &str) -> Result<(), String> {
    match object.sha256.as_deref().filter(|listed| *listed != digest) {
        None => Ok(()),
        Some(listed) => {
            Err(format!("'{}' has the digest {digest}, the index says {listed}", object.key))
        }
    }
}

/// Holds a file that was read to the version's manifest, as far as that lists it, and to the index.
fn hold(
    path: &str,
    object: &Object,
    manifest: Option<&Manifest>,
    digest: &str,
) -> Result<(), Mismatch> {
    if let Some(manifest) = manifest.filter(|m| m.files().any(|(name, _)| name == path)) {
        manifest.check(path, digest).map_err(|why| Mismatch { why, visible: true })?;
    }
    // Without a manifest of its own, the version gets the index's digests as one.
    object_is(object, digest).map_err(|why| Mismatch { why, visible: manifest.is_none() })
}

/// Leaves the index's digests with a version that has no manifest of its own, for whoever loads it.
fn write_sums(objects: &BTreeMap<String, Object>, folder: &Path) -> io::Result<()> {
    let line =
        |(path, object): (&String, &Object)| Some(format!("{}  {path}\n", object.sha256.as_ref()?));
    let text: String = objects.iter().filter_map(line).collect();
    if text.is_empty() {
        return Ok(());
    }
    let mut file = mirror::create(folder, manifest::FILE)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Shows what was read, and takes it down in the mirror's state.
pub fn show(
    mirror: &Mirror,
    state: &mut Mirrored,
    job: &Job,
    fetched: Fetched,
) -> Result<(), String> {
    let Fetched { folder, marks, .. } = fetched;
    let failed = |error: io::Error| format!("the mirror cannot be written: {error}");
    match job {
        Job::Model { model, files, .. } => {
            let tags = files.iter().map(|(path, object)| (path.clone(), object.tag.clone()));
            let tags = tags.collect();
            mirror.note_model(&folder, &tags).map_err(failed)?;
            mirror.show(&folder, model).map_err(failed)?;
            let known = state.entry(model.clone()).or_default();
            (known.versions, known.files) = (marks, tags);
            tracing::info!(model, versions = ?known.versions.keys(), "mirrored");
        }
        Job::Version { model, version } => {
            mirror.show(&folder, &format!("{model}/{}", version.number)).map_err(failed)?;
            state.entry(model.clone()).or_default().versions.extend(marks);
            tracing::info!(model, version = version.number, "mirrored");
        }
        Job::File { model, path, object } => {
            mirror.show(&folder.join("file"), &format!("{model}/{path}")).map_err(failed)?;
            let known = state.entry(model.clone()).or_default();
            known.files.insert(path.clone(), object.tag.clone());
            mirror.note_model(&mirror.model(model), &known.files).map_err(failed)?;
            fs::remove_dir(&folder).map_err(failed)?;
            tracing::info!(model, file = path, "mirrored");
        }
    }
    Ok(())
}

/// Takes away what the store has no more, and out of the mirror's state.
pub fn remove(mirror: &Mirror, state: &mut Mirrored, surplus: &Surplus) -> Result<(), String> {
    let failed = |error: io::Error| format!("the mirror cannot be written: {error}");
    mirror.remove(surplus).map_err(failed)?;
    match surplus {
        Surplus::Model(model) => {
            state.remove(model);
            tracing::info!(model, "gone from the store, and from the mirror");
        }
        Surplus::Version(model, number) => {
            state.entry(model.clone()).or_default().versions.remove(number);
            tracing::info!(model, version = number, "gone from the store, and from the mirror");
        }
        Surplus::File(model, path) => {
            let known = state.entry(model.clone()).or_default();
            known.files.remove(path);
            mirror.note_model(&mirror.model(model), &known.files).map_err(failed)?;
            tracing::info!(model, file = path, "gone from the store, and from the mirror");
        }
    }
    Ok(())
}
