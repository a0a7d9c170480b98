"""How a caller on this machine reaches the running gateway: its address, a key, what it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_inference.config.paths import Paths
from sage_inference.daemon.admin import reachable
from sage_inference.daemon.control import inspect
from sage_inference.daemon.errors import DaemonError, NotRunning, Unresponsive
from sage_inference.daemon.order import flags_from
from sage_inference.daemon.pidfile import PidInfo


@dataclass(frozen=True, slots=True)
class Access:
    """``status`` is the gateway's own document. ``key`` is None where none is asked for."""

    host: str
    port: int
    key: str | None = field(repr=False)
    status: dict[str, Any]

    def model(self, *, embedding: bool) -> str | None:
        """A model of the kind, of an instance that is ready rather than not; None where none is known."""
        kinds = ("embedding", "mixed") if embedding else ("llm", "mixed")
        fitting = [one for one in self.status["instances"] if one["models"] and one["kind"] in kinds]
        fitting.sort(key=lambda one: (one["state"] != "ready", kinds.index(one["kind"])))
        return str(fitting[0]["models"][0]) if fitting else None


def access(paths: Paths, *, key: str | None = None) -> Access:
    """Raises ``NotRunning``, ``Unresponsive``; ``DaemonError`` or ``SecretError`` where its key is not to be had.

    ``key`` is one that the caller has; without it, the first of the gateway's configuration.
    """
    state = inspect(paths)
    if state.state in ("stopped", "dead"):
        raise NotRunning("the gateway is not running", "sage inference start --background, or give --url")
    if state.info is None or state.live is None:
        raise Unresponsive(str(state.reason))
    if key is None and state.live["needs_key"]:
        key = _configured_key(paths, state.info)
    return Access(reachable(state.info.host), state.info.port, key, state.live)


def _configured_key(paths: Paths, info: PidInfo) -> str:
    from sage_inference.daemon.run import load_settings

    own = Paths(Path(info.config_path), paths.state_dir, paths.log_dir)
    keys = () if info.needs_api_key else load_settings(own, flags_from(info.flags)).api_keys
    if not keys:
        raise DaemonError(
            "the gateway wants an API key that is written nowhere",
            "give it with --api-key env:NAME or file:PATH",
        )
    return keys[0].key.reveal()
