# Becomes systemd, as PID 1 of namespaces that `unshare` made in the network of the host. Arguments: where the host's files
# are kept, and what it sees of ours.
set -eu
directory=$1
shared=$2
# Its number as seen from outside; /proc is still that of the sandbox.
read -r stat </proc/self/stat
number=${stat%% *}

changes=$directory/changes
root=$directory/root
mkdir -p "$changes/etc/systemd/system" "$directory/work" "$root"
# It empties /tmp at boot, which here holds what the machine has there.
ln -s /dev/null "$changes/etc/systemd/system/systemd-tmpfiles-setup.service"
mount -t overlay -o "lowerdir=/,upperdir=$changes,workdir=$directory/work" overlay "$root"
cd "$root"
# A machine for development forbids packages to start anything.
rm -f usr/sbin/policy-rc.d
# The index of all manual pages of the machine takes longer than everything else.
rm -f var/lib/man-db/auto-update
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/shared run/lock
mount --rbind "$shared" run/shared
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . mnt
umount -l /mnt
echo "$number"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test /lib/systemd/systemd --unit=basic.target --log-target=null
