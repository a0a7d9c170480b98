"""Each setting that is changed in the file takes effect by a reload, or the reload's answer names it as too late.

The table has an entry for each key of the schema: a new setting needs one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

from sage_inference.config.document import rows
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import (
    PRIORITIES,
    ApiKeySettings,
    HealthSettings,
    InstanceSettings,
    ServerSettings,
)
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState, RequestPriority
from tests.support.command import sage
from tests.support.gateway import running_gateway
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller, chat, post

ORIGIN = "https://chat.example"
Look = Callable[["World"], Any]


class World:
    """One gateway with two engines; ``change`` writes its file and reloads it."""

    def __init__(self, g: InProcess, file: Path, base: dict[str, Any]) -> None:
        self.g = g
        self._file = file
        self._base = base
        self.client = httpx.Client(base_url=g.url, trust_env=False, verify=False, timeout=10, headers=ADMIN)

    def change(self, document: dict[str, Any]) -> dict[str, Any]:
        self._file.write_text(
            json.dumps(
                {**self._base, **document, "health": {**self._base["health"], **document.get("health", {})}}
            )
        )
        self.g.settings_to_load = load(self._file)
        answer: dict[str, Any] = self.client.post("/admin/reload").raise_for_status().json()
        return answer

    def ask(self, question: Callable[[RunningGateway], Any]) -> Any:
        return self.g.ask(question)

    def status(self, request: bytes) -> int:
        with Caller(self.g.port) as caller:
            return caller.send(request).reply().status

    def chat(self, *headers: str, **fields: Any) -> int:
        return self.status(post("/v1/chat/completions", chat(**fields), *headers))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    file = tmp_path_factory.mktemp("reload") / "config.yaml"
    with RogueEngine(*[ok()] * 500) as one, RogueEngine(*[ok()] * 500, model="n") as two:
        instances = [
            {"url": one.url, "name": "e0", "kind": "mixed"},
            {"url": two.url, "name": "e1", "kind": "mixed"},
        ]
        base: dict[str, Any] = {"instances": instances, "health": {"interval_s": 60}}
        file.write_text(json.dumps(base))
        settings = load(file)
        with gateway(*settings.instances, health=HealthSettings(interval_s=60)) as g:
            found = World(g, file, base)
            yield found
            found.client.close()


@dataclass
class Entry:
    """What to write, what to look at, and what is seen then (None: something else than before)."""

    document: dict[str, Any]
    look: Look
    then: Any = None


def engine(attribute: Callable[[Any], Any], name: str = "e0") -> Look:
    return lambda w: w.ask(lambda r: attribute(r.gateway.engines[name]))


def held(attribute: Callable[[RunningGateway], Any]) -> Look:
    return lambda w: w.ask(attribute)


def instance(**more: Any) -> dict[str, Any]:
    return {"__instance__": more}


def section(name: str, key: str, value: Any, look: Look, then: Any = None) -> Entry:
    return Entry({name: {key: value}}, look, then)


def timeout(key: str) -> Entry:
    return section("timeouts", key, 7.5, held(lambda r: getattr(r.gateway.timeouts, key)), 7.5)


def no_model(route: str, **fields: Any) -> Look:
    return lambda w: w.status(post(route, json.dumps(fields).encode())) == 400


def allowed_origins(w: World) -> Any:
    return w.client.get("/health", headers={"origin": ORIGIN}).headers.get("access-control-allow-origin")


def slo(key: str, priority: str = "normal") -> Look:
    """What a chat's SLO would be."""
    level = RequestPriority[priority.upper()]
    return held(lambda r: getattr(r.gateway.scheduler.slos.of("m", level), f"{key}_ms"))


def key_limit(name: str) -> Look:
    def look(running: RunningGateway) -> Any:
        budget = running.gateway.budgets.of("default")
        return budget and getattr(budget.limits, name)

    return held(look)


