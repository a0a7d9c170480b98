"""The differences between engines, as tables of facts."""

from __future__ import annotations

from sage_inference.engines.dialects.base import Dialect
from sage_inference.engines.dialects.openai import OPENAI
from sage_inference.engines.dialects.tei import TEI
from sage_inference.engines.dialects.vllm import VLLM
from sage_inference.types import EngineKind

_DIALECTS = {dialect.kind: dialect for dialect in (VLLM, TEI, OPENAI)}


def dialect_of(kind: EngineKind) -> Dialect:
    return _DIALECTS[kind]


__all__ = ["OPENAI", "TEI", "VLLM", "Dialect", "dialect_of"]
