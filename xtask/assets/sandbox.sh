# First process of a sandbox: `unshare --net --mount --pid --fork --kill-child` starts it as PID 1 with the
# command to run as arguments. Everything that the command creates (namespaces, links, processes, files below
# /run, /etc and /var/lib) is removed when it ends, even after SIGKILL.
set -eu

mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/flannel /run/lab/log /run/lab/tmp /run/lab/outer-proc
chmod 1777 /run/lab/tmp

# Process ids inside the sandbox, and those outside, which are needed to enter it.
mount --rbind /proc /run/lab/outer-proc
mount -t proc proc /proc

# Named by process id, which sandboxes have in common; libfaketime leaves its objects behind.
mount -t tmpfs -o mode=1777 tmpfs /dev/shm

# Named namespaces are bind mounts; shared propagation makes later ones visible in the mount namespaces of the
# nodes (like `ip netns add`).
mount --bind /run/netns /run/netns
mount --make-shared /run/netns

# A temporary layer over the directories that daemons write to. Without overlayfs, each directory gets a tmpfs,
# which leaves empty directories behind.
for dir in etc var/lib; do
    layer=/run/lab/layer/$dir
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=/$dir,upperdir=$layer/upper,workdir=$layer/work" overlay "/$dir" 2>/dev/null || true
done
mkdir -p /etc/cni/net.d /var/lib/cni /var/lib/flannel
for dir in /etc/cni/net.d /var/lib/cni /var/lib/flannel; do
    mount -t tmpfs -o mode=755 tmpfs "$dir"
done

ip link set lo up
export TMPDIR=/run/lab/tmp FLANNEL_SANDBOX=1

# No exec: PID 1 must reap orphans, and default signal actions do not apply to it.
"$@"
