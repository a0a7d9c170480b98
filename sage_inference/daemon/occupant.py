"""Recognizes an engine that listens on the gateway's port."""

from __future__ import annotations

import http.client
import json
from typing import Any

from sage_inference.netloc import netloc, reachable
from sage_inference.visible import visible

_PATIENCE_S = 0.5
_LARGEST = 1 << 18


def engine_hint(host: str, port: int) -> str | None:
    """A hint how to run the gateway in front of the engine on its port. None if no engine answers there."""
    host = reachable(host)
    info = _get(host, port, "/info")
    if isinstance(info, dict) and isinstance(info.get("model_id"), str) and "max_client_batch_size" in info:
        return _hint("TEI", info["model_id"], "--embedding-backend", host, port)
    models = _get(host, port, "/v1/models")
    try:
        first = models["data"][0]
        what = "vLLM" if first.get("owned_by") == "vllm" else "server of OpenAI's API"
        return _hint(what, str(first["id"]), "--llm-backend", host, port)
    except (AttributeError, KeyError, IndexError, TypeError):
        return None


def _hint(what: str, model: str, flag: str, host: str, port: int) -> str:
    command = f"sage inference start {flag} http://{netloc(host, port)} --port OTHER"
    return f"that is a {what} serving {visible(model)[:100]}: {command}"


def _get(host: str, port: int, path: str) -> Any:
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read(_LARGEST)) if answer.status == 200 else None
    # Any program may listen there, also one without HTTP or without a response.
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
