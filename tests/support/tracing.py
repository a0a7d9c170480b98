"""A traced gateway before engines of a test, and the spans that its collector got."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage_inference.config.settings import HealthSettings, TracingSettings
from tests.support.collector import Collector, Seen
from tests.support.inprocess import InProcess, gateway

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traceparent(flags: str = "01") -> str:
    return f"traceparent: 00-{TRACE}-{PARENT}-{flags}"


@contextmanager
def traced_gateway(
    collector: Collector, *engines: Any, sample: float | None = 1.0, **more: Any
) -> Iterator[InProcess]:
    settings = TracingSettings(enabled=True, endpoint=collector.url, sample=sample)
    with gateway(*engines, **{"tracing": settings, "health": HealthSettings(interval_s=60), **more}) as door:
        yield door


def spans_of(door: InProcess, collector: Collector) -> list[Seen]:
    """All spans of what ended since the last time."""
    flush(door)
    with collector.arrived:
        found = list(collector.spans)
    collector.clear()
    return found


def flush(door: InProcess) -> None:
    """Send the spans of what ended until now."""
    door.until(lambda one: not one.gateway.in_flight)
    tracer = door.ask(lambda one: one.gateway.tracer)
    assert tracer is not None
    flushing = threading.Thread(target=tracer.queue.flush)
    flushing.start()
    flushing.join(10)


def one(spans: list[Seen], name: str) -> Seen:
    [found] = [span for span in spans if span.name == name]
    return found


def header_of(request: bytes, name: str) -> list[str]:
    """The values of a header in what an engine got."""
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith(f"{name}:")]
