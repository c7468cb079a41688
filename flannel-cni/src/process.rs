//! Programs that this process starts and waits for.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// Runs a program with an input and returns its output.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> io::Result<Output> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        // In parallel with reading: a program may write before it has read everything.
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input reports that by its exit status.
                let _ = stdin.write_all(input);
            }
        });
        child.wait_with_output()
    })
}
