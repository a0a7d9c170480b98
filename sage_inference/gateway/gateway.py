"""One gateway: the hub, the exchange type of each route, and the embedding calls."""

from __future__ import annotations

from sage_inference.config.settings import Settings
from sage_inference.control_plane.embedding import AggregationRules
from sage_inference.gateway.embeddings.service import EmbeddingService
from sage_inference.gateway.exchange_types import exchanges_for, limited_exchanges_for
from sage_inference.gateway.hub import Hub
from sage_inference.wire.timers import TimerWheel


class Gateway(Hub):
    """The hub that requests are relayed through. Made inside a running event loop."""

    def __init__(self, settings: Settings, wheel: TimerWheel, admin_token: str | None = None) -> None:
        super().__init__(settings, wheel, admin_token)
        self.embeddings = EmbeddingService(self, _rules(settings))
        self._choose_exchanges()

    def configure(self, settings: Settings) -> None:
        """Apply new settings. Raises ``ConfigError``, ``SecretError``, and then changes nothing."""
        super().configure(settings)
        self.embeddings.batcher.configure(_rules(settings))

    def instances_changed(self) -> None:
        """Choose the exchange types anew, too, because an instance came, went, recovered or changed."""
        super().instances_changed()
        self._choose_exchanges()
        self.embeddings.pump_soon()

    def _choose_exchanges(self) -> None:
        instances = self.registry.instances.values()
        self.exchanges = exchanges_for(instances, self.embeddings)
        self.limited_exchanges = limited_exchanges_for(instances, self.embeddings)


def _rules(settings: Settings) -> AggregationRules:
    scheduling = settings.scheduling
    return AggregationRules(
        max_texts=scheduling.embedding_batch_size,
        min_texts=scheduling.min_embedding_batch_size,
        max_wait_s=scheduling.max_embedding_wait_ms / 1000,
        merges=scheduling.enable_embedding_batching,
        cache_bytes=scheduling.embedding_cache_bytes,
    )
