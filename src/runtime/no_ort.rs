//! Stands in for ONNX Runtime in a build without the feature `ort`.

use std::{path::Path, sync::Arc};

use super::session::Backend;

/// Says that there is none.
pub fn open_library(_explicit: Option<&Path>) -> Result<Arc<dyn Backend>, String> {
    Err("this build has no ONNX Runtime (the features ort and ort-download are off)".to_owned())
}

/// Nothing to turn off.
///
/// # Safety
/// None needed here; the real one has a condition.
pub unsafe fn disable_telemetry() {}