TABLE: dict[str, Entry] = {
    "llm_model": Entry({"llm_model": "m"}, no_model("/v1/chat/completions", messages=[]), False),
    "embedding_model": Entry(
        {"embedding_model": "m"}, no_model("/v1/embeddings", input=[[1, 2]]), False
    ),
    "server.host": section("server", "host", "127.0.0.2", lambda w: w.client.get("/admin/status").json()["address"]),
    "server.port": section("server", "port", 9, lambda w: w.client.get("/admin/status").json()["address"]),
    "server.tls_cert": section("server", "tls_cert", "/nowhere.pem", held(lambda r: r.gateway.settings.server.tls_cert)),
    "server.insecure": section("server", "insecure", True, held(lambda r: r.gateway.settings.server.insecure), True),
    "server.allowed_hosts": section("server", "allowed_hosts", ["ws.lan"], lambda w: w.status(b"GET /health HTTP/1.1\r\nhost: ws.lan\r\n\r\n"), 200),
    "server.cors_origins": section("server", "cors_origins", [ORIGIN], allowed_origins, ORIGIN),
    "instances": Entry({"instances": []}, held(lambda r: list(r.gateway.engines)), []),
    "instances[].url": Entry(instance(url="http://127.0.0.1:9/p"), engine(lambda e: e.address.url), "http://127.0.0.1:9/p"),
    "instances[].name": Entry(instance(name="other"), held(lambda r: "other" in r.gateway.engines), True),
    "instances[].kind": Entry(instance(kind="llm"), engine(lambda e: e.settings.kind), "llm"),
    "instances[].engine": Entry(instance(engine="vllm"), engine(lambda e: e.settings.engine), "vllm"),
    "instances[].model": Entry(instance(model="told"), engine(lambda e: e.settings.model), "told"),
    "instances[].api_key": Entry(instance(api_key="sk-e"), engine(lambda e: e.api_key), "sk-e"),
    "instances[].ca_file": Entry(instance(url="https://127.0.0.1:9", ca_file=certifi.where()), engine(lambda e: e.settings.ca_file), certifi.where()),
    "instances[].max_concurrent_requests": Entry(instance(max_concurrent_requests=3), engine(lambda e: e.instance.max_concurrent_requests), 3),
    "instances[].gpu": Entry(instance(gpu="cuda:0"), engine(lambda e: e.instance.gpu), "cuda:0"),
    "instances[].max_batched_tokens": Entry(instance(max_batched_tokens=99), engine(lambda e: e.instance.load.window_tokens), 99),
    "instances[].kv_cache_tokens": Entry(instance(kv_cache_tokens=77), engine(lambda e: e.instance.kv_tokens), 77),
    "discover": Entry({"discover": False}, held(lambda r: r.gateway.settings.discover), False),
    "aliases": Entry({"aliases": {"gpt": "m"}}, lambda w: w.chat(model="gpt"), 200),
    "api_keys": Entry({"api_keys": ["k"]}, lambda w: w.chat(), 401),
    "api_keys[].key": Entry({"api_keys": [{"key": "k"}]}, lambda w: w.chat("authorization: Bearer other"), 401),
    "api_keys[].name": Entry({"api_keys": [{"key": "k", "name": "team"}]}, held(lambda r: list(r.gateway.guard._keys.values())), ["team"]),
    "api_keys[].priority": Entry({"api_keys": [{"key": "k", "priority": "high"}]}, held(lambda r: r.gateway.key_priority.get("default"))),
    "api_keys[].weight": Entry({"api_keys": [{"key": "k", "weight": 4}]}, held(lambda r: r.gateway.scheduler.tenants.weights.get("default")), 4),
    "api_keys[].key_hash": Entry({"api_keys": [{"key_hash": f"sha256:{sha256(b'k').hexdigest()}"}]}, lambda w: (w.chat(), w.chat("authorization: Bearer k")), (401, 200)),
    **{
        f"api_keys[].limits.{name}": Entry({"api_keys": [{"key": "k", "limits": {name: 7}}]}, key_limit(name), 7)
        for name in ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests")
    },
    "api_keys[].limits.models": Entry({"api_keys": [{"key": "k", "limits": {"models": ["x"]}}]}, lambda w: w.chat("authorization: Bearer k"), 403),
    "admin_key": Entry({"admin_key": "adm"}, held(lambda r: r.gateway.guard.is_admin(b"adm")), True),
    "scheduling.policy": section("scheduling", "policy", "random", held(lambda r: r.gateway.scheduler.policy.name), "random"),
    "scheduling.policies": section("scheduling", "policies", {"m": "fifo"}, held(lambda r: {m: p.name for m, p in r.gateway.scheduler.policies.items()}), {"m": "fifo"}),
    **{f"scheduling.slo.{key}_ms": Entry({"scheduling": {"slo": {f"{key}_ms": 77}}}, slo(key), 77) for key in ("ttft", "tpot")},
    **{
        f"scheduling.slo.{priority}.{key}_ms": Entry({"scheduling": {"slo": {priority: {f"{key}_ms": 77}}}}, slo(key, priority), 77)
        for priority in PRIORITIES for key in ("ttft", "tpot")
    },
    "scheduling.slo.models": Entry({"scheduling": {"slo": {"models": {"m": {"ttft_ms": 77}}}}}, slo("ttft"), 77),
    **{
        f"scheduling.slo.models.NAME.{key}_ms": Entry({"scheduling": {"slo": {"models": {"m": {f"{key}_ms": 77}}}}}, slo(key), 77)
        for key in ("ttft", "tpot")
    },
    **{
        f"scheduling.slo.models.NAME.{priority}.{key}_ms":
            Entry({"scheduling": {"slo": {"models": {"m": {priority: {f"{key}_ms": 77}}}}}}, slo(key, priority), 77)
        for priority in PRIORITIES for key in ("ttft", "tpot")
    },
    "scheduling.late_binding": section("scheduling", "late_binding", False, engine(lambda e: e.instance.load.window_tokens), float("inf")),
    "scheduling.hybrid_instance_ratio": section("scheduling", "hybrid_instance_ratio", 0.3, held(lambda r: r.gateway.scheduler.settings.llm_share), 0.3),
    "scheduling.llm_fallback_policy": section("scheduling", "llm_fallback_policy", "round_robin", held(lambda r: r.gateway.scheduler.policy)),
    "scheduling.prefer_specialized_instances": section("scheduling", "prefer_specialized_instances", False, held(lambda r: r.gateway.scheduler._selector.prefers_special), False),
    "scheduling.embedding_priority": section("scheduling", "embedding_priority", "high", held(lambda r: r.gateway.scheduler.settings.llm_share), 0.0),
    "scheduling.retries": section("scheduling", "retries", 0, held(lambda r: r.gateway.retries), 0),
    "scheduling.enable_embedding_batching": section("scheduling", "enable_embedding_batching", False, held(lambda r: r.gateway.embeddings.batcher.rules.merges), False),
    "scheduling.embedding_batch_size": section("scheduling", "embedding_batch_size", 5, held(lambda r: r.gateway.embeddings.batcher.rules.max_texts), 5),
    "scheduling.min_embedding_batch_size": section("scheduling", "min_embedding_batch_size", 4, held(lambda r: r.gateway.embeddings.batcher.rules.min_texts), 4),
    "scheduling.max_embedding_wait_ms": section("scheduling", "max_embedding_wait_ms", 9, held(lambda r: r.gateway.embeddings.batcher.rules.max_wait_s), 0.009),
    "scheduling.embedding_truncation": section("scheduling", "embedding_truncation", "refuse", held(lambda r: r.gateway.settings.scheduling.embedding_truncation), "refuse"),
    "scheduling.embedding_cache_bytes": section("scheduling", "embedding_cache_bytes", 4096, held(lambda r: r.gateway.embeddings.batcher.cache)),
    "scheduling.record_file": section("scheduling", "record_file", "RECORD", held(lambda r: r.gateway.scheduler.ledger.reads_all_usage), True),
    **{f"timeouts.{key}": timeout(key) for key in ("connect_s", "first_byte_s", "stream_idle_s", "header_s", "body_s", "keep_alive_s", "queue_s")},
    "timeouts.drain_s": section("timeouts", "drain_s", 3, held(lambda r: r.server.config.timeout_graceful_shutdown), 3),
    "limits.header_bytes": section("limits", "header_bytes", 1024, lambda w: w.chat("x: " + "x" * 2000), 431),
    "limits.headers": section("limits", "headers", 10, lambda w: w.chat(*[f"x{n}: x" for n in range(20)]), 431),
    "limits.body_bytes": section("limits", "body_bytes", 9, lambda w: w.chat(), 413),
    "limits.bodies_bytes": section("limits", "bodies_bytes", 99000000, held(lambda r: r.gateway.limits.bodies_bytes), 99000000),
    "limits.connections": section("limits", "connections", 1, held(lambda r: r.gateway.limits.connections), 1),
    "limits.queue_requests": section("limits", "queue_requests", 3, held(lambda r: r.gateway.scheduler.settings.limits.queue_requests), 3),
    "limits.queue_bytes": section("limits", "queue_bytes", 3, held(lambda r: r.gateway.scheduler.settings.limits.queue_bytes), 3),
    "limits.max_n": section("limits", "max_n", 1, lambda w: w.chat(n=2), 400),
    "limits.max_completion_tokens": section("limits", "max_completion_tokens", 5, lambda w: w.chat(max_tokens=6), 400),
    "health.interval_s": section("health", "interval_s", 50, engine(lambda e: e.health._settings.interval_s), 50),
    "health.timeout_s": section("health", "timeout_s", 3, lambda w: (w.ask(lambda r: r.fleet._questions._askers.plain.timeout.read), w.ask(lambda r: r.gateway.settings.health.timeout_s)), (3, 3)),
    "health.failures": section("health", "failures", 2, engine(lambda e: e.health._settings.failures), 2),
    "tracing.enabled": section("tracing", "enabled", True, held(lambda r: r.gateway.tracer is None), True),
    "tracing.endpoint": section("tracing", "endpoint", "http://h:1", held(lambda r: r.gateway.settings.tracing.endpoint)),
    "tracing.headers": section("tracing", "headers", {"a": "b"}, held(lambda r: r.gateway.settings.tracing.headers)),
    "tracing.service_name": section("tracing", "service_name", "n", held(lambda r: r.gateway.settings.tracing.service_name)),
    "logging.access": section("logging", "access", True, held(lambda r: r.gateway.stats.access is not None), True),
}  # fmt: skip
BY_THE_DAEMON = {
    "server.watch_config",
    "logging.level",
    "logging.max_bytes",
    "logging.backups",
}  # see the last test
OF_THE_STORE = {"usage.days", "usage.users"}  # see tests/telemetry/test_usage_meter.py
# An engine's process begins with its settings; the tests of managed engines change them.
OF_MANAGED_ENGINES = {
    row.key for row in rows() if row.key.split(".")[0] in ("engines", "engines[]", "managed")
}
OF_SOURCES = {row.key for row in rows() if row.key.startswith("sources")}  # see test_sources
WITH_A_CERTIFICATE = {"server.tls_key"}  # see test_own_certificate
OF_TRACES = {"tracing.sample"}  # see tests/gateway/tracing/test_reload.py
LATE = {"server.host", "server.port", "server.tls_cert"}
LATE |= {f"tracing.{key}" for key in ("enabled", "endpoint", "headers", "service_name")}


