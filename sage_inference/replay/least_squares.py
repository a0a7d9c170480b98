"""Linear least squares with bounds, each coefficient drawn towards a guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Row = tuple[Sequence[float], float]  # the terms of one observation, and the value that they should add up to


class NormalEquations:
    """The sums that a least-squares solution follows from. Rows are added one by one and not kept."""

    def __init__(self, terms: int) -> None:
        self.terms = terms
        self._matrix = [[0.0] * terms for _ in range(terms)]
        self._right = [0.0] * terms

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows, each weighted by 1 / value: an error of a percent counts the same in all of them."""
        for row, value in rows:
            weight = 1.0 / (value * value)
            for i, term in enumerate(row):
                if term:
                    self._right[i] += weight * term * value
                    line = self._matrix[i]
                    for j, other in enumerate(row):
                        line[j] += weight * term * other

    def solve(self, guesses: Sequence[float], strength: float, least: Sequence[float]) -> list[float]:
        """The coefficients. Each is drawn towards its guess like by ``strength`` rows in which it is the only term.

        None is below its ``least``: one that would be stays there, and the others are solved again.
        """
        fixed: dict[int, float] = {}
        while True:
            found = self._solved(guesses, strength, fixed)
            below = [i for i, value in enumerate(found) if i not in fixed and value < least[i]]
            if not below:
                return found
            fixed.update((i, least[i]) for i in below)

    def known(self, strength: float) -> list[float]:
        """For each coefficient the part, 0 to 1, that the rows decide. The guess decides the rest."""
        units = [
            self._solved([float(i == j) for j in range(self.terms)], strength, {}, from_guesses=True)
            for i in range(self.terms)
        ]
        return [1.0 - units[i][i] for i in range(self.terms)]

    def _solved(
        self,
        guesses: Sequence[float],
        strength: float,
        fixed: dict[int, float],
        from_guesses: bool = False,
    ) -> list[float]:
        free = [i for i in range(self.terms) if i not in fixed]
        matrix = [[self._matrix[i][j] + strength * (i == j) for j in free] for i in free]
        right = [
            strength * guesses[i]
            + (0.0 if from_guesses else self._right[i])
            - sum(self._matrix[i][j] * value for j, value in fixed.items())
            for i in free
        ]
        found = dict(zip(free, eliminated(matrix, right), strict=True))
        return [fixed[i] if i in fixed else found[i] for i in range(self.terms)]


def eliminated(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a symmetric, positive definite system, by Gaussian elimination. Changes its arguments."""
    size = len(right)
    for i in range(size):
        for j in range(i + 1, size):
            factor = matrix[j][i] / matrix[i][i]
            right[j] -= factor * right[i]
            for k in range(i, size):
                matrix[j][k] -= factor * matrix[i][k]
    for i in reversed(range(size)):
        right[i] = (right[i] - sum(matrix[i][k] * right[k] for k in range(i + 1, size))) / matrix[i][i]
    return right
