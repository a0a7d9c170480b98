"""From the tally of ended requests to the store: nothing twice, nothing lost, whatever the store does."""

from __future__ import annotations

import asyncio
import logging
from hashlib import sha256
from pathlib import Path

import pytest

from sage_inference.config.settings import UsageSettings
from sage_inference.telemetry.tally import OTHER, RequestTally
from sage_inference.telemetry.usage_meter import MOST_USERS, UsageMeter
from sage_inference.types import Usage
from sage_inference.usage.columns import MEASURES
from sage_inference.usage.store import UsageStore

KIND = ("/v1/chat/completions", 200, "m", "a", "key")
HOUR = 3600.0


class Scene:
    """A meter on a file, with a clock of its own."""

    def __init__(self, folder: Path, days: int = 90) -> None:
        self.now = 100 * HOUR
        self.tally = RequestTally()
        self.path = folder / "usage"
        self.meter = UsageMeter(self.tally, self.path, UsageSettings(days=days), lambda: self.now)

    def request(self, user: str = "", kind: tuple[str, int, str, str, str] = KIND, tokens: int = 3) -> None:
        counts = self.tally.series.get(kind) or self.tally.counts(kind)
        counts.note(Usage(tokens, 1), None, 0, 0.5)
        if user and self.tally.follows_users:
            self.tally.of_user(kind, user).note(Usage(tokens, 1), None, 0, 0.5)

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        asyncio.run(self.meter.tick())

    def write(self) -> None:
        asyncio.run(self.meter.write())

    def close(self) -> None:
        asyncio.run(self.meter.close())

    def stored(self) -> dict[tuple[int, str], dict[str, float]]:
        return {
            (labels.hour, labels.user): dict(zip(MEASURES, measures, strict=True))
            for labels, measures in UsageStore(self.path).rows(0, 10_000)
        }


def test_users_and_the_rest_add_up_to_all_requests(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for user in ("ada", "", "bob", "ada"):
        scene.request(user)
    scene.write()
    scene.request("ada")
    scene.write()
    found = scene.stored()
    assert {user: row["requests"] for (_, user), row in found.items()} == {"ada": 3, "": 1, "bob": 1}
    assert sum(row["prompt_tokens"] for row in found.values()) == 15
    assert sum(row["gpu_seconds"] for row in found.values()) == pytest.approx(2.5)


def test_a_status_shows_errors_and_callers_that_left(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for status in (200, 429, 503, 0):
        scene.request(kind=("/v1/chat/completions", status, "m", "a", ""))
    scene.write()
    ((_, row),) = scene.stored().items()
    assert (row["requests"], row["errors"], row["cancelled"]) == (4, 2, 1)


def test_it_writes_every_five_seconds_and_at_the_end_of_an_hour(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.tick()
    scene.request()
    scene.tick(3)
    assert scene.stored() == {}
    scene.tick(3)
    assert list(scene.stored()) == [(100, "")]
    scene.now = 101 * HOUR - 1
    scene.tick(0)
    scene.request()
    scene.tick(2)  # the request belongs to the hour that has just ended
    scene.request()
    scene.tick(6)
    assert {hour: row["requests"] for (hour, _), row in scene.stored().items()} == {100: 2, 101: 1}


def test_a_store_that_cannot_be_written_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path)
    scene.path.mkdir()
    with caplog.at_level(logging.WARNING):
        for user in ("ada", ""):
            scene.request(user)
            scene.write()
        scene.path.rmdir()
        scene.request()
        scene.write()
    assert {user: row["requests"] for (_, user), row in scene.stored().items()} == {"ada": 1, "": 2}
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "usage is not written and waits in memory",
        "usage is written again",
    ]


def test_the_reserve_has_the_rows_when_the_gateway_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path)
    scene.write()  # makes the reserve
    scene.path.mkdir()
    scene.request("ada")
    scene.write()
    document = scene.meter.document()
    assert document is not None
    assert (document["waiting_requests"], document["problem"]) == (
        1,
        scene.meter.remarks()[0].partition(": ")[2],
    )
    scene.request("bob")
    scene.close()
    next_one = Scene(tmp_path)
    next_one.request("eve")
    next_one.write()
    assert next_one.meter.remarks() == [f"usage of 3 requests is not stored yet: {document['problem']}"]
    next_one.path.rmdir()
    next_one.write()
    assert {user: row["requests"] for (_, user), row in next_one.stored().items()} == dict.fromkeys(
        ("ada", "bob", "eve"), 1
    )
    assert next_one.meter.document() == {
        "kept_days": 90, "waiting_requests": 0, "lost_requests": 0, "problem": None,
    }  # fmt: skip
    assert "usage of 2 requests is in " in caplog.text
    assert "is lost" not in caplog.text


@pytest.mark.parametrize("has_reserve", [True, False])
def test_usage_that_finds_no_room_is_counted_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_reserve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_inference.usage.reserve.SLOT", 4 << 10)
    scene = Scene(tmp_path)
    if has_reserve:
        scene.write()
    scene.path.mkdir()
    for number in range(2000):
        scene.request(kind=("/v1/chat/completions", 200, f"model {number}", "a", f"key {number}"))
    scene.close()
    assert "usage of 2000 requests is lost: " in caplog.text
    scene.path.rmdir()
    next_one = Scene(tmp_path)
    next_one.write()
    lost = ["usage of 2,000 requests of an earlier gateway is lost"]
    assert next_one.meter.remarks() == (lost if has_reserve else [])
    last = Scene(tmp_path)
    last.write()
    assert last.meter.remarks() == []


def test_users_are_merged_before_anything_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_inference.usage.reserve.SLOT", 1 << 10)
    scene = Scene(tmp_path)
    scene.write()
    scene.path.mkdir()
    for number in range(200):
        scene.request(sha256(bytes([number])).hexdigest())
    scene.close()
    scene.path.rmdir()
    Scene(tmp_path).write()
    assert {user: row["requests"] for (_, user), row in scene.stored().items()} == {OTHER: 200}


def test_users_without_end_do_not_fill_the_disk(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number in range(MOST_USERS + 500):
        scene.request(f"user {number}")
        if number % 1000 == 999:
            scene.write()
    scene.write()
    found = scene.stored()
    assert len(found) == MOST_USERS + 1
    assert found[100, OTHER]["requests"] == 500


def test_with_no_days_nothing_is_followed_and_nothing_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path, days=0)
    scene.request("ada")
    scene.tick(10)
    scene.write()
    assert not scene.path.exists()
    assert not scene.tally.follows_users
    scene.meter.configure(UsageSettings(days=1))  # from here on, and not from the start
    scene.request("ada")
    scene.write()
    assert {user: row["requests"] for (_, user), row in scene.stored().items()} == {"ada": 1}


def test_old_hours_are_forgotten_once_a_day(tmp_path: Path) -> None:
    scene = Scene(tmp_path, days=2)
    scene.request()
    scene.write()
    for _ in range(4):
        scene.now += 24 * HOUR
        scene.request()
        scene.write()
    assert min(hour for hour, _ in scene.stored()) >= 100 + 2 * 24
