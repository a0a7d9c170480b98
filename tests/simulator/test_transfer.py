"""Prompts handed over between simulated vLLMs by ``kv_transfer_params``, as vLLM's NixlConnector does it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.simulators import SimulatedEngine, simulated_engine

NIXL = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'
FORGETFUL = '{"kv_connector": "NixlConnector", "kv_connector_extra_config": {"kv_lease_duration": 0}}'
PATIENT = '{"kv_connector": "NixlConnector", "kv_load_failure_policy": "recompute"}'
ASK = {"do_remote_decode": True, "do_remote_prefill": False}
LONG = "word " * 20_000  # half a second of prefill
PATHS = ("/v1/chat/completions", "/v1/completions")


def engine(config: str | None = NIXL, speed: str = "instant") -> Any:
    told = ("--kv-transfer-config", config) if config else ()
    return simulated_engine("vllm", "--model", "m", "--speed", speed, *told)


@pytest.fixture(scope="module")
def first() -> Iterator[SimulatedEngine]:
    with engine() as one:
        yield one


@pytest.fixture(scope="module")
def second() -> Iterator[SimulatedEngine]:
    with engine() as one:
        yield one


def post(to: SimulatedEngine, path: str, text: str = "Tell me of the sea.", **more: Any) -> httpx.Response:
    prompt = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    with to.client() as client:
        return client.post(path, json={"model": "m", **prompt, **more})


def offer(by: SimulatedEngine, path: str = PATHS[0], **more: Any) -> dict[str, Any]:
    answer = post(by, path, max_tokens=1, kv_transfer_params=ASK, **more).raise_for_status().json()
    found: dict[str, Any] = answer["kv_transfer_params"]
    return found


@pytest.mark.parametrize("path", PATHS)
def test_a_prompt_is_handed_over_once_and_the_answer_is_the_same(
    path: str, first: SimulatedEngine, second: SimulatedEngine
) -> None:
    fetched = second.stats()["prompts_fetched"]
    params = offer(first, path)
    assert first.stats()["prompts_held"] == 1
    assert (params["do_remote_prefill"], params["do_remote_decode"]) == (True, False)
    assert params["remote_block_ids"][0]
    assert {"remote_engine_id", "remote_request_id", "remote_host", "remote_port"} < params.keys()
    handed = post(second, path, kv_transfer_params=params).json()
    assert first.stats()["prompts_held"] == 0
    assert second.stats()["prompts_fetched"] == fetched + 1
    assert handed["kv_transfer_params"] is None
    assert handed["usage"]["prompt_tokens_details"]["cached_tokens"] == handed["usage"]["prompt_tokens"] - 1
    alone = post(second, path).json()
    assert alone["choices"][0].get("text") == handed["choices"][0].get("text")
    assert alone["choices"][0].get("message") == handed["choices"][0].get("message")


def test_what_was_handed_over_is_not_computed_again() -> None:
    with engine(speed="1") as one, engine(speed="1") as two:
        params = offer(one, text=LONG)
        began = time.monotonic()
        post(two, PATHS[0], LONG, max_tokens=1, kv_transfer_params=params).raise_for_status()
        handed = time.monotonic() - began
        began = time.monotonic()
        post(two, PATHS[0], "other " + LONG, max_tokens=1).raise_for_status()
        assert handed < (time.monotonic() - began) / 2


def test_blocks_that_are_gone_are_computed_anew(first: SimulatedEngine, second: SimulatedEngine) -> None:
    params = offer(first)
    post(second, PATHS[0], kv_transfer_params=params).raise_for_status()
    fetched = second.stats()["prompts_fetched"]
    again = post(second, PATHS[0], kv_transfer_params=params)  # the same blocks, which the first time freed
    assert again.status_code == 200
    assert second.stats()["prompts_fetched"] == fetched
    with engine(FORGETFUL) as forgetful:
        assert post(second, PATHS[0], kv_transfer_params=offer(forgetful)).status_code == 200
    assert second.stats()["prompts_fetched"] == fetched


@pytest.mark.parametrize("wrong", [{"remote_engine_id": "another"}, {"remote_port": 1}], ids=["id", "port"])
def test_an_engine_that_is_not_there_fails_the_request(
    wrong: dict[str, Any], first: SimulatedEngine, second: SimulatedEngine
) -> None:
    params = offer(first) | wrong
    plain = post(second, PATHS[0], kv_transfer_params=params)
    assert plain.status_code == 500
    assert plain.json()["error"]["message"] == "Internal server error"
    streamed = post(second, PATHS[1], kv_transfer_params=params, stream=True)
    assert streamed.status_code == 200
    error, done, _ = streamed.text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 500
    assert done == "data: [DONE]"
    with engine(PATIENT) as patient:
        assert post(patient, PATHS[0], kv_transfer_params=params).status_code == 200


@pytest.mark.parametrize("more", [{"n": 2}, {"prompt": ["one", "two"]}], ids=["answers", "prompts"])
def test_several_choices_are_not_handed_over(more: dict[str, Any], first: SimulatedEngine) -> None:
    answer = post(first, PATHS[1], max_tokens=1, kv_transfer_params=ASK, **more)
    assert answer.json()["kv_transfer_params"] is None


def test_params_that_lack_something_are_passed_over(second: SimulatedEngine) -> None:
    lacking = {"do_remote_prefill": True, "remote_block_ids": [[1]], "remote_host": "127.0.0.1"}
    assert post(second, PATHS[0], kv_transfer_params=lacking).status_code == 200
    assert post(second, PATHS[0], kv_transfer_params="all").status_code == 400


def test_without_a_connector_the_params_mean_nothing() -> None:
    with engine(None) as plain:
        assert offer(plain) is None
