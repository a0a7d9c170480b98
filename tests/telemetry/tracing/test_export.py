"""The way to a collector: its settings and variables, a collector that is down, slow or refuses, and the stop."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import TracingSettings
from sage_inference.requests.routes import ROUTES
from sage_inference.telemetry.tracing.record import RequestSpan
from sage_inference.telemetry.tracing.tracer import Tracer, tracer_of
from tests.support.collector import Collector

KEY = "Bearer secret-of-the-collector"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that fails is given up in a second, because its first repetition would come later."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def made(**settings: object) -> Tracer:
    return Tracer(TracingSettings(enabled=True, **settings), {})  # type: ignore[arg-type]


def record(tracer: Tracer) -> RequestSpan:
    now = time.monotonic()
    chat = ROUTES["/v1/chat/completions"]
    return RequestSpan(tracer.ids(None), chat, now - 1, now, 404, "done", None, "", "id", ())


def wait(fact: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_times_are_the_wall_clocks(collector: Collector) -> None:
    tracer = made(endpoint=collector.url)
    tracer.add(record(tracer))
    [span] = collector.until(len)
    tracer.close()
    assert abs(span.end / 1e9 - time.time()) < 5
    assert span.end - span.start == pytest.approx(1e9, rel=1e-3)
    assert tracer.document()["sent"] == 1


def test_the_collector_gets_the_headers_and_nobody_else_sees_them(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    collector.status = 401
    tracer = made(endpoint=collector.url + "/", headers={"Authorization": Secret(KEY)}, service_name="lab")
    tracer.add(record(tracer))
    wait(lambda: tracer.queue.dropped)
    assert collector.headers[0]["authorization"] == KEY
    assert collector.headers[0][":path"] == "/v1/traces"
    assert collector.headers[0]["content-type"] == "application/x-protobuf"
    assert "401" in tracer.document()["problem"]
    collector.status = 200
    tracer.add(record(tracer))
    [span] = collector.until(len)
    tracer.close()
    assert span.resource["service.name"] == "lab"
    ours = [entry.getMessage() for entry in caplog.records if entry.name.startswith(("sage", "opentel"))]
    assert [line.split(":")[0].split(";")[0] for line in ours] == [
        "traces are dropped",
        "traces are sent again",
    ]
    assert "secret-of" not in caplog.text + str(tracer.document())


def test_a_collector_that_is_down_costs_its_spans_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tracer = made(endpoint=f"http://127.0.0.1:{port}")
    for count in (1, 2, 3):
        tracer.add(record(tracer))
        wait(lambda count=count: tracer.queue.dropped == count)
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < 2
    assert tracer.document()["problem"]
    assert [entry.getMessage()[:19] for entry in caplog.records] == ["traces are dropped:"]


def test_a_collector_that_hangs_fills_the_queue_and_nothing_waits(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "30")
    collector.go.clear()
    tracer = made(endpoint=collector.url)
    tracer.add(record(tracer))
    wait(lambda: collector.headers)  # it has the first, and does not answer
    began = time.perf_counter()
    for _ in range(1000):
        tracer.add(record(tracer))
    assert time.perf_counter() - began < 0.5
    assert tracer.queue.dropped == 1000 - 4
    began = time.monotonic()
    tracer.queue.close(0.3)  # type: ignore[call-arg]
    assert time.monotonic() - began < 1


def test_a_stop_sends_what_waits(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    tracer = made(endpoint=collector.url)
    for _ in range(3):
        tracer.add(record(tracer))
    tracer.close()
    assert len(collector.spans) == 3


def test_the_variables_of_opentelemetry_count_where_no_setting_does(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=lab",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_SERVICE_NAME": "named-by-variable",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    tracer = tracer_of(TracingSettings(enabled=True), environ)
    assert tracer is not None
    tracer.add(record(tracer))
    [span] = collector.until(len)
    tracer.close()
    assert tracer.document()["endpoint"] == f"{collector.url}/v1/traces"
    assert collector.headers[0]["x-team"] == "lab"
    assert collector.headers[0]["content-encoding"] == "gzip"
    assert span.resource["service.name"] == "named-by-variable"
    assert span.resource["deployment.environment.name"] == "test"


@pytest.mark.parametrize("environ", [{"OTEL_SDK_DISABLED": "True"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_the_variables_may_turn_it_off(environ: dict[str, str]) -> None:
    assert tracer_of(TracingSettings(enabled=True), environ) is None
    assert tracer_of(TracingSettings(), {}) is None
