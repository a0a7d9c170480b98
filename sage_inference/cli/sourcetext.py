"""The words for a source of engines, in ``status``."""

from __future__ import annotations

from typing import Any

from sage_inference.cli import enginetext

COLOURS = {"ok": None, "stale": "yellow", "failed": "red"}


def line(source: dict[str, Any]) -> str:
    """``source file /shared/engines.yaml  ok, looked 1 s ago, 4 engines on 3 nodes``."""
    return f"source {source['kind']} {source['address']}  {_state(source)}"


def _state(source: dict[str, Any]) -> str:
    engines, age = _engines(source), source["age_s"]
    if source["state"] == "ok":
        return f"ok, looked {enginetext.span(age)} ago, {engines}"
    if source["state"] == "failed":
        return f"failed: {source['last_error'] or 'no answer yet'}; it has given no list"
    since = "of an earlier run" if age is None else f"of {enginetext.span(age)} ago"
    return f"stale: {source['last_error'] or 'no answer yet'}; its list {since} holds, {engines}"


def _engines(source: dict[str, Any]) -> str:
    count, nodes = source["instances"], source["nodes"]
    text = "1 engine" if count == 1 else f"{count:,} engines"
    return text if not nodes else f"{text} on 1 node" if nodes == 1 else f"{text} on {nodes:,} nodes"


def remarks(source: dict[str, Any]) -> list[str]:
    """A sentence for each entry of the list that is no instance."""
    return [f"source {source['kind']} {source['address']}: {each}" for each in source["skipped"]]
