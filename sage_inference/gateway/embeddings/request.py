"""An embedding request's body as texts and options; None where it must go to the engine as it is."""

from __future__ import annotations

import msgspec

from sage_inference.engines.embeddings.wire import NATIVE_ROUTE, OPENAI_ROUTE, Options

ROUTES = frozenset({OPENAI_ROUTE, NATIVE_ROUTE})

# What changes vectors text by text, so that requests which agree in it can share a call. A field that stands
# in neither list may mean anything: its request is not merged.
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

_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class EmbeddingRequest(msgspec.Struct, frozen=True, gc=False):
    """``texts`` are JSON: strings, or lists of token ids. ``base64``: how the caller wants its vectors."""

    texts: list[bytes]
    options: Options
    base64: bool = False


def parse(route: str, body: bytes) -> EmbeddingRequest | None:
    """What can be merged; None for all else, be it wrong or merely unknown: the engine says it better."""
    try:
        fields = _read_fields(body)
        texts = _texts(bytes(fields.pop(_INPUT[route], b"")))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not texts:
        return None
    if fields.keys() <= _IGNORED[route]:
        return EmbeddingRequest(texts, ())
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
    return EmbeddingRequest(texts, tuple(sorted(options)), base64)


def token_counts(texts: list[bytes]) -> list[int]:
    """Exact for token ids, else a guess; either all ``texts`` are ids or none is."""
    if are_ids(texts):
        return [text.count(b",") + 1 for text in texts]
    return [size // _BYTES_PER_TOKEN or 1 for size in map(len, texts)]


def are_ids(texts: list[bytes]) -> bool:
    """Whether these texts are lists of token ids: all are, or none is."""
    return texts[0][:1] == b"["


def most_tokens(texts: list[bytes]) -> int:
    """What the longest has at the most, with the two that an encoder puts round it."""
    return 2 + (max(token_counts(texts)) if are_ids(texts) else max(map(len, texts)) - 2)


def _texts(value: bytes) -> list[bytes] | None:
    """A text, texts, a text as token ids, texts as token ids; None for anything else."""
    if value[:1] == b'"':
        return [value]
    if value[:1] != b"[":
        return None
    items = [bytes(item) for item in _read_list(value)]
    firsts = {item[:1] for item in items}
    if firsts == {b'"'}:
        return items
    if firsts == {b"["}:
        return items if all(map(_is_ids, items)) else None
    return [value] if items and _is_ids(value) else None


def _is_ids(value: bytes) -> bool:
    items = _read_list(value)
    return bool(items) and all(bytes(item).isdigit() for item in items)
