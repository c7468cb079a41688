//! Network namespaces.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::environment::Environment;
use crate::error::{CniError, Code};

/// The namespace of this thread. `/proc/self` would be that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Refuses to work in the namespace that we run in: a runtime that asks for it would cut off the host.
pub(crate) fn guard(environment: &Environment) -> Result<(), CniError> {
    if environment.netns_override || !is_same(&environment.netns, Path::new(OWN)) {
        return Ok(());
    }
    Err(CniError::new(Code::InvalidNetns, "plugin's netns and netns from CNI_NETNS should not be the same"))
}

/// Two paths lead to one namespace. A path that leads nowhere is the namespace of nobody.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}
