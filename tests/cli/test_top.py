"""``top`` before a real gateway: at a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.cli.schemas import ANSWERS
from tests.cli.shape import mistakes
from tests.support.at_screen import AtScreen
from tests.support.at_terminal import CTRL_C, OURS
from tests.support.command import sage
from tests.support.command_here import sage_here
from tests.support.gateway import Gateway, clean_environment, free_port, running_gateway
from tests.support.simulators import SimulatedEngine
from tests.support.tls import self_signed

OTHER_SCREEN, FIRST_SCREEN, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38)[;m]")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    engine = SimulatedEngine("vllm", ["--model", "qwen2.5-7b"])
    try:
        instances = [{"name": "text", "url": engine.url, "max_concurrent_requests": 4}]
        with running_gateway(args=("--simulate",), config={"instances": instances}) as started:
            ask(started, 3)
            yield started
    finally:
        engine.close()


def ask(gateway: Gateway, times: int, **more: object) -> None:
    chat = {"model": "qwen2.5-7b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, **more}
    with gateway.client() as client:
        for _ in range(times):
            client.post("/v1/chat/completions", json=chat).raise_for_status()


def has_both(text: str) -> bool:
    return "Engines" in text and "requests/s" in text and "200" in text


def test_keys_sort_filter_select_and_quit(gateway: Gateway) -> None:
    with AtScreen(gateway.home, "top", columns=100, lines=30) as t:
        text = t.until(has_both)
        assert re.search(r"^running http://127\.0\.0\.1:\d+ +up \d+ s", text)
        assert re.search(r"^text +qwen2\.5-7b +ready +0/4", text, re.M)
        t.press("right", "r")
        t.until(lambda text: "ENGINE▼" in text)
        t.press("/", *"tex")
        t.until(lambda text: "filter: tex" in text and "Engines  1 with tex" in text)
        t.press("enter")
        t.until(lambda text: "q quit" in text)
        t.press("down", "enter")
        t.until(lambda text: text.startswith("text\n") and "http://127.0.0.1" in text)
        t.press("x", "escape", "3", "z")
        t.until(lambda text: "no row has these words" in text and "Engines" not in text)
        t.press("escape")
        t.until(lambda text: re.search(r"^priority +critical +0", text, re.M))
        t.press("q")
        assert t.end() == 0
        assert t.modes_now == t.modes
        assert t.shown.index(OTHER_SCREEN) < t.shown.index(FIRST_SCREEN) < t.shown.rindex(CURSOR) + 9
        assert FIRST_SCREEN in t.shown[-40:]


def test_a_request_is_seen_while_it_runs_and_when_it_has_ended(gateway: Gateway) -> None:
    with (
        AtScreen(gateway.home, "top", "-t", "requests", columns=110, lines=30) as t,
        gateway.client() as client,
    ):
        t.until(lambda text: "requests/s" in text and "200" in text)
        body = {"model": "qwen2.5-7b", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        body |= {"max_tokens": 4000, "ignore_eos": True}
        headers = {"x-request-id": "mine", "x-sage-priority": "high"}
        with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            t.until(lambda text: re.search(r"chat .* high .* streaming", text))
        t.until(lambda text: re.search(r"chat .* high .* cancelled", text) and "streaming" not in text)
        t.press("/", *"mine cancelled")
        t.until(lambda text: "Requests  1 with mine cancelled" in text)
        t.press("enter", "down", "enter")
        text = t.until(lambda text: text.startswith("request mine\n") and "attempt 1" in text)
        assert re.search(r"attempt 1.*: text, only instance; waited \d+ ms", text)
        assert "cancelled" in text
        t.press(CTRL_C)
        assert t.end() == 0
        assert t.modes_now == t.modes


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_a_signal_ends_it_and_the_terminal_is_as_before(gateway: Gateway, number: int, status: int) -> None:
    with AtScreen(gateway.home, "top") as t:
        t.until(lambda text: "Engines" in text)
        assert t.modes_now != t.modes
        t.process.send_signal(number)
        assert t.end() == status
        assert t.modes_now == t.modes
        assert t.shown.rindex(FIRST_SCREEN) > t.shown.rindex(OTHER_SCREEN)
        assert t.shown.rindex(CURSOR) > t.shown.rindex("\x1b[?25l")
        assert "Traceback" not in t.shown


def test_ctrl_z_gives_the_terminal_back_and_fg_draws_again(gateway: Gateway) -> None:
    # Only a shell with job control can stop and resume a program.
    shell = ("bash", "--norc", "--noprofile", "-i")
    with AtScreen(gateway.home, command=shell, PS1="READY> ") as t:
        t.wait_for("READY>")
        t.type(" ".join([*OURS, "top"]) + "\r")
        t.until(lambda text: "Engines" in text)
        t.type("\x1a")
        t.wait_for(FIRST_SCREEN)
        t.wait_for("Stopped")
        t.wait_for("READY>")
        t.type("stty -a | tr ' ;' '\\n\\n' | grep -x -e icanon -e echo | wc -l\r")
        t.wait_for("2\r\n")
        t.type("fg\r")
        t.wait_for(OTHER_SCREEN)
        t.wait_for("requests/s")
        t.type("q")
        t.wait_for("READY>")
        t.type("exit\r")
        assert t.end() == 0


def test_a_resized_terminal_is_drawn_anew(gateway: Gateway) -> None:
    with AtScreen(gateway.home, "top", columns=130, lines=30) as t:
        t.until(lambda text: "REQ/S" in text and "WHY" in text)
        t.resize(60, 20)
        text = t.until(lambda text: has_both(text) and "WHY" not in text)
        assert "STATUS" in text
        assert text.splitlines()[-1].startswith("q quit")
        t.resize(9, 3)
        t.until(lambda text: "Engines" in text or "ENGINE" in text or text.startswith("running"))
        t.resize(130, 30)
        t.until(lambda text: has_both(text) and "WHY" in text)
        t.press("q")
        assert t.end() == 0


def test_it_connects_again_when_the_gateway_restarts(tmp_path: Path) -> None:
    start = ("start", "--background", "--simulate", "--port", str(free_port()))
    assert sage(tmp_path, *start).returncode == 0
    try:
        with AtScreen(tmp_path, "top", columns=100) as t:
            t.until(lambda text: "running" in text and "requests/s" in text)
            assert sage(tmp_path, "stop").returncode == 0
            t.until(lambda text: "lost http" in text and "trying again" in text)
            t.press("?")  # keys work meanwhile
            t.until(lambda text: "any key closes" in text)
            t.press("x")
            assert sage(tmp_path, *start).returncode == 0
            t.until(lambda text: "connected to a new gateway, pid" in text and "trying again" not in text)
            t.press("q")
            assert t.end() == 0
    finally:
        sage(tmp_path, "stop", "--force")


@pytest.fixture
def with_https(tmp_path: Path) -> Iterator[Gateway]:
    certificate = self_signed(tmp_path, "own")
    server = {"tls_cert": str(certificate.chain), "tls_key": str(certificate.key)}
    with running_gateway(args=("--simulate",), config={"server": server}) as started:
        yield started
        started.process.send_signal(signal.SIGCONT)


def test_a_gateway_with_https_that_hangs_is_reported_and_keys_work(with_https: Gateway) -> None:
    """A process that is stopped accepts connections by its kernel, and answers nothing."""
    with AtScreen(with_https.home, "top", columns=100) as t, AtScreen(with_https.home, "top") as other:
        for screen in (t, other):
            screen.until(lambda text: "running https" in text and "requests/s" in text)
        with_https.process.send_signal(signal.SIGSTOP)
        other.until(lambda text: "lost https" in text)
        t.until(lambda text: "lost https" in text and "has sent nothing for 8 s" in text)
        t.press("?")
        t.until(lambda text: "any key closes" in text)
        t.press("x")
        began = time.monotonic()
        other.press("q")  # while its thread waits for an answer
        assert other.end() == 0
        assert time.monotonic() - began < 1
        with AtScreen(with_https.home, "top") as late:
            assert late.end() == 1
            assert "is suspended and does not answer" in late.shown
        with_https.process.send_signal(signal.SIGCONT)
        t.until(lambda text: "running https" in text and "trying again" not in text)
        t.press("q")
        assert t.end() == 0


def test_no_keys_are_read_from_another_stdin(gateway: Gateway) -> None:
    with AtScreen(gateway.home, "top", stdin=subprocess.DEVNULL) as t:
        t.until(has_both)
        t.process.send_signal(signal.SIGINT)
        assert t.end() == 0
        assert FIRST_SCREEN in t.shown[-40:]


@pytest.mark.parametrize(("name", "has_colour"), [("SAGE_NOTHING", True), ("NO_COLOR", False)])
def test_colours_are_a_choice(gateway: Gateway, name: str, has_colour: bool) -> None:
    with AtScreen(gateway.home, "top", env={name: "1"}) as t:
        t.until(has_both)
        t.press("q")
        assert t.end() == 0
        assert (COLOUR.search(t.shown) is not None) is has_colour


def test_a_dumb_terminal_gets_one_below_the_other(gateway: Gateway) -> None:
    with AtScreen(gateway.home, "top", columns=70, lines=200, TERM="dumb") as t:
        t.until(lambda text: text.count("running http") == 2)
        t.type(CTRL_C)
        assert t.end() == 0
        assert "\x1b" not in t.shown
        assert max(map(len, t.display)) < 70


def test_a_terminal_without_unicode_gets_signs_that_it_has(gateway: Gateway) -> None:
    with AtScreen(gateway.home, "top", "-s", "load", PYTHONIOENCODING="ascii", columns=40) as t:
        text = t.until(lambda text: "vLOAD" in text)
        assert text.isascii()
        t.press("q")
        assert t.end() == 0


def test_once_prints_one_state_with_rates(gateway: Gateway) -> None:
    shown = sage(gateway.home, "top", "--once", "--sort", "engine", "--reverse")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "requests/s" in shown.stdout
    assert "\x1b" not in shown.stdout
    rows = [line.split()[0] for line in shown.stdout.splitlines() if " ready " in line]
    assert rows == sorted(rows, reverse=True)
    assert "text" in rows
    only = sage(gateway.home, "top", "--once", "--table", "requests", "--filter", "QWEN 200").stdout
    assert "Engines" not in only
    assert re.search(r"chat .* qwen2\.5-7b .* 200", only)


def test_json_is_a_line_each_second_with_the_requests_between(gateway: Gateway) -> None:
    with subprocess.Popen(
        [*OURS, "top", "--json"], env=clean_environment(gateway.home), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline())]
        ask(gateway, 2)
        while not (lines[-1]["requests_ended"] and len(lines) > 1) and len(lines) < 10:
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert [mistakes(line, ANSWERS["top"]) for line in lines] == [[]] * len(lines)
    assert lines[0]["requests_ended"] == []
    assert {row["model"] for row in lines[-1]["requests_ended"]} == {"qwen2.5-7b"}
    assert {line["connected"] for line in lines} == {True}


def test_an_interval_leaves_out_states_but_no_requests(gateway: Gateway) -> None:
    began = time.monotonic()
    with subprocess.Popen(
        [*OURS, "top", "--json", "--interval", "2"], env=clean_environment(gateway.home), stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        ask(gateway, 1)
        second = json.loads(process.stdout.readline())
        process.terminate()
    assert 1900 < second["live"]["at_ms"] - first["live"]["at_ms"] < 8000
    assert time.monotonic() - began > 2.5
    assert len(second["requests_ended"]) == 1


def test_a_reader_that_leaves_is_no_error(gateway: Gateway) -> None:
    words = [sys.executable, "-m", "sage_inference", "inference", "top"]
    with subprocess.Popen(
        words, env=clean_environment(gateway.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 3, "the gateway is not running"),
        (("--once",), 3, "hint: sage inference start --background"),
        (("--sort", "colour"), 2, 'unknown column "colour"'),
        (("--sort", "token/s"), 2, "did you mean tokens/s?"),
        (("--table", "\udcff"), 2, "unknown table"),
        (("--interval", "0.2"), 2, "--interval takes seconds from 1 to 3600, not 0.2"),
        (("--interval", "nan"), 2, "not nan"),
        (("--interval", "soon"), 2, "soon"),
        (("--json", "--filter", "a"), 2, "--json has all rows as they are"),
        (("extra",), 2, "unexpected extra argument"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(tmp_path: Path, args: tuple[str, ...], code: int, said: str) -> None:
    ended = sage_here(tmp_path, "top", *args)
    assert ended.code == code
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_gateway_that_dies_ends_once_with_a_sentence(tmp_path: Path) -> None:
    assert sage(tmp_path, "start", "--background", "--simulate", "--port", str(free_port())).returncode == 0
    try:
        with subprocess.Popen(
            [*OURS, "top", "--json", "--interval", "3600"], env=clean_environment(tmp_path), stdout=subprocess.PIPE, text=True
        ) as process:  # fmt: skip
            assert process.stdout is not None
            pid = json.loads(process.stdout.readline())["live"]["pid"]
            os.kill(pid, signal.SIGKILL)
            lost = json.loads(process.stdout.readline())
            process.terminate()
        assert mistakes(lost, ANSWERS["top"]) == []
        assert (lost["connected"], lost["live"], lost["reason"]) == (False, None, "the gateway is gone")
    finally:
        sage(tmp_path, "stop", "--force")
