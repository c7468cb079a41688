//! The flannel daemon. [`store`] and [`kernel`] are public for flannelctl, the rest for `main.rs` only.
#![forbid(unsafe_code)]

pub mod cli;
pub mod kernel;
pub mod store;
