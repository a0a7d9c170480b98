"""Runs a command while standard input is open, then ends every process it left.

    guard.py [--patience=SECONDS] COMMAND...

The tests hold the other end of standard input. However they end, a `kill -9` included, the kernel closes it,
so no engine outlives them.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys

import psutil

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 10.0  # between asking and killing


def main(argv: list[str]) -> int:
    # Orphans of the engine (its core process, when the server dies first) become ours, not init's.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    patience = PATIENCE_S
    if argv[0].startswith("--patience="):
        patience = float(argv.pop(0).partition("=")[2])
    os.nice(10)  # loading an engine must not disturb the tests that measure time
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        _until_either_ends(process.pid)
        process.poll()  # before psutil takes its status away
    finally:
        _end_all(patience)
    return process.wait()


def _until_either_ends(pid: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.buffer, selectors.EVENT_READ)
        selector.register(os.pidfd_open(pid), selectors.EVENT_READ)
        selector.select()


def _end_all(patience: float) -> None:
    """Ask, wait, then make them."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        left = psutil.Process().children(recursive=True)
        for process in left:
            try:
                end(process)
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(left, timeout=patience)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
