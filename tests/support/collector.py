"""A collector of traces: an HTTP server that decodes what OTLP exporters post, and may refuse, hang or be slow."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

KINDS = Span.SpanKind


class Seen:
    """A span as the collector got it, with plain values."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.state: str = span.trace_state
        self.facts = _facts(span.attributes)
        self.events = [event.name for event in span.events]
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.failed: bool = span.status.code == 2
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.event_times = [event.time_unix_nano for event in span.events]
        self.resource = resource
        self.remote_parent = bool(span.flags & 0x200)

    def __repr__(self) -> str:
        return f"<{self.name} {self.facts}>"


def _facts(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


class Collector:
    """``status`` is its answer. While ``go`` is cleared, it answers nothing."""

    def __init__(self) -> None:
        self.status = 200
        self.go = threading.Event()
        self.go.set()
        self.spans: list[Seen] = []
        self.headers: list[dict[str, str]] = []
        self.raw: list[bytes] = []
        self.arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with collector.arrived:
                    collector.arrived.notify_all()
                collector.headers.append(
                    {k.lower(): v for k, v in self.headers.items()} | {":path": self.path}
                )
                if not collector.go.wait(30):
                    return
                if collector.status == 200:
                    collector._take(gzip.decompress(body) if self.headers["content-encoding"] else body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _take(self, body: bytes) -> None:
        message = ExportTraceServiceRequest()
        message.ParseFromString(body)
        with self.arrived:
            self.raw.append(body)
            for of_resource in message.resource_spans:
                resource = _facts(of_resource.resource.attributes)
                self.spans += [Seen(s, resource) for scope in of_resource.scope_spans for s in scope.spans]
            self.arrived.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()

    def until(self, fact: Callable[[list[Seen]], Any], seconds: float = 10) -> list[Seen]:
        """The spans, when ``fact`` of them is true."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: fact(self.spans), seconds), self.spans
            return list(self.spans)

    def clear(self) -> None:
        with self.arrived:
            self.spans.clear()
            self.raw.clear()
            self.headers.clear()
