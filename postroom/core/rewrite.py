"""Rewrites some lines of a text file of any size, compressed or not: the whole file is replaced, or nothing is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from postroom.core.files import plain_file, private, sync

_LONGEST_LINE = 1 << 20  # octets; a longer line is read in parts
_REST = ".rewritten"
# How log rotation compresses files, by their first octets.
_Open: TypeAlias = Callable[[BinaryIO, Literal["rb", "wb"]], BufferedIOBase]
_COMPRESSIONS: dict[bytes, _Open] = {
    b"\x1f\x8b": lambda file, mode: gzip.GzipFile(fileobj=file, mode=mode),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
_UNKNOWN = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress"}


class CannotRead(Exception):
    """The file is compressed, and damaged or in a way that is not known here."""


def rewrite_lines(path: Path, change: Callable[[bytes], bytes]) -> int:
    """Replace each line by `change(line)`; return how many lines changed.

    The file is left alone where there is none. Otherwise a new one, with the rights of the old one, takes its place.
    What gzip, bzip2 or xz has compressed is compressed again. Nobody else may write to it meanwhile. Raises OSError,
    CannotRead.
    """
    target = path.resolve()
    changed = count_changes(target, change)
    if changed:
        with plain_file(target) as file:
            _replace(target, file, _compression_of(file), change)
    return changed


def count_changes(path: Path, change: Callable[[bytes], bytes]) -> int:
    """Return how many lines `rewrite_lines` would change now. Raises OSError, CannotRead."""
    with plain_file(path.resolve()) as file:
        compression = _compression_of(file)
        try:
            return sum(change(line) != line for line in _lines(file, compression))
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise CannotRead(str(error)) from error


def _compression_of(file: BinaryIO) -> _Open | None:
    """Return what opens the file decompressed, or None when it is not compressed. Raises CannotRead."""
    begins = file.read(8)
    for octets, name in _UNKNOWN.items():
        if begins.startswith(octets):
            raise CannotRead(f"it is compressed by {name}")
    return next((opener for octets, opener in _COMPRESSIONS.items() if begins.startswith(octets)), None)


def _lines(file: BinaryIO, compression: _Open | None) -> Iterator[bytes]:
    file.seek(0)
    if compression is None:
        yield from _parts(file)
        return
    with compression(file, "rb") as inside:
        yield from _parts(inside)


def _parts(file: BinaryIO | BufferedIOBase) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_LINE):
        yield line


def _replace(path: Path, old: BinaryIO, compression: _Open | None, change: Callable[[bytes], bytes]) -> None:
    beside = path.with_name(f".{path.name}{_REST}")  # a draft that a crash has left is begun anew
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "xb", opener=private) as new:
            lines = (change(line) for line in _lines(old, compression))
            if compression is None:
                new.writelines(lines)
            else:
                with compression(new, "wb") as inside:
                    inside.writelines(lines)
            status = os.fstat(old.fileno())
            with suppress(PermissionError):
                os.fchown(new.fileno(), status.st_uid, status.st_gid)
            os.fchmod(new.fileno(), status.st_mode & 0o7777)
            new.flush()
            os.fsync(new.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)
