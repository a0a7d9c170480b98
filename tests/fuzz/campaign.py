"""Many inputs in rounds, each a search by hypothesis, which shrinks what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz import answers, requests, seeds, vectors
from tests.fuzz.house import Broken, House
from tests.fuzz.mutation import STEP, Input, make
from tests.fuzz.vectors import VectorHouse

ROUND = 5000  # hypothesis remembers every input of a search
EMBEDDINGS = "embeddings"
_CHANGES = 6
_CASE_BYTES = 400  # of a program for a case of the embeddings path
_ANSWERS_A_CASE = 6  # no more than there are on the average

Check = Callable[[House, Input], None]
PATHS: dict[str, tuple[Check, Sequence[bytes]]] = {
    "request": (requests.check, seeds.REQUESTS),
    "response": (answers.check, seeds.ANSWERS),
}


def campaign(
    path: str, inputs: int, first_seed: int = 1, told: Callable[[int], None] | None = None
) -> str | None:
    """Run so many inputs; None, or what is broken and the smallest input that shows it.

    On the embeddings path an input is an engine's answer. ``told`` gets the number of inputs after each round.
    """
    number = done = 0
    while done < inputs:
        search = _Vectors() if path == EMBEDDINGS else _Messages(*PATHS[path])
        failure = search.run(inputs - done, first_seed + number)
        if failure is not None:
            return failure
        number, done = number + 1, done + search.inputs
        if told is not None:
            told(done)
    return None


class _Search:
    """One round; ``inputs`` counts what it has tried."""

    strategy: SearchStrategy[bytes]

    def __init__(self) -> None:
        self.inputs = 0
        self.house = self.make_house()

    def make_house(self) -> House:
        return House()

    def examples(self, inputs: int) -> int:
        return min(ROUND, inputs)

    def check(self, program: bytes) -> None:
        raise NotImplementedError

    def shown(self, program: bytes) -> str:
        raise NotImplementedError

    def run(self, inputs: int, with_seed: int) -> str | None:
        last = b""

        @seed(with_seed)
        @settings(
            max_examples=self.examples(inputs),
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=tuple(HealthCheck),
        )
        @given(self.strategy)
        def holds(program: bytes) -> None:
            nonlocal last
            last = program
            try:
                self.check(program)
            except BaseException:
                self.house.close()  # what is left in it would spoil the next input
                self.house = self.make_house()
                raise

        try:
            holds()
        except Broken as broken:
            return f"{broken}\nprogram {last!r} of seed {with_seed}{self.shown(last)}"
        finally:
            self.house.close()
        return None


class _Messages(_Search):
    """Messages of HTTP, broken byte by byte."""

    strategy = st.binary(min_size=3 + STEP, max_size=3 + STEP * _CHANGES)

    def __init__(self, check: Check, messages: Sequence[bytes]) -> None:
        super().__init__()
        self._check = check
        self._messages = messages

    def check(self, program: bytes) -> None:
        self.inputs += 1
        self._check(self.house, make(program, self._messages))

    def shown(self, program: bytes) -> str:
        return f": {make(program, self._messages)}"


class _Vectors(_Search):
    """Engines' answers to merged calls."""

    strategy = st.binary(min_size=_CASE_BYTES, max_size=_CASE_BYTES)
    house: VectorHouse

    def make_house(self) -> VectorHouse:
        return VectorHouse()

    def examples(self, inputs: int) -> int:
        return min(ROUND, 1 + inputs // _ANSWERS_A_CASE)

    def check(self, program: bytes) -> None:
        before = self.house.answers
        vectors.check(self.house, program)
        self.inputs += self.house.answers - before

    def shown(self, program: bytes) -> str:
        return ""
