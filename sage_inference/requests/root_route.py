"""TEI's root route: its path names no kind of work, so the body and the models that are served decide."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from sage_inference.requests.density import LARGE, check_density
from sage_inference.requests.lenient import UNREADABLE, decoded
from sage_inference.requests.rejection import Rejection

ROOT = "/"
_PAIRS = re.compile(rb'\[\s*\[\s*"')
_BEGIN = 64  # bytes at the begin of the inputs, which show their kind
_Value = msgspec.Raw | msgspec.UnsetType


class _RootBody(msgspec.Struct, gc=False):
    inputs: _Value = msgspec.UNSET
    texts: _Value = msgspec.UNSET
    model: _Value = msgspec.UNSET


_read = msgspec.json.Decoder(_RootBody).decode


def route_meant(is_served: Callable[[str, str | None], bool], body: bytes) -> str:
    """The TEI route that does the work of TEI's own root, as the clients of Hugging Face expect.

    ``is_served(route, model)`` is whether an instance may take such a request; the model is None where the body has
    none. A body that cannot be read is the first route's, which refuses it.
    """
    try:
        if len(body) > LARGE:
            check_density(body)
        asked = decoded(_read, body)
        model = None if not isinstance(asked.model, msgspec.Raw) else msgspec.json.decode(asked.model)
    except (Rejection, *UNREADABLE):
        return "/embed"
    routes = _possible(asked)
    named = model if isinstance(model, str) and model else None
    return next((route for route in routes if is_served(route, named)), routes[0])


def _possible(asked: _RootBody) -> tuple[str, ...]:
    if isinstance(asked.texts, msgspec.Raw):
        return ("/rerank",)
    begin = bytes(memoryview(asked.inputs)[:_BEGIN]) if isinstance(asked.inputs, msgspec.Raw) else b""
    if begin[:1] == b"{":  # a sentence, and others to be compared with it
        return ("/similarity",)
    if _PAIRS.match(begin):
        return ("/predict",)
    return ("/embed", "/embed_sparse", "/predict")
