"""Warnings on models that settings name: two names of one model, and models that no engine serves."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from sage_inference.config.load import parse
from sage_inference.config.model_names import aliased, one_model_twice, unserved
from sage_inference.config.warnings import warnings_of

ALIASES = '"aliases": {"gpt": "m", "gpt-4.1": "m", "e": "bge"}'


def twins(text: str) -> list[str]:
    settings = parse(f"{{{ALIASES}, {text}}}", "x")
    found = [remark.problem for remark in warnings_of(settings, {})]
    assert found == [remark.problem for remark in one_model_twice(settings, aliased(settings))]
    return found


@pytest.mark.parametrize(
    ("where", "value"), [("scheduling.policies", "fifo"), ("scheduling.slo.models", {"ttft_ms": 5})]
)
@pytest.mark.parametrize(
    ("names", "idle", "holds"),
    [
        (("gpt", "gpt-4.1"), '"gpt"', "gpt-4.1"),
        (("gpt-4.1", "gpt"), '"gpt-4.1"', "gpt"),
        (("gpt", "m"), '"gpt"', "m"),
        (("m", "gpt"), '"gpt"', "m"),
        (("m", "e", "gpt", "gpt-4.1"), '"gpt" and "gpt-4.1"', "m"),
        (("gpt", "e"), "", ""),
        (("m",), "", ""),
        (("other", "gpt"), "", ""),
    ],
)
def test_two_names_of_one_model_are_one_remark(
    where: str, value: object, names: tuple[str, ...], idle: str, holds: str
) -> None:
    stated: object = dict.fromkeys(names, value)
    for key in reversed(where.split(".")):
        stated = {key: stated}
    found = twins(json.dumps(stated)[1:-1])
    assert found == (
        [f'{where}: {idle} and "{holds}" are names of one model; only "{holds}" has an effect']
        if idle
        else []
    )


def missing(text: str, served: Iterable[str]) -> list[str]:
    settings = parse(f"{{{ALIASES}, {text}}}", "x")
    return [str(remark) for remark in unserved(settings, aliased(settings), list(served))]


@pytest.mark.parametrize(
    ("text", "served", "said"),
    [
        ("", ("m", "bge"), []),
        ("scheduling: {policies: {gpt: fifo, m: fifo}}", ("m", "bge"), []),
        ("", ("m",), ['aliases.e: no engine serves a model "bge"; served are "m"']),
        ("scheduling: {policies: {e: fifo}}", ("m",), ['aliases.e: no engine serves a model "bge"; served are "m"']),
        ("llm_model: mm", ("m", "bge"), ['llm_model: no engine serves a model "mm"; did you mean m?']),
        ("embedding_model: x", ("m", "bge"), ['embedding_model: no engine serves a model "x"; served are "m", "bge"']),
        (
            "scheduling: {policies: {qwen: fifo}, slo: {models: {m.critcal: {tpot_ms: 5}}}}",
            ("m", "bge", "q2", "q3", "q4", "q5"),
            [
                'scheduling.policies.qwen: no engine serves a model "qwen"; served are "m", "bge", "q2", "q3", "q4" '
                "and 1 more",
                'scheduling.slo.models."m.critcal": no engine serves a model "m.critcal"; served are "m", "bge", "q2", '
                '"q3", "q4" and 1 more',
            ],
        ),
    ],
)  # fmt: skip
def test_a_model_that_no_engine_serves_is_named_with_its_place(
    text: str, served: tuple[str, ...], said: list[str]
) -> None:
    assert missing(text, served) == said
