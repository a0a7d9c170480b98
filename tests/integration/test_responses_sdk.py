"""The Responses API through the ``openai`` SDK: what one engine stored is asked of that engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import (
    ApiKeySettings,
    HealthSettings,
    InstanceSettings,
    SchedulingSettings,
)
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine
from tests.support.wire import Caller, post

MODEL = "m"
_JSON = "content-type: application/json"
NAMES = ("a", "b", "c")
OFTEN = HealthSettings(interval_s=0.2)
KEYS = tuple(ApiKeySettings(key=Secret(f"sk-{name}"), name=name) for name in ("one", "two"))


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, SimulatedEngine]]:
    options = ("--model", MODEL, "--store-responses", "--dev-mode")
    with (
        simulated_engine("vllm", *options, "--speed", "instant") as a,
        simulated_engine("vllm", *options, "--speed", "instant") as b,
        simulated_engine("vllm", *options) as c,
    ):
        yield {"a": a, "b": b, "c": c}


def served_by(engines: dict[str, SimulatedEngine], *names: str, **settings: Any) -> Any:
    """``round_robin`` would take the next request elsewhere."""
    settings.setdefault("scheduling", SchedulingSettings(policy="round_robin"))
    return gateway(*(InstanceSettings(url=engines[n].url, name=n) for n in names), **settings)


@pytest.fixture(scope="module")
def shared(engines: dict[str, SimulatedEngine]) -> Iterator[InProcess]:
    with served_by(engines, "a", "b") as g:
        yield g


@contextmanager
def sdk(g: InProcess, key: str = "none") -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{g.url}/v1", api_key=key, max_retries=0, timeout=30, http_client=http
    ) as client:
        yield client


@pytest.fixture
def client(shared: InProcess) -> Iterator[openai.OpenAI]:
    with sdk(shared) as client:
        yield client


def made(client: openai.OpenAI, text: str = "hello", **more: Any) -> tuple[Any, str]:
    """A response, and the instance that made it."""
    answer = client.responses.with_raw_response.create(
        model=MODEL, input=text, **{"max_output_tokens": 5, **more}
    )
    return answer.parse(), answer.headers["x-sage-instance"]


def streamed(client: openai.OpenAI, **more: Any) -> str:
    """The id in a stream's first event; the stream is read to its end."""
    events = list(client.responses.create(model=MODEL, input="hi", max_output_tokens=5, stream=True, **more))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed" or events[-1].type == "response.incomplete"
    return str(events[0].response.id)


@pytest.mark.parametrize("policy", ["round_robin", "random", "least_loaded", "hybrid"])
def test_a_conversation_stays_with_its_maker_whatever_the_policy(
    engines: dict[str, SimulatedEngine], policy: str
) -> None:
    with served_by(engines, "a", "b", scheduling=SchedulingSettings(policy=policy)) as g, sdk(g) as client:
        for _ in range(3):
            response, instance = made(client)
            for _ in range(4):
                follow, where = made(client, "and then?", previous_response_id=response.id)
                assert where == instance
                assert follow.previous_response_id == response.id
                assert follow.usage.input_tokens > response.usage.input_tokens
                response = follow


def test_a_streams_id_is_known_from_its_first_event(client: openai.OpenAI) -> None:
    seen = set()
    for _ in range(4):
        first = streamed(client)
        answer = client.responses.with_raw_response.retrieve(first)
        assert answer.parse().id == first
        _, where = made(client, previous_response_id=first)
        assert where == answer.headers["x-sage-instance"]
        seen.add(where)
        second = streamed(client, previous_response_id=first)
        assert client.responses.retrieve(second).id == second
    assert seen == {"a", "b"}


def test_what_was_stored_is_read_from_its_maker(client: openai.OpenAI) -> None:
    for _ in range(4):
        response, instance = made(client)
        answer = client.responses.with_raw_response.retrieve(response.id)
        assert answer.parse().output_text == response.output_text
        assert answer.headers["x-sage-instance"] == instance
        with pytest.raises(openai.BadRequestError, match="synchronous"):
            client.responses.cancel(response.id)
        # vLLM has neither; the one that made it says so.
        with pytest.raises(openai.APIStatusError) as lacks:
            client.responses.delete(response.id)
        assert (lacks.value.status_code, lacks.value.response.headers["x-sage-instance"]) == (405, instance)
        with pytest.raises(openai.NotFoundError) as none:
            client.responses.input_items.list(response.id)
        assert none.value.response.headers["x-sage-instance"] == instance


