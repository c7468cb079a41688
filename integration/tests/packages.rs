//! What `cargo xtask dist` makes is installed, run, upgraded and removed, by the programs that people use for that: dpkg,
//! rpm and dnf on a host with systemd, containerd, and tar.
//!
//! The runner makes the packages from the programs that all tests use: not optimised, and otherwise the same.

#[path = "packages/guide.rs"]
mod guide;
#[path = "packages/host.rs"]
mod host;
#[path = "packages/image.rs"]
mod image;
#[path = "packages/processor.rs"]
mod processor;
#[path = "packages/programs.rs"]
mod programs;
#[path = "packages/rpm.rs"]
mod rpm;
