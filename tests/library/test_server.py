"""The gateway as a library: started, stopped and mounted by a program."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import sage_inference as si
from sage_inference.config.errors import ConfigError
from sage_inference.daemon.errors import PortTaken
from tests.support.gateway import free_port
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.simulators import SimulatedEngine
from tests.support.wire import CHAT, Caller, chat, post


def config(*engines: Any, **more: Any) -> si.UnifiedServerConfig:
    options: dict[str, Any] = {"port": free_port(), "scheduling_policy": "least_loaded", **more}
    return si.UnifiedServerConfig(llm_backends=[engine.url for engine in engines], **options)


def test_with_starts_and_stops_it(vllm: SimulatedEngine, tei: SimulatedEngine) -> None:
    server = si.UnifiedAPIServer(
        si.UnifiedServerConfig(
            port=free_port(),
            llm_backends=[si.BackendInstanceConfig(host=vllm.host, port=vllm.port)],
            embedding_backends=[{"host": tei.host, "port": tei.port, "model_name": "simulated-embedding"}],
            scheduling_policy=si.SchedulingPolicyType.LEAST_LOADED,
        )
    )
    assert not server.is_running()
    assert server.get_status()["state"] == "stopped"
    with server, si.UnifiedInferenceClient(server.url) as client:
        assert server.is_running()
        assert client.chat("hi", max_tokens=2)
        assert len(client.embed("hi")) > 100
        assert [one["state"] for one in server.get_status()["instances"]] == ["ready", "ready"]
    assert not server.is_running()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_a_server_can_be_started_again(vllm: SimulatedEngine) -> None:
    server = si.UnifiedAPIServer(config(vllm))
    for _ in range(2):
        server.start(block=False)
        assert httpx.get(f"{server.url}/health", trust_env=False, verify=False).status_code == 200
        with pytest.raises(RuntimeError, match="runs already"):
            server.start(block=False)
        server.stop()
        server.stop()


def test_async_with_serves_on_the_running_loop(vllm: SimulatedEngine) -> None:
    async def main() -> str:
        async with si.UnifiedAPIServer(config(vllm)) as server:
            assert server.is_running()
            async with si.AsyncUnifiedInferenceClient(server.url) as client:
                return await client.chat("hi", max_tokens=2)

    assert asyncio.run(main())


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_taken_port_raises_at_once(way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = si.UnifiedAPIServer(config(port=taken.getsockname()[1]))
        with pytest.raises(PortTaken, match=f"is taken by pid {os.getpid()}"):
            server.start(block=False) if way == "sync" else asyncio.run(server.start_async())
        assert not server.is_running()
    server.start(block=False)  # and it is not harmed by that
    server.stop()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_blocking_start_ends_with_a_signal(how: signal.Signals) -> None:
    script = f"""
        import sage_inference as si
        server = si.create_unified_server(port={free_port()}, scheduling_policy="least_loaded")
        print(server.url, flush=True)
        server.start()
        print("ended", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        while True:
            try:
                httpx.get(f"{url}/health/live", trust_env=False, verify=False)
                break
            except httpx.ConnectError:
                assert process.poll() is None
        process.send_signal(how)
        assert process.communicate(timeout=20)[0] == "ended\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "reachable from other machines"),
        ({"scheduling_policy": "best"}, "best"),
        ({"port": 0}, "port"),
        ({"cors_origins": ["https://a.example"]}, "enable_cors"),
        ({"log_level": "loud"}, "loud"),
        ({"llm_backends": ["http://u:p@h:1"]}, "user:password"),
        ({"llm_backends": [{"port": "x"}]}, "x"),
        ({"request_timeout": 0}, "first_byte_s"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_nobody_could_run_is_refused_when_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        si.UnifiedAPIServer(si.UnifiedServerConfig(**{"scheduling_policy": "least_loaded", **options}))


def test_settings_reach_the_gateway() -> None:
    settings = si.UnifiedAPIServer(
        si.UnifiedServerConfig(
            host="127.0.0.2",
            port=free_port(),
            llm_backends=[
                si.BackendInstanceConfig(port=9, max_concurrent_requests=3, api_key="k", model_name="m")
            ],
            embedding_backends=[{"base_url": "http://h:8", "name": "e"}],
            scheduling_policy="random",
            enable_cors=True,
            log_level="WARNING",
            request_timeout=7,
            api_keys=["secret"],
        )
    ).settings
    llm, embedding = settings.instances
    assert (llm.url, llm.kind, llm.model, llm.max_concurrent_requests) == (
        "http://127.0.0.1:9",
        "llm",
        "m",
        3,
    )
    assert llm.api_key is not None
    assert llm.api_key.reveal() == "k"
    assert (embedding.url, embedding.kind, embedding.name) == ("http://h:8", "embedding", "e")
    assert settings.server.cors_origins == ("*",)
    assert (settings.scheduling.policy, settings.timeouts.first_byte_s) == ("random", 7)
    assert settings.logging.level == "warning"
    assert "secret" not in repr(settings)


def test_without_a_control_plane_requests_go_in_turn() -> None:
    server = si.UnifiedAPIServer(si.UnifiedServerConfig(port=free_port(), enable_control_plane=False))
    assert server.settings.scheduling.policy == "round_robin"


# Mounted into another application


class Mounted:
    """Another application on a server of its own, with the gateway at ``/llm``."""

    def __init__(self, server: si.UnifiedAPIServer, **options: Any) -> None:
        app = Starlette(routes=[Mount("/llm", app=server.app)])
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", **options))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.sock]}, daemon=True)

    def __enter__(self) -> Mounted:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.sock.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/llm"


@pytest.fixture(params=["h11", "httptools"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def mounted(*engines: Any, http: str = "h11", **more: Any) -> Mounted:
    return Mounted(si.UnifiedAPIServer(config(*engines, **more)), http=http)


def test_every_route_works_mounted_elsewhere(http: str, vllm: SimulatedEngine) -> None:
    with mounted(vllm, http=http) as outer, si.UnifiedInferenceClient(outer.url) as client:
        assert client.models() == ["simulated-llm"]
        assert client.chat("hi", max_tokens=3, return_result=True).instance == f"127.0.0.1:{vllm.port}"
        assert "".join(client.chat("hi", max_tokens=3, stream=True))
        with pytest.raises(si.NotFoundError, match="served now: simulated-llm"):
            client.chat("hi", model="other")


def test_bodies_pass_byte_for_byte_mounted_too(http: str) -> None:
    body, said = b'{ "messages":[],\n"model":"m", "x":1.0e0 }', b'{"a": 1.50,\r\n"b":[ ]}\n'
    with RogueEngine(ok(said, "x-engine: yes")) as engine, mounted(engine, http=http) as outer:
        with Caller(outer.port) as caller:
            reply = caller.send(post(f"/llm{CHAT}?a=1%2F2", body, "x-request-id: r1")).reply()
        assert reply.body == said
        assert (reply.headers["x-engine"], reply.headers["x-request-id"]) == ("yes", "r1")
        assert engine.requests[0].startswith(b"POST /v1/chat/completions?a=1%2F2 HTTP/1.1\r\n")
        assert engine.requests[0].endswith(b"\r\n\r\n" + body)


def test_a_stored_response_is_asked_for_mounted_too(http: str) -> None:
    path = "/v1/responses"
    made = ok('{"id": "resp_1"}')
    with (
        RogueEngine(made, routes=[path], scripted=(f"{path}/",)) as engine,
        mounted(engine, http=http) as outer,
    ):
        with Caller(outer.port) as caller:
            caller.send(post(f"/llm{path}", b'{"model": "m", "input": "a"}')).reply()
            for line, status in (
                (f"GET /llm{path}/resp_1?stream=true", 200),
                (f"DELETE /llm{path}/resp_1", 200),
                (f"GET /llm{path}/resp_1", 404),
                (f"GET /llm{path}/resp%0d%0ax:%20y", 404),
                (f"POST /llm{path}/resp_1/cancel", 404),
                (f"PUT /llm{path}/resp_1", 405),
            ):
                head = f"{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
                assert caller.send(head.encode()).reply().status == status, line
        starts = [request.split(b"\r\n")[0].decode() for request in engine.requests[1:]]
        assert starts == [f"GET {path}/resp_1?stream=true HTTP/1.1", f"DELETE {path}/resp_1 HTTP/1.1"]


def test_a_mounted_stream_arrives_as_it_is_sent(http: str) -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse("one"))
        wire.engine.go.wait(20)
        wire.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    with RogueEngine(answer) as engine, mounted(engine, http=http) as outer, Caller(outer.port) as caller:
        caller.send(post(f"/llm{CHAT}", chat(stream=True)))
        assert caller.head().status == 200
        assert caller.chunk() == b"data: one\n\n"
        engine.go.set()
        assert caller.chunk() == b"data: two\n\n"
        assert caller.chunk() == b""


def test_a_caller_of_a_mounted_route_who_leaves_is_told_to_the_engine(http: str) -> None:
    with RogueEngine(raw(sse("one"), then="silent")) as engine, mounted(engine, http=http) as outer:
        with Caller(outer.port) as caller:
            caller.send(post(f"/llm{CHAT}", chat(stream=True)))
            caller.head()
            caller.chunk()
        engine.left.get(timeout=10)


def test_a_mounted_answer_that_is_cut_short_looks_so(http: str) -> None:
    cut = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", then="close")
    with RogueEngine(cut) as engine, mounted(engine, http=http) as outer, Caller(outer.port) as caller:
        reply = caller.send(post(f"/llm{CHAT}", chat())).reply()
        assert (reply.status, reply.complete) == (200, False)


def test_limits_and_keys_hold_where_it_is_mounted(http: str) -> None:
    with RogueEngine(ok()) as engine, mounted(engine, http=http, api_keys=["k"]) as outer:
        assert (
            httpx.post(f"{outer.url}{CHAT}", content=chat(), trust_env=False, verify=False).status_code == 401
        )
        headers = {"authorization": "Bearer k"}
        assert httpx.post(
            f"{outer.url}{CHAT}", content=chat(), headers=headers, trust_env=False, verify=False
        ).is_success
        big = b"x" * 67_200_000
        answer = httpx.post(
            f"{outer.url}{CHAT}", content=big, headers=headers, trust_env=False, verify=False, timeout=60
        )
        assert answer.status_code == 413


def test_health_is_open_and_admin_is_shut_where_it_is_mounted(http: str) -> None:
    server = si.UnifiedAPIServer(config(api_keys=["k"]))
    token = {"authorization": f"Bearer {server.admin_token}"}
    with (
        Mounted(server, http=http) as outer,
        httpx.Client(base_url=outer.url, trust_env=False, verify=False) as client,
    ):
        assert client.get("/health/live").status_code == 200
        assert client.get("/admin/status").status_code == 401
        assert client.get("/admin/status", headers={"x-api-key": "k"}).status_code == 403
        assert client.get("/admin/status", headers={**token, "host": "evil.example"}).status_code == 403
        assert client.get("/admin/status", headers=token).json()["state"] == "running"
        assert client.get("/v1/models", headers=token).status_code == 401


@pytest.mark.parametrize("prefix", ["/admin", "/health", "/admin/status", "/llm/", "/{tenant}"])
def test_no_prefix_opens_admin(prefix: str) -> None:
    server = si.UnifiedAPIServer(config(api_keys=["k"]))
    app = Starlette(routes=[Mount(prefix, app=server.app)])
    inner = ("/admin/status", "//admin/status", "/health/admin/status", "/admin/admin/status")

    async def main() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            path = prefix.replace("{tenant}", "x").rstrip("/")
            asked = [await client.get(path + one, headers={"x-api-key": "k"}) for one in inner]
            token = {"authorization": f"Bearer {server.admin_token}"}
            assert (await client.get(f"{path}/admin/status", headers=token)).status_code == 200
            await server.stop_async()
            return [answer.status_code for answer in asked]

    statuses = asyncio.run(main())
    assert statuses[0] == 403
    assert 200 not in statuses


def test_a_mounted_request_has_one_id(http: str) -> None:
    with RogueEngine(ok()) as engine, mounted(engine, http=http) as outer, Caller(outer.port) as caller:
        answer = caller.send(post(f"/llm{CHAT}", chat(), "connection: close")).rest()
        [found] = re.findall(rb"x-request-id: ([^\r]+)", answer)
        assert b"x-request-id: %b\r\n" % found in engine.requests[0]


def test_a_server_opens_admin_to_its_own_program() -> None:
    server = si.UnifiedAPIServer(config())
    with server, httpx.Client(base_url=server.url, trust_env=False, verify=False) as client:
        assert client.get("/admin/status").status_code == 401
        token = {"authorization": f"Bearer {server.admin_token}"}
        assert client.put("/admin/policy", json={"policy": "random"}, headers=token).status_code == 200
    assert server.admin_token != si.UnifiedAPIServer(config()).admin_token


def test_a_mounted_gateway_reads_no_faster_than_its_caller(http: str) -> None:
    sent: list[int] = []

    def flood(wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        wire.sock.settimeout(1)
        try:
            while True:
                wire.send(b"x" * 100_000)
                sent.append(100_000)
        except OSError:
            wire.engine.left.put(wire)

    with RogueEngine(flood) as engine, mounted(engine, http=http) as outer, Caller(outer.port) as caller:
        caller.send(post(f"/llm{CHAT}", chat()))
        engine.left.get(timeout=30)
        assert sum(sent) < 50_000_000


def test_lifespan_starts_and_ends_it(vllm: SimulatedEngine) -> None:
    server = si.UnifiedAPIServer(config(vllm))
    sock = socket.create_server(("127.0.0.1", 0))
    outer = uvicorn.Server(uvicorn.Config(server.app, log_config=None, ws="none", lifespan="on"))
    thread = threading.Thread(target=outer.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    with si.UnifiedInferenceClient(f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
        assert client.chat("hi", max_tokens=1)
        assert server.get_status()["state"] == "running"
    outer.should_exit = True
    thread.join(20)
    sock.close()
    assert server.get_status()["state"] == "stopped"


def test_the_app_can_be_called_without_any_server(vllm: SimulatedEngine) -> None:
    async def main() -> None:
        server = si.UnifiedAPIServer(config(vllm))
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post(CHAT, json={"messages": [{"role": "user", "content": "hi"}]})
            assert answer.status_code == 200
            assert answer.headers["x-sage-instance"] == f"127.0.0.1:{vllm.port}"
        await server.stop_async()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
