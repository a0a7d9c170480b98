"""``embed``: a vector for each text, in order, or a sentence that names the fault and the text."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.embedding import line_of
from sage_inference.cli.errors import Failure
from sage_inference.cli.schemas import ANSWERS
from sage_inference.cli.served import ModelServer, _from_cards
from tests.cli.shape import mistakes
from tests.support.at_terminal import AtTerminal
from tests.support.command_here import Ended, sage_here
from tests.support.gateway import clean_environment
from tests.support.rogue import RogueEngine, Wire, ok


def embed(home: Path, engine: RogueEngine, *args: str, **more: Any) -> Ended:
    return sage_here(home, "embed", "--base-url", engine.url, *args, **more)


def lengths(wire: Wire) -> None:
    """Answers each text with its length and 0.5."""
    texts = json.loads(wire.body)["input"]
    entries = [{"index": n, "embedding": [len(text), 0.5]} for n, text in enumerate(texts)]
    document = {"data": entries[::-1], "usage": {"prompt_tokens": len(texts)}}
    ok(json.dumps(document))(wire)


def sent(engine: RogueEngine) -> list[list[str]]:
    return [json.loads(request.partition(b"\r\n\r\n")[2])["input"] for request in engine.requests]


@pytest.mark.parametrize(
    ("args", "stdin", "texts"),
    [
        (("a text", "bb"), b"not read", ["a text", "bb"]),
        ((), b"one\ntwo\r\n\nfour", ["one", "two", "", "four"]),
        (("x", "-", "y"), b"one\n", ["x", "one", "y"]),
        (("-",), b"\xef\xbb\xbfa\xff\x00\n\x1b", ["a\ufffd\x00", "\x1b"]),
        (("\udcff", "\ud83d"), b"", ["\ufffd", "\ufffd"]),
        (("--", "-x"), b"", ["-x"]),
    ],
)
def test_each_text_has_a_line(tmp_path: Path, args: tuple[str, ...], stdin: bytes, texts: list[str]) -> None:
    with RogueEngine(lengths) as engine:
        ended = embed(tmp_path, engine, *args, stdin=stdin)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == "".join(f"[{len(text)}, 0.5]\n" for text in texts)
        assert sent(engine) == [texts]


def test_many_lines_are_sent_in_batches_and_stay_in_order(tmp_path: Path) -> None:
    lines = [b"x" * (number % 97) for number in range(1000)]
    with RogueEngine(lengths) as engine:
        ended = embed(tmp_path, engine, "-", stdin=b"\n".join(lines))
        assert ended.out == "".join(f"[{len(line)}, 0.5]\n" for line in lines)
        assert [len(batch) for batch in sent(engine)].count(32) == 31
        found = json.loads(embed(tmp_path, engine, "-", "--json", stdin=b"\n".join(lines)).out)
        assert mistakes(found, ANSWERS["embed"]) == []
        assert (found["dimensions"], found["prompt_tokens"], len(found["embeddings"])) == (2, 1000, 1000)
    with RogueEngine(lengths) as engine:  # texts so long that a batch has fewer
        embed(tmp_path, engine, "-", stdin=b"\n".join([b"y" * 300_000] * 5))
        assert [len(batch) for batch in sent(engine)] == [1] * 5


@pytest.mark.parametrize(
    ("args", "stdin", "code", "said"),
    [
        (("-", "-"), b"", 2, "can be read once only"),
        (("x", "--model", "other"), b"", 1, 'no model "other"'),
        (("x", "--base-url", "ftp://x"), b"", 2, "--base-url"),
        (("-",), b"x" * (17 << 20), 1, "line 1 of standard input has more than 16 MiB"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_mistake_is_a_sentence(
    tmp_path: Path, args: tuple[str, ...], stdin: bytes, code: int, said: str
) -> None:
    with RogueEngine(lengths) as engine:
        ended = embed(tmp_path, engine, *args, stdin=stdin)
        assert (ended.code, ended.out) == (code, "")
        assert said in ended.err
    assert sage_here(tmp_path, "embed", "x").code == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ok('{"error": {"message": "too many tokens"}}', status="413 No"), "texts 1 to 32: http"),
        (ok('{"data": []}'), "texts 1 to 32: the answer has 0 embeddings for 32 texts"),
        (ok("nonsense"), "is not a JSON object"),
        (ok('{"data": [{"index": 99, "embedding": [1]}]}'), "has no embeddings that can be read"),
        (ok('{"data": [{"index": 0, "embedding": "AAA"}]}'), "has no embeddings that can be read"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_fault_of_the_server_is_a_sentence(tmp_path: Path, answer: Any, said: str) -> None:
    with RogueEngine(answer) as engine:
        ended = embed(tmp_path, engine, "-", stdin=b"line\n" * 40)
        assert (ended.code, ended.out) == (1, "")
        assert said in ended.err


def test_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    with (
        RogueEngine(Wire.wait_for_peer_to_leave) as engine,
        subprocess.Popen(
            [sys.executable, "-m", "sage_inference", "inference", "embed", "x", "--base-url", engine.url],
            env=clean_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        engine.arrived.get(timeout=20)
        process.send_signal(signal.SIGINT)
        engine.left.get(timeout=20)
        assert (process.communicate(timeout=20), process.returncode) == ((b"", b""), 130)


def test_a_terminal_shows_a_summary(tmp_path: Path) -> None:
    with (
        RogueEngine(lengths) as engine,
        AtTerminal(
            tmp_path, "embed", "--base-url", engine.url, "a\x1b[2Jb", "c" * 90, columns=20, NO_COLOR="1"
        ) as terminal,
    ):
        assert terminal.end() == 0
        assert "\x1b" not in terminal.shown
        lines = terminal.shown.splitlines()
        assert lines[:2] == ["a\\x1b[2Jb", "  2 dimensions, norm 6.021: 6.000, 0.500"]
        assert lines[2] == "c" * 19 + "…"
        assert lines[4].startswith("2 texts, 2 tokens, ")


def test_values_are_those_of_float32_and_json() -> None:
    values = [0.1, 1e-20, -3.0, float("nan"), float("inf"), 1.23456789012]
    assert json.loads(line_of(values)) == [0.1, 1e-20, -3, None, None, 1.23456789]


@pytest.mark.parametrize(
    ("cards", "chats", "embeds"),
    [
        ([{"id": "a", "type": "chat", "capabilities": ["chat", "embed"]}], "a", "a"),
        ([{"id": "a", "type": "chat"}, {"id": "b", "type": "embedding"}], "a", "b"),
        ([{"id": "a"}, {"id": "b", "type": "embedding"}], "a", "b"),
        ([{"id": "a", "type": 7, "capabilities": {"x": 1}}], "a", "a"),
        ([{"id": "a", "type": "rerank"}, {"id": "b", "type": "chat"}], "b", None),
        ([{"id": "b", "type": "chat"}, {"id": "c", "root": "b", "parent": "b", "type": "chat"}], "b", None),
        ([{"id": 7}, None, {}], None, None),
    ],
)
def test_the_only_model_of_a_kind_is_taken(cards: list[Any], chats: str | None, embeds: str | None) -> None:
    server = ModelServer("http://h:1", None, _from_cards(json.dumps({"data": cards}).encode()), {})
    for kind, wanted in (("chat", chats), ("embedding", embeds)):
        if wanted is None:
            with pytest.raises(Failure):
                server.only(kind)  # type: ignore[arg-type]
        else:
            assert server.only(kind) == wanted  # type: ignore[arg-type]
