"""The status of a running gateway has warnings for settings whose model no engine serves."""

from __future__ import annotations

from dataclasses import replace

import httpx

from sage_inference.config.settings import ModelSloSettings, SchedulingSettings, SloSettings
from tests.support.decisions import attempts
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller

SLO = ModelSloSettings(ttft_ms=5000)


def warnings(g: InProcess) -> list[str]:
    answer = (
        httpx.get(f"{g.url}/admin/status", headers=ADMIN, trust_env=False, verify=False)
        .raise_for_status()
        .json()
    )
    found: list[str] = answer["warnings"]
    return found


def scheduling(*models: str, **policies: str) -> SchedulingSettings:
    return SchedulingSettings(slo=SloSettings(models=dict.fromkeys(models, SLO)), policies=policies)


def test_a_model_that_no_engine_serves() -> None:
    stated = scheduling("m", "Qwen2.5-7B", "m.low", m="fifo", gone="random")
    with RogueEngine(ok()) as engine, gateway(engine, scheduling=stated) as g:
        assert warnings(g) == [
            'scheduling.policies.gone: no engine serves a model "gone"; served are "m"',
            'scheduling.slo.models.Qwen2.5-7B: no engine serves a model "Qwen2.5-7B"; served are "m"',
            'scheduling.slo.models."m.low": no engine serves a model "m.low"; served are "m"',
        ]


def test_names_of_one_model() -> None:
    aliases = {"gpt": "m", "chat": "m"}
    stated = scheduling("gpt", "chat", gpt="fifo", m="random")
    with RogueEngine(ok()) as engine, gateway(engine, scheduling=stated, aliases=aliases) as g:
        assert warnings(g) == [
            'scheduling.policies: "gpt" and "m" are names of one model; only "m" has an effect; '
            "merge them under one name",
            'scheduling.slo.models: "gpt" and "chat" are names of one model; only "chat" has an effect; '
            "merge them under one name",
        ]


def test_nothing_is_missed_before_every_engine_has_listed_its_models() -> None:
    with RogueEngine(ok()) as engine:
        down = RogueEngine(ok())
        down.refuse()
        with gateway(engine, down, scheduling=scheduling("other")) as g:
            assert warnings(g) == []
    with gateway(scheduling=scheduling("other"), llm_model="x") as g:
        assert warnings(g) == []


def test_a_policy_that_is_stated_for_an_alias_is_that_of_its_model() -> None:
    """Also one set at run time, and after a reload that changes the alias."""

    def used(model: str) -> bool:
        with Caller(g.port) as caller:
            reply = caller.chat(model=model).reply()
        [attempt] = attempts(g, reply.headers["x-request-id"])
        return str(attempt["reason"]) == "soonest first byte"

    def reload(aliases: dict[str, str], **policies: str) -> None:
        g.settings_to_load = replace(g.settings_to_load, aliases=aliases, scheduling=scheduling(**policies))
        httpx.post(f"{g.url}/admin/reload", headers=ADMIN, trust_env=False, verify=False).raise_for_status()

    stated = scheduling(gpt="slo_aware")
    with (
        RogueEngine(ok()) as one,
        RogueEngine(ok()) as two,
        gateway(one, two, scheduling=stated, aliases={"gpt": "m"}) as g,
    ):
        assert [used("m"), used("gpt")] == [True, True]
        reload({}, gpt="slo_aware")
        assert not used("m")
        reload({"gpt": "m", "chat": "m"}, chat="slo_aware", m="random")
        assert not used("chat"), "its own name before another"
        reload({"gpt": "m", "chat": "m"}, gpt="random", chat="slo_aware")
        assert used("gpt"), "the last of two"
        reload({"gpt": "m"})
        assert not used("m")
        body = {"policy": "slo_aware", "model": "gpt"}
        httpx.put(
            f"{g.url}/admin/policy", json=body, headers=ADMIN, trust_env=False, verify=False
        ).raise_for_status()
        assert used("m")
