"""README's command with simulated engines, and every command for them, on one gateway from its start to its end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from sage_inference.cli.engine.restart import restart_all
from sage_inference.cli.main import main
from sage_inference.cli.schemas import ANSWERS
from sage_inference.config.paths import Paths
from sage_inference.daemon import control, pidfile
from tests.cli.shape import mistakes
from tests.support.at_terminal import AtTerminal
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port
from tests.test_readme import README, commands_of, shell_lines

CHAT, EMBEDDER = "qwen2.5-7b-instruct", "bge-m3"


def command_of_readme() -> list[str]:
    """The words after ``sage inference`` of the command that starts simulated engines for two models."""
    [found] = [
        words[1:]
        for line in shell_lines(README)
        for words in commands_of(line)
        if "--simulate" in words and "--llm-model" in words
    ]
    return found


class Shown(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Managed:
    """A gateway in the background with two simulated engines."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        # Simulated engines are all that such a gateway serves, whatever else runs on this machine.
        self.started = sage(
            home, *command_of_readme(), "--port", str(self.port), SAGE_INFERENCE_DISCOVER="true"
        )

    def sage(self, *args: str) -> Shown:
        """The command within this process, which saves the start of an interpreter."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SAGE_INFERENCE_HOME", str(self.home))
            patch.setenv("SAGE_INFERENCE_DISCOVER", "false")
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(["inference", *args], program="sage")
        return Shown(code, out.getvalue(), err.getvalue())

    def json(self, *args: str) -> Any:
        shown = self.sage(*args, "--json")
        found = json.loads(shown.stdout)
        schema = " ".join(args[:2]) if args[0] == "engine" else args[0]
        assert mistakes(found, ANSWERS[schema]) == [], shown.stderr
        return found

    def engines(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.json("ps")["engines"]}

    def pids(self) -> dict[str, int]:
        """The processes of the engines that have one."""
        return {name: each["pid"] for name, each in self.engines().items() if each["pid"] is not None}

    @property
    def paths(self) -> Paths:
        return Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(self.home)})


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    home = tmp_path_factory.mktemp("managed")
    try:
        found = Managed(home)
        assert found.started.returncode == 0, found.started.stdout + found.started.stderr
        yield found
    finally:
        sage(home, "stop", "--force")
        sage(home, "stop")
    assert [process for process in psutil.process_iter(["cmdline"]) if _is_of(process, home)] == []


def _is_of(process: psutil.Process, home: Path) -> bool:
    return any(str(home) in word for word in process.info["cmdline"] or ())


def test_the_command_ends_with_both_models_served(managed: Managed) -> None:
    lines = managed.started.stdout.splitlines()
    assert lines[0].startswith(f"gateway running at http://127.0.0.1:{managed.port} (pid ")
    assert f"{CHAT} (vllm) is ready, and serves Qwen/Qwen2.5-7B-Instruct" in lines
    assert f"{EMBEDDER} (tei) is ready, and serves BAAI/bge-m3" in lines
    assert any(line.startswith("engines are simulated: ") for line in lines)
    assert all(f"{name}: " in managed.started.stderr for name in (CHAT, EMBEDDER))


def test_the_curl_line_that_start_shows_gets_an_answer(managed: Managed) -> None:
    [line] = [line for line in managed.started.stdout.splitlines() if line.startswith("try: curl ")]
    _, _, url, *_, body = shlex.split(line)
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, trust_env=False)
    assert answer.status_code == 200
    assert "Qwen/Qwen2.5-7B-Instruct" in body


def test_ps_and_status_show_them(managed: Managed) -> None:
    engines = managed.engines()
    assert {name: each["state"] for name, each in engines.items()} == {CHAT: "ready", EMBEDDER: "ready"}
    status = managed.json("status")
    assert {each["name"] for each in status["engines"]} == {CHAT, EMBEDDER}
    assert ({each["name"] for each in status["instances"]}, status["discover"]) == ({CHAT, EMBEDDER}, False)
    shown = managed.sage("ps").stdout.splitlines()
    assert shown[0].split()[:2] == ["NAME", "STATE"]
    assert any(row.split()[:2] == [CHAT, "ready"] for row in shown)
    assert "running at " in managed.sage("status").stdout


@pytest.mark.parametrize("command", ["ps", "status", "models"])
def test_what_a_running_gateway_answers_is_shown_without_heavy_modules(
    managed: Managed, command: str
) -> None:
    heavy = (
        "uvicorn starlette httpx httptools uvloop rich msgspec psutil asyncio ssl hashlib http.client email yaml "
        "encodings.idna"
    )
    code = (
        f"import sys; from sage_inference.cli.main import main; main(['inference', '{command}'], program='sage');"
        f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(managed.home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert CHAT in shown.stdout.lower()
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["ps", "status", "models"])
def test_a_terminal_of_60_columns_is_wide_enough(managed: Managed, command: str) -> None:
    with AtTerminal(managed.home, command, columns=60, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        lines = [line for line in terminal.shown.splitlines() if not line.startswith("no room for ")]
        assert any(CHAT in line.lower() for line in lines)
        assert max(len(line) for line in lines) <= 60


@pytest.mark.parametrize("name", [CHAT, "Qwen/Qwen2.5-7B-Instruct"])
def test_logs_show_what_an_engine_printed(managed: Managed, name: str) -> None:
    shown = managed.sage("logs", name, "-n", "1000")
    assert shown.returncode == 0
    assert "APIServer" in shown.stdout
    first = json.loads(managed.sage("logs", name, "-n", "1", "--json").stdout)
    assert mistakes(first, ANSWERS["logs"]) == []


def test_an_engine_is_unloaded_loaded_and_restarted(managed: Managed) -> None:
    before = managed.engines()[CHAT]["pid"]
    assert managed.sage("load", CHAT).stdout.startswith(f"{CHAT} (vllm) is ready")
    assert managed.engines()[CHAT]["pid"] == before
    said = managed.sage("unload", EMBEDDER).stdout
    assert said.startswith(f"{EMBEDDER} is unloaded, until sage inference load {EMBEDDER}, or the next start")
    assert managed.engines()[EMBEDDER]["state"] == "off"
    assert managed.json("load", "baai/bge-m3")["engine"]["state"] == "ready"
    before = managed.engines()[EMBEDDER]["pid"]
    assert managed.json("engine", "restart", EMBEDDER)["engine"]["pid"] not in (before, None)


def test_a_chat_waits_for_an_engine_that_starts_and_shows_its_progress(managed: Managed) -> None:
    model = "Qwen/Qwen2.5-7B-Instruct"
    found = {each["name"]: each for each in managed.json("models")["models"]}
    assert (found[model]["kind"], found[model]["state"]) == ("chat", "ready")
    assert (found[model]["engines"], found[model]["ready"], found[model]["instances"]) == ([CHAT], 1, 1)
    assert managed.sage("unload", CHAT).returncode == 0
    off = managed.sage("chat", "hello")
    assert (off.returncode, off.stdout) == (1, "")
    assert f"sage inference load {CHAT}" in off.stderr
    assert managed.sage("load", CHAT, "--no-wait").returncode == 0
    answered = managed.sage("chat", "--set", "max_tokens=5", "hello")
    assert (answered.returncode, answered.stdout.strip() != "") == (0, True), answered.stderr
    assert f"{CHAT}: " in answered.stderr
    assert managed.json("chat", "qwen/qwen2.5-7b-instruct", "hello")["model"] == model


def test_an_unknown_name_is_refused_with_the_names_that_exist(managed: Managed) -> None:
    failed = managed.sage("unload", "nope", "--json")
    error = json.loads(failed.stdout)["error"]
    assert (failed.returncode, error["code"]) == (1, "engine_not_found")
    assert error["hint"] == f"there are: {CHAT}, {EMBEDDER}"


def test_a_model_that_cannot_be_loaded_is_one_sentence_with_a_hint_and_status_1(managed: Managed) -> None:
    failed = managed.sage("load", "/no/such/model")
    assert (failed.returncode, failed.stdout) == (1, "")
    *_, error, hint = failed.stderr.splitlines()
    assert error == "error: model failed: there is no directory /no/such/model"
    assert hint.startswith("hint: ")
    assert managed.engines()["model"]["failure"]["permanent"]
    assert "warning: model: there is no directory /no/such/model" in managed.sage("ps").stderr


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_model_in_the_current_directory(managed: Managed, name: str) -> None:
    failed = managed.sage("load", name)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: the name of the engine or model is empty\n")
    assert managed.sage("unload", name).returncode == 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sage inference load b", {EMBEDDER}),
        ("sage inference engine restart ", {CHAT, EMBEDDER, "model"}),
    ],
)
def test_names_are_completed(managed: Managed, words: str, offered: set[str]) -> None:
    env = clean_environment(
        managed.home, _SAGE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
    )
    code = "import sys; sys.argv[0] = 'sage'; from sage_inference.cli.main import main; sys.exit(main([]))"
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert set(shown.stdout.split()) == offered


def test_a_restart_keeps_the_engines_unless_it_is_asked_for(managed: Managed) -> None:
    before = managed.pids()
    restarted = managed.sage("restart")
    assert restarted.returncode == 0, restarted.stderr
    assert f"{CHAT} (vllm) goes on running, and serves Qwen/Qwen2.5-7B-Instruct\n" in restarted.stdout
    assert managed.pids() == before
    restart_all(managed.paths)  # as restart --engines does then
    after = managed.pids()
    assert all(after[name] != pid for name, pid in before.items())


def test_engines_outlive_a_killed_gateway_and_stop_ends_them(managed: Managed) -> None:
    before = managed.pids()
    info = pidfile.read(managed.paths.pid_file)
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    assert control.wait_until(lambda: control.inspect(managed.paths).state == "dead", 10, None)
    shown = managed.sage("ps")
    assert shown.returncode == 1
    assert {row.split()[0] for row in shown.stdout.splitlines()[1:]} == {CHAT, EMBEDDER}
    assert "its engines run on for some minutes" in shown.stderr
    assert managed.pids() == before
    assert managed.sage("logs", CHAT, "-n", "1").returncode == 0
    stopped = managed.sage("stop").stdout.splitlines()
    assert stopped[0].startswith("not running; removed")
    assert set(stopped[1].removeprefix("ended its engines: ").split(", ")) == {CHAT, EMBEDDER}
    assert not any(psutil.pid_exists(pid) for pid in before.values())
