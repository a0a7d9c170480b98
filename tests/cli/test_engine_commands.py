"""The commands for managed engines where there is no gateway, and where a gateway has none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.cli.schemas import ANSWERS
from sage_inference.config.paths import Paths
from sage_inference.daemon import control
from sage_inference.daemon.errors import DaemonError
from sage_inference.daemon.managed import find, refuse_near_miss, settled, unknown
from tests.cli.shape import mistakes
from tests.cli.test_engine_text import engine, failure
from tests.support.command import sage
from tests.support.gateway import free_port


@pytest.mark.parametrize(
    "args",
    [("load", "qwen"), ("unload", "qwen"), ("engine", "restart", "qwen"), ("load", "org/model", "--no-wait")],
    ids=" ".join,
)
def test_without_a_gateway_an_order_names_the_command_that_starts_one(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    ended = sage(tmp_path, *args)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.splitlines() == [
        "error: the gateway is not running",
        "hint: sage-inference start --background",
    ]


def test_without_a_gateway_ps_has_nothing_to_show(tmp_path: Path) -> None:
    shown = sage(tmp_path, "ps")
    assert (shown.returncode, shown.stdout, shown.stderr) == (3, "not running\n", "")
    found = json.loads(sage(tmp_path, "ps", "--json").stdout)
    assert found == {"schema": 1, "gateway": "stopped", "engines": []}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("logs", "nope"), 1, 'error: no engine "nope"\nhint: there are none; '),
        (("logs", "nope", "--level", "info"), 2, "error: the lines of an engine's log have no level\n"),
        (("logs", "../../etc"), 1, 'error: no engine "../../etc"\n'),
        (("start", "--wait", "engines"), 2, "error: --wait is for --background"),
        (("start", "--background", "--wait", "engine"), 2, "did you mean engines?"),
        (("engine", "restrat", "x"), 2, "did you mean restart?"),
        (("load",), 2, "error: "),
        (("load", ""), 3, "error: the gateway is not running"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_explained(tmp_path: Path, args: tuple[str, ...], code: int, says: str) -> None:
    ended = sage(tmp_path, *args)
    assert ended.returncode == code
    assert says in ended.stderr
    assert ended.stdout == ""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    control.stop(Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)}), force=True)


def test_a_gateway_without_engines_of_its_own(home: Path) -> None:
    started = sage(home, "start", "--background", "--wait", "none", "--port", str(free_port()))
    assert started.stdout.startswith("the gateway is starting (pid ")
    control.wait_until(lambda: sage(home, "status").returncode == 0, 30, None)
    shown = sage(home, "ps")
    assert (shown.returncode, shown.stdout) == (0, "no engines were started\n")
    found = json.loads(sage(home, "ps", "--json").stdout)
    assert mistakes(found, ANSWERS["ps"]) == []
    assert sage(home, "stop").stdout.startswith("stopped (pid ")


THREE = [
    engine("qwen", model="Qwen/Qwen"),
    engine("bge-m3", model="BAAI/bge-m3"),
    engine("two", model="Qwen/Q2"),
]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("qwen", "qwen"), ("BAAI/bge-m3", "bge-m3"), ("baai/BGE-m3", "bge-m3"), ("bge", None), ("QWEN", None)],
)
def test_an_engine_is_found_by_its_name_or_its_model(wanted: str, name: str | None) -> None:
    found = find(THREE, wanted)
    assert (found and found["name"]) == name


def test_a_model_of_two_engines_names_none_of_them() -> None:
    assert find([engine("a"), engine("b")], "Qwen/Qwen2.5-7B-Instruct") is None


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("bge", "did you mean bge-m3?"),
        ("qewn", "did you mean qwen?"),
        ("zzz", "there are: qwen, bge-m3, two"),
    ],
)
def test_an_unknown_name_gets_a_hint(wanted: str, hint: str) -> None:
    assert unknown(wanted, [each["name"] for each in THREE]).hint == hint


@pytest.mark.parametrize("wanted", ["bge", "bge-m2", "qwenn"])
def test_a_misspelled_name_is_no_model_to_load(wanted: str) -> None:
    with pytest.raises(DaemonError):
        refuse_near_miss(wanted, THREE)


@pytest.mark.parametrize("wanted", ["gpt2", "llama"])
def test_another_word_may_be_a_model(wanted: str) -> None:
    refuse_near_miss(wanted, THREE)


def test_a_wait_ends_with_a_new_state_and_not_with_that_before_the_order() -> None:
    now = time.monotonic()
    just, long_ago = settled(now), settled(now - 60)
    assert just(engine(state="ready"))
    assert not just(engine(state="starting"))
    assert not just(engine(state="off", since_s=500.0))
    assert long_ago(engine(state="off", since_s=50.0))
    assert not just(engine(state="failed", since_s=500.0, failure=failure("before")))
    assert just(engine(state="failed", since_s=0.0, failure=failure("after")))
    again = failure("after", permanent=False, retry_in_s=2.0)
    assert not long_ago(engine(state="failed", since_s=0.0, failure=again))


def test_a_wait_ends_with_the_same_failure_twice() -> None:
    is_over = settled(time.monotonic() - 60)
    full = failure("GPU 0 has 9 GiB free", permanent=False, retry_in_s=2.0)
    other = failure("another program ended it", permanent=False, retry_in_s=2.0)
    assert not is_over(engine(state="failed", since_s=30.0, failure=other))
    assert not is_over(engine(state="failed", since_s=20.0, failure=full))
    assert not is_over(engine(state="failed", since_s=20.0, failure=full))  # seen again
    assert not is_over(engine("two", state="failed", since_s=0.0, failure=full))
    assert not is_over(engine(state="starting"))
    assert is_over(engine(state="failed", since_s=0.0, failure=full))
