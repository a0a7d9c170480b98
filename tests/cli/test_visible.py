"""Text from outside cannot steer a terminal, forge a line or become markup, wherever it is shown."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.cli import table, terminal
from sage_inference.cli.config.show import _yaml
from sage_inference.visible import visible, visible_json
from tests.support.command import sage
from tests.support.gateway import running_gateway
from tests.support.rogue import RogueEngine, ok

HOSTILE = {
    "clear screen": "m\x1b[2J\x1b[H",
    "window title": "m\x1b]0;pwned\x07",
    "forged line": "m\nerror: all is lost",
    "overwritten line": "m\rready",
    "one-byte CSI": "m\x9b31m",
    "right to left": "m\u202egnp.exe",
    "isolate": "m\u2066x\u2069",
    "line separator": "m\u2028x\u2029",
    "next line": "m\x85x",
    "delete and backspace": "m\x08\x7f",
    "tab and form feed": "m\t\x0c",
    "zero width": "m\u200b\ufeff",
    "tag character": "m\U000e0041",
    "link markup": "[link=http://evil.example]m[/link]",
    "colour markup": "[red]m[/red]",
}
hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def shows_only(output: str) -> None:
    assert all(line.isprintable() for line in output.split("\n")), ascii(output)


@hostile
def test_words_on_stdout_and_stderr_are_one_line_each(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(f"a {text}")
    terminal.talk(f"b {text}")
    terminal.warn(f"c {text}", f"d {text}")
    terminal.fail(f"e {text}", f"f {text}", colour=False)
    out, err = capsys.readouterr()
    shows_only(out + err)
    assert out == f"a {visible(text)}\n"
    assert err.count("\n") == 5


@hostile
def test_table_keeps_its_rows_and_its_columns(text: str) -> None:
    shown = table.render(("NAME", "STATE"), [[text, "ready"], ["x", text]], styles=["green"], styled_column=1)
    lines = shown.replace("\x1b[1m", "").replace("\x1b[32m", "").replace("\x1b[0m", "").split("\n")
    assert len(lines) == 3
    shows_only("\n".join(lines))
    assert {
        line.rfind(word) for line, word in zip(lines, ("STATE", "ready", visible(text)), strict=True)
    } == {len(visible(text)) + table.GAP}


@hostile
def test_progress_line_is_shown_and_not_obeyed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.WaitIndicator(f"reading {text}", after_s=0.0):
        deadline = time.monotonic() + 10
        shown = ""
        while not shown and time.monotonic() < deadline:
            shown += capsys.readouterr().err
    shows_only(shown + capsys.readouterr().err)
    terminal.rewrite(text)
    assert capsys.readouterr().err == f"\r{visible(text)}\x1b[K"


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_json_and_yaml_say_the_same_with_nothing_unprintable(document: object) -> None:
    for indent in (None, 2):
        text = terminal.json_text(document, indent=indent)
        shows_only(text)
        assert json.loads(text) == document
    shows_only(_yaml({"value": document}))


@given(st.text(st.characters(codec="utf-8")))
def test_yaml_with_escapes_reads_as_it_was(text: str) -> None:
    assert yaml.safe_load(_yaml({"key": text, "list": [text]})) == {"key": text, "list": [text]}


def test_readable_text_is_shown_as_it_is() -> None:
    for text in ("qwen2.5-7b", "日本語 ünïcode", "emoji 🚀", "a\\x1b", "[red]"):
        assert visible(text) == text
        assert visible_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)
    assert visible("\ud800\udcff") == "\\ud800\\udcff"
    assert json.loads(visible_json('"\U000e0041"')) == "\U000e0041"


def test_commands_show_hostile_names_of_an_engine_as_text() -> None:
    model = "".join(HOSTILE.values()) + "'\""
    with RogueEngine(ok(), model=model) as engine, running_gateway(engine.url) as gateway:
        home = gateway.home
        with gateway.client() as client:
            headers = {"x-request-id": "mine"}
            body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
            assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
        for args in (
            ("status",),
            ("status", "--json"),
            ("explain", "mine"),
            ("explain", "no\x1b\x9b"),
        ):
            shown = sage(home, *args)
            shows_only(shown.stdout + shown.stderr)
            assert "\\x1b" in shown.stdout + shown.stderr or "\\u001b" in shown.stdout, args
        assert json.loads(sage(home, "status", "--json").stdout)["instances"][0]["models"] == [model]
        started = (home / "output").read_text()
        shows_only(started)
        [line] = [line for line in started.split("\n") if line.startswith("try: ")]
        body_shown = line.rpartition(" -d '")[2][:-1].replace("'\\''", "'")
        assert json.loads(body_shown)["model"] == model
        shows_only(sage(home, "logs").stdout)


@hostile
def test_configuration_and_mistakes_in_it_are_shown_as_text(text: str, tmp_path: Path) -> None:
    from tests.cli.test_cli import status_of

    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"llm_model": text, "aliases": {text: text}}))
    for args in (
        ("show",),
        ("show", "-o", "yaml"),
        ("show", "--json"),
        ("get", "llm_model"),
        ("get", "aliases"),
    ):
        shown = _in_process(tmp_path, "config", *args)
        shows_only(shown)
    shows_only(_in_process(tmp_path, "config", "get", text))
    shows_only(_in_process(tmp_path, "config", "set", "server.port", text))
    shows_only(_in_process(tmp_path, text))
    shows_only(_in_process(tmp_path, "logs", "--level", text))
    file.write_text(json.dumps({"server": {text: 1}}))
    shows_only(_in_process(tmp_path, "config", "validate"))
    shows_only(_in_process(tmp_path, "config", "validate", "--json"))
    assert status_of(["inference", "config"], tmp_path, None) in (1, 2)


def _in_process(home: Path, *args: str) -> str:
    import contextlib
    import io

    from sage_inference.cli.main import main

    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.setenv("SAGE_INFERENCE_HOME", str(home))
        main(["inference", *args], program="sage")
    return out.getvalue()
