//! Runs a delegate as a process: the program is found in `CNI_PATH`, stdin is the config, stdout the result or the error object.

use flannel_core::json::Value;
use nix::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::{CniError, Code, errno_text};
use crate::process;

/// How often to try to start a program that is being written, and the pause between attempts.
const BUSY_ATTEMPTS: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// A failed call of a delegate.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The program does not exist.
    Find(String),
    /// It failed with this error.
    Failed(CniError),
}

/// Finds the program of a plugin: the first regular file of its name in the list of directories.
pub(crate) fn find(name: &str, path: &OsStr) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("no plugin name provided".to_owned());
    }
    if name.contains('/') {
        return Err(format!("invalid plugin name: {name}"));
    }
    let directories: Vec<PathBuf> = std::env::split_paths(path).collect();
    // An empty element is the current directory; `Command` would search PATH for a bare name instead.
    let candidates = directories.iter().map(|directory| {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        directory.join(name)
    });
    candidates.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        let directories: Vec<_> = directories.iter().map(|one| one.display().to_string()).collect();
        format!("failed to find plugin {name:?} in path [{}]", directories.join(" "))
    })
}

/// Runs a delegate with the command of `environment` and returns its stdout. Its stderr is forwarded if it succeeds.
pub(crate) fn run(program: &str, netconf: &[u8], environment: &Environment) -> Result<Vec<u8>, CallError> {
    let program = find(program, &environment.path).map_err(CallError::Find)?;
    let output = retry_while_busy(BUSY_PAUSE, || start(&program, netconf, environment)).map_err(|error| {
        let msg = format!("fork/exec {}: {}", program.display(), errno_text(&error));
        CallError::Failed(CniError::new(Code::Unknown, msg))
    })?;
    if !output.status.success() {
        return Err(CallError::Failed(failure(&output)));
    }
    // The outcome does not depend on stderr.
    let _ = io::stderr().write_all(&output.stderr);
    Ok(output.stdout)
}

fn start(program: &Path, netconf: &[u8], environment: &Environment) -> io::Result<Output> {
    // Set in full, because a GC calls DEL for attachments that are not in its own environment.
    let variables: [(&str, OsString); 6] = [
        ("CNI_COMMAND", environment.command.as_str().into()),
        ("CNI_CONTAINERID", environment.attachment.container_id.as_str().into()),
        ("CNI_NETNS", environment.netns.as_os_str().into()),
        ("CNI_IFNAME", environment.attachment.ifname.as_str().into()),
        ("CNI_ARGS", environment.args.as_str().into()),
        ("CNI_PATH", environment.path.clone()),
    ];
    process::run(std::process::Command::new(program).envs(variables), netconf)
}

fn retry_while_busy<T>(pause: Duration, mut start: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut attempt = 1;
    loop {
        match start() {
            Err(error) if error.raw_os_error() == Some(Errno::ETXTBSY as i32) && attempt < BUSY_ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(pause);
            }
            other => return other,
        }
    }
}

/// Returns the error of a failed delegate in the words of Go's library.
fn failure(output: &Output) -> CniError {
    let unknown = |msg: String| CniError::new(Code::Unknown, msg);
    if output.stdout.is_empty() {
        if output.stderr.is_empty() {
            return unknown(format!("netplugin failed with no error message: {}", status_text(output)));
        }
        return unknown(format!("netplugin failed: {:?}", String::from_utf8_lossy(&output.stderr)));
    }
    let problem = match Value::parse(&output.stdout) {
        Ok(Value::Object(object)) => return CniError::from_json(&object),
        Ok(other) => format!("json: cannot unmarshal {} into Go value of type types.Error", other.kind()),
        Err(error) => error.to_string(),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    unknown(format!("netplugin failed but error parsing its diagnostic message {stdout:?}: {problem}"))
}

fn status_text(output: &Output) -> String {
    // Rust prints "exit status: 2", Go "exit status 2"; texts for signals are the same.
    output.status.to_string().replacen("exit status: ", "exit status ", 1)
}

#[cfg(test)]
mod tests;
