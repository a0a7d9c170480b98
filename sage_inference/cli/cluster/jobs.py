"""Jobs on the head of the cluster: the only way in which these commands change what Serve runs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

from sage_inference.cli.cluster.dashboard import Dashboard, UnreachableError, segment
from sage_inference.cli.errors import Failure
from sage_inference.visible import visible

_LOOK_S = 0.5
_SILENT_S = 120.0  # how long the dashboard may fail to answer
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_OUTCOME = "sage-inference: "
_MODULE = "sage_inference.cluster"
_QUOTED = 300


def run_job(dashboard: Dashboard, python: str, words: Sequence[str]) -> None:
    """Run ``python -m sage_inference.cluster WORDS`` on the head, and wait for its end. Raises ``Failure``."""
    entrypoint = " ".join(shlex.quote(word) for word in (python, "-m", _MODULE, *words))
    answer = dashboard.post("/api/jobs/", {"entrypoint": entrypoint, "metadata": {"name": "sage-inference"}})
    job = answer.get("submission_id") or answer.get("job_id") if isinstance(answer, dict) else None
    if not isinstance(job, str) or not job:
        raise Failure(f"{dashboard.url} took the job and named no id for it", None, "not_a_dashboard")
    path = f"/api/jobs/{segment(job)}"
    found = patiently(lambda: dashboard.get(path), lambda answer: _status(answer) in _ENDED)
    if _status(found) != "SUCCEEDED":
        raise _failure(dashboard, path, python, found)


def patiently(look: Any, is_over: Any) -> Any:
    """The first answer of ``look`` that is the last one. A dashboard that is silent for a while is asked again."""
    silent_since = None
    while True:
        try:
            found = look()
            silent_since = None
            if is_over(found):
                return found
        except UnreachableError:
            now = time.monotonic()
            silent_since = silent_since or now
            if now - silent_since > _SILENT_S:
                raise
        time.sleep(_LOOK_S)


def _status(answer: Any) -> str:
    return str(answer.get("status")) if isinstance(answer, dict) else "UNKNOWN"


def _failure(dashboard: Dashboard, path: str, python: str, found: Any) -> Failure:
    try:
        answer = dashboard.get(f"{path}/logs")
        logs = str(answer.get("logs") or "") if isinstance(answer, dict) else ""
    except Failure:
        logs = ""
    said = f"{logs}\n{found.get('message') or ''}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    outcome = [line.removeprefix(_OUTCOME) for line in lines if line.startswith(_OUTCOME)]
    if "No module named sage_inference" in said or "No module named 'sage_inference" in said:
        return Failure(
            f"{python} on Ray's head has no sage-inference",
            'pip install "sage-inference[ray]" on each machine, or --python with the Python that has it',
            "not_installed",
        )
    if f"{python}: not found" in said or f"{python}: No such file" in said:
        return Failure(
            f"Ray's head has no {python}", "--python names the Python of Ray there", "not_installed"
        )
    last = visible((outcome or lines or ["it gave no reason"])[-1])[:_QUOTED]
    if "No module named 'ray" in last:
        return Failure(
            f"{python} on Ray's head has no Ray", "--python names the Python of Ray there", "not_installed"
        )
    return Failure(f"the job on Ray's head failed: {last}", None, "job_failed")
