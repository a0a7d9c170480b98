"""A dialect: a table of facts about one kind of engine, and the few things that differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sage_inference.types import EngineKind

LLM_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions"})
EMBEDDING_ROUTES = frozenset({"/v1/embeddings"})


@dataclass(frozen=True)
class Dialect:
    """``llm_routes``/``embedding_routes``: what such an engine serves where it can't be asked.

    ``paths``: gateway routes that the engine has under another path. ``draining``: words in a 500 that mean
    it is shutting down, so that the request may safely go elsewhere. ``sleep_paths``: paths that may report that it sleeps.

    Of embedding calls: ``serial``, whether it makes no batches of several calls; ``payload_bytes``, the
    largest body it takes (0: not known); ``batch_limit``, where a refusal names how many texts it takes; ``too_long``,
    words of one that means a text, where the engine would else have cut it.
    """

    kind: EngineKind
    llm_routes: frozenset[str] = LLM_ROUTES
    embedding_routes: frozenset[str] = EMBEDDING_ROUTES
    health_path: str = "/health"
    paths: Mapping[str, str] = field(default_factory=dict)
    draining: bytes = b""
    sleep_paths: tuple[str, ...] = ()
    serial: bool = False
    payload_bytes: int = 0
    batch_limit: re.Pattern[bytes] | None = None
    too_long: bytes = b""

    def path_for(self, route: str) -> str:
        return self.paths.get(route, route)

    def looks_at(self, status: int, route: str) -> bool:
        """Whether an error's body must be read before it is passed on."""
        return status == 500 and bool(self.draining)

    def texts_allowed(self, body: bytes) -> int | None:
        """How many texts a call may hold, where an error names the number."""
        found = self.batch_limit.search(body) if self.batch_limit else None
        return int(found[1]) if found else None

    def means_draining(self, status: int, body: bytes) -> bool:
        return status == 500 and bool(self.draining) and self.draining in body

    def wrapped_error(self, status: int, route: str, body: bytes) -> bytes | None:
        """The error in the API's shape, where the engine's own shape would not be found by a client."""
        return None

    def native_error(self, body: bytes) -> bytes | None:
        """The error in the shape of the engine's own routes, where it came on one of OpenAI's."""
        return None
