"""What two answers must have in common to be of the same form, whatever their words and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

FIXTURES = Path(__file__).parents[1] / "fixtures" / "engines"


def recorded(engine: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / engine / f"{name}.json").read_text())
    return found


def names(engine: str, *prefixes: str) -> list[str]:
    """The records whose names start with one of ``prefixes``."""
    return sorted(path.stem for path in (FIXTURES / engine).glob("*.json") if path.stem.startswith(prefixes))


def shape(value: Any) -> Any:
    """Keys in their order, kinds of values, and of a list what its first element is."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return str(value)
    return "number" if isinstance(value, int | float) else "text"


def key_order(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, key_order(one)) for key, one in value.items()]
    return key_order(value[0]) if isinstance(value, list) and value else None


def events(text: str) -> list[Any]:
    """A stream's events: the data decoded, with the event's name before it where there is one."""
    found: list[Any] = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.strip().splitlines())
        if not lines:
            continue
        data = lines["data"]
        decoded = data if data == "[DONE]" else json.loads(data)
        found.append((lines["event"], decoded) if "event" in lines else decoded)
    return found


def steps(found: list[Any]) -> list[Any]:
    """The shapes of a stream's events, repetitions in a row taken once."""
    shapes = [(one[0], shape(one[1])) if isinstance(one, tuple) else shape(one) for one in found]
    return [one for i, one in enumerate(shapes) if i == 0 or one != shapes[i - 1]]


def send(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    """A recorded request again, byte for byte where it was text."""
    body = request["body"]
    content = None if body is None else body if isinstance(body, str) else json.dumps(body)
    headers = {name: value for name, value in request["headers"].items() if name != "User-Agent"}
    return client.request(request["method"], request["path"], content=content, headers=headers)


def header(response: dict[str, Any], name: str) -> str | None:
    return next((value for key, value in response["headers"] if key.lower() == name), None)
