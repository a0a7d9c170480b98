"""The file of the unit. Its first line has a digest of the rest, so that one edited by hand is recognized."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sage_inference.daemon.service.manager import ServiceError

_LARGEST = 1 << 20
_MARK = "# Written by sage inference service install. Changes belong in a drop-in (systemctl edit). sha256="
_FIRST_LINE = re.compile(re.escape(_MARK) + r"([0-9a-f]{64})\n")

# ours: as it was written; edited: by hand, or by another program than ours.
Content = Literal["missing", "ours", "edited"]


def marked(text: str) -> str:
    """``text`` below its digest."""
    return f"{_MARK}{_digest(text)}\n{text}"


def content_of(text: str | None) -> Content:
    if text is None:
        return "missing"
    found = _FIRST_LINE.match(text)
    return "ours" if found and found[1] == _digest(text[found.end() :]) else "edited"


def read(path: Path) -> str | None:
    """The text, None if there is no file. Raises ``ServiceError``."""
    try:
        # Without O_NONBLOCK, opening a FIFO at this path would block.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return (file.read(_LARGEST) or b"").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServiceError(f"{path} cannot be read: {error.strerror}") from None


def write(path: Path, text: str, mode: int, *, replace: bool = True) -> None:
    """Write the whole file or nothing. Missing folders are made. Raises ``ServiceError``."""
    draft = path.with_name(f".{path.name}.new")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ServiceError("a path of the service is not UTF-8, which systemd does not take") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
                file.write(data)
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error.strerror}") from None


def remove(path: Path, *, folders: int = 0) -> None:
    """Remove the file, and as many ``folders`` above it as are then empty. Raises ``ServiceError``."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ServiceError(f"{path} cannot be removed: {error.strerror}") from None
    with suppress(OSError):
        for folder in list(path.parents)[:folders]:
            folder.rmdir()


def drop_ins(path: Path) -> list[str]:
    """The files of ``path``'s drop-in folder, which ``systemctl edit`` makes."""
    try:
        return sorted(str(each) for each in Path(f"{path}.d").glob("*.conf"))
    except OSError:
        return []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
