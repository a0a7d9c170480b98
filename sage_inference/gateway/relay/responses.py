"""Requests of the Responses API. An engine stores the responses that it made. No other engine has them."""

from __future__ import annotations

from sage_inference.control_plane.instances.prefill_decode import pinned_route, pinned_to
from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.exchange import MAX_HELD, Exchange
from sage_inference.gateway.relay.phase import FINAL, OUTCOMES, Phase
from sage_inference.gateway.relay.prefill_decode import PrefillDecodeExchange
from sage_inference.gateway.relay.response_ids import IdSeeker, ids_in
from sage_inference.requests.rejection import Rejection
from sage_inference.requests.response_routes import ResponseRoute
from sage_inference.types import EngineState, ExecutionInstance, SchedulingDecision, SchedulingRequest
from sage_inference.wire.body_coding import CodingError, coding_of, decoded
from sage_inference.wire.message import Data, ResponseHead, StreamFormat

NO_SUCH_RESPONSE = frozenset({400, 404})
# Limits on the search for a maker, because a caller may invent an id: bytes of the body, and instances that get it.
MAX_REPEATED, MOST_ASKED = 1 << 20, 16
# Reasons of a decision.
MADE_IT, MADE_PREVIOUS = "made the response", "made the previous response"


class ResponsesExchange(Exchange):
    """A new response. If it continues a previous response, only the instance that made that one may take it.

    The maker may be unknown, as after a restart of the gateway. Then one instance after another is asked, as long as
    they answer that they have no such response.
    """

    _previous: str | None = None
    _seeks_maker = False
    _chosen: str | None = None  # the id that the caller chose for the response
    _seeker: IdSeeker | None = None  # set while the answer's id is not known

    def submit(self) -> None:
        """Raises ``Rejection``."""
        self._previous, self._chosen = ids_in(self.body)
        try:
            if self._chosen is not None:
                self.gateway.responses.check_free(self._chosen, self.head.tenant)
            if self._previous is not None:
                self._follow(self._previous)
        except ApiError as error:
            self.fail(error)
        else:
            super().submit()

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        if pinned_to(self.request.route) is not None:
            decision.reason = MADE_PREVIOUS
        if self._chosen is not None:
            try:
                self._claim(self._chosen, instance)
            except ApiError as error:
                self.fail(error)
                return
        super().placed(instance, decision)

    def refused(self, refusal: Rejection) -> None:
        """The request left the queue without a slot. The error names the previous response's maker if that is gone."""
        if self._previous is not None:
            try:
                self._follow(self._previous)
            except ApiError as error:
                self.fail(error)
                return
        super().refused(refusal)

    def _claim(self, chosen: str, instance: ExecutionInstance) -> None:
        """Reserve the id for the tenant. Raises ``ApiError`` if it became another's while this request waited.

        The id is not left free until the answer comes, which may take long. The engine would give the response to
        another tenant that chose the same id, or overwrite that tenant's.
        """
        responses, tenant = self.gateway.responses, self.head.tenant
        responses.check_free(chosen, tenant)
        responses.remember(chosen, tenant, self.gateway.engines[instance.instance_id])

    def _follow(self, previous: str) -> None:
        """Let only the maker of ``previous`` take this request. Raises ``ApiError``."""
        gateway = self.gateway
        shared = gateway.guard.has_tenants
        maker = gateway.responses.to_follow(previous, self.head.tenant, shared=shared)
        if maker is None:
            self._seeks_maker = previous != ""
            return
        instance, model = maker.instance, self.request.model
        if model not in instance.models:
            raise errors.maker_lacks_model(previous, instance.instance_id, model)
        self.request.route = pinned_route(self.route.path, instance.instance_id)

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        super().engine_answers(answer, length)
        refused = self._seeks_maker and answer.status in NO_SUCH_RESPONSE and self.attempt.answer is answer
        if refused and (length or 0) <= MAX_HELD and len(self.body) <= MAX_REPEATED:
            self.buffered_error = []

    def _judge(self, body: bytes) -> None:
        if self._seeks_maker and self.status in NO_SUCH_RESPONSE and self._lacks_previous(body):
            self.tried += (self.attempt.instance,)
            group = self.gateway.registry.group(self.request.model, self.request.route)
            left = any(i.state is EngineState.READY and i not in self.tried for i in group)
            if left and len(self.tried) < MOST_ASKED:
                self.buffered_error = None
                self._go_on_elsewhere()
                return
        super()._judge(body)

    def _lacks_previous(self, body: bytes) -> bool:
        """Whether an engine's refusal names the previous response: the engine does not have it, and did no work."""
        answer = self.attempt.answer
        assert answer is not None
        assert self._previous is not None
        try:
            if coding := coding_of(answer):
                body = decoded(coding, body, MAX_HELD)
        except CodingError:
            return False
        return self._previous.encode("utf-8", "replace") in body

    def engine_sends(self, piece: Data, end: bool) -> None:
        seeker = self._seeker
        super().engine_sends(piece, end)
        if seeker is not None:
            self._seek(seeker, piece, end)

    def _let_go(self, piece: Data, end: bool, took: float | None = None) -> None:
        super()._let_go(piece, end, took)
        answer = self.attempt.answer
        if self.status < 300 and answer is not None:
            if self._seeks_maker and self._previous is not None:
                self.gateway.responses.remember(self._previous, self.head.tenant, self.upstream)
            self._seeker = IdSeeker(answer)
            self._seek(self._seeker, piece, end)

    def _seek(self, seeker: IdSeeker, piece: Data, end: bool) -> None:
        """Look for the response's id in ``piece`` and remember its maker. Once it is found, pieces may pass unseen."""
        found = seeker.feed(piece, end)
        if found is not None:
            self.gateway.responses.remember(found, self.head.tenant, self.upstream)
        if seeker.done:
            self._seeker = None
        connection = self.attempt.connection
        if connection is None or FINAL[self.phase] or not self.chunked or self._is_opaque:
            return
        connection.pass_whole_chunks(self.delivery if seeker.done else None)

    @property
    def _is_opaque(self) -> bool:
        answer = self.attempt.answer
        return answer is None or answer.stream is StreamFormat.OPAQUE