def test_the_table_has_every_setting() -> None:
    assert (
        TABLE.keys()
        | BY_THE_DAEMON
        | OF_THE_STORE
        | WITH_A_CERTIFICATE
        | OF_TRACES
        | OF_MANAGED_ENGINES
        | OF_SOURCES
        == {row.key for row in rows()}
    )


@pytest.mark.parametrize("key", TABLE)
def test_setting_is_taken_over_or_named_as_too_late(world: World, key: str, tmp_path: Path) -> None:
    entry = TABLE[key]
    before = entry.look(world)
    document = dict(entry.document)
    if "__instance__" in document:
        first, second = world._base["instances"]
        document = {"instances": [{**first, **document["__instance__"]}, second]}
    if key == "scheduling.record_file":
        document = {"scheduling": {"record_file": str(tmp_path / "record.jsonl")}}
    answer = world.change(document)
    try:
        after = entry.look(world)
        if key in LATE:
            assert (answer["needs_restart"], answer["settings"]) == ([key], [])
            assert answer["address"] == "http://127.0.0.1:8000"
            assert after == before
        else:
            assert after != before
            assert entry.then is None or after == entry.then
            assert answer["needs_restart"] == []
            if not key.startswith("instances"):
                assert answer["settings"] == [re.split(r"\[\]|\.NAME\.", key)[0]]
            else:
                assert answer["added"] + answer["removed"] + answer["changed"]
    finally:
        world.change({})
    world.g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
    if entry.then is not None or key in LATE:
        assert entry.look(world) == before, "back again"


