"""The kinds of work of a client. Each makes requests and reads their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sage_inference.client.answers import Answer, chat_result, completion_result, error_of
from sage_inference.client.attempts import Attempts
from sage_inference.client.config import UnifiedClientConfig, UnifiedClientMode
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.errors import NoServerFoundError, SageInferenceError
from sage_inference.client.requests import (
    Messages,
    Prompt,
    Request,
    Texts,
    chat_body,
    completion_body,
    get,
    post,
)
from sage_inference.client.results import InferenceResult, Kind
from sage_inference.client.stream_text import StreamText
from sage_inference.client.vectors import Vector, as_array, as_lists, embeddings

WorkKind = Literal["llm", "embedding"]

EMBED_PATH = "/v1/embeddings"
FEW = 32  # texts in one request that every engine accepts
# Enough texts to make a request's own cost small, and few enough to read answers while other requests run.
MANY = 256
# The route of vLLM and most others, then TEI's. The server's response shows which of the two it has.
_RERANK = (("/v1/rerank", "documents"), ("/rerank", "texts"))
_NO_ROUTE = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Options:
    """Options of every call, beside the fields of its body."""

    model: str | None = None
    timeout: float | None = None
    extra_body: Mapping[str, Any] | None = None
    extra_headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """One chat or completion. ``read`` makes a result from a whole answer."""

    kind: Kind
    request: Request
    attempts: Attempts
    read: Callable[[Answer], InferenceResult]

    def streamed(self, head: Answer) -> StreamText:
        """A reader for the stream that begins with ``head``. Raises the error of a 4xx or 5xx status."""
        if head.status >= 400:
            raise error_of(head)
        return StreamText(self.kind, head)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of the texts of an embedding, in one request."""

    request: Request
    attempts: Attempts
    count: int
    as_numpy: bool

    def read(self, answer: Answer) -> PieceRead:
        """Convert an answer as soon as it arrives, while other requests run."""
        vectors, document = embeddings(answer, self.count)
        return answer, vectors if self.as_numpy else as_lists(vectors), document


PieceRead = tuple[Answer, Sequence[Vector], dict[str, Any]]


class Embedding:
    """Texts to embed in pieces. The pieces' answers, in order, have the vectors.

    ``cut`` makes a piece of some texts. Large pieces cost less, but an engine may accept no more than ``FEW`` texts; a
    gateway cuts requests for its engines. The answer to the first piece shows which of the two the server is.
    """

    def __init__(
        self,
        texts: Sequence[str],
        single: bool,
        size: int | None,
        cut: Callable[[Any], Piece],
        as_numpy: bool,
    ) -> None:
        self._texts = texts
        self._single = single
        self._as_numpy = as_numpy
        self.size = size
        self._cut = cut

    def opening(self) -> list[Piece]:
        """The piece that must be answered before the rest is sent, if there is one."""
        if self._single:
            return [self._cut(self._texts[0])]
        return [self._cut(self._texts[:FEW])] if self.size is None and self._texts else []

    def rest(self, opened: Sequence[PieceRead]) -> list[Piece]:
        begin = sum(len(vectors) for _, vectors, _ in opened)
        if self.size is None and opened:
            self.size = MANY if opened[0][0].instance else FEW
        size = self.size or FEW
        return [self._cut(self._texts[at : at + size]) for at in range(begin, len(self._texts), size)]

    def result(self, read: Sequence[PieceRead]) -> InferenceResult:
        vectors = [vector for _, some, _ in read for vector in some]
        rows: Any = as_array(vectors) if self._as_numpy else vectors
        content = rows[0] if self._single else rows
        if not read:
            return InferenceResult("", "embed", content, "")
        answer, _, first = read[0]
        return InferenceResult(
            answer.headers.get("x-request-id") or answer.request_id,
            "embed",
            content,
            str(first.get("model") or ""),
            _summed(document.get("usage") or {} for _, _, document in read),
            max(one.latency_ms for one, _, _ in read),
            None,
            answer.instance,
            first,
        )


