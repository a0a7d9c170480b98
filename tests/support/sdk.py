"""The ``openai`` SDK, as a program of its users would make it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import simulated_engine

LLM, EMBEDDER = "meta-llama/Llama-3.1-8B", "BAAI/bge-m3"


@contextmanager
def chat_and_embeddings() -> Iterator[Gateway]:
    """A gateway in front of ``LLM``, also called ``gpt-4o``, and of ``EMBEDDER``."""
    with (
        simulated_engine("vllm", "--model", LLM, "--speed", "instant") as llm,
        simulated_engine("tei", "--model", EMBEDDER, "--speed", "instant") as embedder,
        running_gateway(llm.url, embedder.url, config={"aliases": {"gpt-4o": LLM}}) as gateway,
    ):
        yield gateway


def sdk(gateway: Gateway, **options: Any) -> openai.OpenAI:
    """A client of ``gateway``. Without retries: what the gateway answers is what the test sees."""
    http = openai.DefaultHttpxClient(trust_env=False, verify=False)
    wanted = {"api_key": "none", "max_retries": 0, "timeout": 60, "http_client": http, **options}
    return openai.OpenAI(base_url=f"{gateway.url}/v1", **wanted)
