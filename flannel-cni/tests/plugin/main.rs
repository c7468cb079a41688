//! The plugin as runtimes see it: a process with an environment, stdin and stdout.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bandwidth;
mod bridge;
mod bridge_keys;
mod cross;
mod fault;
mod firewall;
mod host_local;
mod ipam;
mod masquerade;
mod netns;
mod portmap;
mod portmap_attachments;
mod process;
mod support;
