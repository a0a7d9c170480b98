"""The meanings of the program's exit status."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Each number means the same in every command; ``status`` follows the LSB's init scripts."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    UNKNOWN = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.DONE: "done (status: running)",
    ExitCode.FAILED: "failed (status: dead, but its lock or pidfile is left)",
    ExitCode.USAGE: "wrong usage",
    ExitCode.NOT_RUNNING: "not running",
    ExitCode.UNKNOWN: "unknown (status: it does not answer)",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}

# \b keeps the lines as they are: help is otherwise reflowed into one paragraph.
EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code.value:<4} {text}" for code, text in MEANINGS.items())
