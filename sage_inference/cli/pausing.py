"""The pause of a command that goes on showing what happens."""

from __future__ import annotations

import select
import sys
import time


def pause(seconds: float) -> None:
    """Sleep, but end if the reader of our output has left (`| head`): more lines would reach nobody."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no file: output of a test, or closed
        time.sleep(seconds)
        return
    if poll.poll(seconds * 1000):
        raise BrokenPipeError
