"""The caller of an embedding request, as the service and its calls need it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Protocol

from sage_inference.control_plane.embedding import EmbeddingBatch, EmbeddingJob
from sage_inference.control_plane.embedding.request import JobOwner
from sage_inference.control_plane.submission import Group
from sage_inference.gateway.relay.attempt import AttemptOwner
from sage_inference.gateway.relay.caller import Caller
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.phase import Phase
from sage_inference.requests.embedding import EmbeddingTexts, Options
from sage_inference.requests.routes import Route
from sage_inference.types import SchedulingRequest

if TYPE_CHECKING:
    from sage_inference.gateway.upstream import Upstream


class EmbeddingCaller(JobOwner, AttemptOwner, Protocol):
    """The owner of a job, and of the attempt at its call, as long as nobody else wants a text of it."""

    job: EmbeddingJob | None
    request: SchedulingRequest
    request_id: bytes
    head: RequestHead
    body: bytes
    phase: Phase
    caller: Caller[Any]
    upstream: Upstream
    wanted: EmbeddingTexts
    wire_route: str
    merge_key: Hashable  # requests that agree in it may share a call
    credentials: bytes
    guarded: bool
    busy_s: float
    options: Options

    @property
    def route(self) -> Route: ...

    @property
    def input_name(self) -> str: ...

    def send_call(self, batch: EmbeddingBatch, group: Group) -> None: ...

    def relay_answer_of(self, former: AttemptOwner) -> None: ...

    def note_engine(self, engine: Upstream, model: str | None, answered_at: float | None) -> None: ...
