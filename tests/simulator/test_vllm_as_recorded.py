"""The simulated vLLM answers the recorded requests in the recorded form."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.simulator import shapes
from tests.support.simulators import simulated_engine

# A real tool call was cut by max_tokens before it was one; a stream was cut by its client; with several
# choices the order of events is the engine's; three answers came from a server without token details.
_OTHERWISE = {"018_chat_tool_named", "019_chat_tool_required", "025_chat_no_max_tokens_stream_cut"}
_OTHERWISE |= {"015_chat_stream_n2", "067_chat_batch", "074_chat_tool_roundtrip_messages"}
# pydantic's list of everything that each variant of the request missed is not repeated in full.
_SHORTER_MESSAGE = {"135_err_bad_encoding", "137_err_number_input", "138_err_mixed_list"}
GENERATE = [name for name in shapes.names("vllm", *"0") if name < "07" and name not in _OTHERWISE]
POOLING = shapes.names("vllm", "1")


def check(name: str, answer: httpx.Response) -> None:
    response = shapes.recorded("vllm", name)["response"]
    assert answer.status_code == response["status"], answer.text
    for header in ("content-type", "allow", "transfer-encoding", "vary", "server"):
        assert answer.headers.get(header) == shapes.header(response, header), header
    if "chunks" in response:
        recorded = "".join(chunk["data"] for chunk in response["chunks"])
        assert shapes.steps(shapes.events(answer.text)) == shapes.steps(shapes.events(recorded))
    elif name in _SHORTER_MESSAGE:
        given, wanted = answer.json()["error"], json.loads(response["body"])["error"]
        assert {**given, "message": ""} == {**wanted, "message": ""}
    elif response["status"] >= 400:
        assert answer.text == response["body"]
    elif response["body"]:
        given, wanted = answer.json(), json.loads(response["body"])
        assert shapes.shape(given) == shapes.shape(wanted)
        assert shapes.key_order(given) == shapes.key_order(wanted)


@pytest.mark.parametrize("name", GENERATE)
def test_generate_server_answers_as_recorded(chat: httpx.Client, name: str) -> None:
    check(name, shapes.send(chat, shapes.recorded("vllm", name)["request"]))


@pytest.mark.parametrize("name", POOLING)
def test_pooling_server_answers_as_recorded(embed: httpx.Client, name: str) -> None:
    check(name, shapes.send(embed, shapes.recorded("vllm", name)["request"]))


@pytest.mark.parametrize("name", shapes.names("vllm", "08"))
def test_key_is_asked_for_on_v1_alone(name: str) -> None:
    args = ("--model", "tiny-llama", "--api-key", "k", "--speed", "instant")
    with simulated_engine("vllm", *args) as engine, engine.client() as client:
        record = shapes.recorded("vllm", name)
        answer = shapes.send(client, record["request"])
    assert answer.status_code == record["response"]["status"]
    if answer.status_code == 401:
        assert answer.text == record["response"]["body"]


def test_streamed_choices_begin_and_end_as_recorded(chat: httpx.Client) -> None:
    record = shapes.recorded("vllm", "015_chat_stream_n2")
    text = shapes.send(chat, record["request"]).text
    recorded = shapes.events("".join(chunk["data"] for chunk in record["response"]["chunks"]))
    found = shapes.events(text)
    assert [shapes.shape(one) for one in found[:2]] == [shapes.shape(one) for one in recorded[:2]]
    ended = {one["choices"][0]["index"] for one in found[:-1] if one["choices"][0]["finish_reason"]}
    assert (ended, found[-1]) == ({0, 1}, "[DONE]")


@pytest.mark.parametrize("name", ["018_chat_tool_named", "019_chat_tool_required"])
def test_required_tool_is_called_with_valid_arguments(chat: httpx.Client, name: str) -> None:
    (choice,) = shapes.send(chat, shapes.recorded("vllm", name)["request"]).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], call["function"]["name"]) == ("tool_calls", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_streamed_tool_arguments_add_up(chat: httpx.Client) -> None:
    record = shapes.recorded("vllm", "020_chat_tool_required_stream")
    found = shapes.events(shapes.send(chat, record["request"]).text)
    deltas = [one["choices"][0]["delta"] for one in found[:-1]]
    functions = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert functions[0] == {"name": "get_weather"}
    assert json.loads("".join(one.get("arguments", "") for one in functions)) == {"city": "Paris"}


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({"type": "json_object"}, {"simulated": True}),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#/$defs/x", "$defs": {
                "x": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3},
                "s": {"enum": ["b", "c"]}, "l": {"type": "array", "items": {"type": "null"}, "minItems": 2}},
                "required": ["n", "s", "l"]}}}}},
            {"n": 3, "s": "b", "l": [None, None]},
        ),
    ],
    ids=["object", "schema"],
)  # fmt: skip
def test_response_format_gets_json_that_fits(chat: httpx.Client, form: dict[str, Any], wanted: Any) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "response_format": form}
    answer = chat.post("/v1/chat/completions", json=body).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == wanted


def test_caller_request_id_comes_back_in_header_and_id(chat: httpx.Client) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    answer = chat.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("mine", "cmpl-mine")


def test_it_says_that_it_is_simulated(chat: httpx.Client) -> None:
    assert chat.get("/version").json() == {"version": "0.32.0+simulated"}
    assert {one["owned_by"] for one in chat.get("/v1/models").json()["data"]} == {"sage-simulator"}
    body = {"messages": [{"role": "user", "content": "who are you?"}]}
    (choice,) = chat.post("/v1/chat/completions", json=body).json()["choices"]
    assert "simulated" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_vision_content_is_taken_unless_told_otherwise() -> None:
    request = shapes.recorded("vllm", "047_err_image_input_text_model")["request"]
    with simulated_engine("vllm", "--model", "tiny-llama", "--speed", "instant") as engine:
        with engine.client() as client:
            answer = shapes.send(client, request)
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] > 256


def test_openapi_tells_the_runners_apart(chat: httpx.Client, embed: httpx.Client) -> None:
    routes = shapes.recorded("vllm", "091_routes")["routes"]
    for path, operations in chat.get("/openapi.json").json()["paths"].items():
        assert [method.upper() for method in operations] == routes[path]
    pooling = embed.get("/openapi.json").json()["paths"]
    assert "/v1/embeddings" in pooling
    assert "/v1/chat/completions" not in pooling


def test_metrics_have_the_names_of_the_real_engine(chat: httpx.Client) -> None:
    answer = chat.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    labels = '{engine="0",model_name="tiny-llama"'
    for line in (
        f"vllm:num_requests_running{labels}}} 0.0",
        f"vllm:num_requests_waiting{labels}}} 0.0",
        f'vllm:num_requests_waiting_by_reason{labels},reason="capacity"}} 0.0',
        f"vllm:kv_cache_usage_perc{labels}}} 0.0",
        f"vllm:prefix_cache_queries_total{labels}}}",
        f'vllm:time_to_first_token_seconds_bucket{labels},le="0.04"}}',
        f'vllm:inter_token_latency_seconds_bucket{labels},le="+Inf"}}',
    ):
        assert line in answer.text
