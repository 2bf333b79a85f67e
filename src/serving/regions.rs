//! Regions of shared memory that clients of this host register: where inputs lie and outputs go without being sent.
//!
//! A region is a file of `/dev/shm` whose name begins as the configuration allows. It is read and written by offset and never
//! mapped: a client that cuts its file short gets an error, where a mapping would end the server by SIGBUS, and what was read is
//! a copy that no client can change once it has been checked.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::memory::Budget;
use crate::{
    types::{
        error::{Code, Error},
        request::{InferRequest, InferResponse, Region, Regions as Places},
        text::Text,
    },
    wire::check,
};

/// Where POSIX has its regions on Linux.
const DIRECTORY: &str = "/dev/shm";

/// `shared_memory:` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegionOptions {
    /// What the keys of regions may begin with, without the slash before them; `""` allows every key. Empty (default): there
    /// is no shared memory, since whoever names a region has the server read and write it.
    pub allow: Vec<String>,
    /// Regions that may be registered at once, each of which is an open file. Default: 256.
    pub max_regions: usize,
}

impl Default for RegionOptions {
    fn default() -> Self {
        RegionOptions { allow: Vec::new(), max_regions: 256 }
    }
}

impl RegionOptions {
    /// What is wrong with these options, if anything.
    pub fn check(&self) -> Result<(), String> {
        match self.allow.iter().find(|prefix| prefix.contains('/')) {
            None => Ok(()),
            Some(prefix) => Err(format!(
                "shared_memory.allow: '{}': keys are names within {DIRECTORY}, without slashes",
                prefix.escape_debug()
            )),
        }
    }
}

/// A region as its client is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub key: String,
    pub offset: u64,
    pub byte_size: u64,
}

struct Registered {
    status: Status,
    file: File,
}

/// Whose region it is (each caller has names of its own), and its name.
type Name = (Option<Arc<str>>, String);

/// The regions that are registered.
pub struct Regions {
    options: RegionOptions,
    /// Bytes that one tensor may have.
    most: usize,
    known: Mutex<BTreeMap<Name, Arc<Registered>>>,
}

impl Regions {
    /// `most`: bytes of a tensor that is read, as many as a request may have.
    pub fn new(options: RegionOptions, most: usize) -> Regions {
        Regions { options, most, known: Mutex::default() }
    }

    /// Whether there is shared memory at all.
    pub fn allowed(&self) -> bool {
        !self.options.allow.is_empty()
    }

    /// Opens a region under a name, for this caller.
    ///
    /// # Errors
    /// `Unimplemented` where there is no shared memory, `PermissionDenied` for a key that is not allowed, `InvalidArgument`
    /// for a name that is taken, and what is no file of that size, `Overloaded` where as many are registered as may be.
    pub fn register(&self, caller: Option<&Arc<str>>, asked: Status) -> Result<(), Error> {
        self.here()?;
        let Status { name, key, offset, byte_size } = &asked;
        if name.is_empty() || name.len() > check::MAX_KEY {
            return Err(invalid(name, format!("its name has 1 to {} bytes", check::MAX_KEY)));
        }
        let file = self.open(name, key)?;
        let end = offset.checked_add(*byte_size).filter(|_| *byte_size > 0);
        let size = size(&file, name)?;
        let Some(_) = end.filter(|end| *end <= size) else {
            return Err(invalid(
                name,
                format!("{byte_size} bytes from {offset} on are not within its {size} bytes"),
            ));
        };
        let full = Name::from((caller.cloned(), name.clone()));
        let mut known = self.known.lock();
        if known.contains_key(&full) {
            return Err(invalid(name, "it is registered already: unregister it first"));
        }
        let most = self.options.max_regions;
        if known.len() >= most {
            return Err(Error::overloaded(
                format!("{most} regions of shared memory are registered, as many as may be"),
                std::time::Duration::from_secs(1),
            ));
        }
        known.insert(full, Arc::new(Registered { status: asked, file }));
        Ok(())
    }

