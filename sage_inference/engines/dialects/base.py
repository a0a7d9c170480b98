"""A dialect: facts about one kind of engine as a table, and the few methods in which kinds differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sage_inference.types import EngineKind

LLM_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions"})
EMBEDDING_ROUTES = frozenset({"/v1/embeddings"})


@dataclass(frozen=True)
class Dialect:
    """``llm_routes`` and ``embedding_routes`` are assumed of an engine that does not report its routes.

    ``paths``: gateway routes that the engine has under another path. ``draining``: words of a 500 that means that the
    engine shuts down, so that the request may safely be sent elsewhere. ``died``: words of an error that means that the
    process which computes is gone, and with it all requests of the engine. ``abort_remedy``: how to keep an engine that
    stops from aborting its answers. ``sleep_paths``: paths that may report that the engine sleeps.

    On embedding calls: ``serial`` is true if the engine makes no batches of several calls. ``payload_bytes`` is the
    largest body it takes (0: not known). ``batch_limit`` finds the allowed number of texts in a refusal.
    ``too_long``: words of a refusal for the length of a text, where the engine would otherwise have truncated it.
    """

    kind: EngineKind
    llm_routes: frozenset[str] = LLM_ROUTES
    embedding_routes: frozenset[str] = EMBEDDING_ROUTES
    health_path: str = "/health"
    paths: Mapping[str, str] = field(default_factory=dict)
    draining: bytes = b""
    died: bytes = b""
    abort_remedy: str = ""
    sleep_paths: tuple[str, ...] = ()
    serial: bool = False
    payload_bytes: int = 0
    batch_limit: re.Pattern[bytes] | None = None
    too_long: bytes = b""

    def path_for(self, route: str) -> str:
        return self.paths.get(route, route)

    def looks_at(self, status: int, route: str) -> bool:
        """Whether the body of an error must be read before it is passed on."""
        return status == 500 and bool(self.draining)

    def texts_allowed(self, body: bytes) -> int | None:
        """The number of texts that a call may have, if the error names it."""
        found = self.batch_limit.search(body) if self.batch_limit else None
        return int(found[1]) if found else None

    def means_draining(self, status: int, body: bytes) -> bool:
        return status == 500 and bool(self.draining) and self.draining in body

    def means_death(self, body: bytes) -> bool:
        return bool(self.died) and self.died in body

    def wrapped_error(self, status: int, route: str, body: bytes) -> bytes | None:
        """The error in the shape of the API, if clients do not understand the engine's own; otherwise None."""
        return None

    def native_error(self, body: bytes) -> bytes | None:
        """The error of one of OpenAI's routes in the shape of the engine's own routes; None if it has that shape."""
        return None
