"""An embedding request's body as texts and options; None if it must go to the engine as it is."""

from __future__ import annotations

import msgspec

from sage_inference.requests.fields import read_fields
from sage_inference.requests.lenient import UNREADABLE

OPENAI_ROUTE = "/v1/embeddings"
NATIVE_ROUTE = "/embed"
ROUTES = frozenset({OPENAI_ROUTE, NATIVE_ROUTE})

Options = tuple[tuple[str, bytes], ...]  # names and JSON values

# Options that change vectors text by text, so that requests with equal options can share a call. A request with a field
# that is in neither list is not merged, because the field may have any meaning.
_OPTIONS = {
    OPENAI_ROUTE: frozenset({"dimensions", "truncate_prompt_tokens", "add_special_tokens", "normalize"}),
    NATIVE_ROUTE: frozenset({"dimensions", "truncate", "truncation_direction", "prompt_name", "normalize"}),
}
_IGNORED = {OPENAI_ROUTE: frozenset({"model", "user"}), NATIVE_ROUTE: frozenset({"model"})}
_INPUT = {OPENAI_ROUTE: "input", NATIVE_ROUTE: "inputs"}
_DEFAULTS = {
    ("normalize", b"true"),
    ("truncation_direction", b'"right"'),
    ("truncation_direction", b'"Right"'),
}
_BYTES_PER_TOKEN = 4
_BLANKS, _DIGITS = b" \t\r\n", b"0123456789,"

# Each text costs a few microseconds here. A request with very many short texts is relayed as it came.
_MOST_TEXTS = 16384
_BYTES_A_TEXT = 128
_MOST_BYTES = 16 << 20  # of a body; reading its texts takes 5 ms a megabyte, in one piece
_SMALL = 8192  # bytes of a list that may contain anything

_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_check_texts = msgspec.json.Decoder(list[str]).decode


class EmbeddingTexts(msgspec.Struct, frozen=True, gc=False):
    """``texts`` are JSON: strings, or lists of token ids. ``base64`` is the form of the vectors in the answer."""

    texts: list[bytes]
    options: Options
    base64: bool = False


def parse(route: str, body: bytes) -> EmbeddingTexts | None:
    """The request if it can be merged; None if it is wrong or unknown, because the engine's errors are better."""
    fields = read_fields(body) if len(body) <= _MOST_BYTES else None
    if fields is None:
        return None
    try:
        texts = _texts(bytes(fields.pop(_INPUT[route], b"")))
    except UNREADABLE:
        return None
    if not texts:
        return None
    if fields.keys() <= _IGNORED[route]:
        return EmbeddingTexts(texts, ())
    options: list[tuple[str, bytes]] = []
    base64 = False
    for name, raw in fields.items():
        value = bytes(raw)
        if name == "encoding_format" and route == OPENAI_ROUTE:
            if value not in (b'"float"', b'"base64"', b"null"):
                return None
            base64 = value == b'"base64"'
        elif name in _OPTIONS[route]:
            if value != b"null" and not (route == NATIVE_ROUTE and (name, value) in _DEFAULTS):
                options.append((name, value))
        elif name not in _IGNORED[route]:
            return None
    return EmbeddingTexts(texts, tuple(sorted(options)), base64)


def token_counts(texts: list[bytes]) -> list[int]:
    """The tokens of the texts: exact for token ids, otherwise a guess. Either all ``texts`` are ids, or none is."""
    if texts[0][:1] == b"[":
        return [text.count(b",") + 1 for text in texts]
    return [size // _BYTES_PER_TOKEN or 1 for size in map(len, texts)]


def are_ids(texts: list[bytes]) -> bool:
    """Whether the texts are lists of token ids. Either all are, or none is."""
    return texts[0][:1] == b"["


def most_tokens(texts: list[bytes]) -> int:
    """A bound on the tokens of the longest text, with the two that an encoder adds."""
    return 2 + (max(token_counts(texts)) if are_ids(texts) else max(map(len, texts)) - 2)


def _texts(value: bytes) -> list[bytes] | None:
    """A text, texts, a text as token ids, or texts as token ids; None for anything else."""
    if value[:1] == b'"':
        return [value]
    if value[:1] != b"[":
        return None
    ids = value.translate(None, _BLANKS)
    brackets = ids.translate(None, _DIGITS)
    if brackets == b"[]":
        return [value] if len(ids) > 2 else None
    if ids[1:2] == b"[":
        count = ids.count(b"[") - 1
        # Valid JSON of digits, commas and brackets consists of ids, except for an empty list.
        if not _are_few(count, value) or brackets != b"[" + b"[]" * count + b"]" or b"[]" in ids:
            return None
    elif len(value) > _SMALL:
        if ids[1:2] != b'"' or not _are_few(_quoted(value), value):
            return None
        _check_texts(value)  # other values may be between them, up to one for each byte
    items = [bytes(item) for item in _read_list(value)]
    if ids[1:2] == b"[" or {item[:1] for item in items} == {b'"'}:
        return items
    return None


def _are_few(texts: int, value: bytes) -> bool:
    return texts <= _MOST_TEXTS + len(value) // _BYTES_A_TEXT


def _quoted(value: bytes) -> int:
    """The number of texts in valid JSON."""
    quotes = value.count(b'"')
    if quotes <= 2 * _MOST_TEXTS:  # so few that escaped quotes may count as others
        return quotes // 2
    return (quotes - value.replace(b"\\\\", b"").count(b'\\"')) // 2
