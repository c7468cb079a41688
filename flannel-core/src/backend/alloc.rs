//! alloc: a lease and nothing in the kernel; another program moves packets.

use super::{Backend, Behaviour, Entry};
use crate::json::{FieldError, Fields};

pub(super) const ENTRY: Entry = Entry { name: "alloc", read, is_supported: true, devices: &[] };

/// The alloc backend has no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options;

const fn read(_fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    Ok(Backend::Alloc(Options))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn published_type(&self) -> &'static str {
        ""
    }

    fn connects_pods(&self) -> bool {
        false
    }
}
