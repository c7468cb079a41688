//! A guest kernel, for tests of what the kernel of this machine lacks: a kernel of Debian, which QEMU runs under emulation.
//!
//! The guest has the root file system of this machine, read-only, so it runs the same programs as this machine. Its first
//! process is `integration/guest`. Everything that a guest needs is below `target/guest`; nothing is installed.

mod initramfs;
mod packages;

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::build;
use crate::dist::target;
use crate::process::{find, root, target as target_directory};
use crate::sandbox;

/// Time to boot, on a busy machine.
const BOOT: Duration = Duration::from_secs(120);

/// What guests boot.
pub(crate) struct Image {
    packages: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    results: PathBuf,
}

/// Returns the reason if this machine cannot run guests.
pub(crate) fn missing() -> Option<String> {
    match target::host() {
        Ok(host) if host.starts_with("x86_64-") => {}
        Ok(host) => return Some(format!("guests are only known for x86_64, not for {host}")),
        Err(error) => return Some(format!("{error:#}")),
    }
    let program = ["apt-get", "dpkg", "depmod"].into_iter().find(|program| find(program).is_none())?;
    Some(format!("`{program}` is missing: guests boot packages of Debian, and their modules"))
}

impl Image {
    /// Fetches and builds what guests boot. Tests write their results below `results`, which must exist.
    pub(crate) fn build(results: &Path) -> Result<Self> {
        let directory = target_directory().join("guest");
        let packages = packages::unpacked(&directory)?;
        let kernel = packages::kernel(&packages)?;
        build::guest()?;
        let contents = initramfs::Contents {
            program: fs::read(target_directory().join("debug/guest"))
                .context("could not read the program")?,
            packages: &packages,
            version: &kernel.version,
            results,
        };
        let initramfs = directory.join("initramfs");
        fs::write(&initramfs, contents.archive()?).context("could not write the initramfs")?;
        Ok(Self { packages, kernel: kernel.file, initramfs, results: results.to_owned() })
    }
}

/// A guest that runs scripts. It ends when this is dropped.
pub(crate) struct Guest {
    process: Child,
    port: ChildStdin,
    replies: Receiver<String>,
}

impl Guest {
    /// Boots a guest. Its console goes to a file with this name below the directory for results.
    pub(crate) fn boot(image: &Image, console: &str) -> Result<Self> {
        let console = image.results.join(console);
        File::create(&console).with_context(|| format!("could not create {}", console.display()))?;
        let mut command: Command = sandbox::command("sh");
        command
            .arg(root().join("xtask/assets/guest.sh"))
            .args([&image.packages, &image.kernel, &image.initramfs, &image.results, &console])
            .args([root(), target_directory()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().append(true).open(&console).context("could not open the console")?);
        let mut process = command.spawn().context("could not start a guest")?;
        let port = process.stdin.take().context("a guest has no stdin")?;
        let stdout = process.stdout.take().context("a guest has no stdout")?;
        let (sender, replies) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line.trim().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut guest = Self { process, port, replies };
        match guest.reply(BOOT)? {
            Some(line) if line == "ready" => Ok(guest),
            Some(line) => bail!("a guest said {line:?} instead of booting, see {}", console.display()),
            None => bail!("a guest did not boot within {} s, see {}", BOOT.as_secs(), console.display()),
        }
    }

    /// Runs a script, which must be below the directory for results. Returns whether it succeeded, or `None` if it takes
    /// longer than `limit`; the guest is then of no more use.
    pub(crate) fn run(&mut self, script: &Path, limit: Duration) -> Result<Option<bool>> {
        writeln!(self.port, "{}", script.display()).context("could not write to a guest")?;
        match self.reply(limit)? {
            Some(status) if status.parse::<i32>().is_ok() => Ok(Some(status == "0")),
            Some(text) => bail!("a guest said {text:?}"),
            None => Ok(None),
        }
    }

    fn reply(&mut self, limit: Duration) -> Result<Option<String>> {
        match self.replies.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("a guest ended; its console has the reason"),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Its sandbox ends with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
