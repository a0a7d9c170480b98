"""Clients that compress their requests get what they would get otherwise: the ``openai`` SDK and ``curl``."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sage_inference.wire.content_coding import readable
from tests.support.codings import cases
from tests.support.gateway import Gateway
from tests.support.sdk import EMBEDDER, LLM, chat_and_embeddings, sdk

HELLO: Any = [{"role": "user", "content": "hello " * 3000}]

Encode = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with chat_and_embeddings() as gateway:
        yield gateway


class Compressing(httpx.HTTPTransport):
    """Compresses what the SDK sends, as clients of hosted services do."""

    def __init__(self, header: str, encode: Encode, *, streams: bool = False) -> None:
        super().__init__(verify=False)
        self._header, self._encode, self._streams = header, encode, streams

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        headers["content-encoding"] = self._header
        body = self._encode(request.read())
        content: Any = iter([body[:9], body[9:]]) if self._streams else body
        return super().handle_request(
            httpx.Request(request.method, request.url, headers=headers, content=content)
        )


@pytest.mark.parametrize(("header", "encode"), cases("gzip", "deflate", "zstd", "identity"))
@pytest.mark.parametrize("streams", [False, True], ids=["length", "chunks"])
def test_the_openai_sdk(gateway: Gateway, header: str, encode: Encode, streams: bool) -> None:
    transport = Compressing(header, encode, streams=streams)
    with sdk(gateway) as plain, sdk(gateway, http_client=httpx.Client(transport=transport)) as client:
        answers = [
            one.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=5)
            for one in (plain, client)
        ]
        assert answers[0].choices == answers[1].choices
        used = [answer.usage.prompt_tokens for answer in answers if answer.usage]
        assert used[0] == used[1] > 1000
        pieces = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=5, stream=True)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert text == answers[0].choices[0].message.content
        texts = [f"text {n}" for n in range(40)]
        vectors = [one.embeddings.create(model=EMBEDDER, input=texts) for one in (plain, client)]
        assert vectors[0].data == vectors[1].data
        assert client.responses.create(model=LLM, input="hi", max_output_tokens=5).output_text


def test_the_openai_sdk_gets_its_own_errors(gateway: Gateway) -> None:
    with sdk(gateway, http_client=httpx.Client(transport=Compressing("br", bytes))) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=LLM, messages=HELLO)
        assert caught.value.status_code == 415
        assert 'content coding "br"' in caught.value.message
    with sdk(gateway, http_client=httpx.Client(transport=Compressing("gzip", bytes))) as client:
        with pytest.raises(openai.BadRequestError, match="no valid gzip"):
            client.chat.completions.create(model=LLM, messages=HELLO)


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_curl_with_a_compressed_file(gateway: Gateway, tmp_path: Path, program: str) -> None:
    if not (shutil.which("curl") and shutil.which(program)):
        pytest.skip(f"curl or {program} is not installed")
    if program not in readable():
        pytest.skip("this interpreter has no zstd")
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"model": LLM, "messages": HELLO, "max_tokens": 3}))
    subprocess.run([program, "-q", "-k", file], check=True, timeout=30)
    packed = file.with_suffix(".json.gz" if program == "gzip" else ".json.zst")
    command = [
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "--data-binary",
        f"@{packed}",
        f"{gateway.url}/v1/chat/completions",
    ]
    command += [
        "-H",
        "expect: 100-continue",
        "-H",
        f"content-encoding: {program}",
        "-H",
        "content-type: application/json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 3, done
