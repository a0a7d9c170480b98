"""Requests for vectors whose only engine ends while it has them: they succeed on its successor, as chats do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed import supervisor
from tests.support.managed import ManagedGateway, managed

VECTORS = ManagedEngineSettings(model="org/vectors", engine="vllm", kind="embedding")
EMBED, RERANK, SCORE = "/v1/embeddings", "/v1/rerank", "/score"
LONG = "a text of some words " * 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedGateway]:
    with (
        pytest.MonkeyPatch.context() as patch,
        managed(tmp_path_factory.mktemp("state"), VECTORS) as gateway,
    ):
        patch.setattr(supervisor, "FIRST_S", 0.1)
        yield gateway


def body_of(path: str, number: int) -> dict[str, Any]:
    text = f"{number} {LONG}"
    if path == EMBED:
        # One text or several, of one kind and another, some of them the same as those of other callers.
        texts: list[Any] = [text, [text, "the same"], [1, 2, 3, number], ["the same", text, "a third"]]
        more = {"encoding_format": "base64"} if number % 3 == 0 else {}
        return {"model": "org/vectors", "input": texts[number % len(texts)], **more}
    if path == RERANK:
        return {"model": "org/vectors", "query": "q", "documents": [text, "another"]}
    return {"model": "org/vectors", "text_1": text, "text_2": [text, "another"]}


@pytest.mark.parametrize("ended", ["core", "server", "terminated"])
def test_requests_succeed_on_the_successor(shared: ManagedGateway, ended: str) -> None:
    before = shared.state("vectors", "ready")
    leader = psutil.Process(before["pid"])
    core = next(child for child in leader.children() if child.name().startswith("VLLM::EngineCor"))
    paths = [EMBED] * 12 + [RERANK, SCORE]

    def ask(number: int, path: str) -> tuple[int, str]:
        answer = shared.http.post(path, json=body_of(path, number))
        return answer.status_code, answer.text

    with ThreadPoolExecutor(2 * len(paths)) as pool:
        running = [pool.submit(ask, number, path) for number, path in enumerate(paths)]
        shared.until(lambda gateway: gateway.gateway.in_flight > 0)
        if ended == "core":
            core.kill()
        else:
            leader.send_signal(signal.SIGKILL if ended == "server" else signal.SIGTERM)
        late = [pool.submit(ask, 100 + number, path) for number, path in enumerate(paths)]
        answers = [each.result() for each in (*running, *late)]
    assert [answer for answer in answers if answer[0] != 200] == []
    assert shared.restarted(before)["pid"] != before["pid"]
