"""The message and status of each error that the gateway itself answers. ``error_formats`` has their shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.wire.request_guard import ProblemKind, RequestProblem

INVALID = "invalid_request_error"


@dataclass(eq=False)
class ApiError(Exception):
    """An error that the gateway answers. With ``close``, the connection cannot be used again."""

    status: int
    message: str
    type: str = INVALID
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False


_PROBLEMS: dict[ProblemKind, tuple[int, str]] = {
    ProblemKind.BAD_FRAMING: (400, "the request is not valid HTTP/1.1"),
    ProblemKind.TRANSFER_CODING: (
        400,
        'the request has the transfer coding "{}", and only "chunked" is read; '
        "a compressed body is declared by Content-Encoding",
    ),
    ProblemKind.EXPECTATION: (
        417,
        'the request expects "{}", and only "100-continue" is met (header Expect)',
    ),
    ProblemKind.HEAD_TOO_LARGE: (431, "the request's headers exceed {}"),
    ProblemKind.CHUNKS_TOO_SMALL: (
        400,
        "the request's body comes in too many small chunks; send larger ones",
    ),
}


def retry_after(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", b"%d" % seconds),)


_REFUSALS: dict[Reason, tuple[int, str, str | None]] = {
    Reason.BAD_REQUEST: (400, INVALID, None),
    Reason.UNKNOWN_MODEL: (404, INVALID, "model_not_found"),
    Reason.NO_ENGINE_FOR_ROUTE: (501, INVALID, "no_engine_for_route"),
    Reason.NO_HEALTHY_INSTANCE: (503, "service_unavailable", "no_healthy_instance"),
    Reason.QUEUE_FULL: (429, "rate_limit_error", "queue_full"),
    Reason.DEADLINE: (429, "rate_limit_error", "deadline_exceeded"),
    Reason.FAILED: (500, "internal_error", "internal_error"),
    Reason.QUEUE_TIMEOUT: (429, "rate_limit_error", "deadline_exceeded"),
}


def from_refusal(refusal: Rejection) -> ApiError:
    status, kind, code = _REFUSALS[refusal.reason]
    headers = () if refusal.retry_after_s is None else retry_after(refusal.retry_after_s)
    return ApiError(status, refusal.message, kind, code or refusal.param, refusal.param, headers)


def upstream_unreachable(instance: str, detail: str) -> ApiError:
    return ApiError(502, f"instance {instance} {detail}", "upstream_error", "upstream_error")


def of_engine(status: int, body: bytes) -> ApiError:
    """An engine's error, where the caller has the head of another answer already."""
    try:
        found = json.loads(body)
        found = found.get("error", found)
        message = str(found["message"])
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        message = body.decode("utf-8", "replace")[:500] or f"the engine answered {status}"
    return ApiError(status, message, "upstream_error" if status >= 500 else INVALID)


def engine_unavailable(code: str, message: str, retry_after_s: int | None) -> ApiError:
    """A managed engine does not serve. ``code``: engine_loading, engine_failed or engine_not_loaded."""
    headers = () if retry_after_s is None else retry_after(retry_after_s)
    return ApiError(503, message, "service_unavailable", code, headers=headers)


def upstream_timeout(instance: str, seconds: float) -> ApiError:
    message = f"instance {instance} did not answer within {seconds:g} s"
    return ApiError(504, message, "upstream_timeout", "upstream_timeout")


def cut_short(instance: str, detail: str) -> ApiError:
    return ApiError(
        502, f"instance {instance} {detail} before its answer ended", "upstream_error", "upstream_error"
    )


def internal(request_id: bytes = b"") -> ApiError:
    """The answer after an unexpected exception in the gateway, whose log has the traceback."""
    where = f", under the request's id {request_id.decode('latin-1')}" if request_id else ""
    message = f"the gateway failed at this request; its log has the traceback{where}"
    return ApiError(500, message, "internal_error", "internal_error")


def gateway_stopped() -> ApiError:
    message = "the gateway stopped before the answer ended"
    return ApiError(
        503, message, "service_unavailable", "gateway_stopped", headers=retry_after(5), close=True
    )


def from_problem(problem: RequestProblem) -> ApiError:
    """The error response to a request that the parser or its guard stopped at."""
    status, message = _PROBLEMS[problem.kind]
    return ApiError(status, message.format(problem.detail), close=True)


