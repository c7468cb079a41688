//! Texts of errors.

pub(crate) use flannel_core::error::chain;
