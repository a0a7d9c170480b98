"""``RequestMetadata``: a request as a program constructs it, with its text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sage_inference.choices import member_of
from sage_inference.control_plane.accounting.estimates import TokenEstimates
from sage_inference.control_plane.prompt_size import measure
from sage_inference.requests.routes import ROUTES
from sage_inference.types import (
    ExecutionInstance,
    RequestPriority,
    RequestType,
    SchedulingRequest,
)

_TypeWord = Literal[
    "llm_chat",
    "llm_generate",
    "embedding",
    "responses",
    "messages",
    "rerank",
    "score",
    "classify",
    "pooling",
    "tokenize",
    "transcription",
    "speech",
    "similarity",
]
_PriorityWord = Literal["critical", "high", "normal", "low", "background"]
_FIRST_GUESS = TokenEstimates()  # the defaults: it gets no reports of engines


@dataclass(init=False)
class RequestMetadata:
    """One request: its work, its user and its urgency.

    Without ``request_type``, the route, the texts and the prompt decide it; see ``RequestClassifier.classify``.
    ``prompt`` and ``embedding_texts`` never appear in ``repr``. Scheduling gets their size and hashes alone.
    ``model`` is another name of ``model_name``, ``tenant`` of ``user_id``. ``slo_deadline_ms`` counts from
    ``arrived`` (seconds of ``time.monotonic``, by default now) to the first byte of the answer. Without
    ``prompt_tokens`` they are estimated from the text. ``cached_tokens`` is the number of the prompt's tokens that
    each instance probably has in its prefix cache.
    """

    request_id: str
    request_type: RequestType
    model_name: str
    route: str
    prompt: str | None = field(repr=False)
    priority: RequestPriority
    user_id: str
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    slo_deadline_ms: float | None
    embedding_texts: list[str] | None = field(repr=False)
    embedding_model: str | None
    embedding_batch_size: int | None
    tags: dict[str, str]
    prompt_tokens: int | None
    session: str
    streams: bool
    cached_tokens: dict[ExecutionInstance, int] = field(repr=False, compare=False)
    arrived: float = field(compare=False)

    def __init__(
        self,
        request_id: str,
        request_type: RequestType | _TypeWord | None = None,
        model_name: str | None = None,
        route: str = "",
        *,
        prompt: str | None = None,
        priority: RequestPriority | _PriorityWord | None = None,
        user_id: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        slo_deadline_ms: float | None = None,
        embedding_texts: Sequence[str] | None = None,
        embedding_model: str | None = None,
        embedding_batch_size: int | None = None,
        tags: Mapping[str, str] | None = None,
        prompt_tokens: int | None = None,
        session: str = "",
        streams: bool = False,
        cached_tokens: Mapping[ExecutionInstance, int] | None = None,
        arrived: float | None = None,
        model: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Raises ``ValueError`` for an unknown type or priority, and for two different models or users."""
        self.request_id = request_id
        self.model_name = _one_of("model_name", model_name, "model", model)
        self.route = route
        self.prompt = prompt
        self.priority = (
            RequestPriority.NORMAL if priority is None else member_of(RequestPriority, priority, "priority")
        )
        self.user_id = _one_of("user_id", user_id, "tenant", tenant)
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.slo_deadline_ms = slo_deadline_ms
        self.embedding_texts = _texts(embedding_texts)
        self.embedding_model = embedding_model
        self.embedding_batch_size = embedding_batch_size
        self.tags = dict(tags or {})
        self.prompt_tokens = prompt_tokens
        self.session = session
        self.streams = streams
        self.cached_tokens = dict(cached_tokens or {})
        self.arrived = time.monotonic() if arrived is None else arrived
        self.request_type = (
            self._meant() if request_type is None else member_of(RequestType, request_type, "request_type")
        )

    @property
    def model(self) -> str:
        """Another name of ``model_name``."""
        return self.model_name

    @model.setter
    def model(self, name: str) -> None:
        self.model_name = name

    @property
    def tenant(self) -> str:
        """Another name of ``user_id``."""
        return self.user_id

    @tenant.setter
    def tenant(self, name: str) -> None:
        self.user_id = name

    @property
    def is_embedding_request(self) -> bool:
        return self.request_type is RequestType.EMBEDDING

    @property
    def is_llm_request(self) -> bool:
        return self.request_type.is_llm

    @property
    def effective_model_name(self) -> str:
        """The model of this request. For embeddings ``embedding_model`` takes precedence over ``model_name``."""
        if self.is_embedding_request and self.embedding_model:
            return self.embedding_model
        return self.model_name

    def for_scheduling(self) -> SchedulingRequest:
        """The facts that scheduling needs. Of the text it has only the size and hashes."""
        request = SchedulingRequest(
            self.request_id,
            self.request_type,
            self.effective_model_name,
            self.route,
            self.priority,
            self.user_id,
            slo_deadline_ms=self.slo_deadline_ms,
            arrived=self.arrived,
            streams=self.streams,
            session=self.session,
            cached_tokens=self.cached_tokens,
        )
        text = "".join(self.embedding_texts or ()) if self.is_embedding_request else self.prompt or ""
        # JSON may have a lone surrogate, which cannot be encoded strictly.
        encoded = text.encode("utf-8", "surrogatepass")
        request.prompt_bytes = len(encoded)
        measure(request, encoded, _FIRST_GUESS)
        if self.prompt_tokens is not None:
            request.prompt_tokens = self.prompt_tokens
        return request

    def body_fields(self) -> dict[str, Any]:
        """Fields of the API request's body. None stands for a field that was not given."""
        fields: dict[str, Any] = {
            "input": self.embedding_texts,
            "user": self.user_id or None,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.prompt is not None and self.request_type is RequestType.LLM_CHAT:
            fields["messages"] = [{"role": "user", "content": self.prompt}]
        elif self.prompt is not None and self.request_type is RequestType.LLM_GENERATE:
            fields["prompt"] = self.prompt
        return fields

    def _meant(self) -> RequestType:
        """The type of a request without one: by its route, by its texts, otherwise a chat."""
        route = ROUTES.get(self.route)
        if route is not None:
            return route.type
        return RequestType.EMBEDDING if self.embedding_texts else RequestType.LLM_CHAT


def _one_of(name: str, value: str | None, other_name: str, other: str | None) -> str:
    """The value of a field that has two names."""
    if value and other and value != other:
        raise ValueError(f"{name} and {other_name} are one field: give one of {value!r} and {other!r}")
    return value or other or ""


def _texts(given: Sequence[str] | None) -> list[str] | None:
    if isinstance(given, str):
        raise ValueError("embedding_texts must be a list of texts, not one text; put [ ] around it")
    return None if given is None else list(given)