    /// Forgets a region of this caller's, or all of them where `name` is empty; what is not there is forgotten already.
    pub fn unregister(&self, caller: Option<&Arc<str>>, name: &str) {
        let gone =
            |(whose, own): &Name| whose.as_ref() == caller && (name.is_empty() || own == name);
        self.known.lock().retain(|region, _| !gone(region));
    }

    /// A region of this caller's, or all of them where `name` is empty.
    ///
    /// # Errors
    /// `NotFound` for a name that is not registered.
    pub fn status(&self, caller: Option<&Arc<str>>, name: &str) -> Result<Vec<Status>, Error> {
        if !name.is_empty() {
            return Ok(vec![self.find(caller, name)?.status.clone()]);
        }
        let known = self.known.lock();
        let own = known.iter().filter(|((whose, _), _)| whose.as_ref() == caller);
        Ok(own.map(|(_, region)| region.status.clone()).collect())
    }

    /// That there is shared memory at all.
    ///
    /// # Errors
    /// `Unimplemented`.
    pub fn here(&self) -> Result<(), Error> {
        if self.allowed() {
            return Ok(());
        }
        Err(Error::new(
            Code::Unimplemented,
            "there is no shared memory on this server: its configuration allows none (shared_memory.allow)",
        ))
    }

    fn open(&self, name: &str, key: &str) -> Result<File, Error> {
        // As shm_open has it, however many there are.
        let file = key.trim_start_matches('/');
        let plain = !file.is_empty() && !file.contains(['/', '\0']) && file != "." && file != "..";
        if !plain || file.len() > 255 {
            return Err(invalid(
                name,
                format!("its key '{}' is no name of a region", check::Shown(key)),
            ));
        }
        if !self.options.allow.iter().any(|prefix| file.starts_with(&**prefix)) {
            let message = format!("shared memory: the key '{}' is not allowed", check::Shown(key));
            return Err(Error::new(Code::PermissionDenied, message));
        }
        // Neither a link to elsewhere is followed, nor a pipe waited for.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(Path::new(DIRECTORY).join(file));
        opened.map_err(|error| {
            invalid(
                name,
                format!("the key '{}' cannot be opened: {}", check::Shown(key), kind(&error)),
            )
        })
    }

    fn find(&self, caller: Option<&Arc<str>>, name: &str) -> Result<Arc<Registered>, Error> {
        let full = Name::from((caller.cloned(), name.to_owned()));
        let found = self.known.lock().get(&full).cloned();
        found.ok_or_else(|| {
            let message = format!("there is no region '{}' of shared memory", check::Shown(name));
            Error::new(Code::NotFound, message)
        })
    }

    /// Gives the inputs that lie in regions their data, and keeps where the outputs are to go.
    ///
    /// # Errors
    /// `NotFound` for a region that is not registered, `InvalidArgument` for bytes outside of it, or that do not fit the input,
    /// `Overloaded` where the requests' memory has no room.
    pub fn gather(
        &self,
        caller: Option<&Arc<str>>,
        request: &mut InferRequest,
        places: Places,
        budget: &Arc<Budget>,
    ) -> Result<Option<Outgoing>, Error> {
        self.here()?;
        for (index, region) in &places.inputs {
            let Some(input) = request.inputs.get_mut(*index) else { continue };
            let registered = self.find(caller, &region.name)?;
            input.data = self.read(&registered, region, budget)?;
            check::data(&input.name, input.datatype, &input.dims, &input.data)?;
        }
        if places.outputs.is_empty() {
            return Ok(None);
        }
        // Looked up before the run: one whose region is not there is not run.
        let found = |(output, region): (Text, Region)| {
            let registered = self.find(caller, &region.name)?;
            start(&registered, &region)?;
            Ok((output, region, registered))
        };
        let outputs = places.outputs.into_iter().map(found).collect::<Result<_, Error>>()?;
        Ok(Some(Outgoing(outputs)))
    }

