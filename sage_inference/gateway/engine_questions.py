"""The questions that the watch asks engines, each with the instance's key, certificates and limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sage_inference.control_plane.instances.replica_vectors import PROBE_TEXT
from sage_inference.engines.detect import Detected, detect, listed
from sage_inference.engines.patience import Patience
from sage_inference.engines.probe import ProbeResult, kv_cache_tokens, probe, probe_vector
from sage_inference.engines.query_clients import QueryClients
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.upstream import Upstream

if TYPE_CHECKING:
    import httpx


# A detection asks several questions at once, and httpx looks at each open connection for each of them.
DETECTIONS = 32


class EngineQuestions:
    """Each question raises ``TrustError`` if the certificates for it cannot be read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._askers = QueryClients()
        self._patience = Patience(lambda: gateway.wheel.now)
        self._detections = asyncio.Semaphore(DETECTIONS)
        self._start = asyncio.Lock()

    def use(self, timeout_s: float) -> None:
        self._askers.use(timeout_s)

    async def aclose(self) -> None:
        await self._askers.aclose()

    @property
    def _timeout_s(self) -> float:
        return self._gateway.settings.health.timeout_s

    def _asker(self, upstream: Upstream) -> httpx.AsyncClient:
        return self._askers.of(upstream.pool.context, upstream.address.uds)

    async def detect(self, upstream: Upstream) -> Detected:
        """The facts about an engine. Raises ``DetectError``. At most ``DETECTIONS`` are under way at the same time."""
        async with self._detections:
            async with self._start:  # one in each turn of the event loop: the beginning of one takes some ms
                await asyncio.sleep(0)
            return await self._detect(upstream)

    async def _detect(self, upstream: Upstream) -> Detected:
        settings = upstream.settings
        return await detect(
            self._asker(upstream),
            upstream.address.requests_url,
            api_key=upstream.api_key,
            engine=settings.engine,
            kind=settings.kind,
            model=settings.model,
            question_s=self._timeout_s,
            patience=self._patience,
        )

    async def models(self, upstream: Upstream) -> tuple[str, ...]:
        """The names that the engine lists now; empty if it does not answer."""
        asker = self._asker(upstream)
        return await listed(asker, upstream.api_url, upstream.api_key, self._timeout_s, self._patience)

    async def kv_cache_tokens(self, upstream: Upstream) -> int | None:
        """The size of vLLM's prefix cache, if it reports one."""
        url, key = upstream.address.requests_url, upstream.api_key
        return await kv_cache_tokens(self._asker(upstream), url, key, self._timeout_s, self._patience)

    async def vector(self, upstream: Upstream, model: str) -> list[float] | None:
        """The vector of the agreed text. Raises ``TimeoutError`` if it is not known whether the engine has one."""
        asker, url, key = self._asker(upstream), upstream.api_url, upstream.api_key
        return await probe_vector(asker, url, model, PROBE_TEXT, key, self._timeout_s, self._patience)

    async def health(self, upstream: Upstream) -> ProbeResult:
        """The answer to a probe. It is known afterwards whether the engine sleeps."""
        client, url, key = self._asker(upstream), upstream.address.requests_url, upstream.api_key
        result, _ = await asyncio.gather(
            probe(client, url, upstream.dialect, key, self._timeout_s, self._patience),
            upstream.sleep.ask(client, url, key, self._timeout_s, self._patience),
        )
        return result
