"""Makes all checks at the same time. None of them may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from sage_inference.doctor import engines, gateway, machine, setup, sources, traces
from sage_inference.doctor.facts import Facts, UnknownFactError
from sage_inference.doctor.finding import Check, Finding
from sage_inference.visible import visible

WITHIN_S = 2.0
CHECKS = (
    setup.CONFIGURATION,
    setup.KEYS,
    setup.FOLDERS,
    gateway.GATEWAY,
    gateway.PORT,
    gateway.SERVICE,
    gateway.LINGER,
    engines.ENGINES,
    sources.SOURCES,
    engines.PROGRAMS_FOUND,
    traces.TRACES,
    machine.GPUS,
    machine.OPEN_FILES,
    machine.CLOCK,
)


def examine(facts: Facts, checks: Sequence[Check] = CHECKS, within_s: float = WITHIN_S) -> list[Finding]:
    """The findings of all checks, in their order. A check that takes longer is reported as a warning."""
    deadline = time.monotonic() + within_s
    results: SimpleQueue[tuple[Check, list[Finding]]] = SimpleQueue()
    for check in checks:
        threading.Thread(target=_run, args=(check, facts, results), daemon=True).start()
    found: dict[str, list[Finding]] = {}
    while len(found) < len(checks):
        try:
            check, findings = results.get(timeout=max(deadline - time.monotonic(), 0.001))
        except Empty:
            break
        found[check.name] = findings
    hung = f"no answer within {within_s:g} s"
    return [
        each
        for check in checks
        for each in found.get(check.name, [check.warn(hung, _hint(check, facts.plan.which))])
    ]


def _run(check: Check, facts: Facts, results: SimpleQueue[tuple[Check, list[Finding]]]) -> None:
    findings: list[Finding] = []
    try:
        findings.extend(check.run(facts))
    except UnknownFactError:
        pass
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        findings.append(check.fail(f"the check failed: {visible(reason)}"))
    results.put((check, findings))


def _hint(check: Check, which: str) -> str | None:
    return {
        "folders": "a disk or a network file system may hang: df -h",
        "gpus": "nvidia-smi; nvidia-smi -pm 1 keeps the driver loaded",
        "gateway": "sage inference status",
        "service": "systemctl status" if which == "--system" else "systemctl --user status",
    }.get(check.name)
