"""All other servers with OpenAI's API: llama.cpp, infinity, transformers serve, SGLang …"""

from __future__ import annotations

import re

from sage_inference.engines.dialects.base import Dialect
from sage_inference.types import EngineKind

# Such a server may make no batches of several calls. The words of the limit are infinity's.
OPENAI = Dialect(EngineKind.OPENAI, serial=True, batch_limit=re.compile(rb"should have at most (\d+) items"))
