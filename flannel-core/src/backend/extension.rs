//! extension: commands of the administrator. Only the options are known in this version.

use super::{Backend, Behaviour};
use crate::json::{FieldError, Fields};

pub(super) const NAME: &str = "extension";

/// Options of the extension backend: commands, empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Before the lease; its output becomes the backend's data.
    pub pre_startup_command: String,
    /// After the lease.
    pub post_startup_command: String,
    /// For each peer that appears.
    pub subnet_add_command: String,
    /// For each peer that is removed.
    pub subnet_remove_command: String,
}

pub(super) fn read(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    let command = |key| fields.string(key).map(Option::unwrap_or_default);
    Ok(Backend::Extension(Options {
        pre_startup_command: command("PreStartupCommand")?,
        post_startup_command: command("PostStartupCommand")?,
        subnet_add_command: command("SubnetAddCommand")?,
        subnet_remove_command: command("SubnetRemoveCommand")?,
    }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }
}
