"""Refusals in vLLM's words and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

_LISTED = 10


class ApiError(Exception):
    """One ``{"error": {"message", "type", "param", "code"}}``."""

    def __init__(
        self, message: str, *, param: str | None = None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.kind = kind

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


class SchemaError(ApiError):
    """The mistakes that pydantic found: all of them in one message, the first one's place in ``param``."""

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        lines = [f"  {error!r}" for error in errors[:_LISTED]]
        if len(errors) > _LISTED:
            lines.append(f"  ...and {len(errors) - _LISTED} more errors")
        plural = "s" if len(errors) > 1 else ""
        message = "\n".join([f"{len(errors)} validation error{plural}:", *lines])
        super().__init__(message, param=errors[0]["loc"], kind="Bad Request")


def invalid(name: str, message: str, value: object) -> ApiError:
    """A value that is of the right type and still not accepted."""
    return ApiError(f"{message} (parameter={name}, value={value})", param=name)


def unknown_model(name: object, aliases: Sequence[str] | None) -> ApiError:
    """The generate server lists its aliases, the pooling server doesn't."""
    message = f"The model `{name}` does not exist."
    if aliases is None:
        return ApiError(message, status=404, kind="NotFoundError")
    message = f"{message} Valid aliases: {', '.join(aliases)}."
    return ApiError(message, param="model", status=404, kind="NotFoundError")
