"""The directories of the gateway's files."""

from __future__ import annotations

import os

from sage_inference.config.paths import SYSTEM_HOME, Paths
from sage_inference.daemon.errors import DaemonError

HOME_HINT = "SAGE_INFERENCE_HOME names another folder for the gateway's files"


def ensure(paths: Paths) -> None:
    """Make the missing ones, accessible to their owner only. Raises ``DaemonError``."""
    _leave_to_service(paths)
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


def _leave_to_service(paths: Paths) -> None:
    """Root's files in the folder of the system's service would be closed to the user that the service runs as."""
    try:
        owner = paths.state_dir.parent.stat().st_uid
    except OSError:
        return
    if owner and os.geteuid() == 0 and paths.state_dir.parent == SYSTEM_HOME:
        raise DaemonError(
            f"{SYSTEM_HOME} belongs to the service of the system, which root's gateway would lock out",
            "systemctl start sage-inference",
        )
