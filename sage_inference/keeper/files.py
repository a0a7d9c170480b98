"""The files in an engine's directory, and the lock among them."""

from __future__ import annotations

import fcntl
import json
import os
import time

TYPE_CHECKING = False  # ``typing`` costs the keeper half a megabyte
if TYPE_CHECKING:
    from typing import Any

FOLDER = "engines"  # in the folder of a gateway's state: one folder for each engine
LOCK = "keeper.lock"
SOCKET = "keeper.sock"
ENGINE = "engine.json"
EXIT = "exit.json"
LOG = "output.log"
ERRORS = "keeper.err"
SCHEMA = 1

_LARGEST = 1 << 20
# A client that looks at the lock holds it for microseconds.
_LOOK_S = 0.5
_RETRY_S = 0.005


def take_lock(directory: str) -> int | None:
    """The descriptor of the lock, which is held until every copy of it is closed. None if another holds it."""
    deadline = time.monotonic() + _LOOK_S
    while True:
        descriptor = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locked(descriptor, fcntl.LOCK_EX) and in_place(directory, descriptor):
            return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            return None
        time.sleep(_RETRY_S)


def is_held(directory: str) -> bool:
    """Whether a process holds the lock. Raises ``OSError`` if the file cannot be opened."""
    try:
        descriptor = os.open(os.path.join(directory, LOCK), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def in_place(directory: str, descriptor: int) -> bool:
    """Whether the lock's file is the open one. A lock on a removed file excludes no other process."""
    ours = os.fstat(descriptor)
    try:
        there = os.stat(os.path.join(directory, LOCK))
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def write(directory: str, name: str, document: dict[str, Any]) -> None:
    """Write atomically. Only the holder of the lock writes, so one temporary name is enough."""
    path = os.path.join(directory, name)
    draft = os.path.join(directory, f".{name}.new")
    remove(draft)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file)
        os.replace(draft, path)
    except OSError:
        remove(draft)
        raise


def read(directory: str, name: str) -> dict[str, Any] | None:
    """The document. None if it is missing, unreadable or damaged."""
    try:
        # Without O_NONBLOCK, opening a FIFO at this path would block.
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            document = json.loads(file.read(_LARGEST) or b"")
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def last_words(directory: str) -> str:
    """The last line that a keeper printed because of a fault, with a colon before it. Empty if there is none."""
    try:
        with open(os.path.join(directory, ERRORS), encoding="utf-8", errors="replace") as file:
            last = file.read(_LARGEST).strip().rpartition("\n")[2]
    except OSError:
        return ""
    return f": {last}" if last else ""


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
