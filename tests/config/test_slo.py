"""``scheduling.slo``: sections in a map, named by paths, shown as they are set, and refused with what they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config.edit import set_value, unset_value
from sage_inference.config.effective import effective
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import parse
from sage_inference.config.schema import locate

MODELS = "scheduling.slo.models"


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("qwen2.5-7b", ("qwen2.5-7b",)),
        ("qwen2.5-7b.ttft_ms", ("qwen2.5-7b", "ttft_ms")),
        ("org/llama-3.1.tpot_ms", ("org/llama-3.1", "tpot_ms")),
        ("llama:70b.background.ttft_ms", ("llama:70b", "background", "ttft_ms")),
        ("llama.background", ("llama", "background")),
        ("llama.ttft", ("llama.ttft",)),
        (".low", (".low",)),
    ],
)
def test_a_path_leads_into_a_model_whose_name_has_dots(path: str, steps: tuple[str, ...]) -> None:
    assert locate(f"{MODELS}.{path}").steps == ("scheduling", "slo", "models", *steps)


def test_values_of_a_model_are_set_shown_and_removed_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("scheduling:\n  policy: hybrid  # kept\n")
    set_value(file, f"{MODELS}.qwen2.5-7b.ttft_ms", "5000")
    set_value(file, f"{MODELS}.qwen2.5-7b.background.tpot_ms", "200")
    set_value(file, "scheduling.slo.low.ttft_ms", "9000")
    settings = parse(file.read_text(), "x")
    shown = {
        row.key: row.value for row in effective(settings) if ".slo." in row.key and row.value is not None
    }
    assert shown == {
        f"{MODELS}.qwen2.5-7b.ttft_ms": 5000,
        f"{MODELS}.qwen2.5-7b.background.tpot_ms": 200,
        "scheduling.slo.low.ttft_ms": 9000,
    }
    assert unset_value(file, f"{MODELS}.qwen2.5-7b.ttft_ms")
    assert parse(file.read_text(), "x").scheduling.slo.models["qwen2.5-7b"].ttft_ms is None
    assert "# kept" in file.read_text()


@pytest.mark.parametrize(
    ("slo", "key", "said"),
    [
        ("{ttft_ms: 0}", "ttft_ms", "must be a number from 1 to 86400000, not 0"),
        ("{ttft_ms: 1000ms}", "ttft_ms", 'not the text "1000ms"'),
        ("{tpot_ms: .inf}", "tpot_ms", "must be a number from 0.1 to 86400000, not inf"),
        ("{ttft_ms: true}", "ttft_ms", "not true"),
        ("{ttft: 5}", "ttft", "did you mean scheduling.slo.ttft_ms?"),
        ("{backgrond: {ttft_ms: 5}}", "backgrond", "did you mean scheduling.slo.background?"),
        ("{background: 5}", "background", "its keys: ttft_ms, tpot_ms"),
        ("1000", "", "its keys: ttft_ms, tpot_ms, critical"),
        ("{models: {m: 5000}}", "models.m", "its keys: ttft_ms, tpot_ms, critical"),
        ("{models: {m: {low: {tpot_ms: -1}}}}", "models.m.low.tpot_ms", "not -1"),
        ("{models: [m]}", "models", "must be a map of names, not a list; write name: value"),
        ("{models: {m: {models: {}}}}", "models.m.models", "unknown key"),
    ],
)
def test_a_wrong_value_is_named_with_what_its_key_takes(slo: str, key: str, said: str) -> None:
    with pytest.raises(ConfigError) as failed:
        parse(f"scheduling: {{slo: {slo}}}", "x")
    assert failed.value.key == f"scheduling.slo.{key}".rstrip(".")
    assert failed.value.line == 1
    assert said in str(failed.value)
