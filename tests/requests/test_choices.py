"""How many answers a body asks for: together they take no longer than one."""

from __future__ import annotations

import json

import pytest

from sage_inference.requests.body import read
from sage_inference.requests.routes import ROUTES

CHAT, COMPLETIONS = ROUTES["/v1/chat/completions"], ROUTES["/v1/completions"]


@pytest.mark.parametrize(
    ("n", "choices"),
    [
        (None, 1),
        (1, 1),
        (4, 4),
        (128, 128),
        ("3", 3),
        (0, 1),
        (-2, 1),
        (2.5, 0),
        ([2], 0),
        (True, 0),
        ("x", 0),
    ],
    ids=str,
)
def test_a_chat_has_n_choices(n: object, choices: int) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "[1]"}], "n": n}
    assert read(CHAT, json.dumps(body).encode()).choices == choices


def test_without_n_there_is_one_choice() -> None:
    assert read(CHAT, b'{"messages":[{"role":"user","content":"a"}]}').choices == 1


@pytest.mark.parametrize(
    ("prompt", "n", "choices"),
    [
        ("text", 1, 1),
        ("[1, 2]", 2, 2),
        (["one"], 1, 1),
        (["one", "two, [3]"], 1, 2),
        (["one", "two", "three"], 2, 6),
        ([1, 2, 3], 1, 1),
        ([[1, 2], [3]], 1, 2),
        ([[1, 2], [3]], 2, 4),
        ([], 1, 1),
        (["x" * 70_000, "y"], 1, 2),
        (["x"] * 1000, 1, 1000),
        (["x"] * 2000, 1, 0),
        (["," * 2000, "y"], 1, 0),
        (["one", "two"], 2.5, 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_each_prompt_of_a_list_has_n_choices(prompt: object, n: object, choices: int) -> None:
    for separators in ((",", ":"), (" , ", " : ")):
        body = json.dumps({"model": "m", "prompt": prompt, "n": n}, separators=separators)
        assert read(COMPLETIONS, body.encode()).choices == choices


def test_a_number_too_long_to_read_is_not_known() -> None:
    assert read(CHAT, b'{"messages":[],"n":' + b"9" * 5000 + b"}").choices == 0
