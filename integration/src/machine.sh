# First process of a node that has booted: `unshare --mount --pid --fork --kill-child` starts it as PID 1, in the node's
# network. Its argument is the directory where the node's files are kept. When it is killed, everything that
# was started on the node goes with it, as when the power is cut.
set -eu
kept=$1

# Its number as seen from outside; /proc is still that of the sandbox.
read -r stat </proc/self/stat
number=${stat%% *}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
# Settings of the whole machine. Those of the network belong to the node.
for dir in kernel vm; do
    mount --bind "/proc/sys/$dir" "/proc/sys/$dir"
    mount -o remount,bind,ro "/proc/sys/$dir"
done

# What tells that the machine has booted since, see boot_id(4).
cat /proc/sys/kernel/random/uuid >"$kept/boot-id"
mount --bind "$kept/boot-id" /proc/sys/kernel/random/boot_id

# Groups of processes are known to the whole machine, and no namespace takes them along when it ends. So
# container runtimes get a tree that they can only read: nothing can stay behind. It is cgroup2 on every
# machine, whatever the machine itself uses.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /sys/fs/cgroup

# On disk.
for dir in var/lib/containerd var/lib/containers var/lib/kubelet var/log etc/containerd etc/containers; do
    mkdir -p "$kept/disk/$dir" "/$dir"
    mount --bind "$kept/disk/$dir" "/$dir"
done
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir -p "$kept/disk/opt" /opt
mount --bind "$kept/disk/opt" /opt
mkdir -p /opt/cni/bin

# In memory.
mount -t tmpfs tmpfs /dev/shm
for dir in netns containerd containers libpod; do
    rm -rf "$kept/memory/$dir"
    mkdir -p "$kept/memory/$dir" "/run/$dir"
    mount --bind "$kept/memory/$dir" "/run/$dir"
done

echo "$number"
# Not exec: PID 1 stays to collect orphans.
sleep infinity
