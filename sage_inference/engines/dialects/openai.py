"""Any other server that speaks OpenAI's API: llama.cpp, infinity, transformers serve, SGLang …"""

from __future__ import annotations

import re

from sage_inference.engines.dialects.base import Dialect
from sage_inference.types import EngineKind

# Whether such a server batches calls is not known. The limit's words are infinity's.
OPENAI = Dialect(EngineKind.OPENAI, serial=True, batch_limit=re.compile(rb"should have at most (\d+) items"))
