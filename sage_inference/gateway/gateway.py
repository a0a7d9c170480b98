"""One gateway: the hub, the exchange type of each route, and the embedding calls."""

from __future__ import annotations

import asyncio
import os

from sage_inference.config.settings import Settings
from sage_inference.control_plane.embedding import AggregationRules
from sage_inference.gateway.embeddings.service import EmbeddingService
from sage_inference.gateway.exchange_types import exchanges_for
from sage_inference.gateway.hub import Hub
from sage_inference.gateway.tracing.call import TracedCall
from sage_inference.telemetry.tracing.tracer import tracer_of
from sage_inference.wire.timers import TimerWheel


class Gateway(Hub):
    """The hub that requests are relayed through. Made inside a running event loop."""

    def __init__(self, settings: Settings, wheel: TimerWheel, admin_token: str | None = None) -> None:
        super().__init__(settings, wheel, admin_token)
        self.embeddings = EmbeddingService(self, _rules(settings))
        self.tracer = tracer_of(settings.tracing, os.environ)
        if self.tracer is not None:
            self.embeddings.call_type = TracedCall
        self._choose_exchanges()

    def configure(self, settings: Settings) -> None:
        """Apply new settings. Raises ``ConfigError``, ``SecretError``, and then changes nothing."""
        super().configure(settings)
        if self.tracer is not None:
            self.tracer.configure(settings.tracing)
        self.embeddings.batcher.configure(_rules(settings))

    def instances_changed(self) -> None:
        """Choose the exchange types anew, too, because an instance came, went, recovered or changed."""
        super().instances_changed()
        self._choose_exchanges()
        self.embeddings.pump_soon()

    async def close(self) -> None:
        """Write the decisions that are not written yet, and send the traces that wait."""
        self.decisions.write()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    def _choose_exchanges(self) -> None:
        instances = self.registry.instances.values()
        traced = self.tracer is not None
        self.exchanges = exchanges_for(instances, self.embeddings, are_traced=traced)
        self.limited_exchanges = exchanges_for(
            instances, self.embeddings, are_limited=True, are_traced=traced
        )


def _rules(settings: Settings) -> AggregationRules:
    scheduling = settings.scheduling
    return AggregationRules(
        max_texts=scheduling.embedding_batch_size,
        min_texts=scheduling.min_embedding_batch_size,
        max_wait_s=scheduling.max_embedding_wait_ms / 1000,
        merges=scheduling.enable_embedding_batching,
        cache_bytes=scheduling.embedding_cache_bytes,
    )
