"""Rerank requests of Cohere's, Jina's and vLLM's API, translated for engines that speak TEI's, and the answers back.

Cohere, Jina, infinity and vLLM agree on ``documents`` and on ``results`` with ``index`` and ``relevance_score``. TEI
takes ``texts``, at most 32 of them, and answers a bare list with ``score``. The answer here has the fields of all of
them: a client finds those of its own API, and ignores the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from operator import itemgetter

import msgspec

from sage_inference.requests.density import LARGE
from sage_inference.requests.lenient import UNREADABLE, decoded
from sage_inference.requests.rejection import Reason, Rejection

ENGINE_ROUTE = "/rerank"  # of TEI, and also of vLLM, infinity and llama.cpp
ROUTES = ("/v1/rerank", "/v2/rerank", ENGINE_ROUTE)
MOST_DOCUMENTS = 10_000  # as with Cohere
# Bytes of the query, counted once for each document: each call repeats it, and the engine reads it with each document.
_MOST_PAIRED = 1 << 29
_EMPTY, _BLANK = b'""', b'" "'
_FRAME_BYTES = len('{"query":,"texts":[]}')
_SEARCH_UNIT = 100  # documents, as Cohere counts them
_MOST_FIELDS = 16  # of a document, that are ranked by
_MOST_COLONS = 100_000  # in documents whose fields are read by name
# In valid JSON. With more there are too many documents, or they cost more than their bytes allow.
_MOST_QUOTES, _BYTES_A_QUOTE = 8 * MOST_DOCUMENTS, 16

_UNSET = msgspec.UNSET
_Value = msgspec.Raw | msgspec.UnsetType


class _RerankBody(msgspec.Struct, gc=False):
    query: _Value = _UNSET
    documents: _Value = _UNSET
    texts: _Value = _UNSET
    top_n: _Value = _UNSET
    return_documents: _Value = _UNSET
    rank_fields: _Value = _UNSET
    raw_scores: _Value = _UNSET
    truncate: _Value = _UNSET
    truncation_direction: _Value = _UNSET
    truncation_side: _Value = _UNSET  # vLLM's name for the same


class _RerankDocument(msgspec.Struct, gc=False):
    text: str


class _Rank(msgspec.Struct, gc=False):
    index: int
    score: float


_read_body = msgspec.json.Decoder(_RerankBody).decode
_read_texts = msgspec.json.Decoder(list[str | _RerankDocument]).decode
_read_fields = msgspec.json.Decoder(list[str | dict[str, msgspec.Raw]]).decode
_read_names = msgspec.json.Decoder(list[str]).decode
_read_text = msgspec.json.Decoder(str).decode
_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_ranks = msgspec.json.Decoder(list[_Rank]).decode
_encode = msgspec.json.encode

_PLACE = re.compile(r"at `\$\[(\d+)\]")
_COUNT = re.compile(rb"\d{1,9}")
# Values of ``truncate``: TEI's own, and those of APIs that name the end at which a text is cut.
_CUTS = {
    b"true": (b"true", b""),
    b"false": (b"false", b""),
    b'"NONE"': (b"false", b""),
    b'"END"': (b"true", b'"right"'),
    b'"START"': (b"true", b'"left"'),
}

Ranks = list[tuple[float, int]]  # a document's score, and its place in the request


class BadRanksError(Exception):
    """An engine's answer is no ranking of the texts that it got. The message has the reason."""


class RerankRequest(msgspec.Struct, frozen=True, gc=False):
    """``query``, ``texts`` and ``documents`` are JSON: what the engine gets, and what the caller sent.

    ``options`` are further fields of each call. ``top_n`` 0 is all of them.
    """

    query: bytes
    texts: list[bytes]
    documents: list[bytes]
    options: bytes
    top_n: int
    returns_documents: bool


