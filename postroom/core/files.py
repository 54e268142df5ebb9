"""Opens, reads, writes and flushes files by name: regular files only, up to a bound, so that nothing hangs.

Also says whose a file is, for the message when one cannot be opened.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

MEBIBYTE: Final = 1 << 20
# Errors of system calls that pass by themselves: try again later.
MAY_PASS: Final = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
)
_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FLAGS: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotPlain(OSError):
    """The file is not a regular one; `strerror` names its kind."""


def read_plain(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` octets. Raises OSError."""
    with plain_file(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:  # it has just grown
        raise _too_large(path, most)
    return content


def plain_file(path: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file, of at most `most` octets, to be read. Raises OSError."""
    fd = open_plain(path)
    if most is not None and os.fstat(fd).st_size > most:
        os.close(fd)
        raise _too_large(path, most)
    return os.fdopen(fd, "rb")


def open_plain(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file and return its descriptor.

    Nothing else is opened: a FIFO would wait for its other end, and a device may do anything. Raises OSError.
    """
    try:
        _check(path, path.stat().st_mode)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    fd = os.open(path, flags | _FLAGS, mode)
    try:
        _check(path, os.fstat(fd).st_mode)  # it may have been replaced meanwhile
    except OSError:
        os.close(fd)
        raise
    return fd


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_plain(path: Path, content: bytes) -> None:
    """Put a small file in the place of whatever has its name, except a folder. A crash leaves the old or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600), "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


def private(path: str, flags: int) -> int:
    """Open a file of mode 0600, and none that a link leads to: an `opener` for new files."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def write_new(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 that is not there yet. Raises FileExistsError, and other OSErrors."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _FLAGS, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)  # whatever the umask
        file.write(content)


def _too_large(path: Path, most: int) -> NotPlain:
    bound = f"{most // MEBIBYTE} MiB" if most >= MEBIBYTE else f"{most} octets"
    return NotPlain(errno.EFBIG, f"it has more than {bound}", str(path))


def kind_of(mode: int) -> str | None:
    """Return the kind of a file that is not regular, in words; None for a regular one."""
    return next((kind for is_one, kind in _KINDS if is_one(mode)), None)


def _check(path: Path, mode: int) -> None:
    kind = kind_of(mode)
    if kind is not None:
        raise NotPlain(errno.EINVAL, f"it is {kind}, not a plain file", str(path))


def reason_of(error: OSError) -> str:
    """Return why a system call failed; where permission is lacking, also the file's owner and this user."""
    reason = error.strerror or str(error)
    if not isinstance(error, PermissionError) or not isinstance(error.filename, (str, os.PathLike)):
        return reason
    return f"{reason}: {whose(Path(error.filename))}"


def whose(path: Path) -> str:
    """Return the owner of a file, or of the folder that cannot be entered, and the user of this process."""
    for place in (path.absolute(), *path.absolute().parents):
        with suppress(OSError):
            found = place.stat()
            subject = "it" if place == path.absolute() else str(place)
            owner = f"{_user(found.st_uid)}:{_group(found.st_gid)}"
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            return f"{subject} belongs to {owner} with mode {mode}, and we are {_user(os.geteuid())}"
    return f"we are {_user(os.geteuid())}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # as in most containers
        return f"user {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
