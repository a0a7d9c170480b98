"""``scheduling.slo``: sections in a map, named by paths, shown as they are set, and refused with what they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config.edit import set_value, unset_value
from sage_inference.config.effective import effective
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import parse
from sage_inference.config.schema import join, locate
from sage_inference.control_plane.slo_table import row
from sage_inference.types import RequestPriority

MODELS = "scheduling.slo.models"


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("qwen2.5-7b", ("qwen2.5-7b",)),
        ("qwen2.5-7b.ttft_ms", ("qwen2.5-7b", "ttft_ms")),
        ("org/llama-3.1.tpot_ms", ("org/llama-3.1", "tpot_ms")),
        ("llama:70b.background.ttft_ms", ("llama:70b", "background", "ttft_ms")),
        ("llama.background", ("llama", "background")),
        (".low", (".low",)),
        ("llama.v3.gguf.low.tpot_ms", ("llama.v3.gguf", "low", "tpot_ms")),
        ('"m.critcal".tpot_ms', ("m.critcal", "tpot_ms")),
        ("'m.low'.low.tpot_ms", ("m.low", "low", "tpot_ms")),
        ('"m.ttft_ms"', ("m.ttft_ms",)),
        ('"a ""b"".low".ttft_ms', ('a "b".low', "ttft_ms")),
        ("[Qwen2.5-7B].ttft_ms", ("Qwen2.5-7B", "ttft_ms")),
        ("[m.critcal].critical.ttft_ms", ("m.critcal", "critical", "ttft_ms")),
        ('["m.low"].low', ("m.low", "low")),
        ("my[lora].ttft_ms", ("my[lora]", "ttft_ms")),
        ('it\'s "x".low', ('it\'s "x"', "low")),
        ('"[a]".low', ("[a]", "low")),
    ],
)
def test_a_path_leads_into_a_model_whose_name_has_dots(path: str, steps: tuple[str, ...]) -> None:
    assert locate(f"{MODELS}.{path}").steps == ("scheduling", "slo", "models", *steps)


def test_a_path_may_have_brackets_for_the_dot() -> None:
    assert locate("aliases[gpt-4.1]").steps == ("aliases", "gpt-4.1")
    assert locate('scheduling.policies["bge.low"]').steps == ("scheduling", "policies", "bge.low")
    assert locate(f"{MODELS}[m.low].low.ttft_ms").steps[3:] == ("m.low", "low", "ttft_ms")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("m.critcal.tpot_ms", "m.critical.tpot_ms"),
        ("m.critcal", "m.critical"),
        ("m.Critical.tpot_ms", "m.critical.tpot_ms"),
        ("m.hgih.ttft_ms", "m.high.ttft_ms"),
        ("m.norm.ttft_ms", "m.normal.ttft_ms"),
        ("m.backgroud.ttft_ms", "m.background.ttft_ms"),
        ("Qwen2.5-7B.critcal.ttft_ms", "Qwen2.5-7B.critical.ttft_ms"),
        ("Qwen2.5-7B.lo.ttft_ms", "Qwen2.5-7B.low.ttft_ms"),
        ("m.ttft", "m.ttft_ms"),
        ("m.ttft_sm", "m.ttft_ms"),
        ("m.critcal.ttft", "m.critical.ttft_ms"),
        ("m.critical.ttft", "m.critical.ttft_ms"),
        ('"m.low".critcal.ttft_ms', '"m.low".critical'),
        ("[Qwen2.5-7B].ttft", "Qwen2.5-7B.ttft_ms"),
    ],
)
@pytest.mark.parametrize("shown", ["x", "{ttft_ms: 5}"])
def test_a_misspelled_key_is_no_part_of_a_models_name(
    tmp_path: Path, path: str, meant: str, shown: str
) -> None:
    file = tmp_path / "config.yaml"
    with pytest.raises(ConfigError) as failed:
        set_value(file, f"{MODELS}.{path}", shown)
    assert f"did you mean {MODELS}.{meant}?" in str(failed.value)
    assert not file.exists()


@pytest.mark.parametrize("path", ['"m.ttft_ms', "'m'x.low", "[m.low", '["m].low', "[]"])
def test_a_name_whose_quote_or_bracket_is_not_closed_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="is a name up to"):
        locate(f"{MODELS}.{path}")


@pytest.mark.parametrize(
    "name",
    [
        "m",
        "Qwen2.5-7B",
        "m.low",
        "m.critcal",
        "m.ttft_ms",
        '"',
        "'",
        "[a]",
        "it's.low",
        " m",
        "low",
        ".low",
        "a.",
        "é.hi",
    ],
)
@pytest.mark.parametrize("path", [(), ("ttft_ms",), ("low", "tpot_ms")])
def test_a_shown_key_leads_back_to_its_value(name: str, path: tuple[str, ...]) -> None:
    for steps in (("scheduling", "slo", "models", name, *path), ("aliases", name)):
        assert locate(join(steps)).steps == steps


def test_a_model_named_like_a_key_is_set_shown_explained_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for name, value in (("m.low", "5000"), ("m.critcal", "6000"), ("Qwen2.5-7B", "7000")):
        set_value(file, f'{MODELS}."{name}".ttft_ms', value)
    set_value(file, f'{MODELS}."m.low".high', "{tpot_ms: 4}")
    settings = parse(file.read_text(), "x")
    shown = [each.key for each in effective(settings) if f"{MODELS}." in each.key]
    assert shown == [
        f'{MODELS}."m.low".ttft_ms',
        f'{MODELS}."m.low".high.tpot_ms',
        f'{MODELS}."m.critcal".ttft_ms',
        f"{MODELS}.Qwen2.5-7B.ttft_ms",
    ]
    stated = settings.scheduling.slo.models["m.low"]
    found = row(settings.scheduling.slo, ("m.low", stated))[RequestPriority.HIGH]
    assert (found.ttft_from, found.tpot_from) == (f'{MODELS}."m.low"', f'{MODELS}."m.low".high')
    for key in shown:
        assert unset_value(file, key)


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("{m.critcal: {ttft_ms: 5}}", "m.critcal"),
        ("{m.critcal: {ttft_ms: 5}}", "m.critcal.ttft_ms"),
        ("{m: {critcal: {ttft_ms: 5}}}", "m.critcal"),
        ("{Qwen2.5-7B: {critcal: 5}}", "Qwen2.5-7B.critcal"),
        ("{Qwen2.5-7B: {low: {ttft: 5}}}", "Qwen2.5-7B.low.ttft"),
        ("{m.low: {critcal: {ttft: 5}}}", '"m.low".critcal'),
        ("{m.low: {critcal: {ttft: 5}}}", "[m.low].critcal"),
    ],
)
def test_what_is_misspelled_in_the_file_can_be_removed(tmp_path: Path, written: str, key: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"scheduling: {{slo: {{models: {written}}}}}\n")
    assert unset_value(file, f"{MODELS}.{key}")
    parse(file.read_text(), "x")
    with pytest.raises(ConfigError):
        unset_value(file, f"{MODELS}.{key}")


def test_values_of_a_model_are_set_shown_and_removed_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("scheduling:\n  policy: hybrid  # kept\n")
    set_value(file, f"{MODELS}.qwen2.5-7b.ttft_ms", "5000")
    set_value(file, f"{MODELS}.qwen2.5-7b.background.tpot_ms", "200")
    set_value(file, "scheduling.slo.low.ttft_ms", "9000")
    settings = parse(file.read_text(), "x")
    shown = {
        each.key: each.value for each in effective(settings) if ".slo." in each.key and each.value is not None
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
