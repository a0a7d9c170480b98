"""The cause of an engine's end, in one sentence, from its log."""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed.failure import Case, EngineFailure, Exit, HolderOf, Retry, nobody
from sage_inference.engines.managed.failure_table import AFTER_READY, ROWS, matching
from sage_inference.engines.managed.gpus import Gpu
from sage_inference.engines.managed.log_lines import LogLine, first_error, last_words, parts_of
from sage_inference.engines.managed.progress import StartPhase
from sage_inference.keeper.masking import Masker
from sage_inference.visible import visible

__all__ = ["EngineFailure", "Exit", "Retry", "explain"]

# The cause of a failed start is the first error of its log. A start prints some thousand lines.
_FIRST_LINES = 20_000
# The cause of a crash is among the last lines, before those of the engine's own end.
_LAST_LINES = 2_000


_DIED = re.compile(
    r"died unexpectedly(?: \(exit code: (?P<code>-?\d+)\))?|Failed core proc\(s\): \{[^}]*?: (?P<core>-\d+)"
)


def explain(
    lines: Iterable[str],
    exit: Exit | None,
    phase: StartPhase | None,
    was_ready: bool,
    engine: ManagedEngineSettings,
    gpus: Sequence[Gpu] = (),
    port: int | None = None,
    holder_of: HolderOf = nobody,
) -> EngineFailure:
    """The cause of an end that nobody ordered. ``lines`` are the log of this start alone, from its top.

    ``gpus`` are those of the engine as they are now, in its own order. Their processes are named where memory lacks.
    ``port`` is the one that it was given. ``holder_of`` finds the process that holds a port.
    """
    case = Case(_relevant(lines, was_ready), exit, phase, was_ready, engine, gpus, port, holder_of)
    found = matching(AFTER_READY if was_ready else ROWS, case)
    killed = _killed(case)
    if killed is not None and (found is None or found.retry is Retry.COUNTED):
        found = killed
    found = found or (_crashed(case) if was_ready else _unknown(case))
    hide = Masker(value.source for value in engine.env.values() if value.is_literal)
    return replace(
        found,
        message=visible(hide.text(found.message)),
        hint=None if found.hint is None else visible(hide.text(found.hint)),
    )


def _relevant(lines: Iterable[str], was_ready: bool) -> list[LogLine]:
    if was_ready:
        return list(parts_of(deque(lines, _LAST_LINES)))
    first: list[str] = []
    last: deque[str] = deque(maxlen=_LAST_LINES)
    for line in lines:
        (first if len(first) < _FIRST_LINES else last).append(line)
    return list(parts_of([*first, *last]))


def _killed(case: Case) -> EngineFailure | None:
    """The end by the kernel or by another program, which an engine cannot write down itself."""
    end = case.exit
    if end is None:
        return None
    if end.oom_killed:
        return EngineFailure(
            f"the kernel killed it {case.while_}, because the machine ran out of memory",
            "end other programs, choose a smaller model, or add swap",
        )
    if end.keeper_killed:
        return EngineFailure("its keeper was killed, and the engine was ended with it", _logs(case))
    if end.signal is None:
        return None
    name = _signal_name(end.signal)
    if end.signal in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        return EngineFailure(f"another program ended it with {name} {case.while_}", _logs(case))
    return EngineFailure(f"it crashed with {name} {case.while_}", _logs(case))


def _crashed(case: Case) -> EngineFailure:
    core = [line for line in case.lines if line.process != "APIServer"]
    cause = first_error(core) or first_error(case.lines)
    is_of_processes = any(
        line.process for line in case.lines
    )  # only vLLM names its processes, and has a core
    how = "its engine core crashed while it served" if is_of_processes else f"it {_how_it_ended(case)}"
    return EngineFailure(f"{how}{f': {cause}' if cause else ''}", _logs(case))


def _unknown(case: Case) -> EngineFailure:
    """A cause that the table does not know, as the engine put it."""
    cause = first_error(case.lines)
    if cause is None or "died unexpectedly" in cause:
        died = next(filter(None, (_DIED.search(line.text) for line in case.lines)), None)
        if died is not None:
            code = died["code"] or died["core"] or ""
            how = f" with {_signal_name(-int(code))}" if code.startswith("-") else ""
            return EngineFailure(f"one of its processes ended{how} {case.while_}", _logs(case))
    if cause is not None:
        return EngineFailure(f"it {_how_it_ended(case)}: {cause}", _logs(case))
    last = last_words(case.lines)
    said = f"; its last line is: {last}" if last else ""
    return EngineFailure(f"it {_how_it_ended(case)} and printed no error{said}", _logs(case))


def _how_it_ended(case: Case) -> str:
    if case.exit is None or case.exit.status is None:
        return f"ended {case.while_}"
    return f"ended with status {case.exit.status} {case.while_}"


def _logs(case: Case) -> str:
    return f"sage inference logs {case.name} -n 50"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
