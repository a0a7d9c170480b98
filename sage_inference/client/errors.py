"""The errors of a call. Their classes differ by the side at fault and the remedy."""

from __future__ import annotations


class SageInferenceError(Exception):
    """The base of all errors. Its fields describe the failed call, and are None if unknown.

    ``status`` is the HTTP status. ``code`` and ``param`` come from the server's error. ``request_id`` and ``instance``
    help to find the call in the server's log. ``retry_after`` is the delay in seconds that the server asked for.
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
        details = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
        return f"{self.message} ({details})" if details else self.message


class InferenceConnectionError(SageInferenceError):
    """No server was reached, or it closed the connection before the end of its answer."""


class NoServerFoundError(InferenceConnectionError):
    """Detection found no server. ``tried`` has a line for each step: its name and the reason."""

    def __init__(self, message: str, tried: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.tried = tried


class InferenceTimeoutError(SageInferenceError):
    """The answer did not come within the caller's timeout."""


class AuthenticationError(SageInferenceError):
    """The API key is missing, wrong, or has no permission (401, 403)."""


class NotFoundError(SageInferenceError):
    """The model or the route is not served (404)."""


class BadRequestError(SageInferenceError):
    """The request itself is wrong (any other 4xx)."""


class RateLimitedError(SageInferenceError):
    """Too many requests (429). ``retry_after`` is the server's delay, if it gave one."""


class EngineError(SageInferenceError):
    """The engine or the gateway failed (5xx), or sent an invalid answer."""
