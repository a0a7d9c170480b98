"""A gateway before a real vLLM for chat and a real vLLM for embeddings.

One file: one worker runs all of its tests, so the engines are started once.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from tests.real.engine import RealEngine
from tests.real.fixtures import RealEngines
from tests.support.gateway import Gateway, running_gateway
from tests.support.sdk import sdk

pytestmark = pytest.mark.real_engine

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "hello world"}]
FAST_PROBES = {"health": {"interval_s": 0.2}}
LONG = {"max_tokens": 150, "ignore_eos": True, "temperature": 0, "stream": True}
# So long that no machine finishes it between two lines of a test: some 40 s.
LONGER = {**LONG, "max_tokens": 8000}


@pytest.fixture(scope="module")
def gateway(real_engines: RealEngines) -> Iterator[Gateway]:
    with running_gateway(*urls(real_engines), config=FAST_PROBES) as gateway:
        yield gateway


@pytest.fixture
def mortal_chat(real_engines: RealEngines) -> Iterator[RealEngine]:
    """The chat engine, for a test that kills it; it serves again for the tests after that."""
    yield real_engines.chat
    real_engines.chat.revive()


def urls(engines: RealEngines) -> list[str]:
    return [engine.url for engine in engines.both]


def both_answers(engine: RealEngine, gateway: Gateway, path: str, fields: Any) -> list[httpx.Response]:
    """The engine's own answer, and the one through the gateway, to the very same bytes."""
    body = fields if isinstance(fields, bytes) else json.dumps({"model": engine.model, **fields}).encode()
    headers = {"content-type": "application/json"}
    with (
        gateway.client(headers=headers) as through,
        gateway.client(base_url=engine.url, headers=headers) as own,
    ):
        return [client.post(path, content=body) for client in (own, through)]


def without_identity(body: bytes) -> bytes:
    """A body without what is new in every answer: ids and times."""
    body = re.sub(rb'"id":"([a-z]+)[-_][^"]+"', rb'"id":"\1"', body)
    return re.sub(rb'"(created|created_at)":\d+', rb'"\1":0', body)


def events(body: str) -> list[Any]:
    """The JSON of each event before the last, which must be ``[DONE]``."""
    data = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


def test_engines_are_recognised_with_kind_and_model(gateway: Gateway, real_engines: RealEngines) -> None:
    found = [(one["engine"], one["kind"], one["models"], one["simulated"]) for one in gateway.instances()]
    assert found == [
        ("vllm", "llm", [real_engines.chat.model], False),
        ("vllm", "embedding", [real_engines.embedding.model], False),
    ]


ANSWERED_ALIKE = {
    "chat": (CHAT, {"messages": HELLO}),
    "chat with logprobs": (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 3}),
    "chat with a schema": (
        CHAT,
        {"messages": HELLO, "response_format": {"type": "json_object"}, "max_tokens": 4},
    ),
    "chat with unused tools": (
        CHAT,
        {
            "messages": HELLO,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": "none",
        },
    ),
    "completion": (COMPLETIONS, {"prompt": "the quick brown"}),
    "completion of token ids": (COMPLETIONS, {"prompt": [[10, 11, 12]]}),
    "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": 8}),
    "messages": ("/v1/messages", {"messages": HELLO}),
    "tokenize": ("/tokenize", {"prompt": "the quick brown fox"}),
    "detokenize": ("/detokenize", {"tokens": [10, 11, 12]}),
}