def test_removed_origin_is_refused_at_once_on_kept_connections(world: World) -> None:
    """The relay's cached heads and the application's middleware both go by the settings of now."""
    models = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: {ORIGIN}\r\n\r\n".encode()
    preflight = (
        f"OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\norigin: {ORIGIN}\r\n"
        "access-control-request-method: POST\r\n\r\n"
    ).encode()
    with Caller(world.g.port) as relayed, Caller(world.g.port) as ours:

        def seen() -> tuple[Any, ...]:
            found = [relayed.chat(f"origin: {ORIGIN}").reply() for _ in range(3)]
            answers = [*found, ours.send(models).reply(), ours.send(preflight).reply()]
            return tuple((a.status, a.headers.get("access-control-allow-origin")) for a in answers)

        for origins in ([ORIGIN], ["https://other.example", "HTTPS://Chat.Example"], ["*"]):
            world.change({"server": {"cors_origins": origins}})
            allowed = "*" if origins == ["*"] else ORIGIN
            assert seen() == ((200, allowed),) * 5, origins
        for removed in ({"cors_origins": ["https://other.example"]}, {}):
            world.change({"server": {"cors_origins": [ORIGIN]}})
            world.change({"server": removed})
            with Caller(world.g.port) as relayed:
                reply = relayed.chat(f"origin: {ORIGIN}").reply()
                assert (reply.status, reply.headers.get("access-control-allow-origin")) == (403, None)
            assert ours.send(models).reply().status == 403
            answered = ours.send(preflight).reply()
            assert answered.status >= 400
            assert answered.headers.get("access-control-allow-origin") is None
    world.change({})


