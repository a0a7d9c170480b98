"""The simulated vLLM keeps responses as vLLM with VLLM_ENABLE_RESPONSES_API_STORE=1 does, and else none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.simulators import simulated_engine


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with simulated_engine("vllm", "--speed", "instant", "--store-responses") as engine:
        with engine.client(base_url=f"{engine.url}/v1") as client:
            yield client


def made(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/responses", json={"input": "hello", "max_output_tokens": 4, **fields})


def ids_of(events: str) -> list[int]:
    return [json.loads(line[6:])["sequence_number"] for line in events.splitlines() if line[:5] == "data:"]


def test_a_response_is_kept_and_another_goes_on_from_it(client: httpx.Client) -> None:
    first = made(client).json()
    assert client.get(f"/responses/{first['id']}").json() == first
    second = made(client, previous_response_id=first["id"]).json()
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + 4


@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=["plain", "stream"])
def test_one_that_is_not_to_be_stored_is_not(client: httpx.Client, fields: dict[str, Any]) -> None:
    text = made(client, store=False, request_id="resp_mine", **fields).text
    assert '"resp_mine"' in text
    assert client.get("/responses/resp_mine").status_code == 404


def test_what_it_does_not_have(client: httpx.Client) -> None:
    for answer in (
        client.get("/responses/resp_none"),
        client.post("/responses/resp_none/cancel"),
        made(client, previous_response_id="resp_none"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "Response with id 'resp_none' not found."
    known = made(client).json()["id"]
    assert client.post(f"/responses/{known}/cancel").json()["error"]["message"].startswith("Cannot cancel")
    assert client.delete(f"/responses/{known}").json() == {"detail": "Method Not Allowed"}
    assert client.get(f"/responses/{known}/input_items").json() == {"detail": "Not Found"}
    assert made(client, background=True, store=False).status_code == 400


def test_a_background_stream_is_read_again_from_any_event(client: httpx.Client) -> None:
    events = made(client, background=True, stream=True, request_id="resp_events").text
    numbers = ids_of(events)
    assert numbers == list(range(len(numbers)))
    again = client.get("/responses/resp_events", params={"stream": "true"}).text
    assert again == events
    rest = client.get("/responses/resp_events", params={"stream": "true", "starting_after": 4}).text
    assert ids_of(rest) == numbers[5:]


def test_without_the_store_nothing_is_known() -> None:
    with simulated_engine("vllm", "--speed", "instant") as engine, engine.client() as client:
        client.base_url = f"{engine.url}/v1"
        known = made(client).json()["id"]
        assert client.get(f"/responses/{known}").status_code == 404
        assert made(client, previous_response_id=known).status_code == 404
        refused = made(client, background=True)
        assert refused.status_code == 400
        assert "VLLM_ENABLE_RESPONSES_API_STORE=1" in refused.json()["error"]["message"]
