"""Backup and restore: an installation (database, secrets, data.csv, .env) in one tar archive, and back again.

The file is a plain tar archive of mode 0600, whose first member has the checksums of the others. After a
restore all queued messages are held: they may have been sent since the backup.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypedDict

from postroom import __version__
from postroom.core.clock import Clock, rfc3339
from postroom.core.errors import PostroomError
from postroom.core.files import MEBIBYTE, kind_of, plain_file, read_plain, reason_of, sync
from postroom.core.message import InDoubtPolicy
from postroom.runtime.own_files import check_own_files, is_inside, owner_of
from postroom.runtime.replacing import finish, put_in_place
from postroom.settings import Settings, load_settings
from postroom.store.holds import Holds
from postroom.store.sqlite.copies import check_copy, closed_to_all, refuse_log_alone
from postroom.store.store import Store, open_store, sqlite_path
from postroom.store.transaction import Transaction
from postroom.store.workers import Workers

_MANIFEST: Final = "manifest.json"
_SCRATCH: Final = ".postroom-"
DATABASE, SECRET, ADMIN_TOKEN, ACCOUNTS, ENVIRONMENT = (
    "postroom.db",
    "secret.key",
    "admin.token",
    "data.csv",
    ".env",
)
_MEMBERS: Final = frozenset({DATABASE, SECRET, ADMIN_TOKEN, ACCOUNTS, ENVIRONMENT})
_DRAFT, _VERIFIED = "backup.tar", "verified"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMAT: Final = 1
_LARGEST_MANIFEST: Final = 65_536
_PIECE: Final = 1 << 20
_FOR_EVER: Final = 1 << 62  # microseconds


class _Described(TypedDict):
    """A file in a backup, as its manifest describes it."""

    size: int
    sha256: str


class _Manifest(TypedDict):
    """The first member of a backup: the format, and sizes and checksums of the others."""

    format: int
    postroom: str
    made_at: str
    files: dict[str, _Described]


class BackupError(PostroomError):
    """A backup could not be made, or cannot be restored; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The files in a backup, with their sizes."""

    path: Path
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore. `held`: how many messages were queued; `kept`: the new names of the former files."""

    files: tuple[str, ...]
    made_at: str
    held: int
    kept: tuple[Path, ...]
    wrote_settings: bool


def save(
    store: Store, settings: Settings, var: Path, path: Path, clock: Clock, *, overwrite: bool = False
) -> Saved:
    """Write a backup to `path`, whole and verified before it has that name; `overwrite`: in place of any file.

    A file of the installation is never replaced. Raises BackupError.
    """
    _check_target(path)
    _spare_own_files(path, settings, var)
    if not overwrite:
        _spare_others_files(path)
    try:
        with _scratch(path.parent) as scratch:
            files = _gather(store, settings, var, scratch)
            draft = scratch / _DRAFT
            manifest: _Manifest = {
                "format": _FORMAT,
                "postroom": __version__,
                "made_at": rfc3339(clock()),
                "files": {name: _described(file) for name, file in files.items()},
            }
            _pack(draft, manifest, files)
            _verify(draft, scratch / _VERIFIED)
            draft.replace(path)
            sync(path.parent)
    except OSError as error:
        raise BackupError(f"cannot write {path}: {reason_of(error)}; no backup was made") from error
    return Saved(path, {name: each["size"] for name, each in manifest["files"].items()})


def _check_target(path: Path) -> None:
    """Raise BackupError where `path` is a device or a stream, which the backup would replace."""
    kind = kind_of(path.stat().st_mode) if path.exists() else None
    if kind is None and path.is_symlink() and str(path.readlink()).startswith(("/proc/", "/dev/")):
        kind = "a stream"
    if kind:
        raise BackupError(f"{path} is {kind}, which a backup would replace; name a file")


def _spare_own_files(path: Path, settings: Settings, var: Path) -> None:
    owner = owner_of(path, settings, var)
    if owner or is_inside(path, var):
        is_what = f"is {owner}" if owner else f"is in {var}, which is Postroom's own"
        raise BackupError(f"{path} {is_what}; name another file, outside {var}. No backup was made")


