//! What `cargo xtask dist` makes is installed, run, upgraded and removed, by the programs that people use for that: dpkg,
//! rpm and dnf on a host with systemd, containerd, and tar.
//!
//! The runner makes the packages from the programs that all tests use: not optimised, and otherwise the same.

mod guide;
mod host;
mod image;
mod processor;
mod programs;
mod rpm;
