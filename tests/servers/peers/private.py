"""A private root: the files of Debian packages over the machine's own, seen by the processes of one server alone.

Debian's mail servers exclude one another, and their paths are compiled in. So none is installed: each runs in mount
and process namespaces of its own, in an overlay of `/` into which its packages were unpacked. What it writes outside
its folder is gone with its last process, and so are its processes when the first of them ends.
"""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.servers.peers import fetch
from tests.servers.peers.peer import Peer

# $1 the folder, $2 the packages' files, $3 lines for passwd, $4 lines for group; then the program and its arguments.
ENTER = """
folder=$1 tree=$2 passwd=$3 group=$4
shift 4
mkdir -p "$folder/private"
mount -t tmpfs -o mode=755 tmpfs "$folder/private"
root=$folder/private/root
mkdir "$folder/private/upper" "$folder/private/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/private/upper,workdir=$folder/private/work" overlay "$root"
tar -C "$tree" -cf - . | tar -C "$root" -xf - --keep-directory-symlink
printf '%s' "$passwd" >> "$root/etc/passwd"
printf '%s' "$group" >> "$root/etc/group"
mkdir -p "$root$folder"
mount --bind "$folder" "$root$folder"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
printf '127.0.0.1 localhost mail.postroom.example\\n' > "$root/etc/hosts"
printf 'hosts: files\\npasswd: files\\ngroup: files\\nservices: files\\n' > "$root/etc/nsswitch.conf"
if [ -e "$folder/prepare" ]; then chroot "$root" /bin/sh -e "$folder/prepare"; fi
exec chroot "$root" "$@"
"""
UNSHARE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--uts", "--")


class PrivatePeer(Peer):
    """A server of Debian's that runs in a private root. `prepare` in its folder is a script that it needs run there."""

    packages: ClassVar[tuple[str, ...]]
    users: ClassVar[Mapping[str, int]] = {}

    def prepare(self) -> None:
        self.tree = fetch.debian(self.name, *self.packages)

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments, that stay in the foreground."""

    def spawn(self) -> subprocess.Popen[bytes]:
        passwd = "".join(f"{name}:x:{id_}:{id_}::/:/bin/sh\n" for name, id_ in self.users.items())
        group = "".join(f"{name}:x:{id_}:\n" for name, id_ in self.users.items())
        script = f"hostname mail.postroom.example\n{ENTER}"
        enter = ["sh", "-ec", script, self.name, str(self.folder), str(self.tree), passwd, group]
        return self.run([*UNSHARE, *enter, *self.command()])


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and of those in it, of which any may vanish meanwhile."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
