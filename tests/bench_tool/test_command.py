"""``sage inference bench`` as it is typed: against a gateway, any server, and nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.benchschemas import BENCH, FIGURES
from sage_inference.cli.schemas import ERROR
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import Gateway, clean_environment, free_port, running_gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.simulators import SimulatedEngine, simulated_engine

SHORT = ("--requests", "20", "--no-ceiling")


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--speed", "instant") as running:
        yield running


@pytest.fixture(scope="module")
def keyed(engine: SimulatedEngine) -> Iterator[Gateway]:
    """A gateway that wants a key, with a chat engine and an embedder behind it."""
    with simulated_engine("tei", "--speed", "instant") as embedding:
        config = {"api_keys": [{"key": "a-key"}]}
        with running_gateway(engine.url, embedding.url, config=config) as gateway:
            yield gateway


def answer(home: Path, *args: str, **env: str) -> Any:
    shown = sage(home, "bench", *args, "--json", timeout=60, **env)
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert mistakes(document, BENCH) == []
    for figures in document["kinds"].values():
        assert mistakes(figures, FIGURES) == []
    return document


def test_without_a_url_it_finds_the_gateway_its_key_and_its_models(keyed: Gateway) -> None:
    found = answer(keyed.home, "--kind", "mixed", "--requests", "60", "--no-ceiling", "--slo", "e2e=60000")
    assert found["url"] == keyed.url
    assert found["models"] == {
        "chat": "simulated-llm",
        "stream": "simulated-llm",
        "embeddings": "simulated-embedding",
    }
    assert found["simulated"] is True
    assert (found["total"]["sent"], found["total"]["ok"], found["total"]["good_share"]) == (60, 60, 1.0)
    assert sum(figures["ok"] for figures in found["kinds"].values()) == 60
    assert found["generator"]["ceiling"] is None


def test_any_openai_compatible_server_by_its_url(engine: SimulatedEngine, tmp_path: Path) -> None:
    found = answer(
        tmp_path, "--url", f"{engine.url}/v1", "--rate", "100", "--duration", "1", "--kind", "chat"
    )
    assert (found["url"], found["models"], found["simulated"]) == (engine.url, {"chat": engine.model}, None)
    assert found["load"]["mode"] == "open"
    assert found["measured_s"] == 1.0
    assert found["generator"]["late_ms"]["count"] == found["total"]["sent"] > 50
    assert found["generator"]["ceiling"]["requests_per_s"] > 100


def test_a_trace_is_replayed_at_its_speed(engine: SimulatedEngine, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_ms,in_tokens,out_tokens\n" + "".join(f"{number * 100},9,3\n" for number in range(30)))
    found = answer(tmp_path, "--url", engine.url, "--trace", str(trace), "--speedup", "10", "--no-ceiling")
    assert found["load"] | {"mode": "trace", "speedup": 10.0} == found["load"]
    assert found["total"]["ok"] == 30
    assert found["measured_s"] >= 0.29


def test_the_report_for_a_person(keyed: Gateway) -> None:
    shown = sage(keyed.home, "bench", "--requests", "20", "--slo", "ttft=60000")
    assert shown.returncode == 0
    for words in (
        f"{keyed.url}: 16 requests at a time",
        "engines are simulated",
        "stream (simulated-llm)",
        "20 sent, 20 ok, 0 failed",
        "100.0% within ttft 60000 ms",
        "p99.9",
        "inter-chunk",
        "its ceiling",
    ):
        assert words in shown.stdout
    # No terminal: plain lines, nothing that moves.
    assert shown.stderr.splitlines()[0] == "trying one request of each kind …"
    assert "\r" not in shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr


def test_errors_are_shown_with_their_words_and_a_run_without_a_success_fails(tmp_path: Path) -> None:
    with RogueEngine(ok('{"choices":[]}'), ok('{"error":{"message":"too busy"}}', status="503 No")) as rogue:
        shown = sage(tmp_path, "bench", "--url", rogue.url, "--kind", "chat", *SHORT)
    assert shown.returncode == 1
    assert "20 http_503: too busy" in shown.stdout
    assert shown.stderr.splitlines()[-1] == "no request succeeded"


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_ctrl_c_shows_what_was_measured_so_far(
    engine: SimulatedEngine, tmp_path: Path, as_json: bool
) -> None:
    before = engine.stats()["requests"]
    args = ["--url", engine.url, "--duration", "60", "--no-ceiling", *(["--json"] if as_json else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", "bench", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(tmp_path),
    )
    try:
        engine.wait(requests=before + 100, timeout_s=30)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    if as_json:
        document = json.loads(stdout)
        assert mistakes(document, BENCH) == []
        assert document["interrupted"] is True
        assert document["total"]["ok"] >= 50
    else:
        assert "broken off" in stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--rate", "0"), "--rate: "),
        (("--rate", "x"), "--rate"),
        (("--kind", "chatter"), "--kind: "),
        (("--input-tokens", "zipf:2"), "--input-tokens: "),
        (("--output-tokens", "0"), "--output-tokens: "),
        (("--texts", "-1"), "--texts: "),
        (("--slo", "speed=9"), "--slo: "),
        (("--rate", "1", "--concurrency", "2"), "--rate and --concurrency"),
        (("--url", "ftp://a:1"), "--url "),
        (("--nope",), "--nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_option_is_one_line_and_exit_status_2(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    shown = sage(tmp_path, "bench", *args)
    assert shown.returncode == 2
    assert shown.stdout == ""
    first, *hints = shown.stderr.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert all(line.startswith("hint: ") for line in hints)


def test_a_server_that_serves_several_models_needs_one_named(tmp_path: Path) -> None:
    with simulated_engine("vllm", "--model", "a", "--model", "b", "--speed", "instant") as several:
        shown = sage(tmp_path, "bench", "--url", several.url, *SHORT)
        assert shown.returncode == 2
        assert "serves a, b" in shown.stderr
        assert answer(tmp_path, "--url", several.url, "--model", "b", *SHORT)["models"] == {"stream": "b"}


def test_a_key_is_sent_and_its_absence_explained(tmp_path: Path) -> None:
    with simulated_engine("vllm", "--api-key", "k", "--speed", "instant") as locked:
        shown = sage(tmp_path, "bench", "--url", locked.url, *SHORT)
        assert shown.returncode == 1
        assert "wants an API key" in shown.stderr
        found = answer(tmp_path, "--url", locked.url, "--api-key", "env:THE_KEY", *SHORT, THE_KEY="k")
        typed = sage(tmp_path, "bench", "--url", locked.url, "--api-key", "k", *SHORT)
    assert found["total"]["ok"] == 20
    assert typed.returncode == 0
    assert typed.stderr.startswith("warning: a key on the command line")


@pytest.mark.parametrize(
    ("args", "status", "code"),
    [
        ((), 3, "not_running"),
        (("--url", f"127.0.0.1:{free_port()}"), 1, "not_reached"),
        (("--url", "127.0.0.1:1", "--model", "m", "--kind", "chat"), 1, "not_reached"),
        (("--trace", "none.csv"), 1, "bench"),
        (("--api-key", "env:NOBODY_SET_THIS"), 1, "secret"),
    ],
    ids=["no gateway", "nobody listens", "nobody listens, model given", "no such trace", "no such key"],
)
def test_nothing_to_measure_is_a_failure_in_words(
    tmp_path: Path, args: tuple[str, ...], status: int, code: str
) -> None:
    shown = sage(tmp_path, "bench", *args, "--json")
    document = json.loads(shown.stdout)
    assert mistakes(document, ERROR) == []
    assert (shown.returncode, document["error"]["code"]) == (status, code)
    assert "Traceback" not in shown.stderr
