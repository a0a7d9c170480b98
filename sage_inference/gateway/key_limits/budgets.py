"""The budgets of all keys that have limits. They outlive a reload of the configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sage_inference.config.settings import ApiKeySettings
from sage_inference.gateway.key_limits.budget import KeyBudget
from sage_inference.gateway.key_limits.models import AllowedModels, Names
from sage_inference.gateway.tenants import tenants


class KeyBudgets:
    """The budget of each key by its name. Keys of one name share it, so that a key can be replaced by a new one."""

    def __init__(
        self, names: Names, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self.by_name: dict[str, KeyBudget] = {}
        self._names = names
        self._clock = clock
        self._wall = wall
        self._former: dict[str, KeyBudget] = {}  # used ones of keys that have no limits any more

    def configure(self, keys: Sequence[ApiKeySettings]) -> None:
        """Apply new limits. Requests and tokens that were used before count on."""
        known = {**self._former, **self.by_name}
        found: dict[str, KeyBudget] = {}
        for name, key in tenants(keys):
            if not key.limits.any_set or name in found:
                continue
            budget = known.pop(name) if name in known else KeyBudget(name, self._clock, self._wall)
            found[name] = budget
            budget.limits = key.limits
            budget.models = AllowedModels(key.limits.models, self._names)
        self.by_name = found
        self._former = {name: budget for name, budget in known.items() if budget.is_in_use}

    def of(self, tenant: str) -> KeyBudget | None:
        """The budget of a key's name, if it has limits."""
        return self.by_name.get(tenant)

    def models_changed(self) -> None:
        for budget in self.by_name.values():
            budget.models.forget()

    def take_new(self) -> list[KeyBudget]:
        """The budgets that may lack what their keys used earlier today. Each is returned once."""
        found = [
            budget
            for budget in self.by_name.values()
            if budget.limits.tokens_per_day is not None and not budget.today.is_restored
        ]
        for budget in found:
            budget.today.is_restored = True
        return found

    def tick(self) -> None:
        """Has to be called about once a second."""
        for budget in self.by_name.values():
            budget.follow()
