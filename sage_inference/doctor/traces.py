"""The check of the collector of traces. Without tracing there is nothing to check."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from sage_inference.config.tracing import endpoint_of, is_installed, shown
from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding

_CONNECT_S = 0.8
_ADDRESS = "start the collector, or sage inference config set tracing.endpoint URL"


def traces(facts: Facts) -> Iterator[Finding]:
    state = facts.state.value
    if state.live is not None:
        if (live := state.live.get("tracing")) is not None:
            yield _of_running(live)
        return
    tracing = facts.settings.value.tracing
    if not tracing.enabled or not is_installed():  # the configuration's check reports what is missing
        return
    endpoint = shown(endpoint_of(tracing, facts.environ))
    try:
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        yield TRACES.warn(f"no collector answers at {endpoint}: {reason}", _ADDRESS)
    else:
        yield TRACES.ok(f"a collector listens at {endpoint}")


def _of_running(live: dict[str, object]) -> Finding:
    counts = f"{live['sent']:,} spans sent, {live['dropped']:,} dropped"
    if live["problem"]:
        return TRACES.warn(f"{live['endpoint']} takes no spans: {live['problem']} ({counts})", _ADDRESS)
    return TRACES.ok(f"to {live['endpoint']}, {counts}")


TRACES = Check("traces", traces)
