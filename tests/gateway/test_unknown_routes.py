"""A path that no route has: the 404 names the route that was probably meant. A wrong method: 405 with ``allow``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sage_inference.gateway.api.near_routes import NearRoutes
from sage_inference.requests.routes import ROUTES
from tests.support.cpu import cpu_time
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.wire import Caller

OWN = ("/health", "/health/live", "/health/ready", "/metrics", "/v1/models")
NAMED = [path for path in (*ROUTES, *OWN) if path != "/"]


@pytest.fixture(scope="module")
def running() -> Iterator[InProcess]:
    with gateway() as g:
        yield g


def refusal(g: InProcess, path: str, method: str = "POST") -> tuple[int, str]:
    """Raw: a client would mend the path."""
    with Caller(g.port) as caller:
        caller.send(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        reply = caller.reply()
        return reply.status, reply.error["message"]


@pytest.mark.parametrize("path", NAMED)
def test_a_404_names_the_route_that_was_meant(running: InProcess, path: str) -> None:
    bare = path.removeprefix("/v1").removeprefix("/v2")
    wrong = {
        f"/{path}",
        f"{path}/",
        f"/v1/v1{bare}",
        path.upper(),
        path.title(),
        f"/api{path}",
        f"/openai{path}//",
    }
    wrong |= {bare, f"{path}?x=1".replace("?", "/?")} if bare != path else {f"/v1{path}"}
    for one in wrong - {*ROUTES, *OWN}:
        status, message = refusal(running, one, "GET" if path in OWN else ROUTES[path].method)
        assert status == 404, one
        meant = message.rpartition("did you mean ")[2].rstrip("?")
        assert meant == path or meant.removeprefix("/v1") == bare, (one, message)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/V1/Chat/Completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/chat/completions%2F", "/v1/chat/completions"),
        ("/v1//embeddings", "/v1/embeddings"),
        ("/V2/rerank", "/v2/rerank"),
        ("/v1/models/", "/v1/models"),
        ("/v1/model/org/Name-7B", "/v1/models/org/Name-7B"),
        ("/models/org/Name-7B", "/v1/models/org/Name-7B"),
    ],
)
def test_the_usual_slips(running: InProcess, path: str, meant: str) -> None:
    method = "GET" if "model" in path else "POST"
    status, message = refusal(running, path, method)
    assert (status, message.endswith(f"; did you mean {meant}?")) == (404, True), message


@pytest.mark.parametrize(
    "path", ["/favicon.ico", "/api/tags", "/v1", "/v3", "/v1/chat", "/completions/chat/x"]
)
def test_what_looks_like_no_route_is_named_no_other(running: InProcess, path: str) -> None:
    status, message = refusal(running, path)
    assert (status, "did you mean" in message) == (404, False)


def test_the_404_speaks_the_protocol_of_the_route_that_was_meant(running: InProcess) -> None:
    with Caller(running.port) as caller:
        caller.send(b"POST /v1/v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}")
        document: Any = caller.reply().json
    assert (document["type"], document["error"]["type"]) == ("error", "not_found_error")
    assert document["error"]["message"].endswith("did you mean /v1/messages?")


@pytest.mark.parametrize("path", ["/a" * 30_000, "/" * 60_000, "/" + "v1/" * 20_000, "/" + "s" * 60_000])
def test_a_long_path_costs_little_and_is_not_repeated(running: InProcess, path: str) -> None:
    status, message = refusal(running, path)
    assert status == 404
    assert len(message) < 300


@pytest.mark.parametrize(
    "path", ["/v1/" * 50, "/models" * 8, "/v1/models/" + "x" * 180, "/m" * 100, "s" * 200]
)
def test_the_search_is_bounded(path: str) -> None:
    known = NearRoutes((*ROUTES, *OWN, "/v1/models/{model_id:path}"))
    with cpu_time() as hundred:
        for _ in range(100):
            known.near(path)
    assert hundred.seconds < 0.05  # 0.5 ms each


@pytest.mark.parametrize("path", [*ROUTES, *OWN])
def test_a_wrong_method_is_405_and_names_those_there_are(running: InProcess, path: str) -> None:
    with httpx.Client(base_url=running.url, trust_env=False, verify=False, headers=ADMIN) as client:
        wrong = client.request("PUT", path, content=b"{}")
        assert wrong.status_code == 405
        allowed = {method.strip() for method in wrong.headers["allow"].split(",")}
        right = {"GET", "HEAD"} if path in OWN else {ROUTES[path].method}
        assert right <= allowed
        assert wrong.json()["error"]["message"].startswith(f"PUT is not for {path}; it takes ")
        assert all(client.request(m, path, content=b"{}").status_code != 405 for m in allowed)
