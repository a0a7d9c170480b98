"""The ``openai`` SDK, as a program of its users would make it."""

from __future__ import annotations

from typing import Any

import openai

from tests.support.gateway import Gateway


def sdk(gateway: Gateway, **options: Any) -> openai.OpenAI:
    """A client of ``gateway``. Without retries: what the gateway answers is what the test sees."""
    http = openai.DefaultHttpxClient(trust_env=False, verify=False)
    wanted = {"api_key": "none", "max_retries": 0, "timeout": 60, "http_client": http, **options}
    return openai.OpenAI(base_url=f"{gateway.url}/v1", **wanted)
