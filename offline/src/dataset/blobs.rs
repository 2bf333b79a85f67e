//! The large tensors that rows of a data set refer to: brought along, so that it outlives the log's retention.

use std::{collections::BTreeSet, fs, path::Path};

use onnxd::predlog::{
    blobs::{read, references},
    footer::Part,
    reader::{Opened, ReadError, failed},
};
use serde::Serialize;

use super::{columns::Columns, split::Slice};

/// Beside the rows of a slice: each under its digest, with which a reference ends.
const DIR: &str = "blobs";

/// What there is of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Blobs {
    pub files: u64,
    pub bytes: u64,
    /// References to what retention or an erasure had removed.
    pub gone: u64,
}

/// Puts the blobs of a log's rows beside them, in each slice of the data set that is built as `part`.
///
/// # Errors
/// A blob is not what its name says, or cannot be written.
pub fn bring(root: &Path, part: &Path, columns: &Columns) -> Result<Blobs, ReadError> {
    let refer = columns.features.iter().filter(|feature| feature.part == Some(Part::Ref));
    let refer: Vec<String> = refer.map(|feature| feature.name.clone()).collect();
    let mut brought = Blobs::default();
    if refer.is_empty() {
        return Ok(brought);
    }
    for slice in Slice::ALL {
        let rows = part.join(slice.name()).join("part-0.parquet");
        if !rows.is_file() {
            continue;
        }
        let (to, mut seen) = (part.join(slice.name()).join(DIR), BTreeSet::new());
        for batch in Opened::at(&rows)?.batches(Some(&refer))? {
            for reference in references(&batch?, &refer) {
                let digest = reference.rsplit('/').next().unwrap_or_default();
                if !seen.insert(digest.to_owned()) {
                    continue;
                }
                let Some(bytes) = read(root, reference)? else {
                    brought.gone += 1;
                    continue;
                };
                let path = to.join(digest);
                let written = fs::create_dir_all(&to).and_then(|()| fs::write(&path, &bytes));
                written.map_err(|error| failed(&path, error))?;
                (brought.files, brought.bytes) =
                    (brought.files + 1, brought.bytes + bytes.len() as u64);
            }
        }
    }
    Ok(brought)
}
