"""The words for an engine that does not serve: errors of requests, and the comments of streams."""

from __future__ import annotations

import time

from sage_inference.engines.managed.machine import ManagedState
from sage_inference.engines.managed.supervisor import EngineSupervisor
from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError

_SOON_S = 10
_LATER_S = 60
_ON_THE_WAY = (ManagedState.WAITING, ManagedState.STARTING)  # where a failure is that of an earlier start


def progress_text(engine: EngineSupervisor) -> str:
    """The phase of a start: ``loading (the weights 45 %, 3/7)``."""
    if engine.state is ManagedState.WAITING:
        blocker = engine.context.turns.blocker(engine.name)
        return f"waiting for {blocker}, which starts or stops on the same GPU" if blocker else "loading"
    moment = None if engine.watch is None else engine.watch.moment
    if engine.state is not ManagedState.STARTING or moment is None:
        return f"loading ({engine.state})"
    share = "" if moment.share is None else f" {100 * moment.share:.0f} %"
    detail = f", {moment.detail}" if moment.detail else ""
    return f"loading ({moment.phase.words.removeprefix('loading ')}{share}{detail})"


def late(engine: EngineSupervisor) -> ApiError:
    """The error of a request that waited for the engine as long as it may."""
    failure = engine.machine.failure
    if failure is not None and engine.state not in _ON_THE_WAY:
        return _failed(engine, failure.message, failure.hint)
    before = "" if failure is None else f", after it failed: {failure.message}"
    message = f"engine {engine.name} does not serve yet: {progress_text(engine)}{before}; try again later"
    return errors.engine_unavailable("engine_loading", message, _retry_after(engine))


def refusal(engine: EngineSupervisor) -> ApiError:
    """The error of a request for an engine that will not come by itself."""
    failure = engine.machine.failure
    if failure is not None:
        return _failed(engine, failure.message, failure.hint)
    name = engine.name
    if engine.state in (ManagedState.STUCK, ManagedState.LOST):
        message = f"engine {name} is {engine.state}: its processes hold it and may not be signalled"
        return errors.engine_unavailable("engine_failed", message, _LATER_S)
    message = f"engine {name} is not loaded; start it with: sage inference load {name}"
    return errors.engine_unavailable("engine_not_loaded", message, _LATER_S)


def warning(engine: EngineSupervisor) -> dict[str, str] | None:
    """The fault of an engine that serves, which callers would find one by one."""
    if engine.state is not ManagedState.READY or not engine.lacks_chat_template:
        return None
    is_vllm = engine.running is not None and engine.running.about.get("engine") == "vllm"
    remedy = "set args: [--chat-template, FILE]; " if is_vllm else ""
    return {
        "message": "it refuses chats, because its model has no chat template",
        "hint": f"{remedy}/v1/completions works without one",
    }


def _failed(engine: EngineSupervisor, message: str, hint: str | None) -> ApiError:
    due_at = engine.machine.due_at
    retry_s = (
        _LATER_S if due_at is None else max(1, round(due_at - time.monotonic() + (engine.expected_s or 0)))
    )
    text = f"engine {engine.name} failed: {message}" + (f"; {hint}" if hint else "")
    return errors.engine_unavailable("engine_failed", text, retry_s)


def _retry_after(engine: EngineSupervisor) -> int:
    """Seconds until the start should be over, by the last one."""
    if engine.expected_s is None:
        return _SOON_S
    return max(1, round(engine.expected_s - (time.monotonic() - engine.machine.since)))
