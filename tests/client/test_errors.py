"""What fails, how it is told, and what is tried again."""

from __future__ import annotations

import json
import time

import pytest

import sage_inference as si
from sage_inference.client.attempts import Attempts
from tests.client.faces import Clients
from tests.client.test_calls import CHAT
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, ok, raw

GOOD = ok(json.dumps(CHAT))


def refusal(status: str, *headers: str, message: str = "no", code: str | None = None) -> object:
    return ok(
        json.dumps({"error": {"message": message, "code": code, "param": "p"}}), *headers, status=status
    )


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("400 Bad Request", si.BadRequestError),
        ("401 Unauthorized", si.AuthenticationError),
        ("403 Forbidden", si.AuthenticationError),
        ("404 Not Found", si.NotFoundError),
        ("413 Too Large", si.BadRequestError),
        ("429 Too Many Requests", si.RateLimitedError),
        ("500 Internal Server Error", si.EngineError),
        ("503 Service Unavailable", si.EngineError),
        ("504 Gateway Timeout", si.EngineError),
    ],
)
def test_each_status_is_an_error_with_all_that_is_known(
    clients: Clients, status: str, error: type[si.SageInferenceError]
) -> None:
    answer = refusal(status, "x-sage-instance: e1", "x-request-id: r1", "retry-after: 7", code="c")
    with RogueEngine(answer) as engine:  # type: ignore[arg-type]
        with pytest.raises(error) as caught:
            clients(engine.url, max_retries=0).chat("hi")
        told = caught.value
        assert (told.status, told.code, told.param) == (int(status[:3]), "c", "p")
        assert (told.instance, told.request_id, told.retry_after) == ("e1", "r1", 7.0)
        assert str(told) == f"no (status {status[:3]}, request r1, instance e1)"
        assert isinstance(told, si.SageInferenceError)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": "text", "error_type": "Validation"}', "text"),  # TEI
        ('{"detail": "Not Found"}', "Not Found"),  # FastAPI
        ("<html>", "<html>"),
        ("", "the server answered 400"),
    ],
)
def test_errors_of_other_shapes_are_read(clients: Clients, body: str, message: str) -> None:
    with RogueEngine(ok(body, status="400 Bad Request")) as engine:
        with pytest.raises(si.BadRequestError) as caught:
            clients(engine.url).chat("hi")
        assert caught.value.message == message


@pytest.mark.parametrize("body", ["[]", "nonsense", '{"choices": []}', '{"choices": 3}'])
def test_an_answer_that_cannot_be_read_is_an_engine_error(clients: Clients, body: str) -> None:
    with RogueEngine(ok(body)) as engine, pytest.raises(si.EngineError, match="the answer"):
        clients(engine.url).chat("hi")


def test_a_vector_that_is_missing_is_an_engine_error(clients: Clients) -> None:
    with RogueEngine(ok('{"data": [{"index": 0, "embedding": [1]}]}')) as engine:
        with pytest.raises(si.EngineError, match="1 embeddings for 2 texts"):
            clients(engine.url).embed(["a", "b"])


@pytest.mark.parametrize(
    "vector", ['"AAAA"', '"A"', "7", '["x"]'], ids=["3 bytes", "no base64", "a number", "words"]
)
@pytest.mark.parametrize("as_numpy", [False, True], ids=["lists", "numpy"])
def test_a_vector_that_cannot_be_read_is_an_engine_error(
    clients: Clients, vector: str, as_numpy: bool
) -> None:
    with RogueEngine(ok(f'{{"data": [{{"index": 0, "embedding": {vector}}}]}}')) as engine:
        with pytest.raises(si.EngineError, match="no embeddings that can be read"):
            clients(engine.url).embed(["a"], as_numpy=as_numpy)


def test_what_may_pass_is_tried_again(clients: Clients) -> None:
    busy = refusal("503 Service Unavailable", "retry-after: 0")
    with RogueEngine(busy, refusal("429 Too Many", "retry-after: 0"), GOOD) as engine:  # type: ignore[arg-type]
        assert clients(engine.url).chat("hi") == "yes"
        assert len(engine.requests) == 3


def test_a_closed_connection_is_tried_again(clients: Clients) -> None:
    with RogueEngine(
        raw(b"", then="close"), raw(b"HTTP/1.1 200 OK\r\ncontent-le", then="reset"), GOOD
    ) as engine:
        assert clients(engine.url).chat("hi") == "yes"


