"""The documents of managed engines in ``status`` and ``/admin/engines``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sage_inference.engines.managed.machine import ManagedState
from sage_inference.gateway.managed import wording
from sage_inference.keeper import files

if TYPE_CHECKING:
    from sage_inference.gateway.managed.engine_set import ManagedEngine, ManagedEngines

_ENDED = (ManagedState.OFF, ManagedState.WAITING, ManagedState.FAILED)


def engine_documents(engines: ManagedEngines | None) -> list[dict[str, Any]]:
    return [] if engines is None else [engine_document(engines, each) for each in engines.engines.values()]


def engine_document(engines: ManagedEngines, engine: ManagedEngine) -> dict[str, Any]:
    machine, process = engine.machine, engine.running
    if machine.state in _ENDED or machine.launching:  # the process of before is gone
        process = None
    about = {} if process is None else process.about
    starting = machine.state is ManagedState.STARTING and not machine.launching
    moment = engine.watch.moment if starting and engine.watch is not None else None
    now = time.monotonic()
    upstream = engines.gateway.engines.get(engine.name)
    return {
        "name": engine.name,
        "model": engine.entry.model,
        "engine": about.get("engine") or (None if engine.entry.engine == "auto" else engine.entry.engine),
        "kind": None if engine.kind == "auto" else engine.kind,
        "state": machine.state.value,
        "phase": None if moment is None else moment.phase.value,
        "progress": None if moment is None or moment.share is None else round(moment.share, 3),
        "detail": None if moment is None else moment.detail,
        "since_s": round(now - machine.since, 1),
        "expected_s": None if engine.expected_s is None else round(engine.expected_s, 1),
        "pid": None if process is None else process.pid,
        "gpus": list(about.get("gpus") or []),
        "url": None if process is None else process.url,
        "restarts": machine.restarts,
        "adopted": machine.adopted,
        "outdated": engine.outdated and process is not None,
        "failure": _failure(engine, now),
        "warning": wording.warning(engine),
        "in_flight": engines.in_flight(engine),
        "queued": engines.queued(engine),
        "uptime_s": None if process is None else round(max(0.0, time.time() - process.started_at), 1),
        "memory_mb": engine.memory_mb if process is not None else None,
        "log_file": str(engine.directory / files.LOG),
        "instance": upstream is not None,
    }


def _failure(engine: ManagedEngine, now: float) -> dict[str, Any] | None:
    machine = engine.machine
    if machine.failure is None:
        return None
    waits = machine.state is ManagedState.FAILED and machine.due_at is not None
    return {
        "message": machine.failure.message,
        "hint": machine.failure.hint,
        "permanent": machine.state is ManagedState.FAILED and machine.due_at is None,
        "retry_in_s": round(max(0.0, machine.due_at - now), 1)
        if waits and machine.due_at is not None
        else None,
    }