def read_request(route: str, body: bytes) -> RerankRequest | None:
    """The request of a body; None if it has TEI's own shape. Raises ``Rejection``."""
    if len(body) > LARGE:  # reading it would take long
        if route == ENGINE_ROUTE and b'"documents"' not in body:
            return None
        raise _refusal(f"a request to rerank may have {LARGE} bytes, this one has {len(body)}", "documents")
    asked = decoded(_read_body, body)
    if route == ENGINE_ROUTE and (asked.documents is _UNSET or asked.texts is not _UNSET):
        return None
    documents = _bytes(asked.documents)
    if not documents:
        raise _refusal(f"the body of {route} needs 'documents'", "documents")
    texts, originals = _documents(documents, _bytes(asked.rank_fields))
    query = _query(_bytes(asked.query))
    if len(query) * len(texts) > _MOST_PAIRED:
        most = _MOST_PAIRED // len(query)
        message = f"a query of {len(query)} bytes may have {most} documents, this one has {len(texts)}"
        raise _refusal(f"{message}; split the request", "documents")
    # Jina's and vLLM's APIs return documents by default. The second version of Cohere's never does.
    returns = _flag(asked.return_documents, "return_documents")
    return RerankRequest(
        query,
        texts,
        originals,
        _options(asked),
        _top_n(_bytes(asked.top_n)),
        route != "/v2/rerank" if returns is None else returns,
    )


def end_of_call(request: RerankRequest, start: int, most_texts: int, most_bytes: int) -> int:
    """The end of a call that begins with the text at ``start``, and has at least that one. 0 is no limit."""
    end = min(len(request.texts), start + most_texts) if most_texts else len(request.texts)
    left = most_bytes - len(request.query) - len(request.options) - _FRAME_BYTES
    sizes = list(map(len, request.texts[start:end]))
    if not most_bytes or sum(sizes) + len(sizes) <= left:
        return end
    for at, size in enumerate(sizes, start):
        left -= size + 1
        if left < 0:
            return max(at, start + 1)
    return end


def call_body(request: RerankRequest, start: int, end: int) -> bytes:
    """TEI's request for the texts from ``start`` up to ``end``."""
    texts = b",".join(request.texts[start:end])
    return b'{"query":%b,"texts":[%b]%b}' % (request.query, texts, request.options)


def ranks_of(answer: bytes, start: int, count: int) -> Ranks:
    """The ranks in TEI's answer to a call of ``count`` texts from ``start`` on. Raises ``BadRanksError``."""
    try:
        ranks = _read_ranks(answer)
    except UNREADABLE as error:
        raise BadRanksError(f"answered no ranking: {error}") from None
    if sorted([rank.index for rank in ranks]) != list(range(count)):
        raise BadRanksError(f"answered {len(ranks)} ranks that are not those of {count} texts")
    if not all(map(math.isfinite, [rank.score for rank in ranks])):
        raise BadRanksError("answered a score that is no finite number")
    return [(rank.score, start + rank.index) for rank in ranks]


