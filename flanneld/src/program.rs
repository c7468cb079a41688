//! The program flanneld: arguments, logging, runtime, exit code. flannelctl acts as flanneld under that name, so that the image contains
//! what both share once.
//!
//! Exit codes: 0 after a signal, `--help` and `--version`; 1 if it cannot start or a task failed; 2 if a flag or a variable is
//! invalid.

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime;
use tracing::error;

use crate::cli::{Options, Parsed};
use crate::{daemon, logging, sys};

/// Runs the daemon with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    let env = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    match Options::parse(env::args_os().skip(1), env) {
        Ok(Parsed::Run(options)) => run(*options),
        Ok(Parsed::Help(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ok(Parsed::Version) => {
            print(concat!("v", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(&format!("flanneld: {error}\n"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(options: Options) -> ExitCode {
    sys::keep_heap_small();
    logging::init(options.log);
    options.log();
    // One thread: the daemon mostly waits, and the stacks and arenas of more threads would be half of its memory.
    let runtime = match runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "could not start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(daemon::run(options));
    // A write that hangs on a failed disk must not delay the end.
    runtime.shutdown_timeout(FILE_GRACE);
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "flanneld failed");
            ExitCode::FAILURE
        }
    }
}

const FILE_GRACE: Duration = Duration::from_millis(200);

/// Compatibility: to stderr, like all texts of Go flannel. A closed stderr does not cause a panic.
fn print(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
