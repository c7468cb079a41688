# First process of a sandbox: `unshare --net --mount --pid --fork --kill-child` starts it as PID 1 with the
# command to run as arguments. Everything that the command makes (namespaces, links,
# processes, files below /run, /etc and /var/lib) disappears with it, whatever kills it.
set -eu

mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/flannel /run/lab/log /run/lab/tmp /run/lab/outer-proc
chmod 1777 /run/lab/tmp

# The process numbers in here, and beside them those outside, which a person needs to enter the sandbox.
mount --rbind /proc /run/lab/outer-proc
mount -t proc proc /proc

# Named namespaces are bind mounts; shared propagation makes those that come later visible in the mount
# namespaces of the nodes (as `ip netns add` does).
mount --bind /run/netns /run/netns
mount --make-shared /run/netns

# A throw-away layer over what the daemons write to. Where overlayfs is missing, plain directories
# covered by a tmpfs do, at the price of leaving empty directories behind.
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

# Not exec: PID 1 stays to collect orphans, and default signal actions do not apply to it.
"$@"
