//! Whether a flanneld runs on this node, of whatever kind.

use std::fs;

use super::Session;

/// The process of a flanneld in our network namespace. Nothing is asked of it, so that it may also be one of Go, or one
/// that hangs.
pub(crate) fn running(_: &Session) -> Option<u32> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let processes = fs::read_dir("/proc").ok()?;
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).find(|process| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}"));
        // The comm of a process that has ended and is not yet waited for is still there.
        let is_dead = || read("stat").is_ok_and(|stat| stat.contains(") Z "));
        read("comm").is_ok_and(|name| name.trim_end() == "flanneld")
            // Without the right to look we cannot tell, and take it for ours.
            && fs::read_link(format!("/proc/{process}/ns/net")).map_or(true, |theirs| own.as_ref().is_none_or(|own| *own == theirs))
            && !is_dead()
    })
}
