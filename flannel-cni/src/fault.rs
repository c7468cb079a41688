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
        match hit(&STEPS, &["kill", "fail"]) {
            // The test notices if this fails.
            Some("kill") => drop(kill(Pid::this(), Signal::SIGKILL)),
            Some(_) => return Err(Errno::EIO.into()),
            None => {}
        }
        Ok(())
    }

    pub(crate) fn answer() -> io::Result<()> {
        hit(&ANSWERS, &["lose"]).map_or(Ok(()), |_| Err(Errno::EIO.into()))
    }

    /// Counts, and returns the fault of one of these kinds that is due.
    fn hit(count: &AtomicU32, kinds: &[&str]) -> Option<&'static str> {
        let (kind, at) = FAULT.as_ref().filter(|(kind, _)| kinds.contains(&kind.as_str()))?;
        if count.fetch_add(1, Ordering::Relaxed) + 1 != *at {
            return None;
        }
        eprintln!("fault: {kind} at {at}");
        Some(kind)
    }
}
