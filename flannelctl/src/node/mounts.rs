//! What a container sees of its host.

use std::fs;
use std::path::Path;

/// Whether this process runs in a pod of Kubernetes.
pub(crate) fn is_in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Why a path of the host is invisible: this process runs in a pod that does not mount it.
pub(crate) fn hidden(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok().filter(|_| is_in_pod())?;
    let reason = || format!("this pod does not mount {} of its node", path.display());
    is_of_image(path, &mounts).then(reason)
}

/// Why the processes of the host are invisible: this process runs in a pod with process ids of its own.
pub(crate) fn hidden_processes() -> Option<String> {
    // A kernel thread, which only the first namespace has.
    let is_first = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd");
    let reason = || "this pod does not see the processes of its node (hostPID)".to_owned();
    (is_in_pod() && !is_first).then(reason)
}

/// Whether a path is on the root file system, that of the image, and not on a mount. Format: proc_pid_mountinfo(5).
fn is_of_image(path: &Path, mounts: &str) -> bool {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    !points.filter(|point| *point != "/").any(|point| path.starts_with(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_pod() {
        let mounts = "700 600 0:52 / / rw - overlay overlay rw\n\
                      701 700 0:5 / /proc rw - proc proc rw\n\
                      702 700 8:1 /run/flannel /run/flannel rw - ext4 /dev/sda1 rw\n";
        for (path, expected) in [
            ("/run/flannel/subnet.env", false),
            ("/run/flannel", false),
            ("/run/flannel2", true),
            ("/etc/cni/net.d", true),
            ("/proc/sys/net", false),
        ] {
            assert_eq!(is_of_image(Path::new(path), mounts), expected, "{path}");
        }
    }
}
