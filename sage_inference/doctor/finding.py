"""The result of one check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sage_inference.doctor.facts import Facts

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``text`` describes what was found. ``hint`` is the command or the edit that mends it."""

    name: str
    verdict: Verdict
    text: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A question about the machine. ``run`` may hang: it has a thread of its own, which is given up in time."""

    name: str
    run: Callable[[Facts], Iterable[Finding]]

    def ok(self, text: str) -> Finding:
        return Finding(self.name, "ok", text)

    def warn(self, text: str, hint: str | None = None) -> Finding:
        return Finding(self.name, "warn", text, hint)

    def fail(self, text: str, hint: str | None = None) -> Finding:
        return Finding(self.name, "fail", text, hint)
