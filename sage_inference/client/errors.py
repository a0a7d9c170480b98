"""What a call can fail with: one small tree, by whose fault it is and what may help."""

from __future__ import annotations


class SageInferenceError(Exception):
    """The root. What is known of the failed call is in fields; None for what is not.

    ``status`` is the HTTP status, ``code`` and ``param`` the server's own words, ``request_id`` and
    ``instance`` say which log to look into, ``retry_after`` is seconds, as the server asked.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        instance: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.instance = instance
        self.retry_after = retry_after

    def __str__(self) -> str:
        known = {"status": self.status, "request": self.request_id, "instance": self.instance}
        told = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
        return f"{self.message} ({told})" if told else self.message


class InferenceConnectionError(SageInferenceError):
    """No server was reached, or it closed the connection before its answer ended."""


class NoServerFoundError(InferenceConnectionError):
    """Detection found nothing. ``tried`` has a line for each step: its name and why it gave nothing."""

    def __init__(self, message: str, tried: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.tried = tried


class InferenceTimeoutError(SageInferenceError):
    """The answer did not come within the caller's timeout."""


class AuthenticationError(SageInferenceError):
    """No API key, a wrong one, or one that may not do this (401, 403)."""


class NotFoundError(SageInferenceError):
    """The model or the route is not served (404)."""


class BadRequestError(SageInferenceError):
    """The server says that the request itself is wrong (any other 4xx)."""


class RateLimitedError(SageInferenceError):
    """Too much at once (429); ``retry_after`` says when to come again, where the server does."""


class EngineError(SageInferenceError):
    """The engine or the gateway failed (5xx), or answered something that cannot be read."""
