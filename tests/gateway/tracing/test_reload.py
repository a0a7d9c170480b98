"""A reload of a traced gateway: the share changes at once, and traces go on."""

from __future__ import annotations

from dataclasses import replace

from tests.support.collector import Collector
from tests.support.rogue import RogueEngine, ok
from tests.support.tracing import spans_of, traced_gateway
from tests.support.wire import Caller


def test_the_share_of_a_reload_counts_from_the_next_request_on() -> None:
    with Collector() as collector, RogueEngine(ok("{}")) as engine:
        with traced_gateway(collector, engine) as door, Caller(door.port) as caller:
            for share, spans in ((1.0, 3), (0.0, 0), (1.0, 3)):
                settings = door.ask(lambda one: one.gateway.settings)
                door.settings_to_load = replace(settings, tracing=replace(settings.tracing, sample=share))
                door.ask(lambda one: one.reload())
                assert caller.chat().reply().status == 200
                assert len(spans_of(door, collector)) == spans
