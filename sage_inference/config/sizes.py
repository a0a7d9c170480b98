"""Memory sizes, shares, and ranges of ports, as they are written in a configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sage_inference.config.errors import Invalid, quote

_UNITS = {
    **dict.fromkeys(("k", "kib"), 1 << 10),
    **dict.fromkeys(("m", "mib"), 1 << 20),
    **dict.fromkeys(("g", "gib"), 1 << 30),
    **dict.fromkeys(("t", "tib"), 1 << 40),
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*|%)")
_PORTS = re.compile(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?")
_LEAST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Budget:
    """A share of a GPU's memory, or a size in bytes. The other one is None."""

    share: float | None
    bytes: int | None

    def of(self, total: int) -> int:
        """The budget in bytes on a GPU with ``total`` bytes."""
        return int(total * self.share) if self.share is not None else self.bytes or 0


def budget(text: str) -> Budget:
    """``20GiB``, ``20 GB``, ``0.4``, ``40%``. Raises ``Invalid``."""
    found = _NUMBER.fullmatch(text.strip())
    unit = found[2].lower() if found else ""
    if found and unit in ("", "%"):
        share = float(found[1]) / (100 if unit else 1)
        if 0 < share <= 1:
            return Budget(share, None)
    elif found and unit in _UNITS:
        size = int(float(found[1]) * _UNITS[unit])
        if size >= _LEAST_BYTES:
            return Budget(None, size)
    raise Invalid(f"takes a size (20GiB) or a share above 0 and at most 1 (0.4), not {quote(text)}")


def port_range(text: str) -> range:
    """``18400-18499`` or one port. Raises ``Invalid``."""
    found = _PORTS.fullmatch(text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last < 65536:
        raise Invalid(f"takes a range of ports, as 18400-18499, not {quote(text)}")
    return range(first, last + 1)
