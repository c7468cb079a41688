//! The CNI plugin `flannel`, which connects pods to the network.
//!
//! Each process performs one operation: parameters from the environment, config from stdin. Invariants: stdout carries
//! only the result or the error object; the only threads write to the stdin of a child; there is no async runtime;
//! pure functions decide, others act.
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
mod native;
mod netconf;
mod netlink;
mod netns;
mod plugin;
mod process;
mod request;
mod result;
mod scratch;
mod siblings;
mod subnet_env;
mod sysctl;
mod undo;
mod version;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use plugin::Plugin;

/// musl's own allocator returns memory to the kernel piece by piece, which takes a tenth of the time of an ADD.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let outcome = plugin_named(&name).run(|name| std::env::var_os(name), std::io::stdin());
    let _ = std::io::stderr().write_all(outcome.stderr.as_bytes());
    // Fail if the runtime does not read the result.
    match std::io::stdout().write_all(outcome.stdout.as_bytes()) {
        Ok(()) if outcome.success => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Returns the plugin for a program name; flannel for any name that is not that of a delegate, because installers append versions.
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
