//! The flannel daemon. Only [`store`] and [`kernel`] are public: flannelctl uses them.
#![forbid(unsafe_code)]

pub mod kernel;
pub mod store;
