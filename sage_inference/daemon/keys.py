"""The keys of the running gateway, and the reload with which it takes those of the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, control
from sage_inference.daemon.errors import DaemonError, NotRunning, Unresponsive
from sage_inference.daemon.pidfile import PidInfo

_WITHIN_S = 15.0  # a record of usage with many users takes seconds to read


class OtherFile(DaemonError):  # noqa: N818 - a state rather than an error
    """The gateway that runs reads another configuration file than the one that was changed."""

    code = "other_file"


def running_keys(paths: Paths) -> list[dict[str, Any]] | None:
    """The keys of ``/admin/keys``, None without a gateway. Raises ``DaemonError``."""
    try:
        info = control.running(paths)
    except NotRunning:
        return None
    return _keys_of(info)


def take_up(paths: Paths, file: Path) -> list[dict[str, Any]] | None:
    """Have the gateway read the changed ``file``. Returns the keys that it has then, None without a gateway.

    Raises ``OtherFile`` if it reads another one, and ``DaemonError`` if it cannot apply this one.
    """
    try:
        info = control.running(paths)
        if os.path.realpath(info.config_path) != os.path.realpath(file):
            raise OtherFile(
                f"the gateway that runs reads {info.config_path}", f"--config {info.config_path} changes that"
            )
        control.reload(paths)
    except NotRunning:
        return None
    return _keys_of(info)


def _keys_of(info: PidInfo) -> list[dict[str, Any]]:
    try:
        status, document = admin.ask(info, "GET", "/admin/keys", timeout_s=_WITHIN_S)
        if status == 200:
            return list(document["keys"])
        problem = str(document["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}") from None
    raise DaemonError(problem, "a gateway of an older version has no keys to show: sage inference restart")
