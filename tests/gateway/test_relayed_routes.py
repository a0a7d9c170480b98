"""The relayed route that a request's method and target mean."""

from __future__ import annotations

import pytest

from sage_inference.gateway.relayed_routes import route_of
from sage_inference.requests.routes import ROUTES
from sage_inference.wire.request_guard import ProblemKind, RequestProblem

CHAT = ROUTES["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (b"/v1/chat/completions", b""),
        (b"/v1/chat/completions?a=b", b""),
        (b"/v1/chat%2Fcompletions", b""),
        (b"http://h/v1/chat/completions", b"h"),
        (b"HTTPS://h:81/v1/chat/completions?a", b"h:81"),
        (b"http://[::1]:81/v1/chat/completions", b"[::1]:81"),
        (b"http://[::1]/v1/chat/completions", b"[::1]"),
    ],
)
def test_every_form_of_the_target_finds_the_route(url: bytes, host: bytes) -> None:
    assert route_of(b"POST", url) == (CHAT, host)
    assert route_of(b"GET", url) == (None, host)


@pytest.mark.parametrize(
    "url", [b"*", b"/x", b"/v1/chat/completions/", b"/V1/chat/completions", b"/x?/v1/chat/completions"]
)
def test_other_paths_are_the_applications(url: bytes) -> None:
    assert route_of(b"POST", url) == (None, b"")


def test_a_stored_response_is_named_by_its_path() -> None:
    route, _ = route_of(b"GET", b"/v1/responses/resp_1?x=y")
    assert route is not None
    assert route.path == "/v1/responses/{response_id}"
    assert route_of(b"PUT", b"/v1/responses/resp_1") == (None, b"")


@pytest.mark.parametrize("url", [b"ftp://h/v1/chat/completions", b"x://h/v1/chat/completions"])
def test_a_target_that_is_neither_path_nor_http_is_bad_framing(url: bytes) -> None:
    with pytest.raises(RequestProblem) as caught:
        route_of(b"POST", url)
    assert caught.value.kind is ProblemKind.BAD_FRAMING
