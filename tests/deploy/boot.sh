#!/bin/sh
# Boots systemd as the first process of namespaces of its own, on an overlay of this machine's root: boot.sh FOLDER.
# FOLDER has units/, venv/ and driver.sh; what the driver prints goes to FOLDER/out/said.
set -eu
folder=$1
mount --make-rprivate /
mkdir -p "$folder/mnt" "$folder/out"
mount -t tmpfs tmpfs "$folder/mnt"
mkdir "$folder/mnt/upper" "$folder/mnt/work" "$folder/mnt/root"
root=$folder/mnt/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/mnt/upper,workdir=$folder/mnt/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" -o ro
if [ -d /sys/fs/cgroup/systemd ]; then
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
mount --rbind /dev "$root/dev"
mkdir -p "$root/postroom-test" "$root/opt/postroom/.venv"
mount --bind "$folder" "$root/postroom-test"
mount --bind "$folder/venv" "$root/opt/postroom/.venv"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
rm -rf "$root/etc/systemd/system"
cp -r "$folder/units" "$root/etc/systemd/system"
if ! grep -q '^postroom:' "$root/etc/passwd"; then
    echo 'postroom:x:990:990::/var/lib/postroom:/usr/sbin/nologin' >>"$root/etc/passwd"
    echo 'postroom:x:990:' >>"$root/etc/group"
fi
install -d -o 990 -g 990 -m 700 "$root/var/lib/postroom"
exec env -i container=podman PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$root" /lib/systemd/systemd --unit=driver.target --show-status=0 --log-target=null
