//! The first process of a guest kernel that runs end-to-end tests, see `xtask/src/guest.rs`.
//!
//! It mounts the root file system of the host, which is read-only, and the directory for the results of tests. Then it reads the
//! names of scripts from the second serial port, one per line, runs each and replies with a line: its exit status, or a
//! text that says why it could not be run. The runner kills the guest at the end.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the console is read by people")]

use anyhow::{Context, Result, ensure};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{self, LocalFlags, SetArg};
use nix::unistd::chroot;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;

/// Where the root file system of the host is mounted before it becomes that of the guest.
const ROOT: &str = "/root";
/// The program that loads modules for the kernel.
const MODPROBE: &str = "/dev/modprobe";
/// The serial port to the runner.
const PORT: &str = "/dev/ttyS1";

fn main() {
    if let Err(error) = run() {
        println!("guest: {error:#}");
    }
    // The kernel would panic when its first process ends.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn run() -> Result<()> {
    mount_at("proc", "/proc", "proc", MsFlags::empty())?;
    mount_at("dev", "/dev", "devtmpfs", MsFlags::empty())?;
    for line in read("/modules")?.lines() {
        let module = File::open(line).with_context(|| format!("could not open {line}"))?;
        finit_module(&module, c"", ModuleInitFlags::empty())
            .with_context(|| format!("could not load {line}"))?;
    }
    mount_root()?;
    // What an administrator loads before the daemon starts; the kernel loads other modules when they are needed.
    let loaded =
        Command::new(MODPROBE).arg("br_netfilter").status().context("could not load br_netfilter")?;
    ensure!(loaded.success(), "could not load br_netfilter: {loaded}");
    let mut port = OpenOptions::new().read(true).write(true).open(PORT).context("could not open the port")?;
    silence(&port)?;
    writeln!(port, "ready").context("could not write to the port")?;
    for line in BufReader::new(port.try_clone()?).lines() {
        let script = line.context("could not read the port")?;
        let reply = match Command::new("sh").arg(&script).status() {
            Ok(status) => status.code().map_or_else(|| status.to_string(), |code| code.to_string()),
            Err(error) => format!("could not start {script}: {error}"),
        };
        writeln!(port, "{reply}").context("could not write to the port")?;
    }
    Ok(())
}

/// Mounts the root file system of the host with what a system has at run time, and makes it the root directory.
fn mount_root() -> Result<()> {
    let below = |path: &str| format!("{ROOT}{path}");
    mount_at("root", ROOT, "virtiofs", MsFlags::MS_RDONLY)?;
    mount_at("proc", &below("/proc"), "proc", MsFlags::empty())?;
    mount_at("sys", &below("/sys"), "sysfs", MsFlags::empty())?;
    mount_at("dev", &below("/dev"), "devtmpfs", MsFlags::empty())?;
    mount_at("cgroup", &below("/sys/fs/cgroup"), "cgroup2", MsFlags::empty())?;
    for directory in ["/run", "/tmp", "/dev/shm"] {
        let directory = below(directory);
        let _ = fs::create_dir(&directory);
        mount_at("tmpfs", &directory, "tmpfs", MsFlags::empty())?;
    }
    let results = read("/results")?;
    mount_at("results", &below(results.trim()), "virtiofs", MsFlags::empty())?;
    fs::copy("/modprobe", below(MODPROBE)).context("could not copy the program that loads modules")?;
    fs::write("/proc/sys/kernel/modprobe", MODPROBE).context("could not set what loads modules")?;
    // Over the first file system, where those who enter a mount namespace arrive.
    std::env::set_current_dir(ROOT).context("could not change to the root directory")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("could not move the root directory")?;
    chroot(".").context("could not change the root directory")?;
    std::env::set_current_dir("/").context("could not change to the root directory")
}

fn mount_at(source: &str, target: &str, kind: &str, flags: MsFlags) -> Result<()> {
    mount(Some(source), target, Some(kind), flags, None::<&Path>)
        .with_context(|| format!("could not mount {source} on {target}"))
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("could not read {file}"))
}

/// Makes the port pass on what is written, and not echo what it reads.
fn silence(port: &File) -> Result<()> {
    let mut settings = termios::tcgetattr(port).context("could not read the settings of the port")?;
    settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL);
    termios::tcsetattr(port, SetArg::TCSANOW, &settings).context("could not set up the port")
}
