"""Detection: each step of the order with real servers on real ports, and what must not be taken for one."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any
from urllib.parse import urlsplit

import pytest

import sage_inference as si
from sage_inference.config.settings import InstanceSettings
from tests.client.faces import Clients
from tests.support.gateway import free_port, running_gateway
from tests.support.inprocess import gateway
from tests.support.replay import recorded, replay
from tests.support.rogue import RogueEngine, ok
from tests.support.simulators import SimulatedEngine


def port(url: str) -> int:
    found = urlsplit(url).port
    assert found is not None
    return found


@pytest.fixture
def nowhere() -> dict[str, Any]:
    """Ports where nobody listens."""
    return {"llm_ports": (free_port(), free_port()), "embedding_ports": (free_port(),)}


def places(client: Any) -> tuple[str | None, str | None]:
    status = client.get_status()
    return status["llm"]["base_url"], status["embedding"]["base_url"]


def test_arguments_go_before_all_else(
    clients: Clients, nowhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_UNIFIED_BASE_URL", "http://127.0.0.1:9")
    client = clients.auto(llm_base_url="http://127.0.0.1:7", **nowhere)
    assert places(client) == ("http://127.0.0.1:7", "http://127.0.0.1:9")


def test_the_unified_variable_goes_before_those_of_a_kind(
    clients: Clients, nowhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"UNIFIED_BASE_URL": "7", "CHAT_BASE_URL": "8", "EMBEDDING_BASE_URL": "9"}.items():
        monkeypatch.setenv(f"SAGE_{name}", f"http://127.0.0.1:{value}/v1")
    monkeypatch.setenv("SAGE_UNIFIED_MODEL", "u")
    assert places(clients.auto(**nowhere)) == ("http://127.0.0.1:7", "http://127.0.0.1:7")
    monkeypatch.delenv("SAGE_UNIFIED_BASE_URL")
    assert places(clients.auto(**nowhere)) == ("http://127.0.0.1:8", "http://127.0.0.1:9")


def test_variables_carry_model_and_key(
    clients: Clients, nowhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.client.test_calls import CHAT, sent

    with RogueEngine(ok(json.dumps(CHAT))) as engine:
        monkeypatch.setenv("SAGE_CHAT_BASE_URL", engine.url)
        monkeypatch.setenv("SAGE_CHAT_MODEL", "from-env")
        monkeypatch.setenv("SAGE_CHAT_API_KEY", "k")
        clients.auto(**nowhere).chat("hi")
        assert sent(engine)["model"] == "from-env"
        assert b"authorization: Bearer k\r\n" in engine.requests[0]
        clients.auto(llm_model="told", **nowhere).chat("hi")
        assert sent(engine)["model"] == "told"


def test_the_running_daemon_is_found_by_its_files_with_its_key(
    clients: Clients,
    vllm: SimulatedEngine,
    tei: SimulatedEngine,
    nowhere: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = {"api_keys": [{"key": "secret"}]}
    with running_gateway(vllm.url, tei.url, config=config, await_instances=False) as g:
        monkeypatch.setenv("SAGE_INFERENCE_HOME", str(g.home))
        with pytest.raises(si.NoServerFoundError, match="SAGE_UNIFIED_API_KEY"):
            clients.auto(**nowhere)
        monkeypatch.setenv("SAGE_UNIFIED_API_KEY", "secret")
        with g.client(headers={"authorization": "Bearer secret"}) as http:
            while len(http.get("/v1/models").json()["data"]) < 2:
                time.sleep(0.02)
        client = clients.auto(**nowhere)
        assert places(client) == (g.url, g.url)
        assert client.chat("hi", max_tokens=1)
        assert len(client.embed("hi")) > 100
        assert client.get_status()["llm"]["model"] == "simulated-llm"


def test_local_ports_are_probed_and_kinds_recognised(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    client = clients.auto(llm_ports=(free_port(), vllm.port), embedding_ports=(free_port(), tei.port))
    assert places(client) == (vllm.url, tei.url)
    status = client.get_status()
    assert (status["llm"]["model"], status["embedding"]["model"]) == ("simulated-llm", "simulated-embedding")


def test_servers_in_each_others_places_are_not_mixed_up(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    client = clients.auto(llm_ports=(tei.port,), embedding_ports=(vllm.port,))
    assert places(client) == (vllm.url, tei.url)


def test_ports_can_be_named_in_the_environment(
    clients: Clients,
    vllm: SimulatedEngine,
    tei: SimulatedEngine,
    nowhere: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAGE_LLM_PORT", str(vllm.port))
    monkeypatch.setenv("SAGE_EMBEDDING_PORT", str(tei.port))
    assert places(clients.auto(**nowhere)) == (vllm.url, tei.url)
    monkeypatch.setenv("SAGE_LLM_PORT", "http")
    with pytest.raises(ValueError, match="SAGE_LLM_PORT must be a port"):
        clients.auto(**nowhere)


def test_the_gateway_on_port_8000_serves_what_it_says(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine, nowhere: dict[str, Any]
) -> None:
    with gateway(vllm, tei) as g:
        client = clients.auto(**{**nowhere, "llm_ports": (free_port(), g.port)})
        assert places(client) == (g.url, g.url)
    with gateway(
        InstanceSettings(url=tei.url, name="t")
    ) as g:  # one TEI behind it, whose /info it relays: still a gateway, and no LLM
        client = clients.auto(**{**nowhere, "llm_ports": (g.port,)})
        assert places(client) == (None, g.url)
        with pytest.raises(si.NoServerFoundError, match=rf"{g.url} serves no llm model"):
            client.chat("hi")


def test_a_model_that_is_asked_for_must_be_served(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    ports = {"llm_ports": (vllm.port,), "embedding_ports": (tei.port,)}
    assert clients.auto(llm_model="simulated-llm", **ports).get_status()["llm"]["model"] == "simulated-llm"
    client = clients.auto(llm_model="qwen", **ports)
    assert places(client) == (None, tei.url)
    with pytest.raises(si.NoServerFoundError, match="serves simulated-llm, not qwen"):
        client.chat("hi")


EVERYTHING = [b"{}", b"<html>hello</html>", b'{"status": "ok"}', b'{"data": []}', b'{"data": 3}', b"[]"]


@pytest.mark.parametrize("body", EVERYTHING, ids=lambda body: body.decode())
def test_a_server_that_says_200_to_everything_is_no_engine(
    clients: Clients, body: bytes, nowhere: dict[str, Any]
) -> None:
    with replay({"*": (200, body)}) as decoy, pytest.raises(si.NoServerFoundError) as caught:
        clients.auto(**{**nowhere, "llm_ports": (port(decoy),)})
    assert any(decoy in line for line in caught.value.tried)


def test_servers_that_hang_cost_one_second_in_all(clients: Clients, vllm: SimulatedEngine) -> None:
    with replay({"*": None}) as one, replay({"*": None}) as two:
        since = time.monotonic()
        client = clients.auto(llm_ports=(port(one), port(two), vllm.port), embedding_ports=())
        assert time.monotonic() - since < 1.9
        assert places(client)[0] == vllm.url


def test_a_real_teis_info_is_understood(clients: Clients, nowhere: dict[str, Any]) -> None:
    answers = {"/info": recorded("tei/002_info"), "/health": recorded("tei/000_health")}
    with replay(answers) as url:
        client = clients.auto(**{**nowhere, "embedding_ports": (port(url),)})
        assert places(client) == (None, url)


def test_an_engine_that_wants_a_key_says_so(clients: Clients, nowhere: dict[str, Any]) -> None:
    answers = {"*": recorded("vllm/084_auth_models_missing_key")}
    with replay(answers) as url, pytest.raises(si.NoServerFoundError, match=r"answers 401.*api_key"):
        clients.auto(**{**nowhere, "llm_ports": (port(url),)})


def test_nothing_found_lists_every_step_and_what_would_help(
    clients: Clients, nowhere: dict[str, Any]
) -> None:
    with pytest.raises(si.NoServerFoundError) as caught:
        clients.auto(**nowhere)
    begins = [line.partition(":")[0] for line in caught.value.tried]
    assert begins == [
        "arguments",
        "SAGE_UNIFIED_BASE_URL",
        "SAGE_CHAT_BASE_URL, SAGE_EMBEDDING_BASE_URL",
        "running gateway",
        "LLM ports",
        "embedding ports",
        "DashScope (cloud)",
    ]
    assert "connection refused" in caught.value.tried[4]
    assert "sage inference start --background" in str(caught.value)


CLOUD = "https://dashscope.aliyuncs.com/compatible-mode"


def test_the_cloud_is_used_only_when_asked_for_and_named_in_a_warning(
    clients: Clients, nowhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_CHAT_API_KEY", "k")
    with pytest.raises(si.NoServerFoundError, match="allow_cloud=True"):
        clients.auto(**nowhere)
    with pytest.warns(UserWarning, match=f"prompts leave this machine: chat goes to {CLOUD}"):
        client = clients.auto(allow_cloud=True, **nowhere)
    assert endpoint(client).url == CLOUD
    assert endpoint(client).api_key == "k"
    monkeypatch.setenv("DASHSCOPE_API_KEY", "d")
    with pytest.warns(UserWarning, match="leave this machine"):
        assert endpoint(clients.auto(llm_model="qwen-max", **nowhere)).model == "qwen-max"
    with pytest.raises(si.NoServerFoundError, match="forbidden by allow_cloud=False"):
        clients.auto(allow_cloud=False, **nowhere)


def endpoint(client: Any) -> Any:
    return client._work.endpoints["llm"]


def test_local_servers_go_before_the_cloud_unless_told_otherwise(
    clients: Clients, vllm: SimulatedEngine, nowhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "d")
    ports = {**nowhere, "llm_ports": (vllm.port,)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert endpoint(clients.auto(**ports)).url == vllm.url
    with pytest.warns(UserWarning, match="leave this machine"):
        assert endpoint(clients.auto(prefer_local=False, **ports)).url == CLOUD


def test_embeddings_never_go_to_the_cloud_by_themselves(
    clients: Clients, nowhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "d")
    with pytest.warns(UserWarning, match="leave"):
        client = clients.auto(**nowhere)
    with pytest.raises(si.NoServerFoundError, match="no embedding server"):
        client.embed("private")


def test_the_daemons_server_wins_over_ports_and_a_dead_one_is_passed_over(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {"llm_ports": (vllm.port,), "embedding_ports": (tei.port,)}
    with running_gateway(vllm.url, tei.url) as g:
        monkeypatch.setenv("SAGE_INFERENCE_HOME", str(g.home))
        assert places(clients.auto(**ports)) == (g.url, g.url)
        g.process.kill()
        g.process.wait(10)
        assert places(clients.auto(**ports)) == (vllm.url, tei.url)
