"""The state of the service, as a document."""

from __future__ import annotations

from typing import Any

from sage_inference.daemon.service import unit_file
from sage_inference.daemon.service.manager import Manager, linger
from sage_inference.daemon.service.plan import ServicePlan, settings_of
from sage_inference.daemon.systemd import NAME

_PROPERTIES = ("ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "Result", "PrivateUsers")


def describe(plan: ServicePlan, manager: Manager) -> dict[str, Any]:
    """``current``: whether the unit has the options of this version; None if that is not known."""
    text = unit_file.read(plan.unit_file)
    shown = manager.show(NAME, *_PROPERTIES) if text is not None else {}
    content = unit_file.content_of(text)
    return {
        "installed": content != "missing",
        "system": plan.which == "--system",
        "unit_path": str(plan.unit_file),
        "edited": content == "edited",
        "drop_ins": unit_file.drop_ins(plan.unit_file),
        "current": _is_current(plan, text) if text is not None and content == "ours" else None,
        "confined": shown["PrivateUsers"] == "yes" if "PrivateUsers" in shown else None,
        "enabled": shown["UnitFileState"] == "enabled" if "UnitFileState" in shown else None,
        "active": shown.get("ActiveState"),
        "sub_state": shown.get("SubState"),
        "result": shown.get("Result"),
        "pid": _number(shown.get("MainPID")) or None,
        "restarts": _number(shown.get("NRestarts")),
        "environment_file": str(plan.environment_file),
        "linger": linger() if plan.which == "--user" else None,
    }


def _is_current(plan: ServicePlan, text: str) -> bool | None:
    """Compare the lines that this version decides. The others depend on the call of ``install``."""
    try:
        settings = settings_of(plan)
    except Exception:
        return None  # a broken configuration, which other commands explain
    ours = [
        plan.text(settings.timeouts.drain_s, confined=confined, port=settings.server.port)
        for confined in (True, False)
    ]
    return _own_lines(text) in map(_own_lines, ours)


def _own_lines(text: str) -> list[str]:
    theirs = ("#", "ExecStart=", "ExecReload=", "Environment", "User=", "DynamicUser=")
    return [line for line in text.splitlines() if not line.startswith(theirs)]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
