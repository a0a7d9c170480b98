"""Rerank requests are translated so that every document gets its own score, whatever they are cut into."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.requests.rejection import Rejection
from sage_inference.requests.rerank import (
    MOST_DOCUMENTS,
    ROUTES,
    BadRanksError,
    RerankRequest,
    answer_body,
    call_body,
    end_of_call,
    ranks_of,
    read_request,
    tokens_of,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
documents = st.lists(
    st.one_of(texts, st.fixed_dictionaries({"text": texts}, optional={"title": texts, "n": st.integers()})),
    min_size=1,
    max_size=40,
)


def read(body: Any, route: str = "/v1/rerank") -> RerankRequest:
    request = read_request(route, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert request is not None
    return request


def plain(document: Any) -> str:
    """What the engine gets. An empty text it would refuse, and all others with it."""
    text: str = document if isinstance(document, str) else document["text"]
    return text or " "


@settings(max_examples=60, deadline=None)
@given(
    sent=documents,
    ascii_only=st.booleans(),
    most_texts=st.integers(0, 8),
    most_bytes=st.one_of(st.just(0), st.integers(1, 400)),
    top_n=st.one_of(st.none(), st.integers(0, 50)),
    returns=st.one_of(st.none(), st.booleans()),
    route=st.sampled_from(ROUTES),
    data=st.data(),
)
def test_the_calls_hold_each_text_once_and_the_answer_each_score_at_its_document(
    sent: list[Any],
    ascii_only: bool,
    most_texts: int,
    most_bytes: int,
    top_n: int | None,
    returns: bool | None,
    route: str,
    data: st.DataObject,
) -> None:
    scores = data.draw(st.lists(st.floats(0, 1), min_size=len(sent), max_size=len(sent)))
    asked = {"query": "q\n", "documents": sent, "top_n": top_n, "return_documents": returns}
    request = read(json.dumps(asked, ensure_ascii=ascii_only).encode(), route)
    ranks: list[tuple[float, int]] = []
    while (start := len(ranks)) < len(sent):
        end = end_of_call(request, start, most_texts, most_bytes)
        body = call_body(request, start, end)
        assert json.loads(body) == {
            "query": "q\n",
            "texts": [plain(one) for one in sent[start:end]],
            "truncate": True,
        }
        assert not most_texts or end - start <= most_texts
        assert not most_bytes or len(body) <= most_bytes or end == start + 1
        order = data.draw(st.permutations(range(end - start)))
        answer = [{"index": at, "score": scores[start + at]} for at in order]
        ranks += ranks_of(json.dumps(answer).encode(), start, end - start)
    answer_ = json.loads(answer_body(route, request, ranks, model="m", tokens=7, request_id="r"))
    found = [(one["relevance_score"], one["index"]) for one in answer_["results"]]
    assert [score for score, _ in found] == sorted(scores, reverse=True)[: top_n or None]
    assert all(scores[at] == score for score, at in found)
    assert len({at for _, at in found}) == len(found)
    shows = returns if returns is not None else route != "/v2/rerank"
    for one in answer_["results"]:
        document = sent[one["index"]]
        whole = document if isinstance(document, dict) else {"text": document}
        assert one.get("document") == (whole if shows else None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": {"text": "a"}}, "documents"),
        ({"documents": ["a", 3]}, "documents[1]"),
        ({"documents": ["a", ["b"]]}, "documents[1]"),
        ({"documents": [{"image": "x"}]}, "documents[0]"),
        ({"documents": [{"text": 3}]}, "documents[0]"),
        ({"documents": ["a"] * (MOST_DOCUMENTS + 1)}, f"{MOST_DOCUMENTS} documents"),
        ({"documents": [""] * (5 * MOST_DOCUMENTS)}, f"{MOST_DOCUMENTS} documents"),
        ({"documents": ["a"], "top_n": -1}, "top_n"),
        ({"documents": ["a"], "top_n": "3"}, "top_n"),
        ({"documents": ["a"], "return_documents": "yes"}, "return_documents"),
        ({"documents": ["a"], "query": 3}, "query"),
        ({"documents": ["a"], "query": ["a"]}, "query"),
        ({"documents": [{"a": "b"}], "rank_fields": ["x"]}, "documents[0]"),
        ({"documents": [{"a": "b"}], "rank_fields": "a"}, "rank_fields"),
        ({"documents": [{"a": "b"}], "rank_fields": ["a"] * 99}, "rank_fields"),
        ({"documents": ["a" * (9 << 20)]}, "bytes"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Rejection) as refused:
        read({"query": "q", **fields})
    assert param in refused.value.message
    assert refused.value.param


def test_as_many_documents_as_may_be_are_taken() -> None:
    assert len(read({"query": "q", "documents": ["a"] * MOST_DOCUMENTS}).texts) == MOST_DOCUMENTS
    escaped = ['"' * 40] * 9000  # all those quotes are escaped
    assert len(read({"query": "q", "documents": escaped}).texts) == 9000


@pytest.mark.parametrize(
    ("body", "own"),
    [
        (b'{"query":"q","texts":["a"]}', True),
        (b'{"query":"q"}', True),
        (b'{"query":"q","texts":["a"],"documents":["b"]}', True),
        (b'{"query":"q","documents":["b"]}', False),
    ],
)
def test_teis_own_shape_is_known_by_its_texts(body: bytes, own: bool) -> None:
    assert (read_request("/rerank", body) is None) is own


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {"truncate": True}),
        ({"max_tokens_per_doc": 64, "max_chunks_per_doc": 1}, {"truncate": True}),
        ({"truncate": None}, {"truncate": True}),
        ({"truncate": False}, {"truncate": False}),
        ({"truncate": "NONE"}, {"truncate": False}),
        ({"truncate": "START"}, {"truncate": True, "truncation_direction": "left"}),
        ({"truncate": "maybe"}, {"truncate": "maybe"}),  # the engine says what is wrong with it
        ({"truncation_direction": "Left"}, {"truncate": True, "truncation_direction": "Left"}),
        ({"truncation_side": "left"}, {"truncate": True, "truncation_direction": "left"}),
        ({"raw_scores": True}, {"truncate": True, "raw_scores": True}),
        ({"raw_scores": False, "priority": 1}, {"truncate": True}),
    ],
)
def test_options_are_translated(fields: dict[str, Any], options: dict[str, Any]) -> None:
    request = read({"query": "q", "documents": ["a"], **fields})
    assert json.loads(call_body(request, 0, 1)) == {"query": "q", "texts": ["a"], **options}


def test_texts_keep_their_bytes() -> None:
    body = b'\xef\xbb\xbf{"query": {"text": "q"}, "documents": ["\\u00e9\\/", {"text":"\\ud83d\\ude00"}, "\xc3\xa9"]}'
    request = read(body)
    assert request.texts[0] == b'"\\u00e9\\/"'
    assert json.loads(call_body(request, 0, 3))["texts"] == ["é/", "😀", "é"]
    assert request.query == b'"q"'
    half = read(b'{"query":"q","documents":["a \\ud800 b"]}')  # engines would refuse it
    assert json.loads(call_body(half, 0, 1))["texts"] == ["a \ufffd b"]


def test_fields_of_a_document_are_ranked_in_the_order_that_is_asked() -> None:
    sent = [{"title": "T", "year": 2020, "text": "x"}, "plain", {"text": "y"}]
    request = read({"query": "q", "documents": sent, "rank_fields": ["text", "year", "title"]})
    assert [json.loads(text) for text in request.texts] == ["x\n2020\nT", "plain", "y"]
    assert json.loads(request.documents[0]) == sent[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b'{"error":"x"}',
        b"[]",
        b'[{"index":0,"score":1}]',
        b'[{"index":0,"score":1},{"index":0,"score":1}]',
        b'[{"index":0,"score":1},{"index":2,"score":1}]',
        b'[{"index":-1,"score":1},{"index":0,"score":1}]',
        b'[{"index":0,"score":null},{"index":1,"score":1}]',
        b'[{"index":0,"score":NaN},{"index":1,"score":1}]',
        b'[{"index":0,"score":1e999},{"index":1,"score":1}]',
        b'[{"index":0,"score":"\xff"},{"index":1,"score":1}]',
        b"[" * 5000,
    ],
)
def test_what_is_no_ranking_of_the_texts_is_refused(answer: bytes) -> None:
    with pytest.raises(BadRanksError):
        ranks_of(answer, 0, 2)


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    request = read({"query": "q", "documents": ["a", "b", "c", "d"]})
    ranks = [(0.5, 0), (0.5, 1), (0.9, 2), (0.5, 3)]
    answer = json.loads(answer_body("/v1/rerank", request, ranks, model="m", tokens=0, request_id="r"))
    assert [one["index"] for one in answer["results"]] == [2, 0, 1, 3]


def test_the_engines_tokens_are_read_where_they_are_a_number() -> None:
    assert tokens_of([(b"a", b"1"), (b"x-compute-tokens", b"17")]) == 17
    for odd in (b"", b"-1", b"many", b"9" * 5000):
        assert tokens_of([(b"x-compute-tokens", odd)]) == 0


def test_a_long_query_may_have_fewer_documents() -> None:
    """Each call repeats it: a request of 2 MB could lead to 10 000 calls of as many bytes."""
    long, longer = "q" * 50_000, "q" * 1_999_990
    assert len(read({"query": long, "documents": ["d"] * MOST_DOCUMENTS}).texts) == MOST_DOCUMENTS
    assert len(read({"query": longer, "documents": ["d"] * 250}).texts) == 250
    for query, count in ((longer, 300), (longer, MOST_DOCUMENTS), ("q" * 60_000, MOST_DOCUMENTS)):
        for document in ("d", {"text": "d"}):
            with pytest.raises(Rejection, match=r"a query of \d+ bytes may have \d+ documents.* split"):
                read({"query": query, "documents": [document] * count})
        with pytest.raises(Rejection, match="split"):
            read({"query": {"text": query}, "documents": ["d"] * count})


@pytest.mark.parametrize(
    "query", [b'"q\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b"7", b"[]", b'{"text":"\xff"}', b"null"]
)
def test_a_query_that_is_no_text_is_refused(query: bytes) -> None:
    with pytest.raises(Rejection, match="'query' must be a text"):
        read(b'{"query":%b,"documents":["d"]}' % query)
