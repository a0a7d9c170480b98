"""Keys at random limits get what these allow, and the accounts find it where they do not."""

from __future__ import annotations

import random

import pytest

from tests.bench.limits.account import Account, Served
from tests.bench.limits.asks import Ask
from tests.bench.limits.run import Outcome, Shape, limits

ASK = Ask(words=5, prompt_tokens=40, max_tokens=60)


def account(limit: str, most: int, *served: Served, running: int = 0) -> Account:
    found = Account("a", {limit: most}, most_running=running)
    for each in served:
        found.note(ASK, each)
    return found


def at(second: float, tokens: int = 50) -> Served:
    return Served(second, second + 1, tokens, tokens)


@pytest.mark.parametrize(
    ("found", "beyond", "unused"),
    [
        (account("requests_per_minute", 2, at(0), at(1)), 0, 0),
        (account("requests_per_minute", 2, at(0), at(1), at(59)), 1, 0),
        (account("requests_per_minute", 2, at(0), at(1), at(61)), 0, 0),
        (account("requests_per_minute", 2, at(0), at(59), at(61)), 0, 0),
        (account("requests_per_minute", 2, at(0), at(61), at(62), at(63)), 1, 0.5),
        (account("tokens_per_minute", 100, at(0), at(1), at(2, 49)), 0.49, 0),
        (account("tokens_per_minute", 100, at(0), at(61), at(62), at(63)), 0.5, 0.5),
        (account("tokens_per_day", 100, at(0), at(61), at(122, 150)), 1.5, 0.5),
        (account("concurrent_requests", 2, at(0), at(0.5), running=2), 0, 0),
        (account("concurrent_requests", 2, at(0), at(2), running=3), 1, 0.5),
    ],
)
def test_an_account_finds_what_is_over_and_what_is_under(
    found: Account, beyond: float, unused: float
) -> None:
    counted = sum(each.least for each in found.served)
    assert found.beyond(counted) == pytest.approx(beyond)
    assert found.unused(counted) == pytest.approx(unused)


def test_figures_that_do_not_hold_are_named() -> None:
    over = account("requests_per_minute", 1, at(0), at(1))
    free = Account("free", {})
    free.others[502] += 1
    free.refusals["tokens_per_day"] += 1
    outcome = Outcome([over], free, {"a": 101, "free": 0}, running_after=1, retried=0, seconds=1)
    failed = [row.claim for row in outcome.rows() if not row.holds]
    assert failed == [
        "requests a minute or at once over a limit",
        "keys whose tokens are others than their callers saw",
        "requests of the key without limits that failed",
        "refusals of the key without limits",
        "requests that are still counted as under way",
    ]
    assert outcome.miscounted() == ["a: 101 and not 100 to 100"]


def test_twenty_keys_get_just_what_their_limits_allow() -> None:
    outcome = limits(Shape(until_full=True, scale=0.05), random.randrange(1 << 31))
    failed = [row for row in outcome.rows() if not row.holds]
    described = [f"{each.name} {each.limits} {each.served} {each.refusals}" for each in outcome.accounts]
    assert not failed, "\n".join([*map(str, failed), *outcome.miscounted(), *described])
    assert outcome.seconds < 60
    assert all(each.is_full for each in outcome.accounts)
    assert outcome.retried > 0
