"""Requests as a program constructs them: names, defaults, words for choices, and text that stays out of sight."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from sage_inference import RequestMetadata, RequestPriority, RequestType

SECRET = "the prompt nobody may read"


def test_a_request_needs_an_id_alone() -> None:
    request = RequestMetadata("r")
    assert request.request_type is RequestType.LLM_CHAT
    assert request.priority is RequestPriority.NORMAL
    assert (request.model_name, request.user_id, request.tags, request.prompt) == ("", "", {}, None)
    assert request.is_llm_request
    assert not request.is_embedding_request


def test_none_means_the_default_of_each_optional_field() -> None:
    names = [
        one.name for one in dataclasses.fields(RequestMetadata) if one.name not in ("request_id", "route")
    ]
    names.remove("streams")
    names.remove("session")
    given: dict[str, Any] = dict.fromkeys(names)
    assert RequestMetadata("r", **given) == RequestMetadata("r")


@pytest.mark.parametrize("word", ["embedding", "EMBEDDING", RequestType.EMBEDDING, " Embedding "])
def test_a_type_is_taken_by_value_and_by_name(word: Any) -> None:
    assert RequestMetadata("r", request_type=word).request_type is RequestType.EMBEDDING


@pytest.mark.parametrize("word", ["high", "HIGH", 1, "1", RequestPriority.HIGH])
def test_a_priority_is_taken_by_value_and_by_name(word: Any) -> None:
    assert RequestMetadata("r", priority=word).priority is RequestPriority.HIGH


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request_type": "chat"}, "request_type 'chat' is not one of llm_chat, llm_generate, embedding"),
        ({"request_type": 7}, "request_type 7 is not one of llm_chat"),
        ({"priority": "urgent"}, "priority 'urgent' is not one of critical, high, normal, low, background"),
        ({"priority": 5}, "priority 5 is not one of critical"),
        ({"priority": True}, "priority 'True' is not one of critical"),
        ({"model": "a", "model_name": "b"}, "model_name and model are one field"),
        ({"tenant": "a", "user_id": "b"}, "user_id and tenant are one field"),
        ({"embedding_texts": "one text"}, "embedding_texts must be a list"),
    ],
)
def test_a_value_that_is_no_choice_names_the_field_and_the_choices(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RequestMetadata("r", **fields)


def test_both_names_of_a_field_read_and_write_it() -> None:
    request = RequestMetadata("r", model="m", tenant="t")
    assert (request.model_name, request.user_id) == ("m", "t")
    request.model, request.tenant = "n", "u"
    assert (request.model_name, request.user_id) == ("n", "u")


def test_the_embedding_model_serves_embeddings_alone() -> None:
    fields: dict[str, Any] = {"model_name": "m", "embedding_model": "e"}
    assert RequestMetadata("r", embedding_texts=["a"], **fields).effective_model_name == "e"
    assert RequestMetadata("r", prompt="a", **fields).effective_model_name == "m"


def test_copies_are_equal_and_apart() -> None:
    request = RequestMetadata("r", prompt="a", tags={"k": "v"}, embedding_texts=["b"], slo_deadline_ms=5)
    for other in (
        copy.copy(request),
        copy.deepcopy(request),
        pickle.loads(pickle.dumps(request)),
        dataclasses.replace(request),
        RequestMetadata("r", prompt="a", tags={"k": "v"}, embedding_texts=["b"], slo_deadline_ms=5),
    ):
        assert other == request
    assert dataclasses.replace(request, prompt="b") != request
    word: Any = "low"
    assert dataclasses.replace(request, priority=word).priority is RequestPriority.LOW
    pickle.loads(pickle.dumps(request)).tags["k"] = "w"
    assert request.tags == {"k": "v"}


def test_the_text_is_measured_and_hashed_and_left_behind() -> None:
    text = SECRET * 40
    request = RequestMetadata("r", prompt=text, model_name="m")
    facts = request.for_scheduling()
    assert (facts.prompt_bytes, facts.prompt_tokens) == (len(text), len(text) // 4)
    assert len(facts.prompt_blocks) == len(text) // 256
    texts = RequestMetadata("r", embedding_texts=[text, text])
    assert texts.for_scheduling().prompt_tokens == len(text) // 2
    for shown in map(repr, (request, texts, facts, texts.for_scheduling())):
        assert SECRET not in shown
    assert RequestMetadata("r", prompt=text, prompt_tokens=7).for_scheduling().prompt_tokens == 7
    for odd in ("", "\udc00", "\x00", "é" * 1000):
        assert RequestMetadata("r", prompt=odd).for_scheduling().prompt_tokens >= 0


def test_a_prompt_becomes_the_body_of_its_type() -> None:
    chat = RequestMetadata("r", prompt="a", max_tokens=3, user_id="u").body_fields()
    assert chat["messages"] == [{"role": "user", "content": "a"}]
    assert (chat["max_tokens"], chat["user"], chat["temperature"]) == (3, "u", None)
    generate = RequestMetadata("r", "llm_generate", prompt="a", temperature=0).body_fields()
    assert (generate["prompt"], generate["temperature"]) == ("a", 0)
    assert "messages" not in generate
    embedding = RequestMetadata("r", embedding_texts=["a"], prompt="b").body_fields()
    assert embedding["input"] == ["a"]
    assert not {"prompt", "messages"} & set(embedding)
