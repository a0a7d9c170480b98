"""The recipes of docs/cluster.md for a second gateway: callers go on with it when the first one is killed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes.cluster_page import blocks
from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import simulated_engine

PART = "## A second gateway as standby"
CODE = dict(zip(("openai", "own"), blocks(PART, "python"), strict=True))
KEEPALIVED = shutil.which("keepalived", path="/usr/sbin:/usr/local/sbin:/usr/bin")
# The last line of an example asks once. This asks before and after the death of the first gateway.
AGAIN = """
print("alive", flush=True)
sys.stdin.readline()
{ask}
{ask}
"""


@pytest.fixture
def pair() -> Iterator[tuple[Gateway, Gateway]]:
    with simulated_engine("vllm", "--speed", "instant", "--model", "Qwen/Qwen2.5-7B-Instruct") as engine:
        settings = {"api_keys": [{"key": "sk-mine"}], "instances": [{"url": engine.url}]}
        with running_gateway(config=settings) as first, running_gateway(config=settings) as second:
            yield first, second


def is_ready(gateway: Gateway) -> bool:
    """As keepalived finds it."""
    [text] = blocks(PART, "conf")
    [script] = re.findall(r'script "/usr/bin/(curl .*)"', text)
    words = script.replace("127.0.0.1:8000", f"127.0.0.1:{gateway.port}").split()
    return subprocess.run(words, timeout=30, check=False).returncode == 0


def asked(gateway: Gateway) -> int:
    return int(gateway.status()["requests"]["total"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_the_example_goes_on_with_the_standby(code: str, pair: tuple[Gateway, Gateway]) -> None:
    first, second = pair
    for name, gateway in zip(("gw1", "gw2"), pair, strict=True):
        code = code.replace(f"http://{name}:8000", gateway.url)
    assert "gw" not in re.findall(r"http://(\w\w)", code)
    ask = code[re.search(r"^(answer =|print\()", code, re.M).start() :]  # type: ignore[union-attr]
    with subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + code + AGAIN.format(ask=ask)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        assert caller.stdout is not None
        assert [caller.stdout.readline() for _ in range(2)][1] == "alive\n"
        assert (asked(first), asked(second)) == (1, 0)
        assert is_ready(first)
        first.process.kill()
        first.process.wait(10)
        said, _ = caller.communicate("\n", timeout=30)
    assert caller.returncode == 0
    assert len(said.splitlines()) == 2
    assert asked(second) == 2
    assert not is_ready(first)


@pytest.mark.skipif(KEEPALIVED is None, reason="there is no keepalived")
def test_keepalived_reads_its_file(tmp_path: Path) -> None:
    [text] = blocks(PART, "conf")
    file, mistakes = tmp_path / "keepalived.conf", tmp_path / "mistakes"
    for name, written in (("right", text), ("wrong", text.replace("fall 2", "falls 2"))):
        file.write_text(written)
        mistakes.unlink(missing_ok=True)
        # The exit status of a right file is that of the SIGTERM by which 2.2.7 ends itself.
        subprocess.run(
            [str(KEEPALIVED), f"--config-test={mistakes}", f"--use-file={file}"], timeout=30, check=False
        )
        assert (mistakes.read_text() == "") is (name == "right")
