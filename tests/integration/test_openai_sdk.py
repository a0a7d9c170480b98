"""The ``openai`` SDK works unchanged against the gateway, and raises its own typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.gateway import Gateway, running_gateway
from tests.support.rogue import Answer, RogueEngine, chunk, ok, raw, sse
from tests.support.sdk import EMBEDDER, LLM, chat_and_embeddings, sdk

HELLO: Any = [{"role": "user", "content": "hello"}]
# Long enough for a loaded machine to answer in, short enough to wait for.
PATIENCE_S = 1.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with chat_and_embeddings() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with sdk(gateway) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.model == LLM


def test_streamed_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=LLM, messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    whole = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=5)
    assert text == whole.choices[0].message.content
    used = pieces[-1].usage
    assert used is not None
    assert whole.usage is not None
    # vLLM gives the details of the prompt's tokens only in whole answers.
    assert (used.prompt_tokens, used.completion_tokens) == (whole.usage.prompt_tokens, 5)


def test_streamed_chat_of_the_async_client(gateway: Gateway) -> None:
    async def texts() -> list[str]:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key="none", http_client=http
        ) as client:
            stream = await client.chat.completions.create(
                model=LLM, messages=HELLO, max_tokens=5, stream=True
            )
            return [piece.choices[0].delta.content or "" async for piece in stream]

    assert "".join(asyncio.run(texts()))


def test_chat_under_an_alias(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=5).choices


def test_completion_and_its_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=LLM, prompt="once", max_tokens=5)
    stream = client.completions.create(model=LLM, prompt="once", max_tokens=5, stream=True)
    assert "".join(piece.choices[0].text for piece in stream) == whole.choices[0].text != ""


def test_embeddings_float_and_base64_are_the_same_vectors(client: openai.OpenAI) -> None:
    texts = ["first", "second", "first"]
    packed = client.embeddings.create(model=EMBEDDER, input=texts)  # the SDK asks for base64 by itself
    plain = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert plain.data[0].embedding == plain.data[2].embedding != plain.data[1].embedding
    assert packed.usage.prompt_tokens > 0


def test_models_are_listed_and_retrieved_with_slashes_in_their_ids(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [LLM, EMBEDDER, "gpt-4o"]
    for name in (LLM, EMBEDDER, "gpt-4o"):
        assert client.models.retrieve(name).id == name


def test_raw_response_names_the_request_and_the_instance(client: openai.OpenAI) -> None:
    raw_answer = client.chat.completions.with_raw_response.create(
        model=LLM, messages=HELLO, max_tokens=1, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw_answer.headers["x-request-id"] == "mine-1"
    assert raw_answer.headers["x-sage-instance"]
    assert raw_answer.parse().choices


def test_unknown_model_is_a_not_found_error_that_names_those_served(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="bge-m3") as chat:
        client.chat.completions.create(model="absent", messages=HELLO)
    assert chat.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="absent", input="a")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such/model")


def test_bad_request_of_ours_and_of_the_engine_is_a_bad_request_error(client: openai.OpenAI) -> None:
    nothing: Any = openai.NOT_GIVEN
    with pytest.raises(openai.BadRequestError) as ours:
        client.post("/chat/completions", body={"model": LLM}, cast_to=object)
    assert ours.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=LLM, messages=HELLO, temperature=-1, max_tokens=nothing)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=EMBEDDER, input=[])


def test_key_is_checked_and_a_wrong_one_is_an_authentication_error() -> None:
    keys = {"api_keys": [{"key": "right", "name": "me"}]}
    with RogueEngine(ok()) as engine, running_gateway(engine.url, config=keys) as gateway:
        with sdk(gateway, api_key="wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["www-authenticate"]
        with sdk(gateway, api_key="right") as client:
            assert [model.id for model in client.models.list()] == ["m"]


def failed(status: str) -> Answer:
    return ok(
        '{"error":{"message":"no","type":"t","param":null,"code":null}}', "retry-after: 1", status=status
    )


TYPED = {
    "429": (failed("429 Too Many Requests"), openai.RateLimitError),
    "401 of the engine": (failed("401 Unauthorized"), openai.AuthenticationError),
    "403 of the engine": (failed("403 Forbidden"), openai.PermissionDeniedError),
    "409": (failed("409 Conflict"), openai.ConflictError),
    "422": (failed("422 Unprocessable Entity"), openai.UnprocessableEntityError),
    "500": (failed("500 Internal Server Error"), openai.InternalServerError),
    "503": (failed("503 Service Unavailable"), openai.InternalServerError),
    "reset": (lambda wire: wire.reset(), openai.InternalServerError),
    "garbage": (raw("garbage\r\n\r\n", then="close"), openai.InternalServerError),
}


@pytest.fixture(scope="module")
def rogue() -> Iterator[RogueEngine]:
    with RogueEngine(ok()) as engine:
        yield engine


@pytest.fixture(scope="module")
def before_rogue(rogue: RogueEngine) -> Iterator[Gateway]:
    with running_gateway(rogue.url, config={"timeouts": {"first_byte_s": PATIENCE_S}}) as gateway:
        yield gateway


@pytest.mark.parametrize(("answer", "error"), TYPED.values(), ids=TYPED.keys())
def test_engines_failure_is_the_sdks_error_for_it(
    rogue: RogueEngine, before_rogue: Gateway, answer: Answer, error: type[openai.APIStatusError]
) -> None:
    rogue.answers = [answer]
    with sdk(before_rogue) as client, pytest.raises(openai.APIStatusError) as failure:
        client.chat.completions.create(model="m", messages=HELLO)
    assert type(failure.value) is error, failure.value


def test_engine_silent_past_its_timeout_is_a_504(rogue: RogueEngine, before_rogue: Gateway) -> None:
    rogue.answers = [lambda wire: wire.wait_for_peer_to_leave()]
    with sdk(before_rogue) as client, pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(model="m", messages=HELLO)
    assert failure.value.status_code == 504
    assert failure.value.type == "upstream_timeout"


def test_callers_own_timeout_is_a_timeout_error_and_frees_the_slot(
    rogue: RogueEngine, before_rogue: Gateway
) -> None:
    rogue.answers = [lambda wire: wire.wait_for_peer_to_leave()]
    with sdk(before_rogue, timeout=PATIENCE_S / 5) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="m", messages=HELLO)
    rogue.left.get(timeout=PATIENCE_S)
    assert before_rogue.instances()[0]["in_flight"] == 0


def test_stream_cut_by_the_engines_death_is_an_error_not_an_end(
    rogue: RogueEngine, before_rogue: Gateway
) -> None:
    event = '{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}'
    rogue.answers = [raw(sse(event), then="reset")]
    with sdk(before_rogue) as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError):
            list(stream)


def test_sdks_own_retry_gets_an_answer_from_an_engine_that_recovers(
    rogue: RogueEngine, before_rogue: Gateway
) -> None:
    rogue.answers = [
        failed("429 Too Many Requests"),
        raw(sse() + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"),
    ]
    with sdk(before_rogue, max_retries=1) as client:
        assert list(client.chat.completions.create(model="m", messages=HELLO, stream=True)) == []


def test_connection_refused_is_a_connection_error(rogue: RogueEngine) -> None:
    with running_gateway(rogue.url) as gateway:
        gateway.stop()
        with sdk(gateway) as client, pytest.raises(openai.APIConnectionError):
            client.models.list()
