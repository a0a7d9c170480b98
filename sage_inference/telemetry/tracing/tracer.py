"""The traces of one gateway: the ids of its requests, and the queue of their records."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from random import getrandbits
from typing import Any, Protocol

from sage_inference.config.settings import TracingSettings
from sage_inference.config.tracing import endpoint_of, shown
from sage_inference.telemetry.tracing.context import RANDOM, SAMPLED, TraceContext, new_span_id
from sage_inference.telemetry.tracing.record import Record, TraceIds
from sage_inference.telemetry.tracing.sampling import sampler_of

log = logging.getLogger("sage_inference.tracing")


class RecordQueue(Protocol):
    """The queue of ``export``. It is a protocol here, because that module loads the SDK."""

    sent: int
    dropped: int
    problem: str | None

    def add(self, record: Record) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Tracer:
    """``endpoint`` is the URL that spans are sent to. ``add`` queues a record."""

    def __init__(self, tracing: TracingSettings, environ: Mapping[str, str]) -> None:
        """Loads OpenTelemetry's SDK, which takes some 0.3 s. Raises ``ImportError`` without the extra ``otel``."""
        from sage_inference.telemetry.tracing.export import SpanQueue

        self._environ = environ
        self.endpoint = endpoint_of(tracing, environ)
        self.queue: RecordQueue = SpanQueue(  # type: ignore[assignment]
            None if tracing.endpoint is None else self.endpoint,
            {name: secret.reveal(environ) for name, secret in tracing.headers.items()},
            tracing.service_name,
        )
        self.add = self.queue.add
        self.configure(tracing)

    def configure(self, tracing: TracingSettings) -> None:
        """Apply the settings that need no restart."""
        self.sampler = sampler_of(tracing.sample, self._environ)

    def ids(self, parent: TraceContext | None) -> TraceIds:
        """The ids of a request whose caller sent this context."""
        if parent is None:
            trace_id, random = getrandbits(128) or 1, RANDOM
        else:
            trace_id, random = parent.trace_id, parent.flags & RANDOM
        sampled = SAMPLED if self.sampler.takes(trace_id, parent) else 0
        return TraceIds(trace_id, new_span_id(), sampled | random, parent)

    def document(self) -> dict[str, Any]:
        """The state for ``status``. ``sent`` and ``dropped`` are spans."""
        queue = self.queue
        return {
            "endpoint": shown(self.endpoint),
            "sample": self.sampler.share,
            "sent": queue.sent,
            "dropped": queue.dropped,
            "problem": queue.problem,
        }

    def close(self) -> None:
        """Send the records that wait, within some seconds. It blocks."""
        self.queue.close()


def tracer_of(tracing: TracingSettings, environ: Mapping[str, str]) -> Tracer | None:
    """The tracer, or None if tracing is off. Raises ``ImportError`` without the extra ``otel``."""
    if not tracing.enabled:
        return None
    for variable, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        if environ.get(variable, "").strip().lower() == value:
            log.warning("tracing.enabled has no effect: %s is %s", variable, value)
            return None
    return Tracer(tracing, environ)