def test_keys_that_come_with_a_reload_are_kept_from_the_engines() -> None:
    with RogueEngine(*[ok()] * 3) as one, gateway(one) as g, Caller(g.port) as caller:
        caller.chat("authorization: Bearer k").reply()
        assert b"Bearer k" in one.requests[-1]
        keys = (ApiKeySettings(key=Secret("k")),)
        g.settings_to_load = replace(g.settings_to_load, api_keys=keys)
        g.ask(lambda r: r.reload())
        for _ in range(2):
            assert caller.chat("authorization: Bearer k").reply().status == 200
            assert b"Bearer k" not in one.requests[-1]


def test_new_keys_in_the_same_files_are_taken_over_and_named(tmp_path: Path) -> None:
    ours, engines = tmp_path / "ours", tmp_path / "engine"
    ours.write_text("one")
    engines.write_text("e-one")
    with (
        RogueEngine(*[ok()] * 3) as engine,
        gateway(engine, api_keys=(ApiKeySettings(key=Secret(f"file:{ours}")),)) as g,
    ):
        [first] = g.settings_to_load.instances
        g.settings_to_load = replace(
            g.settings_to_load, instances=(replace(first, api_key=Secret(f"file:{engines}")),)
        )
        g.ask(lambda r: r.reload())
        ours.write_text("two")
        engines.write_text("e-two")
        found = g.ask(lambda r: r.reload())
        assert (found.settings, found.changed) == (["api_keys"], ["e0"])
        with Caller(g.port) as caller:
            assert caller.chat("authorization: Bearer one").reply().status == 401
        with Caller(g.port) as caller:
            assert caller.chat("authorization: Bearer two").reply().status == 200
        assert b"Bearer e-two" in engine.requests[-1]
        assert str(g.ask(lambda r: r.reload())) == "no change"


