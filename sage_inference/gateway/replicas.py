"""Keeps vectors of two models apart: instances serve an embedding model together only if their vectors agree.

A model that is known to embed is compared whenever an instance is looked at, before that instance serves it. Any
other model may be a chat model that its server would load for the question. Such a model is compared only after a
request asked for its vectors; until then a single instance serves them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sage_inference.control_plane.instances.replica_vectors import VectorAgreement
from sage_inference.engines.detect import ModelInfo, embeds_by_its_card
from sage_inference.types import EngineKind
from sage_inference.wire.isolation import report

if TYPE_CHECKING:
    from sage_inference.gateway.gateway import Gateway
    from sage_inference.gateway.upstream import Upstream

EMBEDDINGS = "/v1/embeddings"
CHAT_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions"})
RETRY_S = 1.0  # the wait before a question is asked again that could not be asked

# Returns the vector, or None if the engine has none. Raises ``TimeoutError`` if it is not known whether it has one.
Question = Callable[["Upstream", str], Awaitable[list[float] | None]]


class Replicas:
    """The comparisons of one gateway. ``ask`` asks an engine for the vector of the agreed text."""

    def __init__(self, gateway: Gateway, ask: Question) -> None:
        self._gateway = gateway
        self._ask = ask
        self._agreement = VectorAgreement()
        self._refusing: set[tuple[str, str]] = set()  # (instance, model) that was asked and gave no vector
        self._running: dict[str, asyncio.Task[None]] = {}
        gateway.registry.on_vectors = self.wanted

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    def forget(self, name: str) -> None:
        """Drop the results of an instance that was removed."""
        self._agreement.forget(name)
        self._refusing = {pair for pair in self._refusing if pair[0] != name}

    def listed(self, upstream: Upstream, *, new: bool) -> None:
        """Mark the models that must be compared. ``new``: the engine may be another one than was compared before."""
        assert upstream.detected is not None
        instance, name = upstream.instance, upstream.instance.instance_id
        ids = {card.id for card in upstream.detected.models}
        if EMBEDDINGS not in upstream.detected.routes:
            instance.uncompared = frozenset()
            return
        if new:
            self.forget(name)
        self._refusing = {pair for pair in self._refusing if pair[0] != name}
        known = {card.id for card in upstream.detected.models if self._is_known(upstream, card)}
        compared = {model for model in ids if self._agreement.knows(model, name)}
        instance.uncompared = frozenset(ids - known - compared)
        for model in compared - known:
            self._gateway.registry.doubt_vectors(model)

    def _is_known(self, upstream: Upstream, card: ModelInfo) -> bool:
        """Whether the model is known to embed, so that a question does not make the server load a chat model."""
        detected, settings = upstream.detected, upstream.settings
        assert detected is not None
        if detected.engine is EngineKind.TEI or embeds_by_its_card(card):
            return True
        if detected.engine is EngineKind.VLLM and not detected.guessed and not CHAT_ROUTES & detected.routes:
            return True
        if card.id in (settings.model, self._gateway.settings.embedding_model):
            return True
        return settings.kind in ("embedding", "mixed") and len(detected.models) == 1

    async def compare_known(self, upstream: Upstream) -> None:
        """Compare the engine's models that are known to embed with those of the instances that serve them."""
        assert upstream.detected is not None
        differs = None
        for card in upstream.detected.models:
            if not self._is_known(upstream, card) and not upstream.differs:
                continue
            others = [
                e
                for e in self._gateway.engines.values()
                if e is not upstream and e.embeds(card.id) and card.id not in e.instance.uncompared
            ]
            if not others:
                continue
            name = others[0].instance.instance_id
            if not self._agreement.knows(card.id, name) and (
                vector := await self._vector(others[0], card.id)
            ):
                self._agreement.check(card.id, name, vector)
            if vector := await self._vector(upstream, card.id):
                differs = self._agreement.check(card.id, upstream.instance.instance_id, vector) or differs
            else:  # no vector, or no answer: the former result holds
                differs = differs or upstream.differs
        if differs != upstream.differs:
            upstream.withhold_embeddings(differs)
            self._gateway.instances_changed()

    async def _vector(self, upstream: Upstream, model: str) -> list[float] | None:
        try:
            return await self._ask(upstream, model)
        except TimeoutError:
            return None

    def wanted(self, model: str) -> None:
        """Compare the model's instances for a request: some were never compared, or the last comparison is old."""
        if model not in self._running and len(self._candidates(model)) > 1:
            task = asyncio.get_running_loop().create_task(self._compare_asked(model))
            self._running[model] = task
            task.add_done_callback(lambda _: self._running.pop(model, None))

    async def _compare_asked(self, model: str) -> None:
        try:
            if await self._compare(model):
                self._gateway.instances_changed()
            else:
                await asyncio.sleep(RETRY_S)
        except Exception as error:
            report(error, f"the comparison of vectors for {model}")
            await asyncio.sleep(RETRY_S)

    def _candidates(self, model: str) -> list[Upstream]:
        """The ready instances that may have vectors of the model, without those that gave none."""
        return [
            e
            for e in self._gateway.engines.values()
            if e.embeds(model) and (e.instance.instance_id, model) not in self._refusing
        ]

    async def _compare(self, model: str) -> bool:
        """Compare the model's instances. Returns whether one was found to agree, to differ, or to have no vectors."""
        upstreams = self._candidates(model)
        found = await asyncio.gather(*(self._ask(e, model) for e in upstreams), return_exceptions=True)
        changed = False
        able = any(isinstance(answer, list) for answer in found)
        able = able or any(model not in e.instance.uncompared for e in upstreams)
        # Instances that serve the model already come first: the others are compared with them.
        order = sorted(
            zip(upstreams, found, strict=True), key=lambda pair: model in pair[0].instance.uncompared
        )
        for upstream, answer in order:
            instance, name = upstream.instance, upstream.instance.instance_id
            if isinstance(answer, TimeoutError) or model not in instance.models:
                continue
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                fresh = (name, model) not in self._refusing
                self._refusing.add((name, model))
                if not able and model in instance.uncompared:  # no instance has vectors, so none can be mixed
                    instance.uncompared -= {model}
                    fresh = True
                changed |= fresh
                continue
            differs = self._agreement.check(model, name, answer)
            if differs is not None:
                upstream.withhold_embeddings(differs)
                changed = True
            elif model in instance.uncompared:
                instance.uncompared -= {model}
                changed = True
        return changed
