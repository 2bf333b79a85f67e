//! The runtimes that need nothing installed, as far as this build has them.

use std::sync::Arc;

use super::session::Backend;

/// tract, unless the feature is off.
pub fn tract() -> Option<Arc<dyn Backend>> {
    #[cfg(feature = "tract")]
    return Some(super::tract::backend());
    #[cfg(not(feature = "tract"))]
    return None;
}