def test_the_async_client_does_the_same(shared: InProcess) -> None:
    async def run() -> None:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"{shared.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client:

            async def talk() -> None:
                response = await client.responses.create(model=MODEL, input="hi", max_output_tokens=5)
                for _ in range(3):
                    follow = await client.responses.create(
                        model=MODEL, input="hi", max_output_tokens=5, previous_response_id=response.id
                    )
                    assert (await client.responses.retrieve(follow.id)).id == follow.id
                    response = follow
                stream = await client.responses.create(
                    model=MODEL,
                    input="hi",
                    max_output_tokens=5,
                    stream=True,
                    previous_response_id=response.id,
                )
                ids = [event.response.id async for event in stream if event.type == "response.created"]
                assert (await client.responses.retrieve(ids[0])).id == ids[0]
                with pytest.raises(openai.BadRequestError):
                    await client.responses.cancel(ids[0])

            await asyncio.gather(*(talk() for _ in range(8)))

    asyncio.run(run())


def test_an_unknown_id_is_openais_not_found(client: openai.OpenAI) -> None:
    for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="Response with id 'resp_none' not found") as error:
            call("resp_none")
        assert "x-sage-instance" not in error.value.response.headers
    with pytest.raises(openai.NotFoundError, match="resp_none"):
        client.responses.retrieve("resp_none", stream=True)
    with pytest.raises(openai.NotFoundError, match="resp_none") as engines_own:
        made(client, previous_response_id="resp_none")
    assert engines_own.value.response.headers["x-sage-instance"] in NAMES


def test_a_background_response_outlives_its_call(engines: dict[str, SimulatedEngine]) -> None:
    with served_by(engines, "a", "c") as g, sdk(g) as client:
        while True:
            running, instance = made(client, background=True, max_output_tokens=30)
            assert (running.status, running.background) == ("queued", True)
            if instance == "c":
                break
        assert client.responses.retrieve(running.id).status == "queued"
        for _ in range(500):
            found = client.responses.retrieve(running.id)
            if found.status != "queued":
                break
        assert found.status == "incomplete"
        assert found.output_text


def test_a_background_response_is_cancelled_where_it_runs(engines: dict[str, SimulatedEngine]) -> None:
    with served_by(engines, "c", "a") as g, sdk(g) as client:
        running, instance = made(client, background=True, max_output_tokens=5000)
        while instance != "c":
            running, instance = made(client, background=True, max_output_tokens=5000)
        assert client.responses.cancel(running.id).status == "cancelled"
        assert client.responses.retrieve(running.id).status == "cancelled"
        engines["c"].wait(batched=0, waiting=0)


def test_a_background_stream_is_taken_up_again(client: openai.OpenAI) -> None:
    for _ in range(3):
        first = streamed(client, background=True)
        every = list(client.responses.retrieve(first, stream=True))
        rest = list(client.responses.retrieve(first, stream=True, starting_after=3))
        assert [event.sequence_number for event in every] == list(range(len(every)))
        assert [event.model_dump() for event in rest] == [event.model_dump() for event in every[4:]]


