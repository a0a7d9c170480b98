"""Hides secrets in an engine's output and in files about it."""

from __future__ import annotations

import re

TYPE_CHECKING = False  # ``typing`` costs the keeper half a megabyte
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MASK = b"***"
_SHORTEST = 6  # bytes; a shorter value stands in ordinary words as well
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(?:^|_)KEYS?(?:_|$)", re.I)
# Texts that look like secrets. A group holds what stays in front of it.
_LOOKS_SECRET = (
    rb"\bhf_[A-Za-z0-9]{8,}",
    rb"\b(?:sk|ghp|gho|glpat)[-_][A-Za-z0-9_-]{16,}",
    rb"(?i:(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',]+)",
    rb"(?i:(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,})",
    rb"(://)[^\s/@:]*:[^\s/@]+(?=@)",
)
# In lower case: each secret above has one of them, or is within a URL.
_MARKS = (b"hf_", b"sk-", b"sk_", b"ghp", b"gho", b"glpat", b"authorization", b"bearer")


class Masker:
    """Replaces ``values`` and all that looks like a secret."""

    def __init__(self, values: Iterable[str]) -> None:
        known = {value.encode("utf-8", "surrogateescape") for value in values}
        long = sorted((value for value in known if len(value) >= _SHORTEST), key=len, reverse=True)
        self.longest = len(long[0]) if long else 0
        self._marks = (*_MARKS, *(value.lower() for value in long))
        self._pattern = re.compile(b"|".join((*map(re.escape, long), *_LOOKS_SECRET)))

    def may_find(self, data: bytes) -> bool:
        """False if there is certainly no secret. Takes a hundredth of the time of the search."""
        lower = data.lower()
        return any(mark in lower for mark in self._marks) or (b"@" in lower and b"://" in lower)

    def __call__(self, line: bytes) -> bytes:
        return self._pattern.sub(_replaced, line) if self.may_find(line) else line

    def text(self, text: str) -> str:
        return self(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


def secret_values(env: Mapping[str, str]) -> list[str]:
    """The values of variables whose names promise a secret."""
    return [value for name, value in env.items() if _SECRET_NAME.search(name)]


def _replaced(found: re.Match[bytes]) -> bytes:
    return b"".join(kept for kept in found.groups() if kept) + _MASK