def bodies_full(limit: int) -> ApiError:
    message = (
        f"this gateway holds request bodies of {limit} bytes at most (limits.bodies_bytes); try again later"
    )
    return ApiError(503, message, "service_unavailable", "bodies_full", headers=retry_after(5), close=True)


def body_too_large(limit: int, *, decompressed: bool = False) -> ApiError:
    when = " when decompressed" if decompressed else ""
    return ApiError(413, f"the request's body exceeds {limit} bytes{when} (limits.body_bytes)", close=True)


def unread_coding(coding: str, read: Sequence[str]) -> ApiError:
    message = (
        f'the request\'s body has the content coding "{coding}", which is not read here; '
        f"send it uncompressed, or with one of {', '.join(read)}"
    )
    accepted = ((b"accept-encoding", ", ".join(read).encode()),)  # RFC 9110 section 12.5.3
    return ApiError(415, message, code="unsupported_content_encoding", headers=accepted)


def request_timeout(what: str, seconds: float) -> ApiError:
    return ApiError(
        408, f"the request's {what} did not arrive within {seconds:g} s", code="timeout", close=True
    )


def too_many_connections(limit: str) -> ApiError:
    message = f"too many connections: {limit}; try again later"
    return ApiError(
        503, message, "service_unavailable", "too_many_connections", headers=retry_after(5), close=True
    )


_ADMIN_HELP = (
    "send this run's token or the admin_key as 'Authorization: Bearer KEY'; on the gateway's machine its user "
    "calls: sage inference admin-header | curl -H @- URL"
)


def no_admin_key() -> ApiError:
    return ApiError(
        401,
        f"/admin needs a credential: {_ADMIN_HELP}",
        "authentication_error",
        "no_admin_key",
        headers=((b"www-authenticate", b"Bearer"),),
    )


def wrong_admin_key() -> ApiError:
    message = f"this key gives no right to /admin (a caller's key never does): {_ADMIN_HELP}"
    return ApiError(403, message, "permission_error", "wrong_admin_key")


def admin_body_too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body of an /admin request must not exceed {limit} bytes")


def out_of_resources(what: str, task: str = "reach an engine") -> ApiError:
    """The answer when this machine lacks a resource for the task, and no engine is at fault."""
    message = f"the gateway cannot {task} now: {what}"
    return ApiError(503, message, "service_unavailable", "out_of_resources", headers=retry_after(2))


def response_not_found(response_id: str, maker: str = "") -> ApiError:
    """``maker`` is the instance that made the response, if it was removed since then."""
    return ApiError(404, f"Response with id '{response_id}' not found.{_removed(maker)}")


def previous_response_not_found(response_id: str, maker: str = "") -> ApiError:
    message = (
        f"Previous response with id '{response_id}' not found.{_removed(maker)} "
        f"Send the whole conversation as input, without previous_response_id."
    )
    return ApiError(404, message, INVALID, "previous_response_not_found", "previous_response_id")


def _removed(maker: str) -> str:
    return f" Instance {maker}, which made it, was removed." if maker else ""


def response_id_in_use(response_id: str) -> ApiError:
    message = f"'request_id': the id '{response_id}' is in use; leave it out, or choose another"
    return ApiError(409, message, INVALID, "request_id", "request_id")


def maker_unavailable(response_id: str, maker: str, state: str) -> ApiError:
    message = f"instance {maker}, which made response '{response_id}', is {state}; no other instance has that response"
    return ApiError(503, message, "service_unavailable", "no_healthy_instance", headers=retry_after(5))


def maker_lacks_model(response_id: str, maker: str, model: str) -> ApiError:
    message = (
        f"instance {maker}, which made response '{response_id}', does not serve model \"{model}\"; "
        f"no other instance has that response"
    )
    return ApiError(400, message, INVALID, "model", "model")


def no_healthy_instance(model: str, detail: str) -> ApiError:
    message = f'no healthy instance serves model "{model}" now: {detail}'
    return ApiError(503, message, "service_unavailable", "no_healthy_instance", headers=retry_after(5))


def loop_detected() -> ApiError:
    message = "this request has passed this gateway before: one of its instances leads back to it"
    return ApiError(508, message, INVALID, "loop_detected")
