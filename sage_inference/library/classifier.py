"""The kind of a request, whether it is valid, and the instances that could take it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage_inference.control_plane.instances.gpu_sharing import is_mixed
from sage_inference.library.requests import RequestMetadata
from sage_inference.requests.routes import ROUTES
from sage_inference.types import ExecutionInstance, RequestType


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The outcome of ``validate_request``. All fields but ``is_valid`` are empty for a faultless request.

    ``error_code`` is a word for programs, ``error_message`` a sentence for people. Both are None for a valid request.
    ``warnings`` name oddities of a request that can be served.
    """

    is_valid: bool
    error_code: str | None = None
    error_message: str | None = None
    warnings: tuple[str, ...] = ()


class RequestClassifier:
    """Classifies and validates requests. With ``strict_validation``, an oddity is an error as well."""

    def __init__(self, strict_validation: bool = False) -> None:
        self.strict_validation = strict_validation

    def classify(self, request: RequestMetadata) -> RequestType:
        """The kind of work. A type given to ``RequestMetadata`` stands.

        Otherwise the route decides (``/v1/completions`` is ``LLM_GENERATE``), then the texts (``EMBEDDING``). A
        prompt without a route, and a request without either, is ``LLM_CHAT``.
        """
        return request.request_type

    def get_compatible_instances(
        self,
        request_type: RequestType,
        instances: Iterable[ExecutionInstance],
        prefer_specialized: bool = True,
        include_unavailable: bool = False,
    ) -> list[ExecutionInstance]:
        """The instances that can do this kind of work. No model is compared.

        With ``prefer_specialized``, instances that do only this kind come first. Otherwise the order is kept. Without
        ``include_unavailable``, an instance that is down or full is left out.
        """
        able = [
            one
            for one in instances
            if one.can_handle_request_type(request_type) and (include_unavailable or one.can_accept_request())
        ]
        return sorted(able, key=is_mixed) if prefer_specialized else able

    def validate_request(self, request: RequestMetadata) -> ValidationResult:
        """Whether a request can be scheduled: the first error that was found, and all oddities. Raises nothing."""
        errors, odd = list(_errors(request)), list(_oddities(request))
        if errors or (self.strict_validation and odd):
            code, message = (errors or odd)[0]
            return ValidationResult(False, code, message, tuple(message for _, message in odd))
        return ValidationResult(True, warnings=tuple(message for _, message in odd))


def _errors(request: RequestMetadata) -> Iterable[tuple[str, str]]:
    if not request.request_id:
        yield (
            "missing_request_id",
            "request_id is empty; give each request its own, because decisions are matched to requests by it",
        )
    if request.embedding_texts is not None and not request.embedding_texts:
        yield "empty_texts", "embedding_texts is an empty list"
    if request.embedding_batch_size is not None and request.embedding_batch_size < 1:
        yield "bad_batch_size", f"embedding_batch_size must be at least 1, not {request.embedding_batch_size}"
    if request.slo_deadline_ms is not None and request.slo_deadline_ms <= 0:
        yield "bad_deadline", f"slo_deadline_ms must be above 0, not {request.slo_deadline_ms:g}"
    if request.prompt_tokens is not None and request.prompt_tokens < 0:
        yield "bad_prompt_tokens", f"prompt_tokens must not be negative, is {request.prompt_tokens}"
    if request.max_tokens is not None and request.max_tokens < 1:
        yield "bad_max_tokens", f"max_tokens must be at least 1, not {request.max_tokens}"
    route = ROUTES.get(request.route)
    if route is not None and route.type is not request.request_type:
        yield (
            "mixed_request",
            f"a request of type {request.request_type.value} has the route {request.route},"
            f" which is for {route.type.value}",
        )
    if request.is_llm_request and request.embedding_texts:
        yield "mixed_request", f"a request of type {request.request_type.value} has embedding_texts"


def _oddities(request: RequestMetadata) -> Iterable[tuple[str, str]]:
    if not request.effective_model_name:
        yield (
            "missing_model",
            "no model is named; such a request is served only if a single model serves its route",
        )
    texts: Sequence[str] = request.embedding_texts or ()
    empty = [place for place, text in enumerate(texts) if not text.strip()]
    if empty:
        yield "empty_text", f"embedding_texts[{empty[0]}] is empty; some engines refuse that"
