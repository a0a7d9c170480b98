"""Facts about an answer that its bytes and headers alone decide."""

from __future__ import annotations

import pytest

from sage_inference.engines.response_framing import ends_once, shared_head, size_of


@pytest.mark.parametrize(
    ("data", "once"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"0\r\n\r\n", True),
        (b"\r\n", True),  # the line itself began in an earlier read
        (b"\n", True),
        (b"0\r\n\r\n\r\n", False),
        (b"0\r\n\r\n\n", False),
        (b"\r\n\r\n", False),  # it may be two empty lines behind the end
        (b"\r\n\r\n\r\n", False),
        (b"0\n\n", False),
        (b"0\r\n\r\nx", False),
        (b"", False),
    ],
)
def test_an_end_counts_only_if_one_empty_line_is_certain(data: bytes, once: bool) -> None:
    assert ends_once(data) is once


def test_answers_with_the_same_head_share_one_object() -> None:
    headers = ((b"content-type", b"text/event-stream"),)
    assert shared_head(200, headers) is shared_head(200, (*headers,))
    assert shared_head(201, headers) is not shared_head(200, headers)


def test_the_size_of_headers_is_that_of_their_lines() -> None:
    assert size_of([(b"a", b"b"), (b"cd", b"")]) == len(b"a: b\r\ncd: \r\n")
