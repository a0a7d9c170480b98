"""``/admin/keys``: the keys that callers may show now, and what was used with each today."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_inference.gateway.api.admin import bounded
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.key_limits.budget import KeyBudget
from sage_inference.gateway.key_limits.day import DAY_S
from sage_inference.telemetry.usage_meter import UsageMeter
from sage_inference.usage.columns import UsageError


async def keys(request: Request) -> Response:
    """Days are those of UTC. Keys of one name are counted together. A count that nothing keeps is null."""
    gateway: Gateway = request.app.state.gateway
    today = await _today(gateway.usage)
    found = [_document(gateway, name, key_id, today) for key_id, name in gateway.guard.key_ids()]
    return JSONResponse({"schema": 1, "keys": found})


async def _today(meter: UsageMeter | None) -> dict[str, tuple[int, int]] | None:
    """The requests and tokens of each key; None without a record of usage."""
    if meter is None or not meter.days:
        return None
    try:
        return await meter.by_key(int(time.time() // DAY_S))
    except UsageError:
        return None


def _document(
    gateway: Gateway, name: str, key_id: str, today: dict[str, tuple[int, int]] | None
) -> dict[str, Any]:
    requests, tokens = (None, None) if today is None else today.get(name, (0, 0))
    budget = gateway.budgets.of(name)
    if budget is not None:
        tokens = budget.tokens_today()  # what counts for the limit
    return {
        "name": name,
        "id": key_id,
        "requests_today": requests,
        "tokens_today": tokens,
        **(dict.fromkeys(_OF_MINUTE) if budget is None else _minute(budget)),
    }


_OF_MINUTE = ("requests_last_minute", "tokens_last_minute", "tokens_reserved", "running", "refused")


def _minute(budget: KeyBudget) -> dict[str, int]:
    return {
        "requests_last_minute": budget.requests_last_minute(),
        "tokens_last_minute": budget.tokens_last_minute(),
        "tokens_reserved": budget.reserved,
        "running": budget.active,
        "refused": budget.refused,
    }


routes = [Route("/admin/keys", bounded(keys))]
