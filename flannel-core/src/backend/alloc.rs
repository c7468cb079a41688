//! alloc: a lease and nothing in the kernel; another program moves packets.

use super::{Backend, Behaviour};
use crate::json::{FieldError, Fields};

pub(super) const NAME: &str = "alloc";

/// The alloc backend has no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options;

pub(super) const fn read(_fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    Ok(Backend::Alloc(Options))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }

    fn published_type(&self) -> &'static str {
        ""
    }

    fn connects_pods(&self) -> bool {
        false
    }
}
