"""Ask an engine whether it sleeps, so that its weights are not on the GPU and it answers no request until it wakes.

A sleeping vLLM answers ``/health`` with 200. It has ``/is_sleeping`` in its development mode only. It always has the
metric, which reports "awake" as soon as a part of the engine is awake.
"""

from __future__ import annotations

import json
import re

import httpx

from sage_inference.engines.patience import REAL_TIME, Patience
from sage_inference.engines.query import QueryError, ask_bytes

IS_SLEEPING, METRICS = "/is_sleeping", "/metrics"
_STATE = re.compile(rb"^vllm:engine_sleep_state\{(.*)\}[ \t]+(\S+)", re.M)
_AWAKE = re.compile(rb'(?:^|,)\s*sleep_state="awake"')


class SleepProbe:
    """Whether one engine sleeps. ``paths`` may report it. A path that the engine does not have is asked once."""

    def __init__(self, *paths: str) -> None:
        self._paths = list(paths)
        self.asleep = False

    async def ask(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        api_key: str | None,
        timeout_s: float,
        patience: Patience = REAL_TIME,
    ) -> None:
        """Update ``asleep``. It stays as it is if the engine does not answer, as when it falls asleep or wakes."""
        while self._paths:
            path = self._paths[0]
            try:
                status, body = await patience.within(timeout_s, ask_bytes(client, base_url + path, api_key))
            except (QueryError, TimeoutError):
                return
            asleep = _asleep_by(path, body) if status == 200 else None
            if asleep is not None:
                self.asleep = asleep
                return
            if status >= 500 or status == 429:
                return
            del self._paths[0]
        self.asleep = False


def _asleep_by(path: str, body: bytes) -> bool | None:
    """Whether the engine sleeps by its answer; None if that does not show it."""
    if path == METRICS:
        return sleeps_by_metrics(body)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    asleep = document.get("is_sleeping") if isinstance(document, dict) else None
    return asleep if isinstance(asleep, bool) else None


def sleeps_by_metrics(page: bytes) -> bool | None:
    """Whether any engine behind the server sleeps, by ``vllm:engine_sleep_state``; None without that metric.

    The server divides requests between its engines, so with one asleep some requests would hang.
    """
    awake = [value for labels, value in _STATE.findall(page) if _AWAKE.search(labels)]
    return any(_is_zero(value) for value in awake) if awake else None


def _is_zero(value: bytes) -> bool:
    try:
        return float(value) == 0
    except ValueError:
        return False
