"""Reads a request's JSON like vLLM's pydantic models: types are converted, and errors name each wrong field."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sage_inference.simulator.exchange import Request
from sage_inference.simulator.vllm.errors import ApiError, SchemaError

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
_NOT_AN_INT = "Input should be a valid integer"
_NOT_A_NUMBER = "Input should be a valid number"
_NOT_A_BOOL = "Input should be a valid boolean"


def shown(value: object) -> str:
    if isinstance(value, dict):
        return f"<dict of {len(value)} items>"
    return f"<list of {len(value)} items>" if isinstance(value, list) else str(value)


def problem(kind: str, name: str, message: str, value: object) -> dict[str, Any]:
    loc = f"body.{name}" if name else "body"
    return {"type": kind, "loc": loc, "msg": message, "input": shown(value)}


class Fields:
    """A request's object. Errors are collected, and ``check`` raises them together."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._problems: list[dict[str, Any]] = []

    def get(self, name: str) -> Any:
        return self.document.get(name)

    def check(self) -> None:
        if self._problems:
            raise SchemaError(self._problems)

    def required(self, name: str) -> Any:
        if name not in self.document:
            self._problems.append(problem("missing", name, "Field required", self.document))
        return self.document.get(name)

    def required_list(self, name: str) -> list[Any]:
        value = self.required(name)
        if isinstance(value, list):
            return value
        if name in self.document:
            self._fail("list_type", name, "Input should be a valid list")
        return []

    def mapping(self, name: str) -> dict[str, Any] | None:
        value = self.document.get(name)
        if value is None or isinstance(value, dict):
            return value
        self._fail("dict_type", name, "Input should be a valid dictionary")
        return None

    def text(self, name: str) -> str | None:
        value = self.document.get(name)
        if value is None or isinstance(value, str):
            return value
        self._fail("string_type", name, "Input should be a valid string")
        return None

    def integer(self, name: str) -> int | None:
        value = self.document.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                self._fail("int_parsing", name, f"{_NOT_AN_INT}, unable to parse string as an integer")
        elif not isinstance(value, int | float):
            self._fail("int_type", name, _NOT_AN_INT)
        elif int(value) != value:
            self._fail("int_from_float", name, f"{_NOT_AN_INT}, got a number with a fractional part")
        else:
            return int(value)
        return None

    def number(self, name: str) -> float | None:
        value = self.document.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                self._fail("float_parsing", name, f"{_NOT_A_NUMBER}, unable to parse string as a number")
        elif isinstance(value, int | float):
            return float(value)
        else:
            self._fail("float_type", name, _NOT_A_NUMBER)
        return None

    def flag(self, name: str) -> bool:
        value = self.document.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        word = str(value).lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        if isinstance(value, str | int):
            self._fail("bool_parsing", name, f"{_NOT_A_BOOL}, unable to interpret input")
        else:
            self._fail("bool_type", name, _NOT_A_BOOL)
        return False

    def _fail(self, kind: str, name: str, message: str) -> None:
        self._problems.append(problem(kind, name, message, self.document[name]))


def read(request: Request) -> Fields:
    """The request's object. Raises ``ApiError`` for any other body."""
    media_type = (request.header(b"content-type") or b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(message, kind="Bad Request")
    try:
        document = msgspec.json.decode(request.body)
    except RecursionError:
        raise ApiError("There was an error parsing the body", kind="Bad Request") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = _leniently(request.body)
    if not isinstance(document, dict):
        words = "Input should be a valid dictionary or object to extract fields from"
        raise SchemaError([problem("model_attributes_type", "", words, document)])
    return Fields(document)


def _leniently(body: bytes) -> Any:
    """Decode with the standard library, because vLLM repeats its messages and because it accepts NaN."""
    try:
        return json.loads(body)
    except UnicodeDecodeError as error:
        place, reason = error.start, error.reason
    except json.JSONDecodeError as error:
        place, reason = error.pos, error.msg
    bad = problem("json_invalid", str(place), "JSON decode error", {})
    raise SchemaError([{**bad, "ctx": {"error": reason}}])
