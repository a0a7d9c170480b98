"""Engines that a file names: they come and go while requests run, and nothing but a good list changes anything."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import (
    HealthSettings,
    InstanceSettings,
    ServerSettings,
    Settings,
    SourceSettings,
)
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from tests.support.gateway import free_port
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.listing import ListingEngine

CHAT = ("/v1/chat/completions",)
OFTEN = 0.2


def answer(path: str, document: dict[str, Any]) -> tuple[int, Any]:
    if path == "/v1/embeddings":
        return 200, {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}]}
    message = {"role": "assistant", "content": "yes"}
    return 200, {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def first() -> Iterator[ListingEngine]:
    with ListingEngine("m", post=answer, routes=CHAT, owner="vllm") as engine:
        yield engine


@pytest.fixture(scope="module")
def second() -> Iterator[ListingEngine]:
    with ListingEngine("m", post=answer, routes=CHAT, owner="vllm") as engine:
        yield engine


class Place:
    """A file with a list, which is replaced in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def label(self) -> str:
        return f"file {self.path}"

    def write(self, text: str) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.path)

    def name(self, **engines: str) -> None:
        self.write("".join(f"- {{url: {url}, name: {name}}}\n" for name, url in engines.items()) or "[]\n")

    def settings(self, **more: Any) -> SourceSettings:
        return SourceSettings(file=str(self.path), **{"interval_s": OFTEN, "drain_s": 0.0, **more})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "engines.yaml")


@contextmanager
def sourced(
    *sources: SourceSettings,
    instances: Sequence[InstanceSettings] = (),
    folder: Path | None = None,
    **settings: Any,
) -> Iterator[InProcess]:
    health = HealthSettings(interval_s=0.5, timeout_s=1.0)
    with gateway(*instances, sources=sources, sources_folder=folder, health=health, **settings) as running:
        yield running


def ready(*names: str) -> Callable[[RunningGateway], bool]:
    def check(running: RunningGateway) -> bool:
        engines = running.gateway.engines
        states = {name: each.instance.state for name, each in engines.items()}
        return states == dict.fromkeys(names, EngineState.READY)

    return check


def has(*names: str) -> Callable[[RunningGateway], bool]:
    return lambda running: set(running.gateway.engines) == set(names)


def looks(running: RunningGateway) -> int:
    [watch] = running.sources.watches
    return watch.looks


def after_looks(door: InProcess, count: int = 3) -> None:
    """Wait until the source was looked at so many times more."""
    seen = door.ask(looks)
    door.until(lambda running: looks(running) >= seen + count)


def document(door: InProcess) -> dict[str, Any]:
    [found] = httpx.get(f"{door.url}/admin/status", headers=ADMIN).json()["sources"]
    assert isinstance(found, dict)
    return found


def chat(door: InProcess, model: str = "m") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{door.url}/v1/chat/completions", json=body, timeout=20)


def test_engines_come_and_go_with_the_file(place: Place, first: ListingEngine, second: ListingEngine) -> None:
    place.name(a=first.url)
    with sourced(place.settings()) as door:
        assert door.ask(ready("a")), "a start waits for the first list and the looks at its engines"
        assert chat(door).headers["x-sage-instance"] == "a"
        assert door.ask(lambda running: running.fleet.sourced.owner_of("a")) == place.label
        place.name(a=first.url, b=second.url)
        door.until(ready("a", "b"))
        place.name(b=second.url)
        door.until(has("b"))
        assert chat(door).headers["x-sage-instance"] == "b"
        found = document(door)
        assert (found["kind"], found["address"], found["state"]) == ("file", str(place.path), "ok")
        assert (found["instances"], found["skipped"], found["last_error"]) == (1, [], None)
        assert found["age_s"] < 5


