"""The choice of requests that are traced: the caller's context decides, otherwise a share by the trace id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from sage_inference.telemetry.tracing.context import TraceContext

_LOW_BITS = (1 << 64) - 1

log = logging.getLogger("sage_inference.tracing")


class Sampler(NamedTuple):
    """``share`` of the requests that begin a trace. ``asks_parent``: a caller's context decides for its requests.

    The choice depends on the trace id alone, as OpenTelemetry's ``traceidratio`` does, so services of equal shares agree.
    """

    share: float
    asks_parent: bool = True

    def takes(self, trace_id: int, parent: TraceContext | None) -> bool:
        if parent is not None and self.asks_parent:
            return parent.is_sampled
        return (trace_id & _LOW_BITS) < self.share * (_LOW_BITS + 1)


_NAMED = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "traceidratio": (None, False),
    "parentbased_traceidratio": (None, True),
}


def sampler_of(share: float | None, environ: Mapping[str, str]) -> Sampler:
    """The sampler of ``tracing.sample``; if that is not set, of ``OTEL_TRACES_SAMPLER``; otherwise of all requests."""
    if share is not None:
        return Sampler(share)
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    if not name:
        return Sampler(1.0)
    if name not in _NAMED:
        log.warning("OTEL_TRACES_SAMPLER is %r, which is no known sampler: all requests are traced", name)
        return Sampler(1.0)
    fixed, asks_parent = _NAMED[name]
    return Sampler(_ratio(environ) if fixed is None else fixed, asks_parent)


def _ratio(environ: Mapping[str, str]) -> float:
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        ratio = float(text or 1.0)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    log.warning("OTEL_TRACES_SAMPLER_ARG is %r, and not a number from 0 to 1: all requests are traced", text)
    return 1.0
