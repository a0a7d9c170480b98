"""A writer that measures the gaps between the chunks of a stream. Metrics need it of one stream in 32."""

from __future__ import annotations

from typing import Any

from sage_inference.control_plane.instances.load import Placement
from sage_inference.gateway.relay.response import CountedResponseWriter
from sage_inference.telemetry.exposition import Histogram


class TimedResponseWriter(CountedResponseWriter):
    """Notes the time between two chunks at their instance. It also counts bytes, which the access log needs."""

    __slots__ = ("_chunk_at", "_gaps")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunk_at: float | None = None
        placement = self._placement
        self._gaps: Histogram | None = None
        if isinstance(placement, Placement):
            upstream = self._gateway.engines.get(placement.instance.instance_id)
            self._gaps = None if upstream is None else upstream.gaps

    def pass_on(self, chunk: bytes) -> None:
        super().pass_on(chunk)
        before, self._chunk_at = self._chunk_at, self._gateway.clock()
        # A gap in which this process did not run shows nothing about the engine.
        if self._gaps is not None and before is not None and before > self._gateway.stalled_at:
            self._gaps.observe(self._chunk_at - before)
