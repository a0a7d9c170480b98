"""The settings of engines that the gateway starts: what is accepted, what is refused and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_inference.config import check, flags
from sage_inference.config.document import json_schema, masked
from sage_inference.config.edit import set_value
from sage_inference.config.engine_rules import name_of_engine, served_names_of
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, parse
from sage_inference.config.settings import Flags, ManagedEngineSettings, Settings
from sage_inference.config.sizes import Budget, budget, port_range
from sage_inference.config.warnings import warnings_of

GIB = 1 << 30


def engine(entry: str) -> ManagedEngineSettings:
    return parse(f"engines: [{entry}]", "f").engines[0]


@pytest.mark.parametrize(
    ("entry", "key", "value"),
    [
        ("Qwen/Qwen2.5-7B", "model", "Qwen/Qwen2.5-7B"),
        ("{model: m, gpus: 0}", "gpus", ("0",)),
        ("{model: m, gpus: [0, 1]}", "gpus", ("0", "1")),
        ("{model: m, gpus: cpu}", "gpus", ("cpu",)),
        ("{model: m, gpus: GPU-8a1b2c3d-1}", "gpus", ("GPU-8a1b2c3d-1",)),
        ("{model: m, memory: 0.40}", "memory", "0.40"),
        ("{model: m, memory: 20 GiB}", "memory", "20 GiB"),
        ("{model: m, args: [--max-num-seqs, 64, --flag, true, 0.90]}", "args", ("--max-num-seqs", "64", "--flag", "true", "0.90")),
        ("{model: m, args: --enforce-eager}", "args", ("--enforce-eager",)),
        ("{model: m, served_names: qwen}", "served_names", ("qwen",)),
        ("{model: m, revision: 20250101}", "revision", "20250101"),
    ],
)  # fmt: skip
def test_values_are_taken_as_they_are_usually_written(entry: str, key: str, value: object) -> None:
    assert getattr(engine(entry), key) == value


def test_the_environment_is_secret_and_keeps_its_spelling() -> None:
    found = engine("{model: m, env: {A: 1, B: 0.50, C: true, D: 'env:HOME'}}").env
    assert {name: secret.reveal({"HOME": "h"}) for name, secret in found.items()} == {
        "A": "1",
        "B": "0.50",
        "C": "true",
        "D": "h",
    }
    document = masked(parse("engines: [{model: m, env: {A: literal, D: 'env:HOME'}}]", "f"))
    assert document["engines"][0]["env"] == {"A": "***", "D": "env:HOME"}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{}", "engines[0].model is missing"),
        ("{model: m, gpus: [0, x]}", "takes auto, cpu, or indices and UUIDs of GPUs"),
        ("{model: m, gpus: MIG-1}", "takes auto, cpu, or indices and UUIDs of GPUs"),
        ("{model: m, memory: 1.5}", "takes a size (20GiB) or a share above 0 and at most 1"),
        ("{model: m, memory: 0}", "takes a size"),
        ("{model: m, memory: lots}", "takes a size"),
        ("{model: m, memory: 20 GiBs}", "takes a size"),
        ("{model: m, memory: 120%}", "takes a size"),
        ("{model: m, name: a/b}", "must be letters, digits and . _ -"),
        ("{model: m, name: ..}", "must be letters, digits and . _ -"),
        ("{model: m, engine: sglang}", "one of auto, vllm, tei, infinity, llama_server, command"),
        ("{model: m, start: never}", "one of boot, demand, manual"),
        ("{model: m, args: {a: 1}}", "must be a list"),
        ("{model: m, args: [[a]]}", "must be a single value"),
        ("{model: m, args: null}", "must be a list, not null"),
        ("{model: m, env: [A]}", "must be a map of names"),
        ("{model: 7}", "must be text"),
        ("{model: m, max_model_len: 8k}", "must be a whole number"),
    ],
)
def test_a_wrong_value_is_refused(entry: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        engine(entry)
    assert problem in str(caught.value)
    assert caught.value.line == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("engines: [{model: m, gpus: [auto, 1]}]", "engines[0].gpus takes auto, or cpu, or a list of GPUs"),
        ("engines: [{model: m, gpus: []}]", "engines[0].gpus takes auto, or cpu, or a list of GPUs"),
        ("engines: [{model: m, gpus: [1, 1]}]", "engines[0].gpus lists a GPU twice"),
        ("engines: [{model: m, gpus: [1], tensor_parallel: 2}]", "engines[0].tensor_parallel is 2, and gpus has 1"),
        ("engines: [{model: m, engine: command}]", "engines[0].command is missing, and engine is command"),
        ("engines: [{model: m, engine: vllm, command: [a]}]", "engines[0].command is set, and engine is vllm"),
        ("engines: [{model: m, env: {1A: x}}]", "is no name of a variable"),
        ("engines: [{model: m, env: {A: 'env:NOT_SET_HERE'}}]", "engines[0].env.A: environment variable NOT_SET_HERE is not set"),
        ("engines: [o/m, p/M]", "engines[1] and engines[0] are both named m"),
        ("engines: [{model: o/m, name: a}, {model: x, name: A}]", "engines[1] and engines[0] are both named A"),
        ("instances: [{url: 'h:1', name: m}]\nengines: [o/m]", "engines[0] and instances[0] are both named m"),
        ("managed: {hf_token: 'env:NOT_SET_HERE'}", "managed.hf_token: environment variable NOT_SET_HERE is not set"),
    ],
)  # fmt: skip
def test_a_rule_between_keys_is_checked(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check.check(parse(text, "f"), {})
    assert problem in caught.value.problem
    assert caught.value.key


@pytest.mark.parametrize("value", ["1-x", "0-5", "5-4", "70000", "18400-", "a"])
def test_a_wrong_range_of_ports_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="takes a range of ports"):
        parse(f"managed: {{ports: '{value}'}}", "f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20GiB", Budget(None, 20 * GIB)),
        ("20g", Budget(None, 20 * GIB)),
        ("20 GB", Budget(None, 20 * 10**9)),
        ("1.5GiB", Budget(None, 3 * GIB // 2)),
        ("512MiB", Budget(None, 512 << 20)),
        ("0.4", Budget(0.4, None)),
        ("40%", Budget(0.4, None)),
        ("1", Budget(1.0, None)),
    ],
)
def test_sizes_and_shares_are_read(text: str, expected: Budget) -> None:
    assert budget(text) == expected
    assert budget("0.5").of(80 * GIB) == 40 * GIB


def test_ports_are_a_range_or_one() -> None:
    assert port_range("18400-18499") == range(18400, 18500)
    assert port_range("8001") == range(8001, 8002)
    assert parse("managed: {ports: 8001}", "f").managed.ports == "8001"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("BAAI/bge-m3", "bge-m3"),
        ("/models/My Model/", "my-model"),
        ("~/gemma-Q4_K_M.gguf", "gemma-q4_k_m"),
        ("/", "engine"),
        ("org/.hidden", "hidden"),
        ("org/" + "x" * 99, "x" * 63),
        ("模型", "engine"),
    ],
)
def test_an_engine_is_named_after_the_last_part_of_its_model(model: str, name: str) -> None:
    entry = ManagedEngineSettings(model=model)
    assert name_of_engine(entry) == name
    check.check(parse(f"engines: [{{model: '{model}'}}]", "f"), {})
    assert served_names_of(entry) == (model,)


def test_commands_of_the_configuration_set_them(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    set_value(file, "engines", "[Qwen/Qwen2.5-7B]")
    set_value(file, "engines[0].memory", "0.4")
    set_value(file, "engines[0].gpus", "0")
    set_value(file, "engines[0].args", "[--max-num-seqs, 64]")
    set_value(file, "managed.vllm", "~/vllm")
    set_value(file, "managed.offline", "true")
    settings = load(file, {"SAGE_INFERENCE_MANAGED__STOP_GRACE_S": "5"})
    assert settings.engines == (
        ManagedEngineSettings(
            model="Qwen/Qwen2.5-7B", memory="0.4", gpus=("0",), args=("--max-num-seqs", "64")
        ),
    )
    assert settings.managed.vllm == ("~/vllm",)
    assert settings.managed.offline is True
    assert settings.managed.stop_grace_s == 5


def test_a_token_that_no_header_can_carry_is_refused_and_quotes_are_named() -> None:
    with pytest.raises(ConfigError, match="not allowed in a header"):
        check.check(parse("managed: {hf_token: 'hf a'}", "f"), {})
    remarks = warnings_of(parse("managed: {hf_token: 'env:T'}", "f"), {"T": '"hf_x"'})
    assert [str(each).partition(":")[0] for each in remarks] == ["managed.hf_token"]


def test_editors_accept_each_form(tmp_path: Path) -> None:
    entry: dict[str, Any] = json_schema()["properties"]["engines"]["items"]["anyOf"][1]["properties"]
    one = {"type": ["string", "number", "boolean"]}
    assert entry["gpus"]["anyOf"] == [{"type": "array", "items": one}, one]
    assert entry["memory"]["type"] == ["string", "number", "boolean", "null"]
    assert entry["env"]["additionalProperties"] == one


def test_no_engines_leaves_out_those_of_the_file() -> None:
    configured = Settings(engines=(ManagedEngineSettings(model="org/chat"),))
    assert flags.apply(configured, Flags()).engines == configured.engines
    assert flags.apply(configured, Flags(no_engines=True)).engines == ()
