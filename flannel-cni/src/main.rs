//! The CNI plugin: `flannel`, which gives pods their place in the network.
//!
//! One process, one operation: parameters from the environment, config from stdin. Invariants: stdout carries the
//! result or the error object and nothing else; no threads but those that feed a child, no runtime; the pure
//! half (what to do) is apart from the doing.
#![forbid(unsafe_code)]

mod address;
mod args;
mod delegate;
mod environment;
mod error;
mod fault;
mod files;
mod firewall;
mod flannel;
mod invoke;
mod kernel;
mod links;
mod native;
mod netconf;
mod netlink;
mod netns;
mod plugin;
mod request;
mod result;
mod scratch;
mod subnet_env;
mod sysctl;
mod undo;
mod version;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use plugin::Plugin;

/// musl's own allocator gives memory back to the kernel piece by piece, a tenth of the time of an ADD.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let outcome = plugin_named(&name).run(|name| std::env::var_os(name), std::io::stdin());
    let _ = std::io::stderr().write_all(outcome.stderr.as_bytes());
    // A runtime that does not read the result has not got it.
    match std::io::stdout().write_all(outcome.stdout.as_bytes()) {
        Ok(()) if outcome.success => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The plugin of a program's name. Every name that is not one of a delegate's is flannel's: installers append versions.
fn plugin_named(program: &str) -> &'static Plugin {
    match program {
        "bandwidth" => &native::bandwidth::PLUGIN,
        "bridge" => &native::bridge::PLUGIN,
        "loopback" => &native::loopback::PLUGIN,
        "host-local" => &native::host_local::PLUGIN,
        "portmap" => &native::portmap::PLUGIN,
        _ => &flannel::PLUGIN,
    }
}
