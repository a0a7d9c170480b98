"""The directories of the gateway's files."""

from __future__ import annotations

import os

from sage_inference.config.paths import Paths
from sage_inference.daemon.errors import DaemonError

HOME_HINT = "SAGE_INFERENCE_HOME names another folder for the gateway's files"


def ensure(paths: Paths) -> None:
    """Make the missing ones, accessible to their owner only. Raises ``DaemonError``."""
    before = os.umask(0o077)  # Path.mkdir does not apply its mode to parents
    try:
        for directory in (paths.state_dir, paths.log_dir):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                usable = os.access(directory, os.W_OK | os.X_OK)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise DaemonError(f"directory {directory} cannot be made: {reason}", HOME_HINT) from None
            if not usable:
                raise DaemonError(f"directory {directory} is not writable", HOME_HINT)
    finally:
        os.umask(before)