@pytest.mark.parametrize(("path", "fields"), ANSWERED_ALIKE.values(), ids=ANSWERED_ALIKE.keys())
def test_llm_answer_is_the_engines_own(
    gateway: Gateway, real_engines: RealEngines, path: str, fields: dict[str, Any]
) -> None:
    asked = {"temperature": 0, "max_tokens": 8, **fields} if path.startswith("/v1") else fields
    own, through = both_answers(real_engines.chat, gateway, path, asked)
    assert own.status_code == through.status_code == 200, (own.text, through.text)
    assert without_identity(through.content) == without_identity(own.content)
    assert through.headers["content-type"] == own.headers["content-type"]
    assert through.headers["x-sage-instance"] == real_engines.chat.url.removeprefix("http://")


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("text", ["hello world", ["the quick brown fox"], "", [101, 7592, 102]], ids=str)
def test_embedding_is_the_engines_own(
    gateway: Gateway, real_engines: RealEngines, text: Any, encoding: str
) -> None:
    asked = {"input": text, "encoding_format": encoding}
    own, through = both_answers(real_engines.embedding, gateway, EMBEDDINGS, asked)
    assert own.status_code == through.status_code == 200, (own.text, through.text)
    assert without_identity(through.content) == without_identity(own.content)


DOCUMENTS = ["a fox", "a dog"]
BATCHES = {
    "chat with two choices": (CHAT, {"messages": HELLO, "n": 2, "seed": 7, "max_tokens": 4}),
    "completion of two prompts": (
        COMPLETIONS,
        {"prompt": ["the quick", "hello"], "echo": True, "logprobs": 1, "max_tokens": 4, "temperature": 0},
    ),
    "texts": (EMBEDDINGS, {"input": ["hello", "", "the quick brown fox"]}),
    "token ids": (EMBEDDINGS, {"input": [[101, 102], [101, 7592, 102]]}),
    "/v1/rerank": ("/v1/rerank", {"query": "fox", "documents": DOCUMENTS}),
    "/rerank": ("/rerank", {"query": "fox", "documents": DOCUMENTS}),
    "/v1/score": ("/v1/score", {"queries": "fox", "documents": DOCUMENTS}),
    "/score": ("/score", {"queries": "fox", "documents": DOCUMENTS}),
    "/pooling": ("/pooling", {"input": "fox"}),
}


@pytest.mark.parametrize(("path", "fields"), BATCHES.values(), ids=BATCHES.keys())
def test_answer_of_a_batch_is_the_engines_own_but_for_its_rounding(
    gateway: Gateway, real_engines: RealEngines, path: str, fields: dict[str, Any]
) -> None:
    engine = real_engines.chat if path in (CHAT, COMPLETIONS) else real_engines.embedding
    own, through = both_answers(engine, gateway, path, fields)
    assert own.status_code == through.status_code == 200, (own.text, through.text)
    expected, figures = figures_apart(without_identity(own.content))
    received, same_figures = figures_apart(without_identity(through.content))
    assert received == expected
    assert same_figures == pytest.approx(figures, abs=1e-4)


def figures_apart(body: bytes) -> tuple[bytes, list[float]]:
    """A body without its fractions, and those: the last digits depend on what was computed together."""
    fraction = rb"-?\d+\.\d+(?:e[-+]\d+)?"
    return re.sub(fraction, b"#", body), [float(one) for one in re.findall(fraction, body)]


def test_base64_vectors_hold_the_float_ones(gateway: Gateway, real_engines: RealEngines) -> None:
    asked = {"model": real_engines.embedding.model, "input": ["fox", "dog"]}
    with gateway.client() as client:
        packed, plain = (
            client.post(EMBEDDINGS, json={**asked, "encoding_format": form}).json()["data"]
            for form in ("base64", "float")
        )
    for one, other in zip(packed, plain, strict=True):
        vector = struct.unpack("<384f", base64.b64decode(one["embedding"]))
        assert vector == pytest.approx(other["embedding"], abs=1e-4)


