"""Any other server that speaks OpenAI's API: llama.cpp, infinity, transformers serve, SGLang …"""

from __future__ import annotations

from sage_inference.engines.dialects.base import Dialect
from sage_inference.types import EngineKind

OPENAI = Dialect(EngineKind.OPENAI)