    fn read(
        &self,
        registered: &Registered,
        region: &Region,
        budget: &Arc<Budget>,
    ) -> Result<Bytes, Error> {
        let start = start(registered, region)?;
        let length = usize::try_from(region.byte_size).ok().filter(|length| *length <= self.most);
        let Some(length) = length else {
            return Err(Error::new(
                Code::TooLarge,
                format!(
                    "a tensor of {} bytes in shared memory, at most {} are taken",
                    region.byte_size, self.most
                ),
            ));
        };
        let mut charge = budget.charge();
        charge.grow(length)?;
        // Before room is made for what is not there any more.
        whole(registered, start, region.byte_size)?;
        let mut data = vec![0; length];
        registered.file.read_exact_at(&mut data, start).map_err(|error| {
            invalid(&region.name, format!("it cannot be read: {}", kind(&error)))
        })?;
        Ok(charge.go_with(data.into()))
    }
}

/// Where outputs of a request go.
pub struct Outgoing(Vec<(Text, Region, Arc<Registered>)>);

impl Outgoing {
    /// Writes outputs to their regions, and leaves in the answer where they went.
    ///
    /// # Errors
    /// `InvalidArgument` where a region has no room for its output, or is shorter than it was.
    pub fn scatter(self, response: &mut InferResponse) -> Result<(), Error> {
        let mut placed = Vec::with_capacity(self.0.len());
        for (name, mut region, registered) in self.0 {
            let signature = &response.signature;
            let mut outputs = response.outputs.iter_mut().enumerate();
            let output = outputs.find(|(_, output)| *signature.outputs[output.index].name == *name);
            let Some((index, output)) = output else { continue };
            let data = std::mem::take(&mut output.tensor.data);
            output.binary = false;
            let length = data.len() as u64;
            if length > region.byte_size {
                return Err(invalid(
                    &region.name,
                    format!(
                        "output '{name}' takes {length} bytes, the request gives it {}",
                        region.byte_size
                    ),
                ));
            }
            let start = start(&registered, &region)?;
            // A write past the end would make the file longer.
            whole(&registered, start, length)?;
            registered.file.write_all_at(&data, start).map_err(|error| {
                invalid(&region.name, format!("it cannot be written: {}", kind(&error)))
            })?;
            region.byte_size = length;
            placed.push((index, region));
        }
        response.regions = Some(Box::new(placed));
        Ok(())
    }
}

/// Where the part of a region begins in its file.
fn start(registered: &Registered, region: &Region) -> Result<u64, Error> {
    let Status { offset, byte_size, .. } = &registered.status;
    let end = region.offset.checked_add(region.byte_size);
    let start = end.filter(|end| end <= byte_size).and_then(|_| offset.checked_add(region.offset));
    start.ok_or_else(|| {
        invalid(
            &region.name,
            format!(
                "{} bytes from {} on are not within the {byte_size} that were registered",
                region.byte_size, region.offset
            ),
        )
    })
}

/// That the file still has these bytes.
fn whole(registered: &Registered, start: u64, length: u64) -> Result<(), Error> {
    let name = &registered.status.name;
    let size = size(&registered.file, name)?;
    if start.checked_add(length).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(invalid(name, format!("it has become shorter than was registered: {size} bytes")))
}

/// Bytes of a region's file, which is a plain one.
fn size(file: &File, name: &str) -> Result<u64, Error> {
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(_) => Err(invalid(name, "its key is no region of shared memory")),
        Err(error) => Err(invalid(name, format!("it cannot be looked at: {}", kind(&error)))),
    }
}

#[cold]
fn invalid(name: &str, why: impl AsRef<str>) -> Error {
    Error::invalid(format!("region '{}' of shared memory: {}", check::Shown(name), why.as_ref()))
}

/// What went wrong, without what the system says of this machine.
fn kind(error: &std::io::Error) -> String {
    error.kind().to_string()
}

#[cfg(test)]
#[path = "regions_tests.rs"]
mod tests;
