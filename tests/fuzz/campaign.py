"""Many inputs in rounds, each a search by hypothesis, which shrinks what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import answers, requests, seeds
from tests.fuzz.house import Broken, House
from tests.fuzz.mutation import STEP, Input, make

ROUND = 5000  # hypothesis remembers every input of a search
_CHANGES = 6

Check = Callable[[House, Input], None]
PATHS: dict[str, tuple[Check, Sequence[bytes]]] = {
    "request": (requests.check, seeds.REQUESTS),
    "response": (answers.check, seeds.ANSWERS),
}


def campaign(path: str, inputs: int, first_seed: int = 1) -> str | None:
    """Run so many inputs; None, or what is broken and the smallest input that shows it."""
    for number, begun in enumerate(range(0, inputs, ROUND)):
        failure = _search(path, min(ROUND, inputs - begun), first_seed + number)
        if failure is not None:
            return failure
    return None


def _search(path: str, inputs: int, with_seed: int) -> str | None:
    check, messages = PATHS[path]
    house = House()
    last = b""

    @seed(with_seed)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=tuple(HealthCheck),
    )
    @given(st.binary(min_size=3 + STEP, max_size=3 + STEP * _CHANGES))
    def holds(program: bytes) -> None:
        nonlocal house, last
        last = program
        try:
            check(house, make(program, messages))
        except BaseException:
            house.close()  # what is left in it would spoil the next input
            house = House()
            raise

    try:
        holds()
    except Broken as broken:
        return f"{broken}\nprogram {last!r} of seed {with_seed}: {make(last, messages)}"
    finally:
        house.close()
    return None
