//! Keys and values as text: the form that core reads and writes.

use flannel_core::lease::{LeaseAttrs, Subnets};

pub(super) fn key_text(subnets: &Subnets) -> String {
    subnets.to_string()
}

pub(super) fn value_text(attrs: &LeaseAttrs) -> String {
    attrs.to_json()
}
