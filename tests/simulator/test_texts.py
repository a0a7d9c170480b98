"""What is deterministic about a simulated engine: tokens, answers, vectors."""

from __future__ import annotations

import math

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.simulator import tokens, vectors
from sage_inference.simulator.answers import Wish, answer, friendly
from sage_inference.simulator.prefix_cache import PrefixCache

ENOUGH = Wish(most=1000)


@given(st.text())
def test_tokens_spell_their_text(text: str) -> None:
    assert "".join(tokens.pieces(text)) == text


@given(st.text(st.characters(min_codepoint=4, exclude_categories=["Cs"])))
def test_ids_can_be_turned_back(text: str) -> None:
    assert tokens.text_of(tokens.ids(tokens.pieces(text))) == text


@given(st.text(max_size=40), st.integers(1, 80), st.booleans())
def test_answer_has_as_many_tokens_as_wished(said: str, wanted: int, ignore_eos: bool) -> None:
    found = answer(friendly(said, 1), 1, Wish(most=1000, max_tokens=wanted, ignore_eos=ignore_eos))
    assert len(found.parts) <= wanted
    assert (found.finish_reason == "length") == (ignore_eos or len(tokens.pieces(friendly(said, 1))) > wanted)
    if ignore_eos:
        assert len(found.parts) == wanted


@pytest.mark.parametrize(
    ("wish", "text", "stop", "count"),
    [
        (Wish(most=9, stop=(" c",)), "a b", " c", 3),
        (Wish(most=9, stop=(" c",), keep_stop=True), "a b c", " c", 3),
        (Wish(most=9, stop=("zz", "b c")), "a ", "b c", 3),
        (Wish(most=2, stop=(" c",)), "a b", None, 2),
        (Wish(most=9, stop=("zz",)), "a b c d", None, 4),
    ],
    ids=["cut", "kept", "across-tokens", "not-reached", "not-met"],
)
def test_stop_string_ends_the_answer(wish: Wish, text: str, stop: str | None, count: int) -> None:
    found = answer("a b c d", 0, wish)
    assert (found.text, found.stop, len(found.parts)) == (text, stop, count)


def test_answer_depends_on_prompt_and_seed_alone(chat: httpx.Client) -> None:
    def said(content: str, **more: object) -> str:
        body = {"messages": [{"role": "user", "content": content}], **more}
        text: str = chat.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        return text

    assert said("one") == said("one")
    assert len({said("one", seed=seed) for seed in range(9)}) > 1


def test_usage_counts_what_tokenize_counts(chat: httpx.Client) -> None:
    messages = [{"role": "user", "content": "how long is a piece of string?"}]
    counted = chat.post("/tokenize", json={"messages": messages}).json()["count"]
    answered = chat.post("/v1/chat/completions", json={"messages": messages}).json()
    text = answered["choices"][0]["message"]["content"]
    said = chat.post("/tokenize", json={"prompt": text}).json()["count"]
    assert (answered["usage"]["prompt_tokens"], answered["usage"]["completion_tokens"]) == (counted, said)


@given(st.text(max_size=60))
def test_vectors_have_length_1(text: str) -> None:
    values = vectors.floats(vectors.embed("m", text, 64))
    assert math.fsum(value * value for value in values) == pytest.approx(1, abs=1e-5)


def test_texts_with_common_words_are_nearer_than_others() -> None:
    def near(left: str, right: str) -> float:
        return vectors.cosine(vectors.embed("m", left, 384), vectors.embed("m", right, 384))

    assert near("the cat sleeps", "the cat sleeps") == pytest.approx(1)
    assert near("The cat sleeps", "the cat slept") > 0.4
    assert abs(near("the cat sleeps", "quarterly revenue report")) < 0.2
    assert near("cat dog", "dog cat") < 0.999  # other texts are never the same vector


def test_another_model_has_other_vectors() -> None:
    left, right = (vectors.embed(model, "hello", 384) for model in ("a", "b"))
    assert abs(vectors.cosine(left, right)) < 0.2


def test_both_engines_embed_a_text_alike(native: httpx.Client, embed: httpx.Client) -> None:
    body = {"input": ["hello world", "x"], "encoding_format": "base64"}
    left = native.post("/v1/embeddings", json=body).json()["data"]
    right = embed.post("/v1/embeddings", json=body).json()["data"]
    # The fixtures' engines have different models' names, and so other vectors; the same name, the same vectors.
    assert left != right
    wanted = [vectors.as_base64(vectors.embed("thenlper/gte-base", text, 384)) for text in body["input"]]
    assert [one["embedding"] for one in left] == wanted


def test_least_recently_used_block_goes_first() -> None:
    cache = PrefixCache(2)
    cache.keep([1, 2])
    assert cache.leading([1]) == 1
    cache.keep([3])
    assert (cache.leading([1]), cache.leading([2]), cache.leading([3])) == (1, 0, 1)