def test_a_model_whose_last_engine_left_is_503_and_no_404(place: Place, first: ListingEngine) -> None:
    place.name(a=first.url)
    with sourced(place.settings(), aliases={"other": "m"}) as door:
        place.name()
        door.until(has())
        for name in ("m", "other"):
            reply = chat(door, name)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_healthy_instance")
            assert int(reply.headers["retry-after"]) > 0
            assert "the last one left the list of file" in reply.json()["error"]["message"]
            reply = httpx.get(f"{door.url}/v1/models/{name}")
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        for path, body in (
            ("/v1/embeddings", {"model": "m", "input": "x"}),
            ("/v1/completions", {"model": "m", "prompt": "x"}),
            ("/v1/messages", {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/v1/rerank", {"model": "m", "query": "x", "documents": ["y"]}),
            ("/tokenize", {"model": "m", "prompt": "x"}),
        ):
            reply = httpx.post(door.url + path, json=body, timeout=20)
            assert reply.status_code == 503, (path, reply.text)
            assert reply.headers["retry-after"] == "5"
        assert chat(door, "never-there").status_code == 404
        place.name(a=first.url)
        door.until(ready("a"))
        assert chat(door).status_code == 200


def test_the_name_of_a_model_is_forgotten_in_time(
    place: Place, first: ListingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_inference.gateway.sourced.NAME_KEPT_S", 0.5)
    place.name(a=first.url)
    with sourced(place.settings()) as door:
        place.name()
        door.until(has())
        assert chat(door).status_code == 503
        door.until(lambda running: not running.gateway.registry.departed)
        assert chat(door).status_code == 404


def test_a_file_that_is_no_list_changes_nothing(place: Place, first: ListingEngine, tmp_path: Path) -> None:
    good = f"- {{url: {first.url}, name: a}}\n"
    place.write(good)
    with sourced(place.settings()) as door:

        def complains(text: str) -> None:
            door.until(lambda running: text in (running.sources.watches[0].last_error or ""))
            after_looks(door, 1)
            assert door.ask(ready("a"))
            found = document(door)
            assert (found["state"], found["instances"]) == ("stale", 1)
            assert chat(door).status_code == 200

        place.write(good + "- {url: 'http://h:")
        complains("not YAML")
        place.path.unlink()
        complains("No such file")
        place.write("#" * (2 << 20))
        complains("is larger than 1 MiB")
        place.write("instances: []\naliases: {}")
        complains("unknown key 'aliases'")
        place.path.unlink()
        place.path.mkdir()
        complains("is no regular file")
        place.path.rmdir()
        os.mkfifo(place.path)
        complains("is no regular file")
        place.path.unlink()
        for number in (1, 2):  # a link that is swapped
            target = tmp_path / f"target-{number}"
            target.write_text(good if number == 2 else "nonsense")
            draft = tmp_path / "link"
            draft.symlink_to(target)
            draft.replace(place.path)
            if number == 1:
                complains("must hold a list of instances")
        door.until(lambda running: running.sources.watches[0].state == "ok")
        assert door.ask(ready("a"))


def test_an_empty_list_counts_when_it_comes_twice(place: Place, first: ListingEngine) -> None:
    place.name(a=first.url)
    with sourced(place.settings(interval_s=0.4)) as door:
        seen = door.ask(looks)
        place.name()
        door.until(lambda running: running.sources.watches[0].last.was_empty)
        empty_at = door.ask(looks)
        assert door.ask(ready("a")), "the first empty list changes nothing"
        door.until(has())
        assert door.ask(looks) > empty_at > seen


def test_bad_entries_are_named_and_the_others_count(place: Place, first: ListingEngine) -> None:
    with sourced(place.settings(), server=ServerSettings(port=(port := free_port()))) as door:
        place.write(
            f"""\
- {{url: {first.url}, name: a}}
- {{url: 'ftp://h:1', name: b}}
- {{url: 'http://127.0.0.1:{port}', name: us}}
- {{url: '{first.url}', name: twin}}
- {{url: 'http://h:2', name: a}}
- {{url: 'http://h:3', name: 'with/slash'}}
- {{url: 'http://h:4', kind: nonsense}}
- {{url: 'http://h:5', api_key: 'env:NO_SUCH_VARIABLE'}}
"""
        )
        door.until(ready("a"))
        skipped = "\n".join(document(door)["skipped"])
        for words in (
            f"{place.path}:2:9: instances[1].url must be http://host:port",
            f"us: http://127.0.0.1:{port} is the gateway's own address",
            "twin: " + first.url + " is in the list already, as a",
            "http://h:2: another engine of the list is named a",
            "instances[5].name must be letters, digits",
            "instances[6].kind must be one of",
            "http://h:5: the key: environment variable NO_SUCH_VARIABLE is not set",
        ):
            assert words in skipped


def test_an_engine_that_left_finishes_what_it_has(place: Place) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        begun.set()
        go.wait(20)
        return answer(path, asked)

    with ListingEngine("m", post=slow, routes=CHAT, owner="vllm") as engine:
        place.name(a=engine.url)
        with sourced(place.settings(drain_s=30.0)) as door:
            replies: list[httpx.Response] = []
            caller = threading.Thread(target=lambda: replies.append(chat(door)))
            caller.start()
            assert begun.wait(10)
            place.name()
            door.until(lambda running: running.gateway.engines["a"].instance.state is EngineState.DRAINING)
            assert chat(door).status_code == 503
            resumed = httpx.post(f"{door.url}/admin/instances/a/resume", headers=ADMIN)
            assert (resumed.status_code, resumed.json()["error"]["code"]) == (409, "instance_of_source")
            place.name(a=engine.url)
            door.until(ready("a"))  # the same engine came back
            place.name()
            door.until(lambda running: running.gateway.engines["a"].instance.state is EngineState.DRAINING)
            go.set()
            caller.join(20)
            assert replies[0].status_code == 200
            door.until(has())


def test_an_instance_belongs_to_one_owner(place: Place, first: ListingEngine, second: ListingEngine) -> None:
    place.name(mine=first.url, other=second.url)
    mine = InstanceSettings(url=first.url, name="mine")
    with sourced(place.settings(), instances=(mine,)) as door:
        door.until(ready("mine", "other"))
        instances = httpx.get(f"{door.url}/admin/instances", headers=ADMIN).json()["instances"]
        assert {each["name"]: each["source"] for each in instances} == {"mine": None, "other": place.label}
        assert f"mine: {first.url} is an instance already, mine" in document(door)["skipped"]
        gone = httpx.delete(f"{door.url}/admin/instances/other", headers=ADMIN)
        assert (gone.status_code, gone.json()["error"]["code"]) == (409, "instance_of_source")
        added = {"url": second.url, "name": "other"}
        assert httpx.post(f"{door.url}/admin/instances", headers=ADMIN, json=added).status_code == 409
        place.name(mine=first.url)
        door.until(has("mine"))
        place.name()
        after_looks(door, 4)
        assert door.ask(ready("mine")), "a source removes only its own"


def reload(door: InProcess, **settings: Any) -> None:
    health = HealthSettings(interval_s=0.5, timeout_s=1.0)
    door.settings_to_load = Settings(health=health, **settings)
    door.ask(lambda running: running.reload())


def test_a_reload_keeps_the_instances_of_a_source_that_stays(place: Place, first: ListingEngine) -> None:
    place.name(a=first.url)
    with sourced(place.settings()) as door:
        upstream, watch = door.ask(lambda r: (r.gateway.engines["a"], r.sources.watches[0]))
        reload(door, sources=(place.settings(),), aliases={"x": "m"})
        after_looks(door)
        assert door.ask(lambda r: r.gateway.engines["a"]) is upstream
        assert door.ask(lambda r: r.sources.watches[0]) is watch
        # Changed settings: watched anew, the instance follows.
        reload(door, sources=(place.settings(max_concurrent_requests=3),))
        door.until(lambda r: r.gateway.engines["a"].instance.max_concurrent_requests == 3)
        assert door.ask(lambda r: r.sources.watches[0]) is not watch
        door.until(ready("a"))
        # The configuration takes the engine over, and gives it back.
        reload(door, sources=(place.settings(),), instances=(InstanceSettings(url=first.url, name="a"),))
        door.until(lambda r: r.fleet.sourced.owner_of("a") is None and ready("a")(r))
        after_looks(door)
        assert door.ask(ready("a"))
        reload(door, sources=(place.settings(),))
        door.until(lambda r: r.fleet.sourced.owner_of("a") == place.label and ready("a")(r))
        # Another source names the same engine: it moves there. Without any, it goes.
        moved = Place(place.path.with_name("moved.yaml"))
        moved.name(a=first.url)
        reload(door, sources=(moved.settings(),))
        door.until(lambda r: r.fleet.sourced.owner_of("a") == moved.label)
        time.sleep(0.3)
        assert door.ask(ready("a"))
        reload(door)
        door.until(has())
        assert chat(door).status_code == 503


def test_a_start_that_finds_the_source_silent_uses_the_list_on_disk(
    place: Place, first: ListingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-of-the-engine")
    folder = tmp_path / "sources"
    place.write(
        f"- {{url: {first.url}, name: a, api_key: env:ENGINE_KEY, model: m}}\n- {{url: 'http://h:1', api_key: sk-literal}}"
    )
    with sourced(place.settings(), folder=folder) as door:
        door.until(lambda running: running.gateway.engines.keys() == {"a", "h:1"})
        door.until(lambda running: any(folder.glob("*.json")))
    place.path.unlink()
    [kept] = folder.glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "sk-" not in kept.read_text()
    began = time.monotonic()
    with sourced(place.settings(), folder=folder) as door:
        assert time.monotonic() - began < 3
        assert door.ask(lambda r: r.gateway.engines["a"].api_key) == "sk-of-the-engine"
        assert chat(door).status_code == 200
        found = document(door)
        assert (found["state"], found["instances"], found["age_s"]) == ("stale", 2, None)
        place.name(a=first.url)
        door.until(ready("a"))
        assert document(door)["state"] == "ok"
    kept.write_text("{nonsense")
    place.path.unlink()
    with sourced(place.settings(), folder=folder) as door:
        assert document(door)["state"] == "failed"
        reply = chat(door)
        assert reply.status_code == 503, "the model may be one of the source's"
        assert f"no list so far from: {place.label}" in reply.json()["error"]["message"]
