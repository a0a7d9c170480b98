"""Whatever a source answers, in whatever order: an engine goes only when the source has clearly dropped it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.settings import InstanceSettings, SourceSettings
from sage_inference.discovery.kept import KeptList
from sage_inference.discovery.last_list import LastList
from sage_inference.discovery.source import Listing, Offered

SOURCE = SourceSettings(file="/shared/engines.yaml")


def engine(number: int) -> Offered:
    return Offered(InstanceSettings(url=f"http://h:{8000 + number}", name=f"e{number}"))


def names(offered: Sequence[Offered] | None) -> set[str | None]:
    return {each.settings.name for each in offered or ()}


lists = st.lists(st.integers(1, 5), unique=True).map(lambda numbers: tuple(map(engine, numbers)))
answers = st.one_of(
    st.builds(Listing, lists, settled=st.booleans()),
    st.just(Listing(())),
    st.sampled_from(["error", "restart"]),
)


@given(st.lists(answers, max_size=30))
def test_an_engine_goes_only_by_a_settled_list_without_it(steps: list[Listing | str]) -> None:
    last, empties = LastList(), 0
    for step in steps:
        before = names(last.offered)
        if step == "restart":  # with the list on disk
            offered, last, empties = last.offered, LastList(), 0
            last.offered = offered
        elif isinstance(step, str):
            last.failed()
            empties = 0
        else:
            empties = empties + 1 if step.settled and not step.offered else 0
            changed = last.take(step)
            assert changed == (names(last.offered) != before) or last.offered is not None
            assert names(step.offered) <= names(last.offered), "an engine that is named counts at once"
        gone = before - names(last.offered)
        if gone:
            assert isinstance(step, Listing)
            assert step.settled
            assert not gone & names(step.offered)
            assert step.offered or empties >= 2
        if isinstance(step, Listing) and step.settled and (step.offered or empties >= 2):
            assert names(last.offered) == names(step.offered)


def test_a_new_engine_at_an_address_ends_the_one_that_is_missing_there() -> None:
    last = LastList()
    last.take(Listing((engine(1), engine(2))))
    successor = Offered(InstanceSettings(url="http://h:8001", name="new"))
    last.take(Listing((successor,), settled=False))
    assert names(last.offered) == {"new", "e2"}


def test_a_list_survives_on_disk_and_nothing_else_does(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    kept = KeptList(folder, SOURCE)
    assert kept.read() is None
    offered = (
        Offered(InstanceSettings(url="unix:/run/e.sock", kind="llm", max_concurrent_requests=3), "node-1"),
        engine(2),
    )
    kept.write(offered)
    assert kept.read() == offered
    [file] = folder.iterdir()
    for broken in (
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        file.read_bytes()[:-9],
        file.read_bytes().replace(b"unix:", b"ftp:"),
    ):
        file.write_bytes(broken)
        assert kept.read() is None
    kept.remove()
    assert KeptList(folder, SOURCE).read() is None
