"""The running gateway's address, a key for it, and its models, as callers on this machine need them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_inference.config.paths import Paths
from sage_inference.config.secrets import SecretError
from sage_inference.daemon.admin import tls_of
from sage_inference.daemon.control import inspect
from sage_inference.daemon.errors import DaemonError, NotRunning, Unresponsive
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.netloc import reachable

if TYPE_CHECKING:
    import ssl

_HINT = "give it with --api-key env:NAME or file:PATH"


@dataclass(frozen=True, slots=True)
class Access:
    """``status`` is the gateway's own document. ``key`` is None if the gateway asks for none."""

    host: str
    port: int
    key: str | None = field(repr=False)
    status: dict[str, Any]
    info: PidInfo = field(repr=False)

    @property
    def url(self) -> str:
        return self.info.url

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The context of connections to a gateway that speaks HTTPS."""
        return None if self.info.certificate is None else tls_of(self.info)

    def model(self, *, embedding: bool) -> str | None:
        """A model of the kind, of a ready instance if there is one. None if no model is known."""
        kinds = ("embedding", "mixed") if embedding else ("llm", "mixed")
        fitting = [one for one in self.status["instances"] if one["models"] and one["kind"] in kinds]
        fitting.sort(key=lambda one: (one["state"] != "ready", kinds.index(one["kind"])))
        return str(fitting[0]["models"][0]) if fitting else None


def access(
    paths: Paths, *, key: str | None = None, hint: str = "sage inference start --background, or give --url"
) -> Access:
    """Raises ``NotRunning``, ``Unresponsive``, or ``DaemonError`` if the gateway's key cannot be read.

    Without ``key``, the first one of the gateway's configuration is used.
    """
    state = inspect(paths)
    if state.state in ("stopped", "dead"):
        raise NotRunning("the gateway is not running", hint)
    if state.info is None or state.live is None:
        raise Unresponsive(str(state.reason))
    if key is None and state.live["needs_key"]:
        key = _configured_key(paths, state.info)
    return Access(reachable(state.info.host), state.info.port, key, state.live, state.info)


def _configured_key(paths: Paths, info: PidInfo) -> str:
    """Read the configuration without checking it: its other secrets may be readable for the gateway only."""
    from sage_inference.config import flags
    from sage_inference.config.load import load
    from sage_inference.daemon.launch_spec import flags_from

    settings = flags.apply(load(Path(info.config_path)), flags_from(info.flags))
    stored = [entry.key for entry in settings.api_keys if entry.key is not None]
    if info.needs_api_key or not stored:
        what = "as a hash only" if settings.api_keys and not info.needs_api_key else "nowhere"
        raise DaemonError(f"the gateway needs an API key that is stored {what}", _HINT)
    try:
        return stored[0].reveal()
    except SecretError as error:
        raise DaemonError(f"the gateway wants an API key that cannot be read here: {error}", _HINT) from None
