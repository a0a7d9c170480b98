"""A stand-in for a Ray cluster: its dashboard and its replicas, as HTTP servers on a thread.

It answers with recorded documents, in which replicas and ports are those of the test. There is no Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

RECORDED = Path(__file__).parent.parent / "fixtures" / "ray"
T = TypeVar("T")


def recorded(name: str, version: str = "2.60.0") -> bytes:
    return (RECORDED / version / f"{name}.json").read_bytes()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class RayCluster:
    """``raw``: bytes that the dashboard sends instead of its document; ``then``: close, silent or endless."""

    def __init__(self, version: str = "2.60.0") -> None:
        self._pattern = json.loads(recorded("running", version))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._ids = (f"r{number:07}" for number in itertools.count(1))
        self._open: set[asyncio.StreamWriter] = set()
        self._servers: dict[str, asyncio.Server] = {}
        self._replicas: dict[str, tuple[str, int]] = {}  # application and port, by id
        self.places: dict[str, Any] = {}  # the answers of replicas, by id; bytes are sent as they are
        self.asked: list[str] = []  # ids of the replicas that were asked for their place
        self.answer_s = 0.0  # that a replica takes for its answer
        self.heads: list[bytes] = []  # requests to the dashboard
        self.status: dict[str, str] = {"sage-engines": "RUNNING"}
        self.raw: bytes | None = None
        self.head_log = b""
        self.then = "close"
        self.looked = threading.Semaphore(0)  # released with each answer of the dashboard
        self.url = f"http://127.0.0.1:{self._on_loop(self._serve('dashboard', self._dashboard))}"

    def add(self, engine: str, application: str = "sage-engines") -> str:
        """Start a replica whose engine listens at ``engine``. Returns its id."""
        replica = next(self._ids)
        self.status.setdefault(application, "RUNNING")
        self.places[replica] = {"url": engine, "pid": 1, "replica": replica, "node": "gpu1", "gpu": None}

        async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.append(replica)
            await asyncio.sleep(self.answer_s)
            place = self.places[replica]
            await _send(writer, place if isinstance(place, bytes) else answer(json.dumps(place).encode()))
            if place == b"":
                await reader.read()

        self._replicas[replica] = application, self._on_loop(self._serve(replica, asked))
        return replica

    def remove(self, replica: str) -> None:
        """End a replica: the document does not list it any more, and nobody listens on its port."""
        del self._replicas[replica]
        self._loop.call_soon_threadsafe(self._servers.pop(replica).close)

    def look(self, seconds: float = 10) -> None:
        """Wait until the dashboard has answered two more questions, so that one was asked after this call."""
        while self.looked.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.looked.acquire(timeout=seconds), "the dashboard is not asked any more"

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = copy.deepcopy(self._pattern)
        application = document["applications"].pop("sage-engines")
        group = document["target_groups"].pop()
        for name, status in self.status.items():
            mine = {each: port for each, (of, port) in self._replicas.items() if of == name}
            made = document["applications"][name] = _application(application, name, status, list(mine))
            made["deployments"]["Engine"]["target_num_replicas"] = len(mine)
            document["target_groups"].append(_group(group, document, name, mine))
        return document

    async def _dashboard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        sent = self.raw if self.raw is not None else self._answer_to(head.split(b" ", 2)[1].decode())
        await _send(writer, sent)
        self.looked.release()
        while self.then == "endless" and sent:
            await _send(writer, b" " * 65536)
        if self.then == "silent":
            await reader.read()

    def _answer_to(self, path: str) -> bytes:
        if path.startswith("/api/v0/logs/file?node_id=") and path.endswith(
            "&filename=gcs_server.out&lines=-1"
        ):
            return answer(self.head_log)
        return answer(json.dumps(self.document()).encode())

    async def _serve(self, name: str, client: Any) -> int:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open.add(writer)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await client(reader, writer)
            self._open.discard(writer)
            writer.close()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0, backlog=1024)
        self._servers[name] = server
        port: int = server.sockets[0].getsockname()[1]
        return port

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def close(self) -> None:
        async def ended() -> None:
            for server in self._servers.values():
                server.close()
            for writer in list(self._open):
                writer.transport.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._on_loop(ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _application(pattern: dict[str, Any], name: str, status: str, replicas: list[str]) -> dict[str, Any]:
    made = copy.deepcopy(pattern) | {"name": name, "status": status}
    (deployment,) = made["deployments"].values()
    one = deployment["replicas"][0]
    deployment["replicas"] = [
        one | {"replica_id": each, "actor_name": f"SERVE_REPLICA::{name}#Engine#{each}"} for each in replicas
    ]
    return made


def _group(
    pattern: dict[str, Any], document: dict[str, Any], name: str, ports: dict[str, int]
) -> dict[str, Any]:
    one = pattern["targets"][0]
    targets = [
        one | {"port": port, "name": f"SERVE_REPLICA::{name}#Engine#{each}"} for each, port in ports.items()
    ]
    if not targets:  # Ray then names its proxies
        (proxy,) = document["proxies"].values()
        targets = [one | {"port": 8000, "name": proxy["actor_name"]}]
    return pattern | {"app_name": name, "targets": targets}


@contextlib.contextmanager
def ray_cluster(version: str = "2.60.0") -> Iterator[RayCluster]:
    cluster = RayCluster(version)
    try:
        yield cluster
    finally:
        cluster.close()
