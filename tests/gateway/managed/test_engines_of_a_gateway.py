"""The life of managed engines behind one gateway, which its tests share: each leaves both engines ready."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from sage_inference.engines.managed import supervisor
from tests.support import managed as support
from tests.support.inprocess import ADMIN
from tests.support.managed import EMBED, ManagedGateway, gone, kill, managed, processes

_NO_TEMPLATE = {
    "message": "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
    "template if the tokenizer does not define one.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
# Only the first chat is refused, so that the tests can go on to chat.
_REFUSED = {
    "status": 400,
    "count": 1,
    "route": "/v1/chat/completions",
    "body": json.dumps({"error": _NO_TEMPLATE}),
}
CHAT = replace(support.CHAT, args=("--fault", json.dumps(_REFUSED)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedGateway]:
    with (
        pytest.MonkeyPatch.context() as patch,
        managed(tmp_path_factory.mktemp("state"), CHAT, EMBED) as gateway,
    ):
        patch.setattr(supervisor, "FIRST_S", 0.1)
        yield gateway


def test_requests_wait_while_their_engines_start(shared: ManagedGateway) -> None:
    with ThreadPoolExecutor(4) as pool:
        chats = [pool.submit(shared.chat) for _ in range(2)]
        embeds = [pool.submit(shared.embed) for _ in range(2)]
        assert [each.result().status_code for each in (*chats, *embeds)] == [200] * 4
    assert {shared.engine(name)["state"] for name in ("chat", "embed")} == {"ready"}
    models = {card["id"]: card for card in shared.http.get("/v1/models").json()["data"]}
    assert models["org/chat"]["sage_state"] == models["org/embed"]["sage_state"] == "ready"
    assert models["org/chat"]["type"] == "chat"


def test_a_missing_chat_template_is_reported_before_a_caller_finds_it(shared: ManagedGateway) -> None:
    warning = shared.state("chat", "ready")["warning"]
    assert warning["message"] == "it refuses chats, because its model has no chat template"
    assert "--chat-template" in warning["hint"]
    assert shared.state("embed", "ready")["warning"] is None


def test_requests_held_while_a_killed_engine_comes_back_succeed(shared: ManagedGateway) -> None:
    before = shared.state("chat", "ready")
    core = [child.pid for child in psutil.Process(before["pid"]).children(recursive=True)]
    assert core, "the simulated vLLM has an engine core of its own"
    with ThreadPoolExecutor(7) as pool:
        running = pool.submit(shared.chat, max_tokens=50)  # the engine works on it when it is killed
        shared.until(lambda gateway: gateway.gateway.in_flight == 1)
        kill(before["pid"])
        plain = [running, *(pool.submit(shared.chat) for _ in range(3))]
        streams = [pool.submit(shared.chat, stream=True) for _ in range(2)]
        answers = [each.result() for each in (*plain, *streams)]
    assert [each.status_code for each in answers] == [200] * 6
    assert all("[DONE]" in each.text for each in answers[4:])
    gone(core)
    after = shared.state("chat", "ready")
    assert after["pid"] != before["pid"]
    assert after["restarts"] == before["restarts"] + 1


@pytest.mark.parametrize("ended", ["core", "server"])
def test_requests_whose_engine_ends_succeed_on_its_successor(shared: ManagedGateway, ended: str) -> None:
    before = shared.state("chat", "ready")
    server = psutil.Process(before["pid"])
    core = next(child for child in server.children() if child.name().startswith("VLLM::EngineCor"))
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(shared.chat, max_tokens=50, ignore_eos=True) for _ in range(2)]
        shared.until(lambda gateway: gateway.gateway.in_flight == 2)
        # The API server answers all requests with an error until it ends.
        core.kill() if ended == "core" else server.terminate()
        late = [pool.submit(shared.chat), pool.submit(shared.chat, stream=True)]
        answers = [each.result() for each in (*running, *late)]
    assert [each.status_code for each in answers] == [200] * 4
    assert "[DONE]" in answers[-1].text
    assert shared.restarted(before)["pid"] != before["pid"]


def test_fifty_loads_are_one_start(shared: ManagedGateway) -> None:
    before = shared.state("embed", "ready")
    assert shared.order("embed", "unload").status_code == 202
    shared.state("embed", "off")
    refused = shared.embed()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_not_loaded"
    assert "sage inference load embed" in refused.json()["error"]["message"]
    models = {card["id"]: card for card in shared.http.get("/v1/models").json()["data"]}
    assert models["org/embed"]["sage_state"] == "off"
    with ThreadPoolExecutor(10) as pool:
        loads = list(pool.map(lambda _: shared.order("embed", "load").status_code, range(50)))
    assert loads == [202] * 50
    after = shared.state("embed", "ready")
    assert after["pid"] != before["pid"]
    assert after["restarts"] == before["restarts"]
    assert shared.runs("embed") == 2
    assert shared.embed().status_code == 200


def test_an_unknown_engine_is_refused_with_the_known_ones(shared: ManagedGateway) -> None:
    answer = shared.order("nobody", "load")
    assert answer.status_code == 404
    assert "chat, embed" in answer.json()["error"]["message"]
    for body in ({"model": "m", "command": ["sh"]}, {"model": 1}, {"model": "a\nb"}, ["m"], {"model": ""}):
        answer = shared.http.post("/admin/engines", json=body, headers=ADMIN)
        assert answer.status_code == 400, body


def test_engines_run_on_for_the_next_gateway(shared: ManagedGateway) -> None:
    """Last, because the shared gateway ends here."""
    pids = {name: shared.state(name, "ready")["pid"] for name in ("chat", "embed")}
    shared.keep()
    shared.stop()
    changed = replace(EMBED, dtype="float16")
    with managed(shared.state_dir, CHAT, changed) as successor:
        # They served already when the gateway began to listen.
        found = {name: successor.engine(name) for name in ("chat", "embed")}
        assert {name: each["state"] for name, each in found.items()} == {"chat": "ready", "embed": "ready"}
        assert {name: each["pid"] for name, each in found.items()} == pids
        assert all(each["adopted"] for each in found.values())
        assert found["chat"]["warning"], "an adopted engine is not asked for a token again"
        assert successor.chat().status_code == successor.embed().status_code == 200
        # Former settings are served on, until a reload.
        successor.until(
            lambda gateway: gateway.managed is not None and gateway.managed.engines["embed"].outdated
        )
        assert not successor.engine("chat")["outdated"]
        # Settings that could not start are no reason to stop what runs.
        successor.reload(CHAT, replace(EMBED, max_model_len=512))  # TEI has no option for that
        assert successor.engine("embed")["pid"] == pids["embed"]
        assert successor.embed().status_code == 200
        successor.reload(CHAT, changed)
        successor.state("embed", "waiting", "starting")
        after = successor.state("embed", "ready")
        assert (after["pid"] != pids["embed"], after["outdated"]) == (True, False)
        assert successor.engine("chat")["pid"] == pids["chat"]
        left = processes(shared.state_dir)
        successor.stop()
        gone(left, 1)
