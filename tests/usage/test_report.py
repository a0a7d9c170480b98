from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.usage.columns import BY, MEASURES, Labels, Row
from sage_inference.usage.report import BadQuery, hour_of, report, tokens_of

NOW = datetime(2026, 11, 30, 15, 20, tzinfo=timezone(timedelta(hours=2)))
rows_of = st.lists(
    st.tuples(
        st.builds(Labels, st.integers(480_000, 490_000), *[st.sampled_from(["", "a", "b", "=1"])] * 4),
        st.tuples(*[st.integers(0, 1000)] * len(MEASURES)),
    ),
    max_size=20,
)


@given(rows_of, st.sampled_from(BY))
def test_the_totals_of_all_groups_are_the_total(rows: list[Row], by: str) -> None:
    groups, total = report(rows, by)
    assert len({group[by] for group in groups}) == len(groups)
    for at, name in enumerate(MEASURES):
        assert (
            total[name] == sum(measures[at] for _, measures in rows) == sum(group[name] for group in groups)
        )


def test_names_are_ordered_by_tokens_and_days_by_time() -> None:
    def row(hour: int, model: str, tokens: int) -> Row:
        return Labels(hour, "", "", model, ""), (1, 0, 0, tokens, *(0,) * (len(MEASURES) - 4))

    rows = [row(480_100, "small", 1), row(480_000, "large", 9)]
    assert [group["model"] for group in report(rows, "model")[0]] == ["large", "small"]
    days = [group["day"] for group in report(rows, "day")[0]]
    assert days == sorted(days)
    assert tokens_of(report(rows, "model")[1]) == 10


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        (" 4 W ", timedelta(weeks=4)),
        ("today", timedelta(hours=15)),
        ("2026-11-30T10:00+02:00", timedelta(hours=5)),
    ],
)
def test_a_time_is_a_span_a_day_or_today(text: str, back: timedelta) -> None:
    assert hour_of(text, NOW) == int((NOW - back).timestamp() // 3600)


@pytest.mark.parametrize(
    "text",
    ["", "yesterweek", "7", "-7d", "7 fortnights", "2026-13-40", "999999w", "0001-01-01", "\0", "٧d" * 9],
)
def test_anything_else_is_one_sentence(text: str) -> None:
    with pytest.raises(BadQuery, match="is no time; use a span like 24h"):
        hour_of(text, NOW)


def test_an_unknown_group_is_one_sentence() -> None:
    with pytest.raises(BadQuery, match="'colour' is not one of model, key"):
        report([], "colour")
