"""The way of records to a collector: the SDK's queue and thread, where they become spans and are sent with OTLP.

The event loop only appends to the queue. A record that comes while the queue is full is dropped and counted, and so are
the spans that the collector does not take.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from os import environ

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from sage_inference._version import __version__
from sage_inference.telemetry.tracing.record import QueuedRecord, Record, spans_of
from sage_inference.telemetry.tracing.spans import SpanMaker

MOST_WAITING = 2048  # records; the SDK's own default
CLOSES_WITHIN_S = 3.0
_CLOSES_BROKEN_S = 0.2  # if the collector took nothing the last time
_ITS_LOGS = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_SHORT_SWITCH_S = 0.0005
_LONGEST = 300  # characters of a failure
_MANY = 512  # spans of one message to the collector

log = logging.getLogger("sage_inference.tracing")


class SpanQueue:
    """``sent`` and ``dropped`` count spans. ``problem`` is the reason of the last failure, None if the last export was good.

    ``added`` and ``taken`` count records, and each is written by one thread only.
    """

    def __init__(self, endpoint: str | None, headers: dict[str, str], service: str | None) -> None:
        """``endpoint``: the complete URL. The variables of OpenTelemetry replace an empty value."""
        self.most = _most_waiting()
        self.added = self.taken = 0
        self.overflown = 0  # spans
        self._sender = _Sender(self, OTLPSpanExporter(endpoint, headers=headers or None), service)
        self._processor = BatchSpanProcessor(self._sender, max_queue_size=self.most)

    def add(self, record: Record) -> None:
        if self.added - self.taken >= self.most:
            self.overflown += spans_of(record)
            return
        self.added += 1
        self._processor.on_end(QueuedRecord(record))  # type: ignore[arg-type]

    @property
    def sent(self) -> int:
        return self._sender.sent

    @property
    def dropped(self) -> int:
        return self.overflown + self._sender.lost

    @property
    def problem(self) -> str | None:
        return self._sender.problem

    def flush(self) -> None:
        """Send what waits now. It blocks."""
        self._processor.force_flush()

    def close(self, within_s: float = CLOSES_WITHIN_S) -> None:
        """Send the records that wait, within this time. It blocks."""
        if self.problem is not None:
            within_s = min(within_s, _CLOSES_BROKEN_S)
        self._sender.ends_at = time.monotonic() + within_s
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            self._sender.give_up()
            log.warning("the last traces were not sent before the stop")


class _Sender(SpanExporter):
    """Runs on the SDK's thread."""

    def __init__(self, queue: SpanQueue, exporter: OTLPSpanExporter, service: str | None) -> None:
        self.sent = self.lost = 0
        self.problem: str | None = None
        self.ends_at = float("inf")
        self._queue = queue
        self._exporter = exporter
        self._maker = SpanMaker(_resource(service))
        self._words = _LastWords()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._queue.taken += len(spans)
        # While this thread encodes spans, the event loop would wait up to 5 ms for Python's lock each time.
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, _SHORT_SWITCH_S))
        try:
            return self._export(spans)
        finally:
            sys.setswitchinterval(usual)

    def _export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._maker.epoch_ns = time.time_ns() - time.monotonic_ns()
        made: list[ReadableSpan] = []
        for ended in spans:
            try:
                made += self._maker.spans(ended.record)  # type: ignore[attr-defined]
            except Exception as error:
                self.lost += 1
                self._note(f"a span could not be made: {error!r}")
        good = True
        for start in range(0, len(made), _MANY):
            good = self._send(made[start : start + _MANY]) and good
        return SpanExportResult.SUCCESS if good else SpanExportResult.FAILURE

    def _send(self, spans: list[ReadableSpan]) -> bool:
        good = False
        if time.monotonic() < self.ends_at:
            with self._words:
                try:
                    good = self._exporter.export(spans) is SpanExportResult.SUCCESS
                except Exception as error:  # older versions raise it if nobody listens
                    self._words.last = str(error)[:_LONGEST]
        if good:
            self.sent += len(spans)
            if self.problem is not None:
                log.warning("traces are sent again; %d spans were dropped", self._queue.dropped)
            self.problem = None
        else:
            self.lost += len(spans)
            self._note(self._words.last or "the collector did not take them")
        return good

    def _note(self, problem: str) -> None:
        if self.problem is None:
            log.warning("traces are dropped: %s", problem)
        self.problem = problem

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def give_up(self) -> None:
        self.ends_at = 0.0
        threading.Thread(target=self._exporter.shutdown, daemon=True).start()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class _LastWords(logging.Filter):
    """Keeps the exporter's own lines out of the log while it sends for us, and remembers the last one.

    A collector that is down would fill the log. Lines of other threads are those of a program around the gateway.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._thread: int | None = None
        logging.getLogger(_ITS_LOGS).addFilter(self)

    def __enter__(self) -> None:
        self.last, self._thread = "", threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._thread = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        self.last = record.getMessage()[:_LONGEST]
        return False


def _most_waiting() -> int:
    text = environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")
    # The SDK refuses a queue that is smaller than one of its batches.
    batch = environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "")
    least = int(batch) if batch.isdecimal() else _MANY
    return max(int(text), least) if text.isdecimal() and int(text) else max(MOST_WAITING, least)


class _ProcessResource(Resource):
    """The only resource of a process. The SDK looks it up for every span, and would write it as JSON each time."""

    def __hash__(self) -> int:
        return 1


def _resource(service: str | None) -> Resource:
    """The attributes of this process. The variables of OpenTelemetry count where the settings have no name."""
    named = {"service.name": service} if service else {}
    found = Resource.create({"service.version": __version__, **named})
    unnamed = str(found.attributes.get("service.name", "")).startswith("unknown_service")
    if unnamed:
        found = found.merge(Resource({"service.name": "sage-inference"}))
    return _ProcessResource(dict(found.attributes), found.schema_url)
