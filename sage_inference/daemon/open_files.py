"""The limit of open files of this process."""

from __future__ import annotations

import resource
from contextlib import suppress

from sage_inference.daemon.errors import DaemonError

# Each relayed request takes two descriptors. Many systems start a process with 1024 and allow more.
_OPEN_FILES = 65536
_LEAST_OPEN_FILES = 32  # a gateway opens about twenty at its start


def allow_open_files(connections: int) -> None:
    """Raise the limit for ``connections``. Raises ``DaemonError`` if the hard limit is too low for any gateway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(_OPEN_FILES, 2 * connections)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
        if hard < _LEAST_OPEN_FILES:
            raise DaemonError(
                f"the limit of {hard} open files is too low: a gateway needs at least {_LEAST_OPEN_FILES}",
                "raise it with ulimit -n, or with LimitNOFILE= in the service's unit",
            )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
