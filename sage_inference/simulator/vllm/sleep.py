"""The simulated vLLM's sleep: ``/sleep``, ``/wake_up`` and ``/is_sleeping`` of vLLM's development mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl

from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.engine import Handler
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.llm import LLM
from sage_inference.simulator.metrics import Labels
from sage_inference.simulator.vllm import frames

_TAGS = frozenset({"weights", "kv_cache"})
_LEVELS = {1: "weights_offloaded", 2: "discard_all"}


class Sleep:
    """A sleeping engine is healthy and accepts requests, but answers none before it wakes.

    Generations under way are aborted by ``abort_all``, as vLLM does by default. With ``mode=keep`` they continue after
    the wake.
    """

    def __init__(self, llm: LLM, encoder: Encoder, abort_all: Callable[[], None]) -> None:
        self._llm = llm
        self._encoder = encoder
        self._abort_all = abort_all
        self._asleep: frozenset[str] = frozenset()  # the parts of the engine that are not on the GPU
        self._state = "awake"

    def routes(self) -> dict[str, dict[str, Handler]]:
        return {
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
        }

    def states(self) -> Iterable[tuple[Labels, float]]:
        """The values of ``vllm:engine_sleep_state``."""
        names = ("awake", *_LEVELS.values())
        return [({"sleep_state": name}, float(name == self._state)) for name in names]

    async def _sleep(self, request: Request, reply: Reply) -> None:
        level = request.query.get("level", "1")
        if not level.isdigit():
            await reply.whole(500, b"Internal Server Error", b"text/plain; charset=utf-8")
            return
        if request.query.get("mode", "abort") == "abort":
            self._abort_all()
        self._asleep = _TAGS
        self._state = _LEVELS.get(int(level), "weights_offloaded")
        self._llm.pause()
        self._encoder.pause()
        await reply.whole(200, b"", None)

    async def _wake_up(self, request: Request, reply: Reply) -> None:
        pairs = parse_qsl(request.query_string.decode("latin-1"))
        tags = {value for name, value in pairs if name == "tags"} or _TAGS
        self._asleep -= tags
        self._state = "awake"  # vLLM's metric shows this even if only a part is awake
        if not self._asleep:
            self._llm.resume()
            self._encoder.resume()
        await reply.whole(200, b"", None)

    async def _is_sleeping(self, _: Request, reply: Reply) -> None:
        await reply.whole(200, frames.encode({"is_sleeping": bool(self._asleep)}))
