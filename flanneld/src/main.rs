//! flanneld. Everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // How this program is linked; the library may be part of others.
    flanneld::sys::resolve_names_without_plugins(cfg!(target_feature = "crt-static"));
    flanneld::program::main()
}
