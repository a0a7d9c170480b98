"""The live document: the document of ``status`` with queue, rates, GPUs and the requests that run now."""

from __future__ import annotations

from typing import Any

from sage_inference.gateway.api.status import status_document
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.live.gpus import GpuReadings
from sage_inference.gateway.live.growth import Growth
from sage_inference.gateway.live.instances import InstanceFigures
from sage_inference.gateway.live.queue import queue_document
from sage_inference.gateway.live.requests import row
from sage_inference.gateway.live.totals import Totals
from sage_inference.gateway.managed.engine_set import ManagedEngines
from sage_inference.telemetry.decisions.recorder import wall_offset

MOST_RUNNING = 100  # rows of requests that run now, the newest ones


class LiveDocument:
    """Makes the document. Its rates are those since the document before, so it is to be made about once a second."""

    def __init__(self, gateway: Gateway, engines: ManagedEngines | None) -> None:
        self._gateway = gateway
        self._engines = engines
        self._instances = InstanceFigures(gateway)
        self._gpus = GpuReadings()
        self._pace = Growth()

    def make(self) -> dict[str, Any]:
        gateway, engines = self._gateway, self._engines
        scheduler, now, epoch = gateway.scheduler, gateway.clock(), wall_offset()
        attempts, waiting = gateway.decisions.newest(), scheduler.waiting()
        totals = Totals(gateway.stats.tally.series)
        figures = self._instances.of(totals, attempts, waiting, engines, now)
        document = status_document(gateway, engines)
        for each in document["instances"]:
            each |= figures[each["name"]]
        document["requests"] |= self._outcomes(totals)
        tokens_per_s = sum(each["tokens_per_s"] for each in document["instances"])
        held = len(gateway.waiting_room)
        running = [each for each in attempts if each.ended_at is None][-MOST_RUNNING:]
        return document | {
            "at_ms": round((epoch + now) * 1000),
            "policies": {model: policy.name for model, policy in scheduler.policies.items()},
            "rates": {**self._rates(document["requests"], now), "tokens_per_s": round(tokens_per_s, 2)},
            "tokens": totals.tokens(),
            "queue": queue_document(waiting, scheduler.queued_bytes, gateway.limits, held, now),
            "gpus": self._gpus.documents(),
            "running": [row(each, epoch) for each in running],
        }

    def _outcomes(self, totals: Totals) -> dict[str, int]:
        """Totals since the start, beside those of ``status``."""
        stats = self._gateway.stats
        return {
            "errors": totals.errors,
            "cancelled": stats.cancelled,
            "cut": stats.cut,
            "failed_by_engine": stats.engine_failures,
            "retried": self._gateway.scheduler.rates.retried,
        }

    def _rates(self, requests: dict[str, int], now: float) -> dict[str, float]:
        totals = {
            "requests_per_s": requests["total"],
            "errors_per_s": requests["errors"],
            "prompt_tokens_per_s": self._gateway.scheduler.rates.prompt_tokens,
        }
        return self._pace.of(totals, now)
