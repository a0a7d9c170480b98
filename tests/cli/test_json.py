"""Every answer in JSON is as its schema says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.schemas import ANSWERS, ERROR
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import free_port

OF_CLUSTERS = {"cluster up", "cluster status", "cluster scale", "cluster down"}
OF_SYSTEMD = {"service install", "service status", "service uninstall"}
OF_MODELS = {"chat", "embed", "models"}
OF_ENGINES = {"load", "unload", "engine restart"}
LOG = '{"time":"2026-01-01T00:00:00.000Z","level":"info","logger":"a","message":"b"}\nSegmentation fault\n'


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    sage(tmp_path, "stop", "--force")


def answers(home: Path, command: str, *more: str) -> list[Any]:
    shown = sage(home, *command.split(" "), *more, "--json")
    found = [json.loads(line) for line in shown.stdout.splitlines()]
    assert found, shown.stderr
    return found


@pytest.mark.parametrize(
    "command",
    sorted(
        ANSWERS.keys()
        - {
            "reload",
            "config get",
            "logs",
            "bench",
            "keys add",
            "keys revoke",
            "replay",
            "explain",
            "ui",
            "top",
            "requests",
            *OF_CLUSTERS,
            *OF_MODELS,
            *OF_ENGINES,
            *OF_SYSTEMD,
        }
    ),
)
def test_answers_of_a_stopped_gateway(tmp_path: Path, command: str) -> None:
    [found] = answers(tmp_path, command)
    assert mistakes(found, ANSWERS[command]) == []


@pytest.mark.parametrize("key", ["server", "server.port", "llm_model", "instances"])
def test_a_value_of_any_kind_is_an_answer(tmp_path: Path, key: str) -> None:
    [found] = answers(tmp_path, "config get", key)
    assert mistakes(found, ANSWERS["config get"]) == []


def test_every_line_of_the_log_is_an_answer_even_one_that_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "inference.log").write_text(LOG)
    found = answers(tmp_path, "logs")
    assert [each["message"] for each in found] == ["b", "Segmentation fault"]
    assert [mistakes(each, ANSWERS["logs"]) for each in found] == [[], []]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("reload",), "not_running"),
        (("models",), "not_running"),
        (("top",), "not_running"),
        (("requests",), "not_running"),
        (("chat", "hi"), "not_running"),
        (("embed", "hi"), "not_running"),
        (("config", "get", "nope"), "usage"),
        (("status", "--nope"), "usage"),
        (("staus",), "usage"),
    ],
    ids=" ".join,
)
def test_a_failure_is_an_error_document_on_stdout_and_a_line_on_stderr(
    tmp_path: Path, args: tuple[str, ...], code: str
) -> None:
    failed = sage(tmp_path, *args, "--json")
    found = json.loads(failed.stdout)
    assert mistakes(found, ERROR) == []
    assert found["error"]["code"] == code
    assert failed.returncode != 0
    assert failed.stderr.startswith("error: ")


def test_answers_of_a_running_gateway(home: Path) -> None:
    # Nobody listens on the last one: an instance that is not reached has its document too.
    engines = ("--simulate", "--llm-backend", f"127.0.0.1:{free_port()}")
    started = sage(home, "start", "--background", "--port", str(free_port()), *engines)
    assert started.returncode == 0, started.stderr
    [status] = answers(home, "status")
    assert mistakes(status, ANSWERS["status"]) == []
    assert (status["state"], status["simulated"], len(status["instances"])) == ("running", True, 3)
    [reloaded] = answers(home, "reload")
    assert mistakes(reloaded, ANSWERS["reload"]) == []


def test_the_checker_finds_what_is_wrong() -> None:
    right = {"schema": 1, "added": [], "removed": [], "changed": ["a"], "settings": [], "needs_restart": []}
    right["address"] = None
    assert mistakes(right, ANSWERS["reload"]) == []
    assert mistakes(right | {"schema": 2}, ANSWERS["reload"])
    assert mistakes(right | {"added": [1]}, ANSWERS["reload"])
    assert mistakes(right | {"added": None}, ANSWERS["reload"])
    assert mistakes({"schema": 1}, ANSWERS["reload"])
