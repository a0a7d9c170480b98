"""``/simulator/*``: sets faults, lists received requests, reports counts, and waits for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.faults import FaultBook, FaultError, parse
from sage_inference.simulator.records import Records

_DEFAULT_WAIT_S = 10.0


class BadQuestionError(ValueError):
    """The requested item does not exist. The message lists the existing ones."""


class Admin:
    """``on_faults`` is awaited after a change, so that the change is in force once it is answered."""

    def __init__(self, faults: FaultBook, records: Records, on_faults: Callable[[], Awaitable[None]]) -> None:
        self._faults = faults
        self._records = records
        self._on_faults = on_faults
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[tuple[int, Any]]]] = {
            ("POST", "/simulator/faults"): self._set_faults,
            ("GET", "/simulator/faults"): self._get_faults,
            ("GET", "/simulator/requests"): self._requests,
            ("GET", "/simulator/stats"): self._stats,
            ("GET", "/simulator/wait"): self._wait,
        }

    async def handle(self, request: Request, reply: Reply) -> None:
        handler = self._routes.get((request.method, request.path))
        if handler is None:
            there = ", ".join(f"{method} {path}" for method, path in self._routes)
            status, document = 404, {"error": f"no {request.method} {request.path}; there are {there}"}
        else:
            try:
                status, document = await handler(request)
            except (FaultError, BadQuestionError, msgspec.DecodeError) as error:
                status, document = 400, {"error": str(error)}
        await reply.whole(status, msgspec.json.encode(document))

    async def _set_faults(self, request: Request) -> tuple[int, Any]:
        self._faults.replace(parse(msgspec.json.decode(request.body) if request.body else {}))
        await self._on_faults()
        return 200, {"faults": self._faults.as_json()}

    async def _get_faults(self, _: Request) -> tuple[int, Any]:
        return 200, {"faults": self._faults.as_json()}

    async def _requests(self, request: Request) -> tuple[int, Any]:
        query = request.query
        count = int(_number("last", query.get("last", "1")))
        found = self._records.last(count, query.get("route"), probes="probes" in query)
        return 200, {"requests": found}

    async def _stats(self, _: Request) -> tuple[int, Any]:
        return 200, self._records.stats()

    async def _wait(self, request: Request) -> tuple[int, Any]:
        query = request.query
        timeout_s = _number("timeout_s", query.pop("timeout_s", str(_DEFAULT_WAIT_S)))
        known = {name for name, value in self._records.stats().items() if isinstance(value, int | float)}
        unknown = [name for name in query if name not in known]
        if unknown:
            raise BadQuestionError(f"cannot wait for {unknown[0]!r}; there are {', '.join(sorted(known))}")
        wanted = {name: _number(name, value) for name, value in query.items()}
        reached = await self._records.reached(wanted, timeout_s)
        return (200 if reached else 504), self._records.stats()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadQuestionError(f"{name} is a number, not {text!r}") from None
