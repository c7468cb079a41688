use std::time::{Duration, Instant};

use super::{ExecError, Program};

const LIMIT: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Program {
    Program::new("sh", LIMIT).argument("-c").argument(script)
}

#[tokio::test]
async fn gives_standard_output() {
    let program = shell("echo \"$LC_ALL $GREETING\"; cat; echo lost >&2").stdin("in");
    assert_eq!(program.variable("GREETING", "hello").run().await.unwrap(), "C hello\nin");
}

/// More than a pipe holds, both ways at once.
#[tokio::test]
async fn large_input_and_output_do_not_block() {
    let input = "x".repeat(1 << 20);
    assert_eq!(Program::new("cat", LIMIT).stdin(input.clone()).run().await.unwrap(), input);
}

#[tokio::test]
async fn input_that_is_not_read_is_no_error() {
    assert_eq!(shell("exit 0").stdin("x".repeat(1 << 20)).run().await.unwrap(), "");
}

#[tokio::test]
async fn failures_name_the_command_and_what_it_said() {
    let error = shell("echo one >&2; echo two >&2; exit 3").run().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`sh -c echo one >&2; echo two >&2; exit 3` failed with exit status: 3: one; two"
    );
    let silent = Program::new("false", LIMIT).run().await.unwrap_err();
    assert_eq!(silent.to_string(), "`false` failed with exit status: 1: no output on stderr");
    let missing = Program::new("no-such-program-of-flannel", LIMIT).run().await.unwrap_err();
    assert!(matches!(&missing, ExecError::NotFound { .. }));
    assert_eq!(missing.to_string(), "no-such-program-of-flannel was not found in PATH");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let program =
        Program { limit: Duration::from_millis(300), ..shell("echo $$ > \"$PID\"; exec sleep 600") };
    let error = program.variable("PID", &pid_file).run().await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { .. }), "{error}");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    // A killed process that nobody waits for yet is still listed: its state tells.
    let stat = format!("/proc/{}/stat", pid.trim());
    let start = Instant::now();
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(start.elapsed() < LIMIT, "still running: {stat}");
        tokio::task::yield_now().await;
    }
}
