"""The sessions of the page across a restart: what is kept, for how long, and who can read it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sage_inference.gateway.ui import sessions
from sage_inference.gateway.ui.session_file import FILE
from sage_inference.gateway.ui.sessions import Sessions


def opened(state_dir: Path, key: str | None = None) -> tuple[Sessions, str]:
    """Sessions of a gateway, and the token of one that was opened and written."""
    held = restarted(state_dir)
    token = held.open_with_code(held.new_code()) if key is None else held.open_with_key(key, is_right=True)
    assert token is not None
    return held, token


def restarted(state_dir: Path) -> Sessions:
    held = Sessions(time.monotonic)
    held.keep_in(state_dir)
    return held


def is_open(held: Sessions, token: str) -> bool:
    return held.key_of(sessions._digest(token))[0]


def test_a_session_goes_on_and_its_token_is_in_no_file(tmp_path: Path) -> None:
    _, token = opened(tmp_path)
    assert is_open(restarted(tmp_path), token)
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text()


def test_a_session_still_depends_on_the_key_that_opened_it(tmp_path: Path) -> None:
    _, token = opened(tmp_path, "the-admin-key")
    assert "the-admin-key" not in (tmp_path / FILE).read_text()
    after = restarted(tmp_path).key_of(sessions._digest(token))
    assert after == (True, sessions._digest("the-admin-key"))


def test_a_session_that_was_closed_stays_closed_and_leaves_no_file(tmp_path: Path) -> None:
    held, token = opened(tmp_path)
    held.close(token.encode())
    assert list(tmp_path.iterdir()) == []
    assert not is_open(restarted(tmp_path), token)


@pytest.mark.parametrize("ends_in_s", [-1.0, sessions.SESSION_S + 60])
def test_none_lasts_longer_than_a_new_one(tmp_path: Path, ends_in_s: float) -> None:
    _, token = opened(tmp_path)
    document = json.loads((tmp_path / FILE).read_text())
    document["sessions"][0]["ends_at"] = time.time() + ends_in_s
    (tmp_path / FILE).write_text(json.dumps(document))
    assert not is_open(restarted(tmp_path), token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"sessions": [{}]}',
        '{"sessions": [{"token": "xy", "ends_at": 1, "key": null}]}',
        "\0",
    ],
)
def test_a_file_of_something_else_is_no_session(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert restarted(tmp_path)._sessions == {}


def test_a_state_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    held, token = opened(tmp_path / "gone")
    assert is_open(held, token)
    assert not is_open(restarted(tmp_path / "gone"), token)
