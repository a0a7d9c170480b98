"""``chat`` with a prompt: the answer and nothing else, or a sentence that names the fault."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.cli.chat.sampling import FIELDS, field
from sage_inference.cli.chat.words import split
from sage_inference.cli.errors import Failure
from sage_inference.cli.schemas import ANSWERS
from sage_inference.cli.served import ModelServer
from tests.cli.shape import mistakes
from tests.support.at_terminal import AtTerminal
from tests.support.command_here import Ended, sage_here
from tests.support.gateway import clean_environment, free_port
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse

HOSTILE = "a\x1b[2Jb\x07\x9b31mc\u202ed"


def delta(**fields: Any) -> str:
    return json.dumps({"model": "m", "choices": [{"index": 0, "delta": fields}]})


FINISH = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
END = b"0\r\n\r\n"


def answering(*pieces: str) -> Any:
    events = sse(*(delta(content=piece) for piece in pieces), FINISH, USAGE, "[DONE]") + END
    return raw(events, then="close")


def chat(home: Path, engine: RogueEngine, *args: str, **more: Any) -> Ended:
    return sage_here(home, "chat", "--base-url", engine.url, *args, **more)


def asked(engine: RogueEngine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.requests[-1].partition(b"\r\n\r\n")[2])
    return found


@pytest.mark.parametrize("text", ["Hi!\n", "", "two\nlines", HOSTILE, "日本 🚀 \ud83d", " x " * 4000])
def test_a_pipe_gets_exactly_the_answer_and_a_line_break(tmp_path: Path, text: str) -> None:
    with RogueEngine(answering(text[:3], text[3:])) as engine:
        ended = chat(tmp_path, engine, "hello there")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == text.encode("utf-8", "backslashreplace").decode() + "\n"
        assert asked(engine)["messages"] == [{"role": "user", "content": "hello there"}]
        assert asked(engine)["model"] == "m"


def test_the_answer_is_a_document_for_a_script(tmp_path: Path) -> None:
    answer = sse(delta(reasoning_content="hm"), delta(content="Hi"), delta(content=" you"), FINISH, USAGE)
    with RogueEngine(raw(answer + chunk(b"data: [DONE]\n\n") + END, then="close")) as engine:
        ended = chat(tmp_path, engine, "m", "hi", "--json", "--system", "Be kind", "--set", "temperature=0")
        found = json.loads(ended.out)
        assert mistakes(found, ANSWERS["chat"]) == []
        assert (found["content"], found["reasoning"], found["completion_tokens"]) == ("Hi you", "hm", 3)
        assert found["finish_reason"] == "stop"
        assert [each["role"] for each in asked(engine)["messages"]] == ["system", "user"]
        assert asked(engine)["temperature"] == 0


def test_a_server_that_does_not_stream_is_understood(tmp_path: Path) -> None:
    body = {"model": "m", "choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    with RogueEngine(ok(json.dumps(body))) as engine:
        assert chat(tmp_path, engine, "hello there").out == "whole\n"


@pytest.mark.parametrize(
    ("args", "stdin", "sent"),
    [
        (("hello",), b"not read", "hello"),
        (("two words",), b"", "two words"),
        (("m", "two", "words"), b"", "two words"),
        (("M", "hello"), b"", "hello"),
        (("-m", "m", "two", "words"), b"", "two words"),
        ((), b"from a pipe\n", "from a pipe"),
        (("-",), b"from a pipe\r\n\n", "from a pipe"),
        (("m",), b"\xef\xbb\xbfmarked", "marked"),
        (("m", "Sum", "up:", "-", "Thanks"), b"a\nb\n", "Sum up:\n\na\nb\n\nThanks"),
        (("-",), b"a\xff\x00b", "a\ufffd\x00b"),
        (("m", "a\udcffb"), b"", "a\ufffdb"),
        (("m", "\ud800x"), b"", "\ufffdx"),
        (("m", "\x00 \x1b[2J"), b"", "\x00 \x1b[2J"),
        (("-m", "m", "--", "-x"), b"", "-x"),
    ],
)
def test_words_are_a_model_or_a_prompt(
    tmp_path: Path, args: tuple[str, ...], stdin: bytes, sent: str
) -> None:
    with RogueEngine(answering("x")) as engine:
        ended = chat(tmp_path, engine, *args, stdin=stdin)
        assert (ended.code, ended.out) == (0, "x\n"), ended.err
        assert asked(engine)["messages"][0]["content"] == sent


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("qwen2.5",), 1, "did you mean qwen2.5-7b?"),
        (("qwen2.5-7bb",), 1, "did you mean qwen2.5-7b?"),
        (("meta/llama-3",), 1, "served: qwen2.5-7b"),
        (("llama3:8b",), 1, "sage inference chat MODEL llama3:8b"),
        (("why", "is", "it"), 1, "put quotes around a prompt"),
        (("-m", "other", "hi"), 1, 'no model "other"'),
        (("-", "-"), 2, "can be read once only"),
        ((" ",), 2, "the prompt is empty"),
        (("-",), 2, "the prompt is empty"),
        (("hello", "--set", "temprature=1"), 2, "did you mean temperature?"),
        (("hello", "--set", "temperature=hot"), 2, "a number from 0 to 2"),
        (("hello", "--set", "max_tokens=0"), 2, "a whole number from 1"),
        (("hello", "--set", "seed=" + "9" * 5000), 2, "a whole number from 0"),
        (("hello", "--set", "temperature"), 2, "has no value"),
        (("hello", "--api-key", "env:NO_SUCH_KEY"), 1, "NO_SUCH_KEY is not set"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_mistake_is_a_sentence(tmp_path: Path, args: tuple[str, ...], code: int, said: str) -> None:
    with RogueEngine(answering("x"), model="qwen2.5-7b") as engine:
        ended = chat(tmp_path, engine, *args)
        assert (ended.code, ended.out) == (code, "")
        assert said in ended.err
        assert engine.requests == []


def refusal(status: str, message: str, *headers: str, **more: Any) -> Any:
    return ok(json.dumps({"error": {"message": message, **more}}), *headers, status=status)


LONG = "This model's maximum context length is 32 tokens. However, you requested 900 tokens"


@pytest.mark.parametrize(
    ("answer", "out", "said"),
    [
        (refusal("401 Unauthorized", "no key"), "", "wants an API key"),
        (refusal("404 Not Found", "no instance serves m"), "", "answers with 404: no instance serves m"),
        (refusal("400 Bad Request", LONG), "", "the text is too long for m: This model's"),
        (refusal("429 Too Many", "busy", "retry-after: 7"), "", "try again in 7 s"),
        (refusal("503 No", "engine q is not loaded; start it with: x"), "", "start it with: x"),
        (ok(b"\xff" * 9, status="500 No"), "", "answers with 500"),
        (ok(b"[" * 5000), "", "is not a JSON object"),
        (raw(sse(delta(content="abc")), then="close"), "abc", "the answer broke off: "),
        (raw(sse(delta(content="abc"), "{nonsense"), then="close"), "abc", "broke off"),
        (
            raw(sse(delta(content="abc"), '{"error":{"message":"engine died"}}'), then="close"),
            "abc",
            "engine died",
        ),
        (raw(sse(delta(content="abc"), FINISH.replace("stop", "x"))[:-40], then="reset"), "abc", "broke off"),
        (raw(b"", then="close"), "", "closed the connection without an answer"),
        (raw(b"SSH-2.0-x\r\n", then="close"), "", "no valid HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2_000_000, then="close"), "", "the head of its answer"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_fault_of_the_server_is_a_sentence(tmp_path: Path, answer: Any, out: str, said: str) -> None:
    with RogueEngine(answer) as engine:
        ended = chat(tmp_path, engine, "hello there")
        assert (ended.code, ended.out) == (1, out)
        assert said in ended.err
        assert ended.err.splitlines()[-1].startswith(("error: ", "hint: "))


def test_servers_that_are_not_there_are_named(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    ended = sage_here(tmp_path, "chat", "--base-url", nowhere, "hello")
    assert (ended.code, "cannot be reached: connection refused" in ended.err) == (1, True)
    assert sage_here(tmp_path, "chat", "hello").code == 3
    for url in ("ftp://x", "http://", "http://u:p@h", "unix:/x", "http://h:0", "\x00"):
        assert sage_here(tmp_path, "chat", "--base-url", url, "hello").code == 2
    with RogueEngine(answering("x")) as engine:
        assert sage_here(tmp_path, "chat", "hello", SAGE_CHAT_BASE_URL=engine.url).out == "x\n"


def test_a_long_text_from_stdin_arrives_whole(tmp_path: Path) -> None:
    text = b"\xf0\x9f\x9a\x80 \x00\x1b" + b"x" * 10_500_000
    with RogueEngine(answering("x")) as engine:
        assert chat(tmp_path, engine, "-", stdin=text).out == "x\n"
        assert asked(engine)["messages"][0]["content"].encode() == text
        assert "more than 64 MiB" in chat(tmp_path, engine, "-", stdin=b"x" * (64 << 20) + b"y").err


def command(home: Path, engine: RogueEngine, *args: str, **more: Any) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "sage_inference", "inference", "chat", "--base-url", engine.url, *args]
    return subprocess.Popen(
        words,
        env=clean_environment(home),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **more},
    )


def begun(wire: Wire) -> None:
    """Begin an answer, and wait until the caller leaves."""
    wire.send(sse(delta(content="be"), delta(content="gun")))
    wire.wait_for_peer_to_leave()


def test_ctrl_c_cancels_in_the_engine(tmp_path: Path) -> None:
    with RogueEngine(begun) as engine, command(tmp_path, engine, "hello there") as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"begun"  # flushed as it came
        process.send_signal(signal.SIGINT)
        engine.left.get(timeout=20)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    def endless(wire: Wire) -> None:
        wire.send(sse())
        while True:
            wire.send(chunk(f"data: {delta(content='x' * 100)}\n\n".encode()))

    with RogueEngine(endless) as engine, command(tmp_path, engine, "hello there") as process:
        assert process.stdout is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_closed_streams_end_in_no_traceback(tmp_path: Path) -> None:
    def closed(shell: str) -> subprocess.CompletedProcess[str]:
        words = f"{sys.executable} -m sage_inference inference chat --base-url {engine.url} {shell}"
        return subprocess.run(
            ["sh", "-c", words], env=clean_environment(tmp_path), capture_output=True, text=True, check=False
        )

    with RogueEngine(answering("x")) as engine:
        ended = closed("<&-")
        assert (ended.returncode, "the prompt is empty" in ended.stderr) == (2, True)
        ended = closed("m hello >&- <&-")
        assert (ended.returncode, ended.stderr) == (0, "")
        ended = closed("m hello >/dev/full")
        assert (ended.returncode, "no space left" in ended.stderr) == (1, True)


def test_a_terminal_gets_thoughts_dim_and_no_character_that_steers_it(tmp_path: Path) -> None:
    thoughts = sse(delta(reasoning="hm" + HOSTILE), delta(content=HOSTILE + "\r\nx\t\u200dé"), FINISH, USAGE)
    with (
        RogueEngine(raw(thoughts + chunk(b"data: [DONE]\n\n") + END, then="close")) as engine,
        AtTerminal(tmp_path, "chat", "--base-url", engine.url, "hello", columns=20) as terminal,
    ):
        assert terminal.end() == 0
        shown = terminal.shown.partition("\x1b[2mhm")[2]  # before it, a line of progress may come and go
        answer, _, below = shown.partition("\x1b[2m")
        assert (
            answer
            == "a\\x1b[2Jb\\x07\\x9b31mc\\u202ed\r\n\x1b[0m\r\na\\x1b[2Jb\\x07\\x9b31mc\\u202ed\r\nx\t\u200dé\r\n"
        )
        assert below.startswith("3 tokens, ")
        assert below.endswith("\x1b[0m\r\n")


def test_a_dumb_terminal_gets_no_escapes(tmp_path: Path) -> None:
    thoughts = sse(delta(reasoning="hm"), delta(content="x"), FINISH, USAGE, "[DONE]") + END
    with (
        RogueEngine(raw(thoughts, then="close")) as engine,
        AtTerminal(tmp_path, "chat", "--base-url", engine.url, "hello", TERM="dumb") as terminal,
    ):
        assert terminal.end() == 0
        assert "\x1b" not in terminal.shown
        assert "(thinking)\r\nhm\r\n(answer)\r\nx\r\n3 tokens" in terminal.shown


WORD = st.text(max_size=12) | st.sampled_from(
    ["-", "qwen", "QWEN2.5-7B", "org/model", "a/b:c", "x:1", "\x00", "\ud800", "m" * 300, "--", ""]
)
MODELS = st.lists(
    st.fixed_dictionaries(
        {
            "name": WORD,
            "kind": st.sampled_from(["chat", "embedding", None]),
            "capabilities": st.lists(st.sampled_from(["chat", "embed"])),
            "aliases": st.lists(WORD, max_size=2),
            "state": st.just("ready"),
            "engines": st.just([]),
            "ready": st.just(1),
        }
    ),
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(MODELS, st.none() | WORD, st.lists(WORD, max_size=4), st.none() | WORD)
def test_any_words_and_models_are_understood_or_refused(
    models: list[dict[str, Any]], given_model: str | None, words: list[str], default: str | None
) -> None:
    server = ModelServer("http://h:1", None, models, {"chat": default})
    try:
        name, rest = split(server, given_model, words)
    except Failure:
        return
    assert not models or server.find(name) is not None
    assert rest in (words, words[1:])


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=20) | st.sampled_from(sorted(FIELDS)), st.text(max_size=20) | st.floats().map(str))
def test_any_setting_has_a_value_or_is_refused(name: str, value: str) -> None:
    try:
        found = field(name, value)
    except Failure:
        return
    json.dumps(found, allow_nan=False)


def test_the_progress_of_an_engine_that_loads_is_shown_until_it_answers(tmp_path: Path) -> None:
    def loading(wire: Wire) -> None:
        wire.send(sse())
        wire.send(chunk(b": loading (the weights 45 %)\x1b[2J\n\n"))
        assert wire.engine.go.wait(20)
        events = (delta(content="x"), FINISH, USAGE, "[DONE]")
        wire.send(sse(*events).partition(b"\r\n\r\n")[2] + END)

    with (
        RogueEngine(loading) as engine,
        AtTerminal(tmp_path, "chat", "--base-url", engine.url, "hello", NO_COLOR="1") as terminal,
    ):
        terminal.wait_for("\rwaiting for m: loading (the weights 45 %)\\x1b[2J (")
        engine.go.set()
        assert terminal.wait_for("3 tokens").endswith("\r\x1b[Kx\r\n")
        assert terminal.end() == 0
