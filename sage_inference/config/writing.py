"""Replaces a file's text. The file is complete at every moment, or a copy of it exists."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import stat
from io import FileIO
from pathlib import Path

from sage_inference.config.errors import ConfigError

# A rename cannot replace a mount point, such as a single file mounted with ``-v ./config.yaml:…``.
_NOT_REPLACEABLE = (errno.EBUSY, errno.EXDEV)


def write(target: Path, text: str) -> None:
    """Write ``text``. An existing file keeps its owner, its mode and a byte order mark.

    Raises ``OSError``, or ``ConfigError`` if the file could not be restored either.
    """
    data = text.encode()
    if _has_mark(target):
        data = codecs.BOM_UTF8 + data
    # The name is fixed, so that the next process overwrites a file that a killed one left. The lock allows one writer.
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        _write_new(temporary, data, target)
        temporary.replace(target)
    except OSError as error:
        if error.errno not in _NOT_REPLACEABLE:
            raise
        _write_over(target, data)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _has_mark(target: Path) -> bool:
    try:
        with target.open("rb") as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    except FileNotFoundError:
        return False


def _write_new(path: Path, data: bytes, like: Path) -> None:
    """Write a new file, and return when it is on the disk."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _take_after(like, file.fileno())
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_over(target: Path, data: bytes) -> None:
    """Change the content of the file itself. Until that is done, a copy of the old content lies beside it."""
    before = target.read_bytes()
    copy = target.with_name(f".{target.name}.before")
    # Unbuffered, so that data that a full disk refused is not written again on close.
    with target.open("r+b", buffering=0) as file:
        _write_new(copy, before, target)
        _sync_folder(target.parent)
        _overwrite(file, data, before, target, copy)
    copy.unlink(missing_ok=True)


def _overwrite(file: FileIO, data: bytes, before: bytes, target: Path, copy: Path) -> None:
    try:
        _put(file, data)
    except OSError as error:
        try:
            _put(file, before)
        except OSError:
            raise ConfigError(
                f"is damaged: {error.strerror} while it was written",
                source=str(target),
                hint=f"the content before is in {copy}",
            ) from None
        copy.unlink(missing_ok=True)
        raise


def _put(file: FileIO, data: bytes) -> None:
    # Do not truncate first: on a full disk the old content's blocks are needed to write it back.
    file.seek(0)
    written = 0
    while written < len(data):
        written += file.write(data[written:])
    file.truncate()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Give a new file of root's to the user whose folder it lies in: that user's gateway must read and change it."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != os.fstat(descriptor).st_uid:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _take_after(target: Path, descriptor: int) -> None:
    """Copy mode and owner of the replaced file, because root's edit must not take a file from its user."""
    try:
        old = target.stat()
    except FileNotFoundError:
        give_to_owner_of(target.parent, descriptor)
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
