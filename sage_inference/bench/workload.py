"""Makes the requests, ready to be written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from sage_inference.bench.distribution import Distribution
from sage_inference.bench.exchange import Kind, PreparedRequest
from sage_inference.bench.mix import Mix
from sage_inference.bench.target import Target
from sage_inference.bench.text import Prompts
from sage_inference.bench.trace import TraceRow

_PATHS = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.STREAM: "/v1/chat/completions",
    Kind.EMBEDDINGS: "/v1/embeddings",
}


@dataclass(frozen=True, slots=True)
class WorkloadShape:
    """Lengths of prompts and answers in tokens. ``texts`` is the number of texts in an embeddings request."""

    mix: Mix
    prompt: Distribution
    output: Distribution
    texts: Distribution
    ignore_eos: bool = False
    seed: int = 0


class Workload:
    """Makes requests for one server. The same seed gives the same requests."""

    def __init__(self, shape: WorkloadShape, target: Target, models: Mapping[Kind, str]) -> None:
        self._shape = shape
        self._kinds = list(shape.mix)
        self._weights = list(shape.mix.values())
        self._prompts = Prompts(shape.seed)
        self._random = Random(shape.seed)  # noqa: S311 - a workload, not a secret
        self._heads = {kind: target.head(_PATHS[kind]) for kind in self._kinds}
        self._begins = {kind: _begin(kind, models[kind]) for kind in self._kinds}
        self._text_number = 0

    def requests(self) -> Iterator[PreparedRequest]:
        """Jobs without end."""
        while True:
            yield self.request(self._random.choices(self._kinds, self._weights)[0])

    def request(self, kind: Kind) -> PreparedRequest:
        """The next request of a kind."""
        draw, shape = self._random, self._shape
        if kind is Kind.EMBEDDINGS:
            lengths = [shape.prompt.draw(draw) for _ in range(shape.texts.draw(draw))]
            return self._embeddings(lengths)
        return self._chat(kind, self._text(shape.prompt.draw(draw)), shape.output.draw(draw))

    def replayed(self, row: TraceRow) -> PreparedRequest:
        """The request of a trace's row, with its lengths and its prompt's shared beginning."""
        kind = self._random.choices(self._kinds, self._weights)[0]
        if kind is Kind.EMBEDDINGS:
            return self._embeddings([row.in_tokens])
        self._text_number += 1
        prompt = self._prompts.shared(row.blocks, self._text_number, row.in_tokens)
        return self._chat(kind, prompt, row.out_tokens)

    def _text(self, tokens: int) -> bytes:
        self._text_number += 1
        return self._prompts.unique(self._text_number, tokens)

    def _chat(self, kind: Kind, prompt: bytes, output_tokens: int) -> PreparedRequest:
        length = b'"max_tokens":%d,' % output_tokens
        more = b'"ignore_eos":true,' if self._shape.ignore_eos else b""
        parts = (self._begins[kind], length, more, b'"messages":[{"role":"user","content":"', prompt, b'"}]}')
        return self._request(kind, parts)

    def _embeddings(self, lengths: list[int]) -> PreparedRequest:
        texts = b'","'.join([self._text(tokens) for tokens in lengths])
        return self._request(Kind.EMBEDDINGS, (self._begins[Kind.EMBEDDINGS], b'"input":["', texts, b'"]}'))

    def _request(self, kind: Kind, parts: tuple[bytes, ...]) -> PreparedRequest:
        length = b"%d\r\n\r\n" % sum(map(len, parts))
        return PreparedRequest(kind, b"".join((self._heads[kind], length, *parts)))


def _begin(kind: Kind, model: str) -> bytes:
    fields = f'{{"model":{json.dumps(model)},'
    if kind is Kind.STREAM:
        fields += '"stream":true,"stream_options":{"include_usage":true},'
    return fields.encode()
