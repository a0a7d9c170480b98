"""The answers of the model's routes: embeddings in three forms, predictions, ranks, similarities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from sage_inference.simulator import tokens, vectors
from sage_inference.simulator.exchange import Headers
from sage_inference.simulator.tei.errors import TEIError, not_a_model, wrong_shape
from sage_inference.simulator.tei.inputs import flag, plain_text, plain_texts, sequences_of, texts_of
from sage_inference.simulator.tei.work import Done, Worker

LABELS: dict[str, tuple[str, ...]] = {
    "embedding": (),
    "reranker": ("LABEL_0",),
    "classifier": ("negative", "positive"),
}
_STEEPNESS = 6.0  # of a reranker's score over the cosine
_VOCABULARY = 30522


class Models:
    def __init__(self, name: str, kind: str, dimension: int, worker: Worker) -> None:
        self._name = name
        self._kind = kind
        self._dimension = dimension
        self._worker = worker

    async def embed(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("embedding")
        done = await self._run(document, texts_of(document, "inputs"))
        normalize = flag(document, "normalize", True)
        size = self._size(document)
        # A simulated vector has length 1 already, so a vector without normalization is made longer.
        scale = 1.0 if normalize else 10.0
        return [
            [value * scale for value in vectors.floats(self._vector(t, size))] for t in done.texts
        ], done.headers

    async def embed_all(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("embedding")
        done = await self._run(document, texts_of(document, "inputs"))
        every = [[tokens.CLS, *tokens.pieces(text), tokens.SEP] for text in done.texts]
        return [[self._floats(part) for part in parts] for parts in every], done.headers

    async def embed_sparse(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("embedding")
        done = await self._run(document, texts_of(document, "inputs"))
        return [_sparse(text) for text in done.texts], done.headers

    async def openai(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("embedding")
        texts = texts_of(document, "input")
        form = document.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise wrong_shape(f"encoding_format: unknown variant `{form}`, expected `float` or `base64`")
        size = self._size(document)
        done = await self._worker.run("embed", texts)
        data = []
        for i, text in enumerate(done.texts):
            vector = self._vector(text, size)
            shown: Any = vectors.as_base64(vector) if form == "base64" else vectors.floats(vector)
            data.append({"object": "embedding", "embedding": shown, "index": i})
        used = sum(done.tokens)
        usage = {"prompt_tokens": used, "total_tokens": used}
        return {"object": "list", "data": data, "model": self._name, "usage": usage}, done.headers

    async def predict(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("classifier")
        sequences, batch = sequences_of(document)
        done = await self._run(document, [" ".join(one) for one in sequences], kind="predict")
        raw = flag(document, "raw_scores", False)
        scored = [_predicted(self._name, text, LABELS["classifier"], raw) for text in done.texts]
        return scored if batch else scored[0], done.headers

    async def rerank(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("reranker")
        query = plain_text(document, "query")
        texts = plain_texts(document, "texts", "texts")
        raw, return_text = flag(document, "raw_scores", False), flag(document, "return_text", False)
        done = await self._run(document, [f"{query} {text}" for text in texts], kind="predict")
        asked = self._vector(query)
        scores = [_STEEPNESS * vectors.cosine(asked, self._vector(text)) - _STEEPNESS / 2 for text in texts]
        values = scores if raw else [_sigmoid(score) for score in scores]
        ranked = sorted(range(len(texts)), key=lambda i: -scores[i])
        return [
            {"index": i, **({"text": texts[i]} if return_text else {}), "score": values[i]} for i in ranked
        ], done.headers

    async def similarity(self, document: dict[str, Any]) -> tuple[Any, Headers]:
        self._must_be("embedding")
        inputs = document.get("inputs")
        if not isinstance(inputs, dict):
            raise wrong_shape("missing field `inputs`")
        source = plain_text(inputs, "source_sentence")
        sentences = plain_texts(inputs, "sentences", "inputs.sentences")
        parameters = document.get("parameters")
        done = await self._run(parameters if isinstance(parameters, dict) else {}, [source, *sentences])
        first, *others = (self._vector(text) for text in done.texts)
        return [vectors.cosine(first, other) for other in others], done.headers

    async def _run(self, document: dict[str, Any], texts: Sequence[str], kind: str = "embed") -> Done:
        truncate = document.get("truncate")
        if truncate is not None and not isinstance(truncate, bool):
            raise wrong_shape("truncate: invalid type, expected a boolean")
        left = str(document.get("truncation_direction", "right")).lower() == "left"
        return await self._worker.run(kind, texts, truncate=truncate, left=left)

    def _must_be(self, kind: str) -> None:
        if self._kind != kind:
            raise not_a_model(kind)

    def _size(self, document: dict[str, Any]) -> int:
        """The number of wanted dimensions. Raises ``TEIError``."""
        wanted = document.get("dimensions")
        if wanted is None:
            return self._dimension
        if not isinstance(wanted, int) or not 0 < wanted <= self._dimension:
            message = f"`dimensions` must be between 1 and {self._dimension}. Given: {wanted}"
            raise TEIError("Validation", f"Input validation error: {message}")
        return wanted

    def _vector(self, text: str, size: int = 0) -> bytes:
        whole = vectors.embed(self._name, text, self._dimension)
        return (
            whole if not size or size == self._dimension else vectors.normalized(vectors.floats(whole)[:size])
        )

    def _floats(self, text: str) -> list[float]:
        return vectors.floats(self._vector(text))


def _sparse(text: str) -> list[dict[str, Any]]:
    """A weight for each distinct token, which grows slowly with the token's count."""
    counts: dict[int, int] = {}
    for part in tokens.pieces(text):
        index = crc32(part.strip().lower().encode("utf-8", "replace")) % _VOCABULARY
        counts[index] = counts.get(index, 0) + 1
    return [{"index": index, "value": math.log1p(count)} for index, count in sorted(counts.items())]


def _predicted(model: str, text: str, labels: Sequence[str], raw: bool) -> list[dict[str, Any]]:
    logits = [
        crc32(f"{model}\x00{label}\x00{text}".encode("utf-8", "replace")) % 4000 / 1000 - 2
        for label in labels
    ]
    total = math.fsum(math.exp(logit) for logit in logits)
    scores = logits if raw else [math.exp(logit) / total for logit in logits]
    found = [{"score": score, "label": label} for score, label in zip(scores, labels, strict=True)]
    return sorted(found, key=lambda one: -float(one["score"]))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
