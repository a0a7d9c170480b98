"""The sessions of the page across a restart: their digests, in a file that only the gateway's user can read.

Each program that can read the state folder can open a session, so the file gives nobody a right.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_inference.keeper import files

FILE = "ui-sessions.json"
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class PageSession:
    """``ends_at`` is a time of the monotonic clock."""

    ends_at: float
    key: bytes | None  # the digest of the key that opened it; the session ends when the key does


def read(file: Path) -> dict[bytes, PageSession]:
    """Sessions by the digest of their token; none if the file is missing or was not written by a gateway."""
    to_monotonic = time.monotonic() - time.time()
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(file, flags), "rb") as opened:
            document: Any = json.loads(opened.read(_LARGEST) or b"")
        return {
            bytes.fromhex(each["token"]): PageSession(
                float(each["ends_at"]) + to_monotonic, bytes.fromhex(each["key"]) if each["key"] else None
            )
            for each in document["sessions"]
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def write(file: Path, sessions: Mapping[bytes, PageSession]) -> None:
    """Write atomically; without sessions there is no file. Raises ``OSError``."""
    if not sessions:
        file.unlink(missing_ok=True)
        return
    to_wall = time.time() - time.monotonic()
    rows = [
        {"token": token.hex(), "ends_at": each.ends_at + to_wall, "key": each.key.hex() if each.key else None}
        for token, each in sessions.items()
    ]
    files.write(str(file.parent), file.name, {"schema": 1, "sessions": rows})
