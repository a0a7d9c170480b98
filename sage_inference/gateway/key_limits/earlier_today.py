"""The tokens that keys used today before the gateway counted them: before its start, or while they had no limits."""

from __future__ import annotations

import logging

from sage_inference.gateway.key_limits.budgets import KeyBudgets
from sage_inference.telemetry.usage_meter import UsageMeter
from sage_inference.usage.columns import UsageError

log = logging.getLogger("sage_inference.gateway")


async def count_earlier_today(budgets: KeyBudgets, meter: UsageMeter | None) -> None:
    """Add what the record of usage has of today to new budgets. Has to be called about once a second."""
    new = budgets.take_new()
    if not new or meter is None or not meter.days:
        return
    counted = {budget.name: budget.tokens_today() for budget in new}
    day = new[0].today.day
    try:
        used = await meter.by_key(day)  # with what was counted until now
    except Exception as error:
        reason = error if isinstance(error, UsageError) else repr(error)
        log.warning("tokens that keys used earlier today do not count: %s", reason)
        return
    for budget in new:
        if budget.today.day == day:
            _, tokens = used.get(budget.name, (0, 0))
            budget.today.tokens += max(0, tokens - counted[budget.name])
