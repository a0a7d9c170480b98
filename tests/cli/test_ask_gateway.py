"""``chat`` and its neighbours before a running gateway: its models, its key, and its engines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sage_inference.cli.schemas import ANSWERS
from tests.cli.shape import mistakes
from tests.support.at_terminal import AtTerminal
from tests.support.command_here import sage_here
from tests.support.gateway import Gateway, clean_environment, running_gateway

KEY = "sk-of-the-test"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    config = {
        "api_keys": [{"name": "a", "key": "env:A_KEY"}],
        "aliases": {"gpt-4o": "simulated-llm", "nobody": "nothing"},
    }
    with running_gateway(config=config, args=("--simulate",), env={"A_KEY": KEY}) as found:
        found.wait_instances()
        yield found


def test_the_only_chat_model_answers_with_the_key_of_the_configuration(gateway: Gateway) -> None:
    ended = sage_here(gateway.home, "chat", "hello", "--json", A_KEY=KEY)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["model"], found["instance"]) == ("simulated-llm", "simulated-vllm")
    assert found["completion_tokens"] > 3
    for args in (("gpt-4o", "hello"), ("-m", "SIMULATED-LLM", "hello")):
        assert sage_here(gateway.home, "chat", *args, SAGE_UNIFIED_API_KEY=KEY).code == 0


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("hello",), {}, "the gateway wants an API key that cannot be read here"),
        (("hello", "--api-key", "env:WRONG"), {"WRONG": "no"}, "refuses this API key"),
        (("hello", "--api-key", "env:WRONG"), {"WRONG": "n\u00f6\u20ac"}, "no header can carry"),
        (("hello", "--api-key", "env:WRONG"), {"WRONG": "a\r\nx: y"}, "no header can carry"),
        (
            ("simulated-embedding", "hi"),
            {"SAGE_UNIFIED_API_KEY": KEY},
            "is a model for embeddings, not for chat",
        ),
        (("simulated", "hello"), {"SAGE_UNIFIED_API_KEY": KEY}, "did you mean simulated-llm"),
        (("nobody", "hello"), {"SAGE_UNIFIED_API_KEY": KEY}, "served: simulated-llm"),
        (
            ("-", "--set", "max_tokens=9"),
            {"SAGE_UNIFIED_API_KEY": KEY},
            "the text is too long for simulated-llm",
        ),
    ],
)
def test_a_mistake_is_a_sentence(
    gateway: Gateway, args: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    ended = sage_here(gateway.home, "chat", *args, stdin=b"word " * 50_000, **env)
    assert (ended.code, ended.out) == (1, "")
    assert said in ended.err
    assert KEY not in ended.err


def test_ctrl_c_cancels_in_the_engine(gateway: Gateway) -> None:
    words = [sys.executable, "-m", "sage_inference", "inference", "chat", "-m", "gpt-4o", "-"]
    with subprocess.Popen(
        words,
        env=clean_environment(gateway.home, SAGE_UNIFIED_API_KEY=KEY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello " * 5000)
        process.stdin.close()
        assert process.stdout.read(2)
        assert gateway.status()["requests"]["in_flight"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    deadline = time.monotonic() + 20
    while gateway.status()["requests"]["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer_waits_for_no_module_that_it_does_not_need(gateway: Gateway) -> None:
    code = (
        "import sys; from sage_inference.cli.main import main;"
        "status = main(['inference', 'chat', 'hello', '--set', 'max_tokens=1'], program='sage');"
        "heavy = {'httpx', 'rich', 'ssl', 'yaml', 'asyncio', 'http', 'email', 'psutil', 'pydantic', 'readline', 'logging'};"
        "print(int(status), sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(gateway.home, SAGE_UNIFIED_API_KEY=KEY),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sage inference chat ", {"simulated-llm", "gpt-4o"}),
        ("sage inference chat gpt-4o ", set()),
        ("sage inference chat hello --model g", {"gpt-4o"}),
        ("sage inference chat --set temp", {"temperature="}),
    ],
)
def test_models_are_completed(gateway: Gateway, words: str, offered: set[str]) -> None:
    env = clean_environment(
        gateway.home,
        _SAGE_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    code = "import sys; sys.argv[0] = 'sage'; from sage_inference.cli.main import main; sys.exit(main([]))"
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (set(shown.stdout.split()), shown.stderr) == (offered, "")


def test_the_models_are_listed_with_their_aliases(gateway: Gateway) -> None:
    found = json.loads(sage_here(gateway.home, "models", "--json").out)
    assert mistakes(found, ANSWERS["models"]) == []
    chat, embedder = found["models"]
    assert (chat["name"], chat["kind"], chat["aliases"]) == ("simulated-llm", "chat", ["gpt-4o"])
    assert (chat["ready"], chat["instances"], chat["context_tokens"]) == (1, 1, 32768)
    assert (embedder["name"], embedder["kind"]) == ("simulated-embedding", "embedding")
    assert ("chat" in chat["capabilities"], "chat" in embedder["capabilities"]) == (True, False)
    [head, first, _] = sage_here(gateway.home, "models").out.splitlines()
    assert head.split() == ["NAME", "KIND", "STATE", "READY", "CONTEXT", "ALIASES"]
    assert first.split() == [
        "simulated-llm",
        "(simulated)",
        "chat",
        "ready",
        "1",
        "of",
        "1",
        "32,768",
        "gpt-4o",
    ]


def test_a_terminal_of_60_columns_is_wide_enough(gateway: Gateway) -> None:
    for command in ("models", "status"):
        with AtTerminal(gateway.home, command, columns=60, NO_COLOR="1") as terminal:
            assert terminal.end() == 0
            lines = terminal.shown.splitlines()
            assert max(len(line) for line in lines if not line.startswith(("warning: ", "hint: "))) <= 60


def test_lines_become_vectors_in_their_order(gateway: Gateway) -> None:
    lines = [f"text {number}" for number in range(600)]
    ended = sage_here(gateway.home, "embed", "-", stdin="\n".join(lines).encode(), SAGE_UNIFIED_API_KEY=KEY)
    assert (ended.code, ended.err) == (0, "")
    vectors = [json.loads(line) for line in ended.out.splitlines()]
    assert len(vectors) == 600
    alone = sage_here(gateway.home, "embed", lines[577], "--json", A_KEY=KEY)
    found = json.loads(alone.out)
    assert (found["model"], found["dimensions"]) == ("simulated-embedding", 384)
    assert found["embeddings"] == [vectors[577]]
