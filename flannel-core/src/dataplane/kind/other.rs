//! Links that flannel does not make, known by the name of their kind alone.

use std::fmt;

use super::{Kind, LinkKind};

impl Kind for String {
    fn name(&self) -> &str {
        self
    }

    fn is_tunnel(&self) -> bool {
        false
    }

    fn mismatch(&self, found: &LinkKind) -> Option<&'static str> {
        (found.name() != self).then_some("kind")
    }

    fn write(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