REFUSED_ALIKE = {
    "bad temperature": (CHAT, {"messages": HELLO, "temperature": -1}),
    "bad type": (CHAT, {"messages": "hello"}),
    "too long a prompt": (CHAT, {"messages": [{"role": "user", "content": "hello " * 9000}]}),
    "too long a streamed prompt": (
        CHAT,
        {"messages": [{"role": "user", "content": "fox " * 9000}], "stream": True},
    ),
    "stream options without a stream": (CHAT, {"messages": HELLO, "stream_options": {"include_usage": True}}),
    "unknown role": (CHAT, {"messages": [{"role": 1, "content": ""}]}),
    "an empty prompt": (COMPLETIONS, {"prompt": ""}),
    "dimensions": (EMBEDDINGS, {"input": "a", "dimensions": 8}),
    "an empty list": (EMBEDDINGS, {"input": []}),
    "one text too long": (EMBEDDINGS, {"input": ["a", "fox " * 9000]}),
    "unknown encoding": (EMBEDDINGS, {"input": "a", "encoding_format": "morse"}),
}


@pytest.mark.parametrize(("path", "fields"), REFUSED_ALIKE.values(), ids=REFUSED_ALIKE.keys())
def test_engines_refusal_is_passed_on_unchanged(
    gateway: Gateway, real_engines: RealEngines, path: str, fields: dict[str, Any]
) -> None:
    engine = real_engines.embedding if path == EMBEDDINGS else real_engines.chat
    own, through = both_answers(engine, gateway, path, fields)
    assert own.status_code >= 400
    assert (through.status_code, through.content) == (own.status_code, own.content)


def test_streamed_chat_holds_the_same_text_and_usage(gateway: Gateway, real_engines: RealEngines) -> None:
    fields = {"messages": HELLO, **LONG, "stream_options": {"include_usage": True}}
    answers = both_answers(real_engines.chat, gateway, CHAT, fields)
    # The engine itself puts one token or several into an event, as the load has it.
    own, through = ([event["choices"] for event in events(answer.text)] for answer in answers)
    texts = ["".join(c[0]["delta"].get("content") or "" for c in choices if c) for choices in (own, through)]
    assert texts[0] == texts[1] != ""
    assert own[-1] == through[-1] == []
    usages = [events(answer.text)[-1]["usage"] for answer in answers]
    assert usages[0] == usages[1]
    assert usages[0]["completion_tokens"] == 150


def test_stream_arrives_while_the_engine_still_works(gateway: Gateway, real_engines: RealEngines) -> None:
    body = {"model": real_engines.chat.model, "messages": HELLO, **LONGER}
    with gateway.client() as client, client.stream("POST", CHAT, json=body) as answer:
        pieces = answer.iter_text()
        assert next(pieces).startswith("data: {")
        assert [one["in_flight"] for one in gateway.instances()] == [1, 0]


def test_engine_stops_generating_when_the_caller_leaves(gateway: Gateway, real_engines: RealEngines) -> None:
    before = metric(real_engines.chat, "generation_tokens_total")
    body = {"model": real_engines.chat.model, "messages": HELLO, **LONGER}
    with gateway.client() as client, client.stream("POST", CHAT, json=body) as answer:
        next(answer.iter_raw())
    while metric(real_engines.chat, "num_requests_running"):
        one_token(real_engines.chat)  # the engine's figures are renewed as it takes a step
    assert metric(real_engines.chat, "generation_tokens_total") - before < 6000
    assert gateway.instances()[0]["in_flight"] == 0


def one_token(engine: RealEngine) -> None:
    body = {"model": engine.model, "prompt": "hello", "max_tokens": 1}
    httpx.post(
        engine.url + COMPLETIONS, json=body, trust_env=False, verify=False, timeout=60
    ).raise_for_status()


def metric(engine: RealEngine, name: str) -> float:
    text = httpx.get(f"{engine.url}/metrics", trust_env=False, verify=False).text
    found = re.search(rf"^vllm:{name}\{{.*\}} (\S+)$", text, re.M)
    assert found, text
    return float(found[1])