def answer_body(
    route: str, request: RerankRequest, ranks: Ranks, *, model: str, tokens: int, request_id: str
) -> bytes:
    """The answer in the shape of ``route``: the best first, ``tokens`` being what the engine reported in all."""
    # Equal scores keep the order of their documents. ``%a`` is a number as JSON has it, too.
    ranks = sorted(ranks, key=itemgetter(0), reverse=True)[: request.top_n or None]
    if request.returns_documents:
        shown = request.documents
        parts = [
            b'{"index":%d,"relevance_score":%a,"document":%b}' % (at, score, _as_object(shown[at]))
            for score, at in ranks
        ]
    else:
        parts = [b'{"index":%d,"relevance_score":%a}' % (at, score) for score, at in ranks]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    version = "2" if route == "/v2/rerank" else "1"
    meta = {
        "api_version": {"version": version},
        "billed_units": {"search_units": -(-len(request.texts) // _SEARCH_UNIT)},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    return b'{"id":%b,"object":"list","model":%b,"usage":%b,"results":[%b],"meta":%b}' % (
        _encode(request_id),
        _encode(model),
        _encode(usage),
        b",".join(parts),
        _encode(meta),
    )


def _as_object(document: bytes) -> bytes:
    return b'{"text":%b}' % document if document[:1] == b'"' else document


def _documents(value: bytes, rank_fields: bytes) -> tuple[list[bytes], list[bytes]]:
    """The texts to rank, and their documents, as JSON."""
    if value[:1] != b"[":
        raise _refusal("'documents' must be a list of texts", "documents")
    if _quotes(value) > _MOST_QUOTES + len(value) // _BYTES_A_QUOTE:
        raise _too_many()
    try:
        texts = _named_texts(value, rank_fields) if rank_fields else _plain_texts(value)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        which = f"documents[{place[1]}]" if place else "each of documents"
        raise _refusal(f"{which} must be a text, or an object with a 'text'", "documents") from None
    except UNREADABLE as error:
        raise _refusal(f"'documents' cannot be read: {error}", "documents") from None
    if not texts:
        raise _refusal("'documents' is empty", "documents")
    if len(texts) > MOST_DOCUMENTS:
        raise _too_many()
    originals = [bytes(one) for one in _read_list(value)]
    found = [
        original if text is None else _encode(text) for text, original in zip(texts, originals, strict=True)
    ]
    # With one empty text the engine would refuse all of them.
    return [_BLANK if text == _EMPTY else text for text in found], originals


def _plain_texts(value: bytes) -> list[str | None]:
    """The text of each document; None if the document is itself the text."""
    return [None if type(one) is str else one.text for one in _read_texts(value)]  # type: ignore[union-attr]


def _named_texts(value: bytes, rank_fields: bytes) -> list[str | None]:
    """As ``_plain_texts``, if the caller names the fields that make up an object's text."""
    try:
        names = _read_names(rank_fields)
    except UNREADABLE:
        raise _refusal("'rank_fields' must be a list of names", "rank_fields") from None
    if len(names) > _MOST_FIELDS:
        raise _refusal(f"'rank_fields' may name {_MOST_FIELDS} fields", "rank_fields")
    if value.count(b":") > _MOST_COLONS:
        raise _refusal("the documents have too many fields to rank by some of them", "rank_fields")
    texts: list[str | None] = []
    for place, one in enumerate(_read_fields(value)):
        if isinstance(one, str):
            texts.append(None)
            continue
        found = [_shown(one[name]) for name in names if name in one]
        if not found:
            raise _refusal(f"documents[{place}] has none of the fields in 'rank_fields'", "documents")
        texts.append("\n".join(found))
    return texts


def _shown(value: msgspec.Raw) -> str:
    raw = bytes(value)
    return _read_text(raw) if raw[:1] == b'"' else raw.decode()


def _query(value: bytes) -> bytes:
    """The query as a JSON string; Jina also takes an object with a ``text``."""
    if value[:1] == b"{":
        try:
            return _encode(msgspec.json.decode(value, type=_RerankDocument).text)
        except UNREADABLE:
            pass
    try:
        _read_text(value)  # the bytes of a text need not be UTF-8
    except UNREADABLE:
        raise _refusal("'query' must be a text", "query") from None
    return value


def _options(asked: _RerankBody) -> bytes:
    """The further fields of each call. By default a document longer than the model's context is cut, as those APIs do.

    TEI refuses such a document unless the call has ``truncate``.
    """
    given = _bytes(asked.truncate)
    cuts, direction = _CUTS.get(given, (given or b"true", b""))
    direction = direction or _bytes(asked.truncation_direction) or _bytes(asked.truncation_side)
    options = b',"truncate":%b' % cuts
    if direction:
        options += b',"truncation_direction":%b' % direction
    if _flag(asked.raw_scores, "raw_scores"):
        options += b',"raw_scores":true'
    return options


def _top_n(value: bytes) -> int:
    if value and not _COUNT.fullmatch(value):
        raise _refusal("'top_n' must be a whole number", "top_n")
    return int(value or b"0")


def _flag(value: _Value, name: str) -> bool | None:
    raw = _bytes(value)
    if raw not in (b"", b"true", b"false"):
        raise _refusal(f"'{name}' must be true or false", name)
    return raw == b"true" if raw else None


def _bytes(value: _Value) -> bytes:
    """The JSON of a field; empty if it is absent or null."""
    raw = b"" if isinstance(value, msgspec.UnsetType) else bytes(value)
    return b"" if raw == b"null" else raw


def _quotes(value: bytes) -> int:
    """The number of quotes that begin or end a text, in valid JSON."""
    quotes = value.count(b'"')
    if quotes <= _MOST_QUOTES:  # so few that escaped quotes may count as others
        return quotes
    return quotes - value.replace(b"\\\\", b"").count(b'\\"')


def _too_many() -> Rejection:
    return _refusal(f"'documents' may hold {MOST_DOCUMENTS} documents; split the request", "documents")


def _refusal(message: str, param: str) -> Rejection:
    return Rejection(Reason.BAD_REQUEST, message, param)


def tokens_of(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """The tokens of a call as TEI reports them; 0 if it does not."""
    told = next((value for name, value in headers if name == b"x-compute-tokens"), b"")
    return int(told) if _COUNT.fullmatch(told) else 0
