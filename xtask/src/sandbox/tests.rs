use super::command;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// What a runner that is killed leaves behind: nothing. The kernel sends the same signal when the thread
/// that started the sandbox ends and when its process is killed.
#[test]
#[ignore = "needs root"]
fn sandbox_ends_with_its_runner() {
    let mut child = thread::spawn(|| {
        let mut child = command("sh")
            .args([
                "-c",
                "ip netns add left-behind && mkdir /var/lib/left-behind && echo started && sleep 1000",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        child
    })
    .join()
    .unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(!Path::new("/run/netns/left-behind").exists());
    assert!(!Path::new("/var/lib/left-behind").exists());
    // The pipe is closed once every process inside is gone.
    let started = Instant::now();
    let rest = BufReader::new(child.stdout.take().unwrap()).lines().count();
    assert_eq!(rest, 0);
    assert!(started.elapsed() < Duration::from_secs(20));
}