def test_models_are_the_union_of_the_engines(gateway: Gateway, real_engines: RealEngines) -> None:
    own = [card for engine in real_engines.both for card in model_cards(engine.url)]
    assert model_cards(gateway.url) == own
    assert [card["id"] for card in own] == [engine.model for engine in real_engines.both]


def model_cards(url: str) -> list[dict[str, Any]]:
    """Without the fields that the engine makes anew for each answer, and those that the gateway adds."""
    cards = httpx.get(f"{url}/v1/models", trust_env=False, verify=False).json()["data"]
    return [
        {k: v for k, v in card.items() if k not in ("created", "permission", "type", "capabilities")}
        for card in cards
    ]


def test_openai_sdk_talks_to_real_engines(gateway: Gateway, real_engines: RealEngines) -> None:
    chat, embedding = real_engines.chat.model, real_engines.embedding.model
    messages: Any = HELLO
    with sdk(gateway) as client:
        whole = client.chat.completions.create(model=chat, messages=messages, temperature=0, max_tokens=8)
        stream = client.chat.completions.create(
            model=chat, messages=messages, temperature=0, max_tokens=8, stream=True
        )
        streamed = "".join(piece.choices[0].delta.content or "" for piece in stream)
        vector = client.embeddings.create(model=embedding, input="fox").data[0].embedding
        plain = client.embeddings.create(model=embedding, input="fox", encoding_format="float")
        assert streamed == whole.choices[0].message.content
        assert vector == pytest.approx(plain.data[0].embedding)
        assert len(vector) == 384
        assert [model.id for model in client.models.list()] == [chat, embedding]
        assert client.models.retrieve(embedding).id == embedding


def test_openai_sdk_raises_its_typed_errors(gateway: Gateway, real_engines: RealEngines) -> None:
    messages: Any = HELLO
    with sdk(gateway) as client:
        with pytest.raises(openai.NotFoundError, match="tiny-llama"):
            client.chat.completions.create(model="absent", messages=messages)
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(model=real_engines.chat.model, messages=messages, temperature=-1)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).chat.completions.create(
                model=real_engines.chat.model,
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=8000,
                extra_body={"ignore_eos": True},
            )


def test_stopping_gateway_finishes_a_running_stream(real_engines: RealEngines) -> None:
    with running_gateway(real_engines.chat.url) as gateway:
        body = {"model": real_engines.chat.model, "messages": HELLO, **LONG}
        with gateway.client() as client, client.stream("POST", CHAT, json=body) as answer:
            pieces = answer.iter_text()
            first = next(pieces)
            gateway.process.send_signal(signal.SIGTERM)
            assert len(events(first + "".join(pieces))) > 40
        assert gateway.process.wait(10) == 0, gateway.log()


def test_killed_engine_cuts_its_stream_and_serves_again_when_it_is_back(
    mortal_chat: RealEngine, real_engines: RealEngines, gateway: Gateway
) -> None:
    body = {"model": mortal_chat.model, "messages": HELLO, "max_tokens": 8}
    with gateway.client() as client:
        with client.stream("POST", CHAT, json={**body, **LONGER}) as answer:
            pieces = answer.iter_text()
            received = next(pieces)
            mortal_chat.kill()
            with suppress(httpx.RemoteProtocolError):
                for piece in pieces:
                    received += piece
                pytest.fail(f"a stream without its end looks complete: {received}")
        assert '"error"' in received
        assert "[DONE]" not in received

        gateway.wait_instances("ejected", name=mortal_chat.url.removeprefix("http://"))
        refused = client.post(CHAT, json=body)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "no_healthy_instance"
        assert int(refused.headers["retry-after"]) >= 1
        embedding = {"model": real_engines.embedding.model, "input": "still here"}
        assert client.post(EMBEDDINGS, json=embedding).status_code == 200
        assert client.get("/health").status_code == 200

        mortal_chat.revive()
        # At once, not when the next probe is due: the last instance of a model is never left in a black hole.
        assert client.post(CHAT, json=body).status_code == 200