def test_what_would_fail_again_is_not_tried_again(clients: Clients) -> None:
    for status in ("400 Bad Request", "500 Internal Server Error", "504 Gateway Timeout"):
        with RogueEngine(refusal(status), GOOD) as engine:  # type: ignore[arg-type]
            with pytest.raises(si.SageInferenceError):
                clients(engine.url).chat("hi")
            assert len(engine.requests) == 1


def test_retries_end(clients: Clients) -> None:
    with RogueEngine(refusal("503 No", "retry-after: 0")) as engine:  # type: ignore[arg-type]
        with pytest.raises(si.EngineError):
            clients(engine.url, max_retries=2).chat("hi")
        assert len(engine.requests) == 3


def test_nobody_waits_longer_than_their_timeout_for_a_retry(clients: Clients) -> None:
    with RogueEngine(refusal("429 No", "retry-after: 60")) as engine:  # type: ignore[arg-type]
        since = time.monotonic()
        with pytest.raises(si.RateLimitedError) as caught:
            clients(engine.url, timeout=5).chat("hi")
        assert caught.value.retry_after == 60
        assert time.monotonic() - since < 4


def test_silence_is_a_timeout(clients: Clients) -> None:
    with RogueEngine(raw(b"", then="silent")) as engine:
        with pytest.raises(si.InferenceTimeoutError, match="did not answer within"):
            clients(engine.url).chat("hi", timeout=0.2)
        engine.left.get(timeout=10)  # and the engine is told


def test_nobody_there_names_the_address(clients: Clients) -> None:
    with RogueEngine(GOOD) as engine:
        url = engine.url
    with pytest.raises(si.InferenceConnectionError, match=f"{url} cannot be reached: connection refused"):
        clients(url, max_retries=0).chat("hi")


def test_a_client_without_a_server_says_what_to_give(clients: Clients) -> None:
    client = clients(llm_base_url="http://127.0.0.1:9")
    with pytest.raises(si.NoServerFoundError, match="give embedding_base_url, or use create_auto"):
        client.embed("a")


def test_a_closed_client_says_so(clients: Clients) -> None:
    client = clients("http://127.0.0.1:9")
    client.close()
    client.close()
    with pytest.raises(si.SageInferenceError, match="closed"):
        client.chat("hi")


def test_redirects_are_not_followed(clients: Clients) -> None:
    with RogueEngine(GOOD) as other:
        answer = ok("", f"location: {other.url}/v1/chat/completions", status="307 Temporary Redirect")
        with RogueEngine(answer) as engine:
            with pytest.raises(si.EngineError):
                clients(engine.url).chat("secret")
            assert not other.requests


def test_errors_of_a_gateway_say_which_instance(clients: Clients) -> None:
    with RogueEngine(refusal("400 Bad Request", message="bad")) as engine, gateway(engine) as g:  # type: ignore[arg-type]
        with pytest.raises(si.BadRequestError, match="bad") as caught:
            clients(g.url).chat("hi")
        assert caught.value.instance == "e0"


def test_one_failed_piece_fails_the_embedding_and_ends_the_rest(clients: Clients) -> None:
    def second(wire: Wire) -> None:
        (ok("{}", status="400 Bad Request") if b'"b"' in wire.body else raw(b"", then="silent"))(wire)

    with RogueEngine(second) as engine:
        client = clients(engine.url, embedding_batch_size=1, embedding_concurrency=1)
        with pytest.raises(si.BadRequestError):
            client.embed(["b", "c", "d"])


def test_the_wait_grows_and_is_never_the_same_for_all() -> None:
    low, high = (Attempts(100, 9, rng=lambda value=value: value) for value in (0.0, 1.0))  # type: ignore[misc]
    lost = si.InferenceConnectionError("lost")
    assert [low.delay_after(lost) for _ in range(7)] == [0.125, 0.25, 0.5, 1, 2, 4, 4]
    assert [high.delay_after(lost) for _ in range(7)] == [0.25, 0.5, 1, 2, 4, 8, 8]


def test_a_server_is_never_asked_sooner_than_it_said() -> None:
    for value in (0.0, 0.5, 1.0):
        attempts = Attempts(100, 9, rng=lambda value=value: value)  # type: ignore[misc]
        assert attempts.delay_after(si.RateLimitedError("no", status=429, retry_after=3)) >= 3
