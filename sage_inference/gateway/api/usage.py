"""``/admin/usage``: requests and tokens by key, model, user or time, from the usage store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_inference.gateway.api.admin import bounded
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.gateway import Gateway
from sage_inference.usage.columns import UsageError

_DEFAULT_SINCE = "30d"


async def usage(request: Request) -> Response:
    """The totals by ``?by=`` since ``?since=``, up to the last request that has ended."""
    gateway: Gateway = request.app.state.gateway
    meter = gateway.usage
    if meter is None or not meter.days:
        message = "this gateway keeps no record of usage; usage.days turns it on"
        raise ApiError(404, message, code="no_usage")
    by, since = request.query_params.get("by", "model"), request.query_params.get("since", _DEFAULT_SINCE)
    await meter.write()
    document = await asyncio.to_thread(_document, meter.path, by, since)
    return JSONResponse({**document, "kept_days": meter.days})


def _document(path: Path, by: str, since: str) -> dict[str, Any]:
    # On this thread, because the import of SQLite would hold up the event loop.
    from sage_inference.usage.document import usage_document
    from sage_inference.usage.report import BadQuery

    try:
        return usage_document(path, by, since)
    except BadQuery as error:
        raise ApiError(400, str(error), param=error.name) from None
    except UsageError as error:
        raise ApiError(500, str(error), "internal_error") from None


routes = [Route("/admin/usage", bounded(usage))]
