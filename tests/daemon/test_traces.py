"""A gateway as its users run it, with a collector: the spans, ``status``, and a stop."""

from __future__ import annotations

import time

from sage_inference.cli.statusschemas import STATUS
from tests.support.collector import Collector
from tests.support.command import sage
from tests.support.gateway import running_gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller


def test_traces_are_sent_and_counted_and_a_stop_sends_the_rest() -> None:
    tracing = {"enabled": True, "service_name": "lab", "headers": {"authorization": "Bearer secret-word"}}
    with Collector() as collector, RogueEngine(ok("{}")) as engine:
        config = {"tracing": {**tracing, "endpoint": collector.url}}
        with running_gateway(engine.url, config=config, env={"OTEL_BSP_SCHEDULE_DELAY": "50"}) as gateway:
            with Caller(gateway.port) as caller:
                assert caller.chat().reply().status == 200
                collector.until(lambda spans: len(spans) == 3)
                while not (found := gateway.status()["tracing"])["sent"]:
                    time.sleep(0.01)
                assert found == {
                    "endpoint": f"{collector.url}/v1/traces",
                    "sample": 1.0,
                    "sent": 3,
                    "dropped": 0,
                    "problem": None,
                }
                assert set(found) == set(STATUS["properties"]["tracing"]["anyOf"][0]["properties"])
                shown = sage(gateway.home, "status").stdout
                assert f"traces: to {collector.url}/v1/traces, 3 spans sent, 0 dropped\n" in shown
                assert "secret-word" not in shown + sage(gateway.home, "config", "show").stdout
                collector.clear()
                assert caller.chat().reply().status == 200
            assert gateway.stop() == 0
            assert "secret-word" not in gateway.log()
        assert {span.name for span in collector.spans} == {"chat m", "decision", "POST /v1/chat/completions"}
        assert {span.resource["service.name"] for span in collector.spans} == {"lab"}


def test_a_collector_that_hangs_delays_no_request_and_no_stop_for_long() -> None:
    with Collector() as collector, RogueEngine(ok("{}")) as engine:
        collector.go.clear()
        config = {"tracing": {"enabled": True, "endpoint": collector.url}}
        with running_gateway(engine.url, config=config, env={"OTEL_BSP_SCHEDULE_DELAY": "10"}) as gateway:
            with Caller(gateway.port) as caller:
                for _ in range(50):
                    assert caller.chat().reply().status == 200
            began = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - began < 5
            assert "the last traces were not sent before the stop" in gateway.log()
