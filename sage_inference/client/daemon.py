"""Reads the running gateway's address from its files."""

from __future__ import annotations

from collections.abc import Mapping

from sage_inference.client.endpoint import Endpoint
from sage_inference.config.errors import ConfigError
from sage_inference.config.paths import Paths
from sage_inference.daemon import lock, pidfile
from sage_inference.daemon.errors import DaemonError
from sage_inference.daemon.pidfile import PidInfo


def running_gateway(environ: Mapping[str, str]) -> Endpoint | str:
    """The URL of the running gateway, or the reason why there is none."""
    info = running_info(environ)
    return info if isinstance(info, str) else Endpoint(info.url)


def running_info(environ: Mapping[str, str]) -> PidInfo | str:
    """The pidfile's content of the running gateway, or the reason why there is none."""
    try:
        paths = Paths.resolve(environ=environ)
        held = lock.look(paths.lock_file).held
    except (ConfigError, DaemonError) as error:
        return str(error)
    info = pidfile.read(paths.pid_file)
    if not held:
        return "none runs"
    if info is None or info.phase != "running":
        return f"it is {info.phase if info else 'starting'}"
    return info
