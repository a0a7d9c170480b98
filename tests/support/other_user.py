"""Code that runs as another user of this machine; only root can do that."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - for connecting: see ``as_nobody``
import json
import os
from collections.abc import Callable
from typing import Any

NOBODY = 65534


def as_nobody(question: Callable[[], Any]) -> Any:
    """What ``question`` returns in a process of the user ``nobody``; anything that JSON holds.

    Whatever it imports must have been imported before: that user may not read our files.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = question()
        except BaseException as error:
            told = repr(error)
        with os.fdopen(writer, "w") as pipe:
            json.dump(told, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = json.load(pipe)
    os.waitpid(child, 0)
    return answer
