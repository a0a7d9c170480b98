"""TEI's root route: its path names no kind of work, so the body and the models that are served decide."""

from __future__ import annotations

import re

import msgspec

from sage_inference.control_plane.density import LARGE, check_density
from sage_inference.control_plane.lenient import UNREADABLE, decoded
from sage_inference.control_plane.refusal import Refusal
from sage_inference.control_plane.registry import Registry

ROOT = "/"
_PAIRS = re.compile(rb'\[\s*\[\s*"')
_BEGIN = 64  # bytes at the begin of the inputs: they show of which kind these are
_Value = msgspec.Raw | msgspec.UnsetType


class _Body(msgspec.Struct, gc=False):
    inputs: _Value = msgspec.UNSET
    texts: _Value = msgspec.UNSET
    model: _Value = msgspec.UNSET


_read = msgspec.json.Decoder(_Body).decode


def route_meant(registry: Registry, body: bytes) -> str:
    """The route of TEI's that does what TEI itself does at its root, and Hugging Face's clients want of it.

    A body that cannot be read is the first's, which refuses it.
    """
    try:
        if len(body) > LARGE:
            check_density(body)
        asked = decoded(_read, body)
        model = None if not isinstance(asked.model, msgspec.Raw) else msgspec.json.decode(asked.model)
    except (Refusal, *UNREADABLE):
        return "/embed"
    routes = _possible(asked)
    return next((route for route in routes if _serves(registry, route, model)), routes[0])


def _possible(asked: _Body) -> tuple[str, ...]:
    if isinstance(asked.texts, msgspec.Raw):
        return ("/rerank",)
    begin = bytes(memoryview(asked.inputs)[:_BEGIN]) if isinstance(asked.inputs, msgspec.Raw) else b""
    if begin[:1] == b"{":  # a sentence, and others to compare it with
        return ("/similarity",)
    if _PAIRS.match(begin):
        return ("/predict",)
    return ("/embed", "/embed_sparse", "/predict")


def _serves(registry: Registry, route: str, model: object) -> bool:
    if isinstance(model, str) and model:
        return bool(registry.group(registry.resolve(model), route))
    return bool(registry.staying(route))
