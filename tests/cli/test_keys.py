"""``keys`` from the command line: a key is shown once, and a running gateway follows each change."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

import sage_inference
from sage_inference.cli.main import main
from sage_inference.cli.schemas import ANSWERS, ERROR
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import clean_environment, running_gateway

DOCS = Path(sage_inference.__file__).parent / "docs"
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


def asked(home: Path, *args: str) -> Any:
    shown = sage(home, "keys", *args, "--json")
    assert shown.returncode == 0, shown.stderr
    [line] = shown.stdout.splitlines()
    found = json.loads(line)
    assert mistakes(found, ANSWERS[f"keys {args[0]}"]) == []
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose commands are run in this process, by ``run``."""
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path))
    return tmp_path


def run(*args: str) -> int:
    return main(["inference", "keys", *args], program="sage")


def status(client: httpx.Client, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return client.post("/v1/chat/completions", json=BODY, headers=headers).status_code


def test_a_running_gateway_takes_keys_up_and_drops_them_within_a_second() -> None:
    with running_gateway(args=("--simulate",)) as g, g.client() as client:
        g.wait_instances()
        assert status(client, None) == 200
        shown = sage(g.home, "keys", "add", "ada", "--limit", "requests_per_minute=2")
        assert shown.returncode == 0, shown.stderr
        key = shown.stdout.strip()
        assert "the gateway takes the key from now on" in shown.stderr
        assert "callers without a key are refused" in shown.stderr
        assert [status(client, word) for word in (None, key, key, key)] == [401, 200, 200, 429]
        bob = asked(g.home, "add", "bob", "--model", "no*")
        assert (bob["name"], bob["applied"]) == ("bob", True)
        assert status(client, bob["key"]) == 403
        rows = asked(g.home, "list")["keys"]
        assert [(row["name"], row["applied"], row["requests_last_minute"]) for row in rows] == [
            ("ada", True, 2),
            ("bob", True, 1),
        ]
        assert rows[0]["tokens_today"] > 0
        assert rows[0]["refused"] == 1
        table = sage(g.home, "keys", "list").stdout.splitlines()
        headers = ["NAME", "ID", "STATE", "TOKENS/DAY", "REQUESTS/MIN", "TOKENS/MIN", "MODELS"]
        assert table[0].split() == headers
        assert "2 of 2" in table[1]
        revoking = subprocess.Popen(
            [sys.executable, "-m", "sage_inference", "inference", "keys", "revoke", "bob"],
            env=clean_environment(g.home),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert revoking.communicate(timeout=60)[0].startswith("revoked bob")
        done = time.monotonic()
        assert status(client, bob["key"]) == 401  # on the connection that was open before
        assert time.monotonic() - done < 1
        everything = g.log() + (g.home / "config.yaml").read_text() + sage(g.home, "keys", "list").stdout
        assert key not in everything
        assert bob["key"] not in everything


def test_a_gateway_that_got_its_key_on_the_command_line_does_not_take_others() -> None:
    with running_gateway(args=("--api-key", "sk-flag"), await_instances=False) as g:
        shown = sage(g.home, "keys", "add", "ada", "--json")
        assert shown.returncode == 1
        assert json.loads(shown.stdout)["applied"] is False
        assert "not applied: the gateway that runs got its key on its command line" in shown.stderr
        states = {row["name"]: (row["applied"], row["source"]) for row in asked(g.home, "list")["keys"]}
        assert states == {"ada": (False, "hash"), "command line": (True, None)}
        other = sage(g.home, "keys", "add", "ada", "--config", str(g.home / "other.yaml"))
        assert other.returncode == 1
        assert other.stdout.startswith("sk-sage-")
        assert f"not applied: the gateway that runs reads {g.home}/config.yaml" in other.stderr


def test_without_a_gateway_the_file_alone_changes(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def here(*args: str) -> Any:
        assert run(*args, "--json") == 0
        shown = capfd.readouterr()
        assert ("no gateway of this user runs now" in shown.err) is (args[0] != "list")
        found = json.loads(shown.out)
        assert mistakes(found, ANSWERS[f"keys {args[0]}"]) == []
        return found

    assert here("list")["keys"] == []
    assert run("list") == 0
    assert "open to every caller" in capfd.readouterr().out
    made = here("add", "ada", "--limit", "tokens_per_day=5_000", "--priority", "low")
    assert made["applied"] is None
    file = home / "config.yaml"
    assert made["key"] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    [row] = here("list")["keys"]
    assert (row["id"], row["priority"], row["limits"]["tokens_per_day"]) == (made["id"], "low", 5000)
    second = here("add", "ada", "--again")
    assert run("list") == 0
    assert second["id"] in capfd.readouterr().out
    assert run("revoke", "ada") == 1
    assert f"name 'ada': {made['id']}, {second['id']}" in capfd.readouterr().err
    assert here("revoke", made["id"])["revoked"] == [{"name": "ada", "id": made["id"]}]
    assert run("revoke", "ada") == 1
    assert "no key would be left" in capfd.readouterr().err
    assert here("revoke", "ada", "--open")["applied"] is None
    assert here("list")["keys"] == []


def test_the_commands_of_the_document_work(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "limits.md").read_text()
    lines = page.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(lines) == 3
    assert run("add", "another") == 0
    for line in lines:
        words = shlex.split(line)
        assert words[:3] == ["sage", "inference", "keys"]
        assert run(*words[3:]) == 0, capfd.readouterr().err
    assert "revoked ada" in capfd.readouterr().out


def test_a_key_never_goes_into_a_file_that_others_can_read(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sage_inference", "inference", "keys", "add", "ada"]
    out = tmp_path / "key"
    for mode, code in ((0o644, 1), (0o600, 0)):
        out.touch()
        out.chmod(mode)
        with out.open("w") as stdout:
            done = subprocess.run(
                words, env=clean_environment(tmp_path), stdout=stdout, stderr=subprocess.PIPE
            )
        assert done.returncode == code
        assert bool(out.read_text()) is (code == 0)
        assert (tmp_path / "config.yaml").exists() is (code == 0)


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ((), 2, "Make keys for callers"),
        (("add",), 2, "missing argument"),
        (("add", "a b"), 1, "'a b' cannot be the name of a key"),
        (("add", "\udcff"), 1, "cannot be the name of a key"),
        (("add", "a", "--limit", "x"), 2, "--limit 'x' is no limit and its number"),
        (("add", "a", "--limit", "requests_per_minut=3"), 2, "did you mean requests_per_minute?"),
        (("add", "a", "--limit", "requests_per_minute=0"), 2, "requests_per_minute must be"),
        (("add", "a", "--limit", "tokens_per_day=" + "9" * 99), 2, "tokens_per_day must be"),
        (("add", "a", "--limit", "models=3"), 2, "models must be"),
        (("add", "a", "--limit", "=3"), 2, "--limit '=3' is no limit and its number"),
        (("add", "a", "--priority", "top"), 2, "priority must be one of critical"),
        (("add", "a", "--again"), 1, "there is no key with the name a yet"),
        (("add", "a", "--again", "--model", "m"), 2, "--again takes the settings of the first key"),
        (("add", "a", "--config", ""), 2, "the name of the configuration file is empty"),
        (("list", "--config", "/nowhere/at/all"), 1, "/nowhere/at/all"),
        (("list", "x"), 2, "unexpected extra argument"),
        (("revoke",), 2, "missing argument"),
        (("revoke", "a"), 1, "no key has the name or id 'a'"),
        (("revoke", ""), 1, "no key has the name or id ''"),
        (("nope",), 2, 'no command "nope"'),
    ],
)
def test_wrong_words_are_one_sentence_and_change_nothing(
    given: tuple[str, ...], code: int, said: str, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*given) == code
    shown = capfd.readouterr()
    assert said in shown.out + shown.err
    assert "Traceback" not in shown.err
    assert not (home / "config.yaml").exists()
    if given and code == 1:
        run(*given, "--json")
        assert mistakes(json.loads(capfd.readouterr().out), ERROR) == []


def test_a_file_that_is_damaged_stays_as_it_is(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = home / "config.yaml"
    file.write_text("api_keys: [\n")
    for words in (("add", "a"), ("revoke", "a"), ("list",)):
        assert run(*words) == 1
        shown = capfd.readouterr()
        assert shown.out == ""
        assert "Traceback" not in shown.err
    assert file.read_text() == "api_keys: [\n"


def test_a_key_whose_secret_is_not_here_is_listed_without_an_id(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("api_keys: [{name: bob, key: 'env:NOT_SET_HERE'}]\n")
    [row] = asked(tmp_path, "list")["keys"]
    assert (row["name"], row["id"], row["source"]) == ("bob", None, "env:NOT_SET_HERE")
