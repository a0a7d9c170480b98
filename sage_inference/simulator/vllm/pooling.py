"""The routes of vLLM's pooling runner: embeddings, pooling, scores and reranking by a bi-encoder."""

from __future__ import annotations

import time
from typing import Any

from sage_inference.simulator import tokens, vectors
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.chat import request_id
from sage_inference.simulator.vllm.core import Core, content_of
from sage_inference.simulator.vllm.errors import ApiError, SchemaError, invalid
from sage_inference.simulator.vllm.front_end import FrontEnd
from sage_inference.simulator.vllm.schema import Fields, problem, read

_FORMATS = ("float", "base64")
_FORMATS_LISTED = "'float', 'base64', 'bytes' or 'bytes_only'"
# Encoders have no template that would make one text of a conversation.
_NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template "
    "if the tokenizer does not define one."
)
# In vLLM the request is a union of many models, and each one reports its missing field.
_MISSES = ("input", "messages", "messages", "messages", "input", "messages", "input")


class Pooling:
    def __init__(self, core: Core, front_end: FrontEnd, dimension: int) -> None:
        self._core = core
        self._front_end = front_end
        self._dimension = dimension

    async def embeddings(self, request: Request, reply: Reply) -> None:
        await self._pool(request, reply, "embd", "embedding", "embedding")

    async def pooling(self, request: Request, reply: Reply) -> None:
        await self._pool(request, reply, "pooling", "pooling", "data")

    async def score(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        lefts, rights = self._pair(fields)
        model = self._core.check_model(fields.text("model"), aliases=False)
        lefts = lefts * len(rights) if len(lefts) == 1 else lefts
        if len(lefts) != len(rights):
            raise ApiError("Input lengths must be either 1:1, 1:N or N:N")
        scores, used = await self._scores(model, lefts, rights)
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
        await reply.whole(200, frames.encode(_listed(f"score-{request_id(request)}", model, data, used)))

    async def rerank(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        query, documents = fields.required("query"), fields.required_list("documents")
        top_n = fields.integer("top_n")
        fields.check()
        model = self._core.check_model(fields.text("model"), aliases=False)
        texts = [_text(one) for one in documents]
        if not texts:
            raise ApiError("At least one text_pair element must be given")
        scores, used = await self._scores(model, [_text(query)] * len(texts), texts)
        ranked = sorted(range(len(texts)), key=lambda i: -scores[i])[: top_n or None]
        results = [
            {
                "index": i,
                "document": {"text": texts[i], "multi_modal": None},
                "relevance_score": scores[i],
            }
            for i in ranked
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        document = {"id": f"score-{request_id(request)}", "model": model, "usage": usage, "results": results}
        await reply.whole(200, frames.encode(document))

    async def _pool(self, request: Request, reply: Reply, prefix: str, kind: str, key: str) -> None:
        fields = read(request)
        _check_schema(fields)
        model = self._core.check_model(fields.text("model"), aliases=False)
        if fields.get("dimensions") is not None:
            message = f"Model '{model}' does not support Matryoshka embeddings; dimensions must be unset"
            raise ApiError(f"{message} (received dimensions={fields.get('dimensions')}).")
        parts = [self._fitted(text, fields.integer("truncate_prompt_tokens")) for text in _inputs(fields)]
        counts = [len(one) + 2 for one in parts]
        await self._front_end.encode(counts)
        as_text = fields.get("encoding_format") == "base64"
        data = []
        for i, one in enumerate(parts):
            vector = vectors.embed(model, "".join(one), self._dimension)
            shown: Any = vectors.as_base64(vector) if as_text else vectors.floats(vector)
            data.append({"index": i, "object": kind, key: shown})
        id_ = f"{prefix}-{request_id(request)}"
        await reply.whole(200, frames.encode(_listed(id_, model, data, sum(counts))))

    def _fitted(self, text: str, truncate_to: int | None) -> list[str]:
        """The tokens of ``text``, without the two special ones around it. Raises ``ApiError`` for too many."""
        limit = self._core.max_model_len
        if truncate_to is not None:
            room = limit if truncate_to < 0 else min(truncate_to, limit)
            return tokens.pieces(text)[: max(0, room - 2)]
        lead = f"This model's maximum context length is {limit} tokens. However, your prompt contains"
        rest = "Please reduce the length of the input prompt."
        most = limit * tokens.MAX_PIECE_CHARS
        if len(text) > most:
            bound = f"which is the upper bound for {limit} input tokens"
            message = f"{lead} {len(text)} characters (more than {most} characters, {bound}). {rest}"
            raise invalid("input_text", message, len(text))
        parts = tokens.pieces(text)
        if len(parts) + 2 > limit:
            message = f"{lead} at least {limit + 1} input tokens, which exceeds this limit. {rest}"
            raise invalid("input_tokens", message, limit + 1)
        return parts

    def _pair(self, fields: Fields) -> tuple[list[str], list[str]]:
        names = ("text_1", "text_2") if "text_1" in fields.document else ("queries", "documents")
        lefts, rights = (fields.required(name) for name in names)
        fields.check()
        as_texts = [
            [_text(one) for one in (side if isinstance(side, list) else [side])] for side in (lefts, rights)
        ]
        if not all(as_texts):
            raise ApiError("At least one text element must be given")
        return as_texts[0], as_texts[1]

    async def _scores(self, model: str, lefts: list[str], rights: list[str]) -> tuple[list[float], int]:
        """The cosines, and the number of tokens that were encoded."""
        every = dict.fromkeys((*lefts, *rights))
        fitted = {text: self._fitted(text, None) for text in every}
        await self._front_end.encode([len(one) + 2 for one in fitted.values()])
        known = {text: vectors.embed(model, text, self._dimension) for text in every}
        pairs = list(zip(lefts, rights, strict=True))
        used = sum(len(fitted[left]) + len(fitted[right]) + 4 for left, right in pairs)
        return [vectors.cosine(known[left], known[right]) for left, right in pairs], used


def _listed(id_: str, model: str, data: list[dict[str, Any]], used: int) -> dict[str, Any]:
    usage = {
        "prompt_tokens": used,
        "total_tokens": used,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    created = int(time.time())
    return {"id": id_, "object": "list", "created": created, "model": model, "data": data, "usage": usage}


def _check_schema(fields: Fields) -> None:
    given = fields.document
    wanted = fields.get("encoding_format")
    if wanted is not None and wanted not in _FORMATS:
        bad = problem("literal_error", "encoding_format", f"Input should be {_FORMATS_LISTED}", wanted)
        raise SchemaError([{**bad, "ctx": {"expected": _FORMATS_LISTED}}])
    if "input" not in given and "messages" not in given:
        raise SchemaError([problem("missing", name, "Field required", given) for name in _MISSES])
    given_input = given.get("input")
    if "input" in given and not isinstance(given_input, str | list):
        kinds = ("list_type", "list_type", "string_type", "list_type")
        raise SchemaError([_wrong_type(kind, "input", given_input) for kind in kinds])
    if isinstance(given_input, list) and len({_form(one) for one in given_input}) > 1:
        first = given_input[0]
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise SchemaError(
            [
                problem("int_parsing", "input.0", message, first),
                _wrong_type("list_type", "input.0", first),
                _wrong_type("string_type", "input", given_input),
            ]
        )


def _wrong_type(kind: str, name: str, value: object) -> dict[str, Any]:
    word = "list" if kind == "list_type" else "string"
    return problem(kind, name, f"Input should be a valid {word}", value)


def _form(value: object) -> str:
    return type(value).__name__


def _inputs(fields: Fields) -> list[str]:
    """All texts to embed. Token ids are turned back into text. Raises ``ApiError``."""
    given = fields.get("input")
    if given is None:
        raise ApiError(_NO_TEMPLATE)
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError("You must pass at least one prompt")
    if isinstance(given[0], int):
        return [tokens.text_of(given)]
    return [one if isinstance(one, str) else tokens.text_of(one) for one in given]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("text", "")) or content_of(value.get("content"), text_only=None)[0]
    return str(value)