def _spare_others_files(path: Path) -> None:
    """Raise BackupError where `path` exists and is neither a backup nor empty."""
    try:
        if path.stat().st_size == 0 or _is_backup(path):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackupError(f"cannot read {path}, which is there: {reason_of(error)}") from error
    raise BackupError(f"{path} is there and is no backup of Postroom; name another file, or say --overwrite")


def _is_backup(path: Path) -> bool:
    """Whether a file begins as a backup of any version does."""
    try:
        with plain_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            first = archive.next()
            return first is not None and first.name == _MANIFEST
    except tarfile.TarError:
        return False


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Lend a folder for this user alone, on the same file system, locked for as long as it is in use.

    Folders that killed processes have left are removed: they hold copies of the database and the secret key.
    """
    for left in parent.glob(f"{_SCRATCH}*"):
        _remove_if_left(left)
    folder, descriptor = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
        with suppress(FileNotFoundError):  # another process removed it before it was locked
            descriptor = os.open(folder, _FOLDER)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    """Remove a scratch folder that no process has locked, and that holds only files of a backup."""
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        return
    try:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(f"{DATABASE}-")}
        known = names <= {*_MEMBERS, _DRAFT, _VERIFIED}
        if known and os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # it is in use
        pass
    finally:
        os.close(descriptor)


def _gather(store: Store, settings: Settings, var: Path, scratch: Path) -> dict[str, Path]:
    files = {
        ACCOUNTS: settings.accounts_csv,
        ENVIRONMENT: Path(ENVIRONMENT),
        SECRET: var / SECRET,
        ADMIN_TOKEN: var / ADMIN_TOKEN,
    }
    if settings.secret_key:
        files[SECRET] = scratch / SECRET
        files[SECRET].write_text(settings.secret_key.reveal() + "\n", encoding="utf-8")
    if not store.is_remote:
        files[DATABASE] = scratch / DATABASE
        store.copy_to(files[DATABASE])
        check_copy(files[DATABASE])
    for file in files.values():
        if kind := kind_of(file.stat().st_mode) if file.exists() else None:
            raise BackupError(f"{file} is {kind}, not a plain file; no backup was made")
    return {name: file for name, file in files.items() if file.is_file()}


def _described(path: Path) -> _Described:
    with plain_file(path) as file:
        return {"size": path.stat().st_size, "sha256": _digest(file)}


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _pack(path: Path, manifest: _Manifest, files: Mapping[str, Path]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            content = json.dumps(manifest, indent=2).encode()
            _add(archive, _MANIFEST, len(content), io.BytesIO(content))
            for name, source in files.items():
                with plain_file(source) as opened:
                    _add(archive, name, manifest["files"][name]["size"], opened)
        file.flush()
        os.fsync(descriptor)


def _add(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    archive.addfile(member, content)


def restore(path: Path, var: Path, clock: Clock) -> Restored:
    """Put a backup in place of the files here, which get other names. Raises BackupError, StoreInUse, ConfigError.

    Everything is verified, and queued messages are held, before anything is changed. From the check that no process has
    the database open until the end, none can open it.
    """
    try:
        settings = _settings(path)
        check_own_files(settings, var)
        place = sqlite_path(settings.database_url)
        place = place.resolve() if place is not None else None
        var.mkdir(mode=0o700, exist_ok=True)
        with closed_to_all(place) if place is not None else nullcontext() as lock, _scratch(var) as scratch:
            manifest = _verify(path, scratch)
            names = tuple(manifest["files"])
            _check_secret(scratch, names, settings)
            database = place if DATABASE in names else None
            if DATABASE in names and database is None:
                raise BackupError("the backup holds an SQLite database, and DATABASE_URL is of PostgreSQL")
            if database is not None:
                refuse_log_alone(database)
            held = _hold_queued(scratch / DATABASE, clock) if database is not None else 0
            places = _places(names, settings, var, database)
            files = {places[name]: scratch / name for name in places}
            kept = put_in_place(files, database, _stamp(clock))
            if database is not None and lock is not None:
                lock.note_closed()  # it knows the position of the former database
                (var / "database.json").unlink(missing_ok=True)  # the position of the former database
                finish(database)
    except OSError as error:
        raise BackupError(f"cannot restore {path}: {error.filename or path}: {reason_of(error)}") from error
    return Restored(names, manifest["made_at"], held, kept, wrote_settings=ENVIRONMENT in places)


def _settings(path: Path) -> Settings:
    """Return the settings as they will be: those of the backup's `.env` where there is none here."""
    if _has_settings():
        return load_settings()
    with tempfile.TemporaryDirectory(prefix="postroom-") as folder:
        _verify(path, Path(folder), only={ENVIRONMENT})
        return load_settings(Path(folder) / ENVIRONMENT)


