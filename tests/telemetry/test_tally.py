from __future__ import annotations

from sage_inference.telemetry.tally import MOST_SERIES, MOST_USERS, OTHER, Counts, RequestTally
from sage_inference.types import Usage


def one(usage: Usage | None = None, **given: float) -> Counts:
    counts = Counts()
    counts.note(usage, None, 0, 0.0)
    for name, value in given.items():
        setattr(counts, name, value)
    return counts


def test_a_request_adds_what_its_engine_reported() -> None:
    counts = Counts()
    counts.note(Usage(10, 20, 5), None, 0, 0.5)
    counts.note(Usage(1, 0), None, 3, 0.25)
    counts.note(None, (7, 8), 0, 0.0)
    found = {name: getattr(counts, name) for name in Counts.__slots__}
    assert found == {
        "requests": 3,
        "prompt": 11,
        "completion": 20,
        "cached": 5,
        "estimated_prompt": 7,
        "estimated_completion": 8,
        "texts": 3,
        "busy_s": 0.75,
    }


def test_a_copy_stays_as_it_was_and_the_rest_is_what_came_since() -> None:
    counts = one(Usage(3, 4))
    before = counts.copy()
    counts.note(Usage(1, 1), None, 0, 0.0)
    since = counts.since(before)
    assert (since.requests, since.prompt, since.completion) == (1, 1, 1)
    assert (before.requests, before.prompt) == (1, 3)
    assert counts.since(counts.copy()).is_empty


def test_kinds_without_end_take_a_bounded_room_and_no_request_is_lost() -> None:
    tally = RequestTally()
    for number in range(3 * MOST_SERIES):
        kind = ("/v1/chat/completions", 200, f"model {number}", "a", "key")
        (tally.series.get(kind) or tally.counts(kind)).note(Usage(1, 1), None, 0, 0.0)
    assert len(tally.series) == MOST_SERIES + 1
    assert sum(counts.requests for counts in tally.series.values()) == 3 * MOST_SERIES
    assert tally.series["/v1/chat/completions", 200, OTHER, OTHER, "key"].prompt == 2 * MOST_SERIES


def test_users_without_end_take_a_bounded_room_until_they_are_taken() -> None:
    tally = RequestTally()
    kind = ("/v1/chat/completions", 200, "m", "a", "")
    for number in range(3 * MOST_USERS):
        tally.of_user(kind, f"user {number}").note(Usage(1, 1), None, 0, 0.0)
    taken = tally.take_users()
    assert len(taken) == MOST_USERS + 1
    assert taken[kind, OTHER].requests == 2 * MOST_USERS
    assert tally.take_users() == {}
    tally.of_user(kind, "user 1").note(Usage(1, 1), None, 0, 0.0)
    assert [(user, counts.requests) for (_, user), counts in tally.take_users().items()] == [("user 1", 1)]
