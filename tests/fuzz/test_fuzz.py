"""A short run of the fuzz, and the inputs that once broke an invariant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import EMBEDDINGS, PATHS, campaign
from tests.fuzz.house import House
from tests.fuzz.mutation import Input
from tests.fuzz.seeds import CHAT

INPUTS = 1200  # python -m tests.fuzz tries as many as one likes
ANSWERS_TO_CALLS = 1200
IN_HALVES, AT_ONCE = 1, 2  # how the engine answers
KEEPS, CLOSES, RESETS = 3, 7, 11  # what the engine does behind its answer
HOST = b"Host: localhost\r\n"
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
CODED = LINE + HOST + b"Transfer-Encoding: chunked\r\n"
CHUNKS = b'1e\r\n{"model": "m", "messages": []}\r\n0\r\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"

REQUESTS = {
    "a trailer became a header": CODED + b"\r\n" + CHUNKS + b"x-trailer: 1\r\n\r\n",
    "a trailer closed the connection": CODED + b"\r\n" + CHUNKS + b"Connection: close\r\n\r\n" + GET,
    "a coding beside chunked": CODED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS + b"\r\n",
    "two hosts": CHAT.replace(HOST, HOST + HOST),
    "half a pipelined body had no timeout": CHAT + GET + CHAT[:-5],
    "a pipelined request was sent although garbage followed": CHAT + CHAT + b"x",
    "what came along with a refused request was served": CHAT.replace(b"localhost", b"st") + CHAT,
    "the second Connection header was not heeded": CHAT.replace(
        HOST, HOST + b"Connection: TE\r\nConnection: x-hop\r\nx-hop: 1\r\n"
    ),
    "100 Continue stood within another answer": CHAT
    + CHAT.replace(HOST, HOST + b"Expect: 100-continue\r\n")[:-9],
    "what followed an upgrade was lost": CHAT.replace(HOST, HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
    + CHAT,
    "field names that are no UTF-8": LINE + HOST + b'Content-Length: 23\r\n\r\n{"\x81":1,"messages":[] }',
    "half a surrogate pair": LINE + HOST + b'Content-Length: 34\r\n\r\n{"model":"\\ud800", "messages":[{}]}',
}
ANSWERS = {
    "a reset ended an unframed body": (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", RESETS),
    "a chunked 204": (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", CLOSES),
    "an interim answer with a coding": (
        b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: gzip\r\n\r\n"
        + STREAM
        + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        KEEPS,
    ),
    "a coding beside chunked": (
        STREAM + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        KEEPS,
    ),
    "a trailer with a coding": (
        STREAM + b"Transfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: xchunked\r\n\r\n",
        KEEPS,
    ),
    "line ends behind the last chunk": (STREAM + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\r\n", KEEPS),
    "an error event filled up a told length": (STREAM + b"Content-Length: 9\r\n\r\ndata:", RESETS),
}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


@pytest.mark.parametrize("path", PATHS)
def test_every_invariant_holds(path: str) -> None:
    assert campaign(path, INPUTS) is None


def test_every_caller_of_a_merged_call_gets_one_answer() -> None:
    assert campaign(EMBEDDINGS, ANSWERS_TO_CALLS) is None


@pytest.mark.parametrize("engine", [IN_HALVES, AT_ONCE], ids=["in halves", "at once"])
@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_that_broke_an_invariant_breaks_it_no_more(house: House, data: bytes, engine: int) -> None:
    PATHS["request"][0](house, Input((data,), engine))


@pytest.mark.parametrize(("data", "ending"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_that_broke_an_invariant_breaks_it_no_more(house: House, data: bytes, ending: int) -> None:
    PATHS["response"][0](house, Input((data,), ending))
