"""Fairness between tenants: virtual token counters."""

from __future__ import annotations

import math
from collections.abc import Mapping

OUTPUT_WEIGHT = 2.0  # a generated token costs about as much as two prompt tokens
_KEPT = 4096


class TenantCounters:
    """Tokens served per tenant, divided by its weight. The tenant with the least is next.

    "Fairness in Serving Large Language Models" (VTC; Sheng et al., 2024). A tenant that comes back from idle is lifted
    to the least of those that wait, so that no tenant gains by staying away.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights: dict[str, float] = dict(weights or {})
        self._served: dict[str, float] = {}
        # Whether there are tenants to be fair between. An attribute, because it is read for every answer.
        self.several = False
        self._left_at = 0.0  # the counter of the tenant that was served last from the queue

    def of(self, tenant: str) -> float:
        return self._served.get(tenant, 0.0)

    def charge(self, tenant: str, tokens: float) -> None:
        if self.weights:
            tokens /= self.weights.get(tenant, 1.0)
        try:
            self._served[tenant] += tokens
        except KeyError:
            if len(self._served) >= _KEPT:
                self._forget()
            self._served[tenant] = tokens
            self.several = len(self._served) > 1

    def lift(self, tenant: str, least: float) -> None:
        """The first request of a tenant begins to wait; ``least`` is the lowest counter among tenants that wait.

        It is infinite if none waits. Then the counter of the tenant that was served last applies.
        """
        if least == math.inf:
            least = self._left_at
        if self.of(tenant) < least:
            self._served[tenant] = least
            self.several = len(self._served) > 1

    def left(self, tenant: str) -> None:
        """A request of the tenant was placed from the queue."""
        self._left_at = self.of(tenant)

    def _forget(self) -> None:
        """Drop the half served least. They are lifted when they come back, so they lose nothing."""
        keep = sorted(self._served.items(), key=lambda item: -item[1])[: _KEPT // 2]
        self._served = dict(keep)
