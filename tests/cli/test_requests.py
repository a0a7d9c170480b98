"""``requests``: a log of the last requests, which goes on as they end, and counts those that it could not show."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.cli.requesttext import RequestFilter, RequestLog, has_failed
from sage_inference.cli.schemas import ANSWERS
from sage_inference.config.paths import Paths
from sage_inference.daemon.requests import REFUSED_KEPT, SENT_KEPT, RequestFeed, RequestLook
from sage_inference.telemetry import refusals
from sage_inference.telemetry.decisions import log
from tests.cli.shape import mistakes
from tests.support.at_terminal import AtTerminal
from tests.support.command import sage
from tests.support.command_here import sage_here
from tests.support.following import following
from tests.support.gateway import Gateway, clean_environment, free_port, running_gateway
from tests.support.rogue import RogueEngine, ok, raw, sse
from tests.support.wire import Caller

USED = '{"usage":{"prompt_tokens":70,"completion_tokens":7,"total_tokens":77}}'
STREAM = raw(sse('{"choices":[]}', *['{"choices":[{"delta":{"content":"x"}}]}'] * 3, "[DONE]") + b"0\r\n\r\n")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SENT: list[tuple[str, dict[str, Any]]] = [
    ("r-good", {"user": "ann"}),
    ("r-stream", {"user": "bob", "stream": True}),
    ("r-broken", {"user": "ann"}),
    ("r-refused", {"model": "nope"}),
    ("r-last", {}),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    answers = (ok(USED), STREAM, ok(b'{"error":{"message":"no"}}', status="500 No"), ok(USED))
    with RogueEngine(*answers) as engine, running_gateway(engine.url) as found:
        with Caller(found.port) as caller:
            for name, fields in SENT:
                caller.chat(f"x-request-id: {name}", **fields).reply()
        yield found


def ids(home: Path, *args: str) -> list[str]:
    ended = sage_here(home, "requests", "--json", *args)
    assert ended.code == 0, ended.err
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [mistakes(each, ANSWERS["requests"]) for each in found] == [[]] * len(found)
    return [each["request_id"] for each in found]


def read_id(follower: subprocess.Popen[bytes]) -> str:
    assert follower.stdout is not None
    return str(json.loads(follower.stdout.readline())["request_id"])


def test_a_pipe_gets_a_plain_line_a_request_below_the_headers(gateway: Gateway) -> None:
    ended = sage_here(gateway.home, "requests")
    assert (ended.code, ended.err) == (0, "")
    [head, *lines] = ended.out.splitlines()
    assert head.split() == "TIME ID ROUTE MODEL KEY INSTANCE QUEUE TTFT TOK/S TOTAL STATUS WHY".split()
    assert [re.split(r"\s{2,}", line)[1:5] for line in lines] == [
        [name, "/v1/chat/completions", str(fields.get("model", "m")), str(fields.get("user", "-"))]
        for name, fields in SENT
    ]
    assert {line.find("/v1/") for line in lines} == {head.find("ROUTE")}
    assert [" 500  " in line for line in lines] == [False, False, True, False, False]
    assert "refused 404" in lines[3]
    assert 'model "nope"' in lines[3]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ((), [name for name, _ in SENT]),
        (("--failed",), ["r-broken", "r-refused"]),
        (("--key", "ann"), ["r-good", "r-broken"]),
        (("--key", "A*"), ["r-good", "r-broken"]),
        (("--key", "ann", "--failed", "--model", "m", "--instance", "*"), ["r-broken"]),
        (("--limit", "2"), ["r-refused", "r-last"]),
        (("-n", "1", "--key", "ann"), ["r-broken"]),
        (("-n", "0"), []),
        (("--model", "M"), ["r-good", "r-stream", "r-broken", "r-last"]),
        (("--model", "?"), []),
        (("--model", "[m]"), []),
        (("--model", "\udcff"), []),
        (("--instance", "nope"), []),
        (("--key", ""), ["r-refused", "r-last"]),
        (("--instance", ""), ["r-refused"]),
        (("--key", "*" * 500 + "x"), []),
    ],
)
def test_filters_choose_among_all_that_are_remembered(
    gateway: Gateway, args: tuple[str, ...], shown: list[str]
) -> None:
    assert ids(gateway.home, *args) == shown


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--limit", "-1"), 2, "-1"),
        (("--limit", "x\x1b[2J"), 2, "x\\x1b[2J"),
        (("--limit", "9" * 5000), 2, "--limit"),
        (("--limit", "9" * 30), 0, ""),
        (("--model",), 2, "--model"),
        (("a", "b"), 2, "unexpected extra argument"),
        (("--instance", "\x00\x1b[2J"), 0, "none of the last 5 requests fits"),
    ],
)
def test_a_mistake_is_a_sentence(gateway: Gateway, args: tuple[str, ...], code: int, said: str) -> None:
    ended = sage_here(gateway.home, "requests", *args)
    assert (ended.code, "\x1b" in ended.err) == (code, False)
    assert said in ended.err


def test_without_a_gateway_the_exit_code_says_so(tmp_path: Path) -> None:
    for args in ((), ("-f",)):
        ended = sage_here(tmp_path, "requests", *args)
        assert (ended.code, ended.out) == (3, "")
        assert "sage inference start" in ended.err


@pytest.mark.parametrize("columns", [1, 20, 60, 80, 132, 250])
def test_a_line_fits_the_terminal(gateway: Gateway, columns: int) -> None:
    with AtTerminal(gateway.home, "requests", columns=columns) as terminal:
        assert terminal.end() == 0
        [head, *lines] = [ANSI.sub("", line) for line in terminal.shown.splitlines()][: len(SENT) + 1]
        assert max(map(len, [head, *lines])) <= columns
        assert "QUEUE" not in head or {line.find(" ms") for line in lines} != {-1}
        assert ("r-broken" in terminal.shown) is (columns > 80)
        if columns == 60:
            assert head.split() == ["TIME", "MODEL", "INSTANCE", "TTFT", "STATUS"]
            assert "no room for ID" in terminal.shown


def test_it_follows_and_ends_quietly(gateway: Gateway) -> None:
    with Caller(gateway.port) as caller:
        caller.chat("x-request-id: before", user="eve").reply()
        with following(gateway.home, "requests", "--json", "-n", "1", "--key", "eve*") as follower:
            assert read_id(follower) == "before"
            for number in range(300):
                caller.chat(f"x-request-id: f{number}", user=f"eve{number}" if number % 3 else "ann").reply()
            wanted = [f"f{number}" for number in range(300) if number % 3]
            assert [read_id(follower) for _ in wanted] == wanted
            follower.send_signal(signal.SIGINT)
            assert follower.wait(20) == 130
            assert follower.stderr is not None
            assert follower.stderr.read() == b""
    with following(gateway.home, "requests", "-n", "1") as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        follower.stdout.close()  # nothing more is written
        assert follower.wait(20) == 1


def test_requests_that_came_too_fast_to_be_shown_are_counted(gateway: Gateway) -> None:
    assert (SENT_KEPT, REFUSED_KEPT) == (log.KEPT, refusals.KEPT)
    feed = RequestFeed(Paths.resolve(environ=clean_environment(gateway.home)))
    feed.first()
    with Caller(gateway.port) as caller:
        for _ in range(SENT_KEPT + 76):
            caller.chat().reply()
    look = feed.more()
    assert len(look.rows) == SENT_KEPT
    assert look.notices == [
        "76 requests are not shown: the gateway remembers the last 1,024 that it sent, and 100 refused ones"
    ]
    assert feed.more() == RequestLook()


def test_it_goes_on_at_the_gateway_that_replaces_this_one(tmp_path: Path) -> None:
    port = str(free_port())
    with RogueEngine(ok(USED)) as engine, contextlib.ExitStack() as stack:
        stack.callback(sage, tmp_path, "stop", "--force")
        start = ("start", "--background", "--wait", "engines", "--port", port, "--llm-backend", engine.url)

        def chat(name: str) -> None:
            with Caller(int(port)) as caller:
                assert caller.chat(f"x-request-id: {name}").reply().status == 200

        assert sage(tmp_path, *start).returncode == 0
        chat("a0")
        follower = stack.enter_context(following(tmp_path, "requests", "--json"))
        assert follower.stderr is not None
        assert read_id(follower) == "a0"
        assert sage(tmp_path, "restart").returncode == 0
        chat("b0")
        assert read_id(follower) == "b0"
        assert b"the gateway is a new one (pid " in follower.stderr.readline()
        assert sage(tmp_path, "stop").returncode == 0
        assert b"waiting for the next one" in follower.stderr.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("requests --model ", {"m"}),
        ("requests --instance ", None),
        ("requests --key ", set()),
        ("requests --fo", {"--follow"}),
        ("req", {"requests"}),
    ],
)
def test_names_are_completed(gateway: Gateway, words: str, offered: set[str] | None) -> None:
    env = clean_environment(
        gateway.home,
        _SAGE_COMPLETE="complete_bash",
        COMP_WORDS=f"sage inference {words}",
        COMP_CWORD=str(len(words.split(" ")) + 1),
    )
    code = "import sys; sys.argv[0] = 'sage'; from sage_inference.cli.main import main; sys.exit(main([]))"
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    instances = {each["name"] for each in gateway.instances()}
    assert (set(shown.stdout.split()), shown.stderr) == (instances if offered is None else offered, "")


@pytest.mark.parametrize(
    ("outcome", "status", "failed"),
    [("done", 200, False), ("done", None, False), ("prefilled", 200, False), ("cancelled", None, False),
     ("done", 400, True), ("done", 503, True), ("retried", None, True), ("cut", 200, True), ("aborted", 200, True),
     ("failed", 200, True)],
)  # fmt: skip
def test_a_failure_is_an_error_or_a_broken_answer(outcome: str, status: int | None, failed: bool) -> None:
    assert has_failed({"outcome": outcome, "status": status}) is failed


ANY = st.text(max_size=40) | st.sampled_from(["\x1b[2J", "a\nb", "\u202e", "日本", "\udcff", "x" * 300])
MS = st.none() | st.floats(0, 1e9) | st.integers(0, 10**7)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "arrived_ms": st.integers(0, 4 * 10**12),
            "request_id": ANY,
            "route": ANY,
            "model": ANY,
            "tenant": ANY,
            "instance": ANY,
            "why": ANY,
            "queue_ms": MS,
            "ttft_ms": MS,
            "total_ms": MS,
            "tokens_per_s": MS,
            "outcome": st.sampled_from(["done", "cut", "cancelled", "retried"]),
            "status": st.none() | st.integers(200, 599),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ROWS, st.none() | st.integers(1, 300)), max_size=3), ANY)
def test_any_rows_become_one_safe_line_each(
    pieces: list[tuple[list[dict[str, Any]], int | None]], wanted: str
) -> None:
    shown = RequestLog()
    for rows, width in pieces:
        [RequestFilter(model=wanted, key=wanted, instance=wanted).fits(row) for row in rows]
        lines = [ANSI.sub("", line) for line in shown.lines(rows, width)]
        assert all(line.isprintable() for line in lines)
        assert len(rows) <= len(lines) <= 3 * len(rows) + 1
        if width is not None:
            assert max(map(len, lines)) <= max(width, 10)  # a line with the date is as long as the date
