"""Asks each new Ray replica once where its engine listens, and remembers the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx
import msgspec

from sage_inference.config.address import canonical_host, check_backend
from sage_inference.config.errors import Invalid
from sage_inference.discovery.questions import QuestionError, ask
from sage_inference.discovery.ray_document import RayReplica
from sage_inference.visible import visible

_AT_ONCE = 16
_ANSWER_S = 4.0
_MOST_BYTES = 1 << 16
_SOONEST_S, _LATEST_S = 1.0, 60.0  # before a replica without an answer is asked again
_LONGEST_NODE = 64


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Where the engine of a replica listens. ``gpu`` names its GPU among those of all nodes."""

    url: str
    node: str
    gpu: str | None


@dataclass(slots=True)
class _Miss:
    reason: str
    count: int
    again_at: float


class _Answer(msgspec.Struct):
    url: str
    replica: str | None = None
    node: str | None = None
    gpu: str | int | None = None


class EnginePlaces:
    """The places of the engines of one cluster, by replica."""

    def __init__(self, client: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[RayReplica, EnginePlace] = {}
        self._missed: dict[RayReplica, _Miss] = {}

    def new_among(self, replicas: Iterable[RayReplica]) -> list[RayReplica]:
        """The replicas that are to be asked now. All others that are not among ``replicas`` are forgotten.

        A replica that did not answer is asked again after 1 s, then after twice the time, up to a minute.
        """
        now, there = self._clock(), dict.fromkeys(replicas)
        self._known = {each: place for each, place in self._known.items() if each in there}
        self._missed = {each: miss for each, miss in self._missed.items() if each in there}
        return [
            each
            for each in there
            if each not in self._known and (each not in self._missed or self._missed[each].again_at <= now)
        ]

    async def learn(self, replicas: list[RayReplica], limit_s: float) -> None:
        """Ask these replicas. Those for which ``limit_s`` does not suffice are asked next time."""
        left = iter(replicas)
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(replicas))):
                    group.create_task(self._ask_all(left))
        except TimeoutError:
            pass

    def of(self, replica: RayReplica) -> EnginePlace | None:
        return self._known.get(replica)

    def problem(self, replica: RayReplica) -> str:
        """The reason why the place of a replica's engine is not known."""
        miss = self._missed.get(replica)
        return miss.reason if miss else "was not asked yet where its engine listens"

    async def _ask_all(self, due: Iterator[RayReplica]) -> None:
        for replica in due:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    self._known[replica] = await self._ask(replica)
                self._missed.pop(replica, None)
            except TimeoutError:
                self._miss(replica, f"does not answer within {_ANSWER_S:g} s")
            except QuestionError as error:
                self._miss(replica, str(error))

    def _miss(self, replica: RayReplica, reason: str) -> None:
        before = self._missed.get(replica)
        count = before.count + 1 if before else 1
        rest = min(_SOONEST_S * 2 ** min(count - 1, 10), _LATEST_S)
        self._missed[replica] = _Miss(reason, count, self._clock() + rest)

    async def _ask(self, replica: RayReplica) -> EnginePlace:
        reply = await ask(self._client, replica.url, _MOST_BYTES)
        if reply.status != 200:
            raise QuestionError(f"answers {reply.status} to GET {replica.url}")
        try:
            return _place(msgspec.json.decode(reply.body, type=_Answer), replica)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            words = visible(str(error))[:200]
            raise QuestionError(
                f"does not answer GET {replica.url} as an engine's replica: {words}"
            ) from None


def _place(answer: _Answer, replica: RayReplica) -> EnginePlace:
    """Raises ``QuestionError``. A replica must not lead the gateway to another machine."""
    if answer.replica and answer.replica.rpartition("#")[2] != replica.id:
        raise QuestionError(f"is another replica by now, {visible(answer.replica)[:100]}")
    try:
        backend = check_backend(answer.url)
    except Invalid as error:
        raise QuestionError(f"names no address of an engine: it {error.problem}") from None
    if backend.uds or canonical_host(backend.host) != canonical_host(replica.ip):
        raise QuestionError(
            f"names {visible(backend.base_url)[:200]}, which is not on its own machine {replica.ip}"
        )
    node = visible(answer.node or "")[:_LONGEST_NODE] or replica.ip
    gpu = None if answer.gpu in (None, "") else f"{node}/{visible(str(answer.gpu))[:_LONGEST_NODE]}"
    return EnginePlace(backend.base_url, node, gpu)
