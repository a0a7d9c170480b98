"""Standard input, output and error that the caller closed (``>&-``)."""

from __future__ import annotations

import os
import sys


def open_closed() -> None:
    """Open /dev/null in place of the standard streams that are closed.

    Otherwise the next file or socket that is opened gets the number, and what is printed goes there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: that of the closed stream, because the lower ones are open by now.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: PTH123, SIM115 - lives until exit
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: PTH123, SIM115


def give_up_output() -> None:
    """Discard unwritten output. Otherwise Python fails once more while it exits."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - lives until exit


def give_up_broken_output() -> None:
    """The same, if standard output is full, or its terminal is gone."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        give_up_output()
