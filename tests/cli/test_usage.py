"""``usage`` from the command line, while the gateway runs and after its end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.schemas import ANSWERS
from sage_inference.cli.usage import _csv
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import running_gateway

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


def test_every_request_is_in_it_at_once_and_after_the_end(tmp_path: Path) -> None:
    with running_gateway(args=("--simulate",)) as g:
        g.wait_instances()
        reported = 0
        with g.client() as client:
            for user in ("ada", "ada", "=bob"):
                answer = client.post("/v1/chat/completions", json={**CHAT, "user": user}).raise_for_status()
                reported += answer.json()["usage"]["total_tokens"]
            texts = client.post("/v1/embeddings", json={"input": ["one", "two"]}).raise_for_status()
            assert client.post("/v1/chat/completions", json={**CHAT, "model": "nope"}).status_code == 404
        found = usage(g.home)
        assert mistakes(found, ANSWERS["usage"]) == []
        total = found["total"]
        assert (total["requests"], total["errors"], total["embedding_texts"]) == (5, 1, 2)
        reported += texts.json()["usage"]["total_tokens"]
        assert total["prompt_tokens"] + total["completion_tokens"] == reported
        by_user = {row["user"]: row["requests"] for row in usage(g.home, "--by", "user")["rows"]}
        assert by_user == {"ada": 2, "=bob": 1, "": 2}
        wrong = sage(g.home, "usage", "--by", "colour")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "'colour' is not one of model, key, user" in wrong.stderr
        sage(g.home, "stop")
        stored = usage(g.home)
        assert {**stored, "until": 0, "kept_days": 0} == {**found, "until": 0, "kept_days": 0}
        shown = sage(g.home, "usage", "--since", "today").stdout.splitlines()
        assert shown[0].split() == ["MODEL", "REQUESTS", "ERRORS", "IN", "OUT", "TEXTS", "GPU"]
        assert shown[-1].split()[:3] == ["all", "5", "1"]
        rows = list(csv.DictReader(sage(g.home, "usage", "--by", "user", "--csv").stdout.splitlines()))
        assert {row["user"]: row["requests"] for row in rows} == {"ada": "2", "'=bob": "1", "": "2"}


def usage(home: Path, *more: str) -> Any:
    shown = sage(home, "usage", "--json", *more)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ((), 0, "no requests since "),
        (("--since", "soon"), 1, "'soon' is no time; use a span like 24h"),
        (("--by", ""), 1, "'' is not one of model"),
        (("--json", "--csv"), 2, "--json and --csv exclude each other"),
        (("--since", "\udcff"), 1, "is no time"),
        (("extra",), 2, "unexpected extra argument"),
    ],
)
def test_without_a_record_there_is_one_sentence(
    tmp_path: Path, given: tuple[str, ...], code: int, said: str
) -> None:
    shown = sage(tmp_path, "usage", *given)
    assert shown.returncode == code
    assert said in shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "usage.sqlite3").write_bytes(b"no database " * 100)
    failed = sage(tmp_path, "usage")
    assert failed.returncode == 1
    assert "usage.sqlite3 cannot be used: file is not a database" in failed.stderr


def test_names_are_no_formulas_of_a_spreadsheet() -> None:
    found = {
        "by": "user",
        "rows": [{"user": name, "requests": 1} for name in ("+1", "a,b", 'c"')],
        "total": {"requests": 3},
    }
    assert _csv(found) == 'user,requests\n\'+1,1\n"a,b",1\n"c""",1'
