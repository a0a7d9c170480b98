"""What is read from a body for scheduling; everything else in it is the engine's affair."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sage_inference.requests.body import Asked, read
from sage_inference.requests.rejection import Rejection
from sage_inference.requests.routes import ROUTES


def asked(path: str, **fields: Any) -> Asked:
    return read(ROUTES[path], json.dumps(fields).encode())


def test_the_prompt_is_the_routes_own_field_as_it_was_sent() -> None:
    messages = [{"role": "user", "content": "hällo"}]
    found = asked("/v1/chat/completions", model="m", messages=messages, prompt="not this")
    assert json.loads(found.prompt) == messages
    assert (found.model, found.streams, found.user) == ("m", False, "")
    assert asked("/v1/completions", model="m", prompt="x y").prompt == b'"x y"'
    assert asked("/v1/embeddings", input=["a", "b"]).prompt == b'["a", "b"]'


def test_tools_and_system_stand_before_the_messages_as_engines_put_them() -> None:
    found = asked("/v1/messages", system="be brief", messages=[1], tools=[2])
    assert found.prompt == b'[2]"be brief"[1]'


@pytest.mark.parametrize(("value", "streams"), [(True, True), (False, False), (None, False), ("true", False)])
def test_a_stream_is_told_by_true_alone(value: object, streams: bool) -> None:
    assert asked("/v1/completions", prompt="x", stream=value).streams is streams


@pytest.mark.parametrize(("value", "user"), [("ann", "ann"), (None, ""), (7, ""), ("x" * 500, "x" * 200)])
def test_the_user_is_bounded_text(value: object, user: str) -> None:
    assert asked("/v1/completions", prompt="x", user=value).user == user


def test_a_body_that_is_read_leniently_still_counts() -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}], "stream": true}'
    found = read(ROUTES["/v1/chat/completions"], body)
    assert (found.model, bool(found.prompt)) == ("m", True)


def test_what_no_engine_could_answer_is_refused() -> None:
    with pytest.raises(Rejection, match="needs 'messages'"):
        asked("/v1/chat/completions", prompt="x")