def test_public_gateway_does_not_lose_its_keys_to_a_file_that_names_loopback() -> None:
    """The address stays until a restart, so its rule does, too."""
    keys = (ApiKeySettings(key=Secret("k")),)
    public = ServerSettings(host="0.0.0.0")
    with RogueEngine(ok()) as engine, gateway(engine, server=public, api_keys=keys) as g:
        before = g.settings_to_load
        g.settings_to_load = replace(before, server=ServerSettings(), api_keys=())
        with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is reachable from other machines"):
            g.ask(lambda r: r.reload())
        with Caller(g.port) as caller:
            assert caller.chat().reply().status == 401
        g.settings_to_load = replace(before, server=ServerSettings(insecure=True), api_keys=())
        assert g.ask(lambda r: r.reload()).needs_restart == ["server.host"]
        g.settings_to_load = before
        g.ask(lambda r: r.reload())
        g.settings_to_load = replace(before, server=ServerSettings(host="127.0.0.1"))
        assert not g.ask(lambda r: (r.reload(), r.gateway.guard._is_local))[1]


def test_log_settings_are_taken_over_by_the_daemon_and_the_command_names_all() -> None:
    with running_gateway(config={"logging": {"level": "error"}}, await_instances=False) as g:
        log = g.paths.log_file
        assert not log.exists()  # nothing that severe happened
        g.paths.config_file.write_text(
            "logging: {level: debug, max_bytes: 4096, backups: 1}\nserver: {port: 9}\n"
        )
        shown = sage(g.home, "reload")
        assert shown.stdout == "reloaded: settings logging.level, logging.max_bytes, logging.backups\n"
        # start was told --port, which stands above the file
        assert shown.stderr == ""
        assert '"reloaded: ' in log.read_text()
        for _ in range(60):
            g.client(headers=g.admin).post("/admin/reload").raise_for_status()
        assert {part.name for part in log.parent.iterdir() if part.name.startswith(log.name)} == {
            log.name,
            f"{log.name}.1",
        }
        assert log.stat().st_size <= 4096
        g.paths.config_file.write_text("server: {host: 127.0.0.3}\nllm_model: x\n")
        shown = sage(g.home, "reload")
        assert shown.stdout.startswith("reloaded: settings llm_model, logging.level")
        assert shown.stderr == (
            f"warning: server.host takes effect only at a restart; until then the gateway stays at {g.url}\n"
            "hint: sage-inference restart\n"
        )
        document = json.loads(sage(g.home, "reload", "--json").stdout)
        assert (document["needs_restart"], document["settings"], document["address"]) == (
            ["server.host"],
            [],
            g.url,
        )


def _apply_instances(instances: tuple[InstanceSettings, ...], running: RunningGateway) -> None:
    running.fleet.apply(replace(running.gateway.settings, instances=instances))


@pytest.mark.parametrize("between", [0, 1], ids=["one reload", "a reload that changes nothing between"])
def test_an_instance_stays_until_one_that_an_earlier_reload_added_can_serve(between: int) -> None:
    """Two reloads may follow each other faster than an engine answers what it is."""
    with RogueEngine(ok("a")) as a, RogueEngine(ok("b")) as b, gateway(a) as g, Caller(g.port) as caller:
        both = (InstanceSettings(url=a.url, name="e0", kind="mixed"), InstanceSettings(url=b.url, name="e1"))
        b.slow_s = 0.2  # for each of several questions
        for instances in (both, *[both] * between, both[1:]):
            g.ask(partial(_apply_instances, instances))
            assert caller.chat().reply().body == b"a"
        g.until(lambda r: list(r.gateway.engines) == ["e1"])
        assert caller.chat().reply().body == b"b"
