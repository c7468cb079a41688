//! Fault injection. A debug build with `FLANNEL_CNI_FAULT` in its environment fails or is killed at a step, so that tests can check
//! what an interrupted ADD or DEL leaves behind. Release builds do not contain it.
//!
//! A step is an operation outside of the process that changes something or may fail: a request to the kernel, a file, a namespace, a
//! lock. `fail:3` makes the third step fail, `kill:3` kills the process before it, and `lose:3` drops the reply to the third change
//! of the kernel.

/// Called before each step.
#[cfg(not(debug_assertions))]
pub(crate) const fn step() -> std::io::Result<()> {
    Ok(())
}

/// Called after each change of the kernel.
#[cfg(not(debug_assertions))]
pub(crate) const fn answer() -> std::io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub(crate) use on_purpose::{answer, step};

#[cfg(debug_assertions)]
mod on_purpose {
    use nix::errno::Errno;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static STEPS: AtomicU32 = AtomicU32::new(0);
    static ANSWERS: AtomicU32 = AtomicU32::new(0);
    static FAULT: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let text = std::env::var("FLANNEL_CNI_FAULT").ok()?;
        let (kind, at) = text.split_once(':')?;
        Some((kind.to_owned(), at.parse().ok()?))
    });

    pub(crate) fn step() -> io::Result<()> {
        let Some((kind, at)) = &*FAULT else { return Ok(()) };
        if STEPS.fetch_add(1, Ordering::Relaxed) + 1 != *at {
            return Ok(());
        }
        match kind.as_str() {
            "kill" => {
                eprintln!("fault: killed at step {at}");
                // The test notices if this fails.
                let _ = kill(Pid::this(), Signal::SIGKILL);
                Ok(())
            }
            "fail" => {
                eprintln!("fault: failed at step {at}");
                Err(Errno::EIO.into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn answer() -> io::Result<()> {
        let Some((kind, at)) = &*FAULT else { return Ok(()) };
        if kind != "lose" || ANSWERS.fetch_add(1, Ordering::Relaxed) + 1 != *at {
            return Ok(());
        }
        eprintln!("fault: lost answer {at}");
        Err(Errno::EIO.into())
    }
}
