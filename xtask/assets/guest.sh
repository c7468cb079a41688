# Boots a guest kernel, in a sandbox of its own, see xtask/src/guest.rs. The second serial port is stdin and stdout.
# Arguments: the directory of the unpacked packages, the kernel, the initramfs, the directory for the results of tests, the
# file for the console, and directories that may be mount points of their own.
set -eu
packages=$1 kernel=$2 initramfs=$3 results=$4 console=$5
shift 5

# The root file system of the host as the guest may see it: unchangeable.
mkdir /run/root
mount --bind / /run/root
mount -o remount,bind,ro /run/root
for directory in "$@"; do
    mount --bind "$directory" "/run/root$directory"
    mount -o remount,bind,ro "/run/root$directory"
done

export LD_LIBRARY_PATH="$packages/usr/lib/x86_64-linux-gnu:$packages/lib/x86_64-linux-gnu"
export PATH="$packages/usr/bin:$packages/usr/lib/qemu:$PATH:/usr/lib/qemu"
virtiofsd --socket-path=/run/root.sock -o source=/run/root -o cache=always -o sandbox=chroot >>"$console" 2>&1 &
virtiofsd --socket-path=/run/results.sock -o source="$results" -o sandbox=chroot >>"$console" 2>&1 &
while ! [ -S /run/root.sock ] || ! [ -S /run/results.sock ]; do
    sleep 0.05
done

# Of the processors that QEMU can emulate, this one has the fewest features that cost time.
exec qemu-system-x86_64 -L "$packages/usr/share/qemu" -L "$packages/usr/share/seabios" -L /usr/share/qemu -L /usr/share/seabios \
    -accel tcg,thread=multi -cpu Westmere -smp 1 -m 1G -M q35,memory-backend=memory \
    -object memory-backend-memfd,id=memory,size=1G,share=on \
    -chardev socket,id=root,path=/run/root.sock -device vhost-user-fs-pci,chardev=root,tag=root \
    -chardev socket,id=results,path=/run/results.sock -device vhost-user-fs-pci,chardev=results,tag=results \
    -nic none -nodefaults -display none -no-reboot -chardev file,id=console,path="$console",append=on -serial chardev:console -serial stdio \
    -kernel "$kernel" -initrd "$initramfs" \
    -append 'console=ttyS0 panic=-1 quiet nokaslr mitigations=off random.trust_cpu=on'