class DisaggregatedResponsesExchange(ResponsesExchange, PrefillDecodeExchange):
    """A new response of a gateway with prefilling and decoding instances."""


class StoredResponseExchange(Exchange):
    """A request about a stored response. Only the engine that stores it gets the request, without a wait for a slot.

    Nothing is generated for the request, so it counts as no load and shows nothing of the engine's pace.
    """

    def begin(self, body: bytes) -> None:
        gateway, route, tenant = self.gateway, self.head.route, self.head.tenant
        assert isinstance(route, ResponseRoute)
        self.body_complete = True
        self.body = body
        self.size = len(body)
        self.queued_at = gateway.clock()
        self.request = SchedulingRequest(
            self.request_id.decode("latin-1"), route.type, "", route.path, tenant=tenant
        )
        try:
            if self.head.request_id:
                gateway.request_ids.take(self)
            instance = gateway.responses.to_ask(route.response_id, tenant).instance
            self.placed(instance, SchedulingDecision(self.request.request_id, instance.instance_id, MADE_IT))
        except ApiError as error:
            self.fail(error)
        except Exception as error:
            self.broke(error)

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        attempt, route = self.attempt, self.head.route
        assert isinstance(route, ResponseRoute)
        self.status, attempt.answer, self.length = answer.status, answer, length
        if answer.status != 404:  # here a 404 concerns the response, and not the model
            self.upstream.answered(answer.status)
        if route.method == "DELETE" and answer.status < 300:
            self.gateway.responses.forget(route.response_id, self.head.tenant)

    def _let_go(self, piece: Data, end: bool, took: float | None = None) -> None:
        super()._let_go(piece, end, None)

    def _may_retry(self) -> bool:
        return False

    def _elsewhere_or(self, error: ApiError) -> None:
        self.fail(error)

    def _outcome(self) -> str:
        """Done, also where the stored response is one that failed."""
        return OUTCOMES[Phase.DONE]