def _has_settings() -> bool:
    """Whether there is an `.env` here; a link to nothing counts, since the settings refuse it."""
    return Path(ENVIRONMENT).exists() or Path(ENVIRONMENT).is_symlink()


def _verify(path: Path, folder: Path, only: Collection[str] | None = None) -> _Manifest:
    """Unpack a backup, or `only` some of it, into `folder` and compare each file with its manifest.

    Raises BackupError, OSError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if kind := kind_of(path.stat().st_mode):
        raise BackupError(f"{path} is {kind}, and no backup")
    try:
        with plain_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            manifest = _manifest(path, archive)
            for name, expected in manifest["files"].items():
                if only is not None and name not in only:
                    continue
                source = archive.extractfile(name)
                if source is None or _unpacked(source, folder / name) != expected:
                    raise BackupError(f"{path} is damaged: {name} is not as it was saved")
    except (tarfile.TarError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise BackupError(f"{path} is no backup of Postroom, or is damaged") from error
    if DATABASE in manifest["files"] and only is None:
        check_copy(folder / DATABASE)
    return manifest


def _manifest(path: Path, archive: tarfile.TarFile) -> _Manifest:
    source = archive.extractfile(_MANIFEST)
    if source is None:
        raise KeyError(_MANIFEST)
    manifest: _Manifest = json.loads(source.read(_LARGEST_MANIFEST))
    if manifest["format"] != _FORMAT:
        raise BackupError(f"{path} was made by Postroom {manifest['postroom']}, and this is {__version__}")
    if not set(manifest["files"]) <= _MEMBERS:
        raise BackupError(f"{path} holds files that this version of Postroom does not know")
    return manifest


def _unpacked(source: IO[bytes], target: Path) -> _Described:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(source, file, _PIECE)
        file.flush()
        os.fsync(descriptor)
    return _described(target)


def _check_secret(scratch: Path, names: tuple[str, ...], settings: Settings) -> None:
    if settings.secret_key is None or SECRET not in names:
        return
    if read_plain(scratch / SECRET, MEBIBYTE).strip() != settings.secret_key.reveal().strip().encode():
        raise BackupError(
            "POSTROOM_SECRET_KEY is not the key of this backup, with which its passwords and keys were stored; set it to "
            "that one, or unset it: the backup brings its own"
        )


def _hold_queued(database: Path, clock: Clock) -> int:
    """Migrate the copy and hold its queued messages; return how many messages are held."""
    store = open_store(f"sqlite:///{database}")
    try:
        store.migrate()
        now = clock()
        workers = [record.id for record in store.read(Workers.living)]

        def hold(transaction: Transaction) -> None:
            transaction.holds.hold_queued(now, until=_FOR_EVER, claimed=True)
            for worker_id in workers:  # those of the backup's time: they do not run
                transaction.recovery.reap(worker_id, now=now, in_doubt=InDoubtPolicy.HOLD)

        store.write(hold)
        return len(store.read(Holds.held_messages))
    finally:
        store.close()


def _places(names: tuple[str, ...], settings: Settings, var: Path, database: Path | None) -> dict[str, Path]:
    """Return where each file belongs, the database last: until it is there, a restore can be repeated."""
    places = {ACCOUNTS: settings.accounts_csv}
    if not _has_settings():
        places = {ENVIRONMENT: Path(ENVIRONMENT), **places}
    if settings.secret_key is None:
        places[SECRET] = var / SECRET
    places[ADMIN_TOKEN] = var / ADMIN_TOKEN
    if database is not None:
        places[DATABASE] = database
    return {name: place for name, place in places.items() if name in names}


def _stamp(clock: Clock) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock() // 1_000_000))
