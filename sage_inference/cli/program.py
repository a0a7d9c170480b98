"""The name that the program was called by, in the commands that it proposes."""

from __future__ import annotations

_OURS = "sage inference"
_BESIDE = ("docs", "completion")  # commands beside ``inference``
_called = [_OURS]


def call(program: str) -> None:
    """Propose ``program``: ``sage`` has the gateway's commands under ``inference``, other names have only these."""
    _called[0] = _OURS if program == "sage" else program


def as_called(text: str) -> str:
    """``text`` with its commands as this caller can type them. ``sage`` may be another program here."""
    if _called[0] == _OURS:
        return text
    for command in _BESIDE:
        text = text.replace(f"sage {command}", f"{_called[0]} {command}")
    return text.replace(_OURS, _called[0])
