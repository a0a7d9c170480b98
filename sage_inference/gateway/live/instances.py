"""The figures of each instance that only a viewer needs: its queue, limits, and recent paces."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.submission import Waiting
from sage_inference.gateway.caller_connection import CallerConnection
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.live.growth import Growth
from sage_inference.gateway.live.queue import by_instance
from sage_inference.gateway.live.requests import tokens_per_s
from sage_inference.gateway.live.totals import Totals
from sage_inference.gateway.managed.engine_set import ManagedEngines
from sage_inference.types import ExecutionInstance

_RECENT_S, _RECENT = 10.0, 256  # streams that ended so recently, of so many attempts, show the pace of tokens


class InstanceFigures:
    """Figures by name of the instance. Rates are those since the figures before."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._token_pace, self._request_pace = Growth(), Growth()

    def of(
        self,
        totals: Totals,
        attempts: Sequence[Placement],
        waiting: Sequence[Waiting],
        managed: ManagedEngines | None,
        now: float,
    ) -> dict[str, dict[str, Any]]:
        upstreams = self._gateway.engines
        streamed, queued = self._streamed(), by_instance(waiting)
        tpot = _tpot_ms(attempts[-_RECENT:], now - _RECENT_S)
        tokens = self._token_pace.of(
            {name: totals.generated_by(name) + streamed[name] for name in upstreams}, now
        )
        requests = self._request_pace.of({name: totals.requests_of(name) for name in upstreams}, now)
        machines = {} if managed is None else managed.engines
        return {
            name: {
                **_limits(upstream.instance),
                "queued": queued[name],
                "ttfb_ms": None if upstream.ttfb_ms is None else round(upstream.ttfb_ms, 1),
                "tpot_ms": tpot.get(name),
                "tokens_per_s": tokens[name],
                "requests_per_s": requests[name],
                "answers": totals.requests_of(name),
                "drained": upstream.drained_by_admin,
                "managed": machines[name].machine.state.value if name in machines else None,
            }
            for name, upstream in upstreams.items()
        }

    def _streamed(self) -> Counter[str]:
        """Chunks of the streams that run now. An engine sends about one token a chunk."""
        chunks: Counter[str] = Counter()
        for connection in self._gateway.callers:
            assert isinstance(connection, CallerConnection)
            running = connection.running
            if running is not None and running.delivery is not None and running.route.type.is_llm:
                chunks[running.attempt.instance.instance_id] += running.delivery.chunks
        return chunks


def _limits(instance: ExecutionInstance) -> dict[str, int | None]:
    window = instance.load.window_tokens
    return {
        "limit": instance.max_concurrent_requests or None,
        "window_tokens": round(window) if window < math.inf else None,
        "pending_tokens": instance.load.pending_tokens,
    }


def _tpot_ms(attempts: Iterable[Placement], since: float) -> dict[str, float]:
    """The mean time of a token after the first, over the streams that ended since then."""
    sums: dict[str, tuple[float, int]] = {}
    for each in attempts:
        if each.ended_at is not None and each.ended_at > since and each.request.streams:
            pace = tokens_per_s(each)
            if pace:
                name = each.instance.instance_id
                total, count = sums.get(name, (0.0, 0))
                sums[name] = total + 1000 / pace, count + 1
    return {name: round(total / count, 2) for name, (total, count) in sums.items()}