def check_unreachable(client: openai.OpenAI, foreign: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.responses.retrieve(foreign),
        lambda: client.responses.retrieve(foreign, stream=True),
        lambda: client.responses.cancel(foreign),
        lambda: client.responses.delete(foreign),
        lambda: client.responses.input_items.list(foreign),
        lambda: made(client, previous_response_id=foreign),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as error:
            call()
        assert "x-sage-instance" not in error.value.response.headers


def test_tenants_do_not_reach_each_others_responses(engines: dict[str, SimulatedEngine]) -> None:
    with served_by(engines, "a", api_keys=KEYS, admin_key=Secret("root")) as g:
        with sdk(g, "sk-one") as one, sdk(g, "sk-two") as two, sdk(g, "root") as admin:
            ids = [made(one)[0].id, streamed(one), made(one, background=True)[0].id]
            for theirs in ids:
                assert one.responses.retrieve(theirs).id == theirs
                check_unreachable(two, theirs)
                check_unreachable(admin, theirs)
                # The engine lets callers choose an id, and would overwrite the other's response.
                with pytest.raises(openai.ConflictError, match="is in use"):
                    made(two, extra_body={"request_id": theirs})
                made(one, extra_body={"request_id": theirs})


def test_an_engine_is_not_asked_for_what_may_be_another_tenants(engines: dict[str, SimulatedEngine]) -> None:
    """The gateway has forgotten who made it, as after a restart; the engine has not."""
    with served_by(engines, "a") as g, sdk(g) as client:
        forgotten = made(client)[0].id
    for spelt in ("previous_response_id", "previous\\u005fresponse_id"):
        body = f'{{"model": "m", "input": "hi", "max_output_tokens": 2, "{spelt}": "{forgotten}"}}'.encode()
        with served_by(engines, "a", api_keys=KEYS) as g, Caller(g.port) as caller:
            answer = caller.send(post("/v1/responses", body, _JSON, "x-api-key: sk-two")).reply()
            assert (answer.status, answer.error["code"]) == (404, "previous_response_not_found")
        with served_by(engines, "a", api_keys=KEYS[:1]) as g, Caller(g.port) as caller:
            assert caller.send(post("/v1/responses", body, _JSON, "x-api-key: sk-one")).reply().status == 200


def admin(g: InProcess, method: str, path: str, **more: Any) -> None:
    with httpx.Client(trust_env=False) as http:
        http.request(method, f"{g.url}/admin{path}", headers=ADMIN, **more).raise_for_status()


def refused(client: openai.OpenAI, previous: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as error:
        made(client, previous_response_id=previous)
    assert "x-sage-instance" not in error.value.response.headers
    return error.value


def test_what_became_of_the_maker_is_told(engines: dict[str, SimulatedEngine]) -> None:
    with served_by(engines, "a", "b", health=OFTEN) as g, sdk(g) as client:
        response, instance = made(client)
        engine = engines[instance]
        with engine.client() as direct:
            direct.post("/sleep?level=1").raise_for_status()
            g.until(lambda r: r.gateway.engines[instance].instance.state.value == "asleep", 20)
            error = refused(client, response.id)
            assert (error.status_code, error.code) == (503, "no_healthy_instance")
            assert error.response.headers["retry-after"]
            assert f"instance {instance}" in error.message
            assert "wake_up" in error.message
            # What it stored can be read all the same.
            assert client.responses.retrieve(response.id).id == response.id
            direct.post("/wake_up").raise_for_status()
        g.until(lambda r: r.gateway.engines[instance].instance.state.value == "ready", 20)
        assert made(client, previous_response_id=response.id)[1] == instance
        admin(g, "POST", f"/instances/{instance}/drain")
        error = refused(client, response.id)
        assert error.status_code == 503
        assert "draining" in error.message
        assert client.responses.retrieve(response.id).id == response.id
        admin(g, "DELETE", f"/instances/{instance}")
        error = refused(client, response.id)
        assert (error.status_code, error.code) == (404, "previous_response_not_found")
        assert f"Instance {instance}, which made it, was removed" in error.message
        with pytest.raises(openai.NotFoundError, match="was removed"):
            client.responses.retrieve(response.id)
        # Another engine under its name has no such response.
        other = next(engines[name].url for name in ("a", "b") if name != instance)
        admin(g, "POST", "/instances", json={"url": other, "name": instance})
        with pytest.raises(openai.NotFoundError, match="was removed"):
            client.responses.retrieve(response.id)
        assert refused(client, response.id).status_code == 404


def test_one_that_is_down_is_named(engines: dict[str, SimulatedEngine]) -> None:
    options = ("--model", MODEL, "--store-responses", "--speed", "instant")
    with simulated_engine("vllm", *options) as dying:
        every = {**engines, "dying": dying}
        with served_by(every, "dying", "a", health=OFTEN) as g, sdk(g) as client:
            response, instance = made(client)
            while instance != "dying":
                response, instance = made(client)
            dying.kill()
            g.until(lambda r: r.gateway.engines["dying"].instance.state.value == "ejected", 20)
            error = refused(client, response.id)
            assert error.status_code == 503
            assert "instance dying, which made" in error.message
            assert "down" in error.message
            with pytest.raises(openai.InternalServerError, match="instance dying") as read:
                client.responses.retrieve(response.id)
            assert read.value.status_code == 503
            assert made(client)[1] == "a"
