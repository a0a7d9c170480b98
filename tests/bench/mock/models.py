"""What an engine says of its model."""

from __future__ import annotations

import json


def models(name: str) -> str:
    card = {"id": name, "object": "model", "created": 1795466982, "owned_by": "vllm", "max_model_len": 32768}
    return json.dumps({"object": "list", "data": [card]})
