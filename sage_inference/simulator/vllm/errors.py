"""Errors with vLLM's messages and shapes."""

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
    """All errors of pydantic's validation in one message. ``param`` is the place of the first one."""

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        lines = [f"  {error!r}" for error in errors[:_LISTED]]
        if len(errors) > _LISTED:
            lines.append(f"  ...and {len(errors) - _LISTED} more errors")
        plural = "s" if len(errors) > 1 else ""
        message = "\n".join([f"{len(errors)} validation error{plural}:", *lines])
        super().__init__(message, param=errors[0]["loc"], kind="Bad Request")


def invalid(name: str, message: str, value: object) -> ApiError:
    """The error for a value that has the right type but is not accepted."""
    return ApiError(f"{message} (parameter={name}, value={value})", param=name)


def unknown_model(name: object, aliases: Sequence[str] | None) -> ApiError:
    """The error for an unknown model. The generate server lists its aliases in it, the pooling server does not."""
    message = f"The model `{name}` does not exist."
    if aliases is None:
        return ApiError(message, status=404, kind="NotFoundError")
    message = f"{message} Valid aliases: {', '.join(aliases)}."
    return ApiError(message, param="model", status=404, kind="NotFoundError")
