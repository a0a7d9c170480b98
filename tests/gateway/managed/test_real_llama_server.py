"""A real llama-server under its keeper: it serves chats and vectors, comes back after SIGKILL, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sage_inference.config.settings import ManagedEngineSettings, Settings
from sage_inference.engines.managed.gpus import gpus
from sage_inference.keeper.client import stop_all
from sage_inference.server import EngineRun
from tests.real import tiny_gguf
from tests.real.install import CannotInstallError, ensure_llama_server
from tests.support.managed import COMMON, ManagedGateway, gone, kill, processes

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(bool(gpus()), reason="its CPU backend is for machines without a GPU"),
]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ManagedGateway]:
    """Two engines that start, and one whose file was cut."""
    try:
        program = ensure_llama_server()
    except CannotInstallError as reason:
        pytest.fail(str(reason), pytrace=False)
    chat, embed, broken = (tmp_path / f"{name}.gguf" for name in ("chat", "embed", "broken"))
    for path in (chat, embed):
        tiny_gguf.main(str(path))
    broken.write_bytes(chat.read_bytes()[:2000])
    engines = (
        ManagedEngineSettings(model=str(chat), name="chat", served_names=("org/chat",)),
        ManagedEngineSettings(model=str(embed), name="embed", kind="embedding", served_names=("org/embed",)),
        ManagedEngineSettings(model=str(broken), name="broken"),
    )
    managed = replace(COMMON, llama_server=(str(program),))
    gateway = ManagedGateway(
        tmp_path, run=EngineRun(tmp_path), settings=Settings(engines=engines, managed=managed)
    )
    try:
        gateway.start()
        yield gateway
    finally:
        running = processes(tmp_path)
        gateway.stop()
        stop_all(tmp_path, 0)
        gone(running)


def test_a_real_llama_server_serves_and_comes_back(door: ManagedGateway, tmp_path: Path) -> None:
    before = door.state("chat", "ready")
    assert (before["engine"], before["kind"]) == ("llama_server", "llm")
    answered = door.chat()
    assert answered.status_code == 200, answered.text
    assert answered.json()["usage"]["completion_tokens"] == 3
    assert door.state("embed", "ready")["kind"] == "embedding"
    assert len(door.embed().json()["data"][0]["embedding"]) == tiny_gguf.WIDTH
    kill(before["pid"])
    held = door.chat()
    assert held.status_code == 200, held.text
    assert door.state("chat", "ready")["restarts"] == 1
    failure = door.state("broken", "failed")["failure"]
    assert failure["message"].endswith(": gguf_init_from_reader: failed to read key-value pairs")
    running = processes(tmp_path)
    assert door.order("chat", "unload").status_code == 202
    door.state("chat", "off")
    assert len(processes(tmp_path)) < len(running)