def _summed(usages: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for usage in usages:
        for name, tokens in usage.items():
            if isinstance(tokens, int):
                total[name] = total.get(name, 0) + tokens
    return total


class Work:
    """Makes the requests of one client. ``tried`` are the steps of detection, which errors list."""

    def __init__(
        self,
        config: UnifiedClientConfig,
        llm: Endpoint | None,
        embedding: Endpoint | None,
        tried: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.endpoints: dict[WorkKind, Endpoint | None] = {"llm": llm, "embedding": embedding}
        self._tried = tuple(tried)
        self._rerank_ways = list(_RERANK)
        self._learned_size: int | None = None  # texts per request, known from the first answer on

    def endpoint(self, kind: WorkKind) -> Endpoint:
        found = self.endpoints[kind]
        if found is not None:
            return found
        tried = "".join(f"\n  {line}" for line in self._tried)
        raise NoServerFoundError(
            f"this client has no {kind} server; give {kind}_base_url, or use create_auto()"
            + (f"; tried:{tried}" if tried else ""),
            self._tried,
        )

    def attempts(self, timeout: float | None = None) -> Attempts:
        return Attempts(self.config.timeout if timeout is None else timeout, self.config.max_retries)

    def chat(self, messages: Messages, fields: Mapping[str, Any], options: Options) -> GenerationCall:
        request = self._post("llm", "/v1/chat/completions", chat_body(messages, fields), options)
        return GenerationCall("chat", request, self.attempts(options.timeout), chat_result)

    def generate(self, prompt: Prompt, fields: Mapping[str, Any], options: Options) -> GenerationCall:
        request = self._post("llm", "/v1/completions", completion_body(prompt, fields), options)
        return GenerationCall("generate", request, self.attempts(options.timeout), completion_result)

    def embed(self, texts: Texts, fields: Mapping[str, Any], options: Options, as_numpy: bool) -> Embedding:
        """Ask for vectors in base64, as the openai SDK does, because it is exact and has a quarter of the bytes."""
        single = isinstance(texts, str)
        every = [texts] if isinstance(texts, str) else list(texts)
        attempts = self.attempts(options.timeout)

        def piece(cut: Texts) -> Piece:
            request = self._embedding_request(cut, fields, options)
            return Piece(request, attempts.again(), 1 if isinstance(cut, str) else len(cut), as_numpy)

        return Embedding(every, single, self._piece_size, piece, as_numpy)

    @property
    def _piece_size(self) -> int | None:
        # In control-plane mode the batch size applies to the gateway's calls to engines, not to requests.
        if self.config.mode is UnifiedClientMode.CONTROL_PLANE:
            return MANY
        return self.config.embedding_batch_size or self._learned_size

    def embeds_by(self, embedding: Embedding) -> None:
        """Remember the batch size that the answer to a first piece allows."""
        self._learned_size = embedding.size

    def _embedding_request(self, texts: Texts, fields: Mapping[str, Any], options: Options) -> Request:
        body = {"input": texts, "encoding_format": "base64", **fields}
        return self._post("embedding", EMBED_PATH, body, options)

    def rerank(
        self, query: str, texts: Sequence[str], fields: Mapping[str, Any], options: Options
    ) -> list[Request]:
        """Requests to try in order. A further one is sent if the server lacks the route of the one before."""
        return [
            self._post("embedding", path, {"query": query, name: list(texts), **fields}, options)
            for path, name in self._rerank_ways
        ]

    def rerank_works_by(self, request: Request) -> None:
        self._rerank_ways = [way for way in _RERANK if way[0] == request.path]

    def model_lists(self) -> list[list[Request]]:
        """For each server, requests to try in order, as in ``rerank``."""
        by_url = {one.url: one for one in self.endpoints.values() if one is not None}
        return [[get(one, "/v1/models"), get(one, "/info")] for one in by_url.values()]

    def status(self, available: Mapping[WorkKind, bool]) -> dict[str, Any]:
        """The server for each kind of work, or the steps that were tried if there is none."""
        document: dict[str, Any] = {"mode": self.config.mode.value}
        for kind, endpoint in self.endpoints.items():
            document[kind] = {
                "base_url": endpoint.url if endpoint else None,
                "model": endpoint.model if endpoint else None,
                "available": available[kind],
            }
        return {**document, "tried": list(self._tried)}

    def _post(self, kind: WorkKind, path: str, body: Mapping[str, Any], options: Options) -> Request:
        return post(
            self.endpoint(kind),
            path,
            body,
            model=options.model,
            extra_body=options.extra_body,
            extra_headers=options.extra_headers,
        )


def lacks_route(error: SageInferenceError) -> bool:
    return error.status in _NO_ROUTE
