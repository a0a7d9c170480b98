"""An embedding request: sent as it came, merged with others' texts, or relayed like any other."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding import EmbeddingBatch, EmbeddingJob
from sage_inference.control_plane.instances.rejections import deadline_passed
from sage_inference.control_plane.submission import Group
from sage_inference.engines.connection import JOIN_BYTES
from sage_inference.engines.embeddings.vectors import VectorError
from sage_inference.engines.receiver import Broken
from sage_inference.gateway import errors
from sage_inference.gateway.embeddings import answer as answers
from sage_inference.gateway.embeddings.engine_error import EngineAnswer
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.attempt import AttemptOwner
from sage_inference.gateway.relay.caller import Caller
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import KEYS, RequestHead
from sage_inference.gateway.relay.phase import FINAL, Phase
from sage_inference.requests.embedding import (
    NATIVE_ROUTE,
    OPENAI_ROUTE,
    EmbeddingTexts,
    Options,
    most_tokens,
    parse,
)
from sage_inference.requests.rejection import Rejection
from sage_inference.wire.message import Data, ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.embeddings.call import EmbeddingCall
    from sage_inference.gateway.embeddings.service import EmbeddingService
    from sage_inference.gateway.hub import Hub
    from sage_inference.gateway.upstream import Upstream


_JSON = (b"content-type", b"application/json")
_TRUNCATED = b"x-sage-truncated: true\r\n\r\n"
_UNCUT = ("truncate", b"false")
# Options that themselves name what is cut, or that TEI's own route has not.
_CUTTING = frozenset({"truncate", "truncation_direction", "truncate_prompt_tokens", "add_special_tokens"})


class EmbeddingExchange(Exchange):
    """Stays QUEUED while calls have its texts: a call holds the slot then, and not the exchange.

    ``job`` is None if the request is relayed like any other, or its answer is. ``batch`` is set while this exchange
    sends a call itself, without an ``EmbeddingCall`` (``send_call``). When others join, or something fails,
    ``_transfer`` makes a call that goes on with it.
    """

    job: EmbeddingJob | None = None
    batch: EmbeddingBatch | None = None
    wanted: EmbeddingTexts
    wire_route: str
    model_name: str
    merge_key: Hashable
    credentials: bytes
    _rest: Iterator[bytes] | None = None  # of the answer, while it is written
    _sent = False
    guarded = truncated = False
    answered_at: float | None = None  # when the first byte of an engine's answer came, unless it is relayed
    options: Options = ()

    def __init__(
        self, embeddings: EmbeddingService, caller: Caller[Exchange], gateway: Hub, head: RequestHead
    ) -> None:
        super().__init__(caller, gateway, head)
        self.embeddings = embeddings

    @property
    def input_name(self) -> str:
        return "inputs" if self.route.path == NATIVE_ROUTE else "input"

    def submit(self) -> None:
        """Raises ``Rejection``."""
        # A query may mean anything to an engine, so such a request is relayed and never merged.
        wanted = None if self.head.target.find(b"?") >= 0 else parse(self.head.route.path, self.body)
        if wanted is None:
            super().submit()
            return
        self.wanted = wanted
        self.texts = len(wanted.texts)
        self.prompt = b""  # its texts are measured one by one
        self.model_name = self.request.model
        # A key of the caller's own goes on to the engine where we know of none: then only equals share.
        self.credentials = b""
        if not self.gateway.guard.has_keys:
            for name, value in self.head.headers:
                if name in KEYS:
                    self.credentials += b"%b: %b\r\n" % (name, value)
        self._enter(guarded=self._may_be_cut())

    def _enter(self, *, guarded: bool) -> None:
        """Submit the texts. ``guarded``: ask the engine to refuse texts that it would otherwise cut silently."""
        self.guarded = guarded
        path = self.head.route.path
        self.wire_route = NATIVE_ROUTE if guarded else path if path != NATIVE_ROUTE else self._wire_route()
        self.options = self.wanted.options + ((_UNCUT,) if guarded else ())
        # All that may change a vector, or who pays for it: only requests that agree in it share a call.
        self.merge_key = (self.wire_route, self.request.model, self.options, self.credentials)
        self.job = EmbeddingJob(self, self.wanted.texts)
        self.embeddings.submit(self.job, self)

    def _wire_route(self) -> str:
        """OpenAI's route for a request of TEI's own, where neither asks for more than the other can express."""
        # On one route the texts of both kinds of callers can share calls.
        if self._asks_nothing_special:
            registry, model = self.gateway.registry, self.request.model
            if registry.group(model, NATIVE_ROUTE) == registry.group(model, OPENAI_ROUTE):
                return OPENAI_ROUTE
        return NATIVE_ROUTE

    def _may_be_cut(self) -> bool:
        """Whether an engine might cut a text without a word: a text has no more tokens than bytes."""
        most = self.embeddings.text_limits(self.request.model, self.head.route.path).cuts_after
        if most is None or any(name in _CUTTING for name, _ in self.wanted.options):
            return False
        return most_tokens(self.wanted.texts) > most

    @property
    def _asks_nothing_special(self) -> bool:
        return all(name == "dimensions" for name, _ in self.wanted.options)

    # Called by the batcher and the service

    def progressed(self) -> None:
        """A text was sent, or its vector came. When no text waits any more, the timers of the calls run instead."""
        try:
            assert self.job is not None
            # The wait ends with the first text that is sent, not with the last one.
            if not self._sent:
                self._sent = True
                waited = (self.gateway.clock() - self.queued_at) * 1000
                self.waited_ms = waited if waited >= 1 else -1.0
            self._arm(self.gateway.timeouts.queue_s if self.job.waits else math.inf)
        except Exception as error:
            self.broke(error)

    def note_engine(self, engine: Upstream, model: str | None, answered_at: float | None) -> None:
        """Note the engine that answered a call. With several calls, the first byte of the first one counts."""
        self.upstream = engine
        self.model_name = model or self.model_name
        if self.answered_at is None and answered_at is not None:
            # A text that another caller had sent before may have its answer on the way already.
            self.answered_at = max(answered_at, self.queued_at)

    def finished(self) -> None:
        try:
            job = self.job
            assert job is not None
            self.prompt_tokens = tokens = sum(job.tokens)
            body = answers.pieces(
                self.route.path, self.model_name, job.vectors, tokens, base64=self.wanted.base64
            )
            headers = [_JSON]
            if self.route.path == NATIVE_ROUTE:
                headers.append((b"x-compute-tokens", b"%d" % tokens))
            self._write(ResponseHead(200, headers), body)
        # An engine's vector may be no numbers at all, which shows only when it is written in another form.
        except VectorError as bad:
            name = "?" if self.upstream is None else self.upstream.instance.instance_id
            self.failed(errors.upstream_unreachable(name, f"answered with a vector {bad}"))
        except Exception as error:
            self.broke(error)

    # A call that it sends itself

    def send_call(self, batch: EmbeddingBatch, group: Group) -> None:
        """Send the request as it came, as the call for ``batch``, to the only instance."""
        self.batch = batch
        self._sent = True
        self.waited_ms = -1.0  # the request did not wait in line
        request = self.request
        # Embeddings are not charged to a tenant's share of LLM work.
        request.key, request.tenant = request.tenant, ""
        self.gateway.scheduler.send(self, group, self.measure)

    def measure(self) -> None:
        if not self.request.prompt_tokens:  # otherwise its texts were counted
            super().measure()

    def _transfer(self) -> EmbeddingCall:
        """Transfer the attempt to a call, because others joined or something failed."""
        batch, self.batch = self.batch, None  # first: what the call does now must not come back here
        assert batch is not None
        call = self.embeddings.call_for(batch, self)
        self._move(Phase.QUEUED)
        self._arm(math.inf)  # the timer of the call runs
        return call

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        if self.batch is None or answer.status == 200:
            super().engine_answers(answer, length)
        else:  # the body decides what the error means
            self.attempt.answer, self.length = answer, length

    def engine_sends(self, piece: Data, end: bool) -> None:
        if self.batch is not None:
            answer = self.attempt.answer
            assert answer is not None
            if answer.status != 200 or not self.embeddings.relay_answer(self.batch, self):
                if end:
                    self.attempt.connection = None  # it is in the pool again
                call = self._transfer()
                call.engine_answers(answer, call.length)
                call.engine_sends(piece, end)
                return
            self.batch = self.job = None  # from here on it is an exchange like any other
        super().engine_sends(piece, end)

    def engine_failed(self, how: Broken, detail: str) -> None:
        if self.batch is None:
            super().engine_failed(how, detail)
        else:
            self._transfer().engine_failed(how, detail)

    def engine_is_silent(self) -> None:
        if self.batch is None:
            super().engine_is_silent()
        else:
            self._transfer().engine_is_silent()

    def not_connected(self, error: OSError) -> None:
        if self.batch is None:
            super().not_connected(error)
        else:
            self.attempt.connecting = None  # otherwise the transfer would connect anew
            self._transfer().not_connected(error)

    def relay_answer_of(self, former: AttemptOwner) -> None:
        """Relay the answer of a call that has no other caller. The attempt and its slot are transferred."""
        attempt = former.attempt
        answer = attempt.answer
        assert answer is not None
        self.job = None
        self.upstream, self.status = attempt.upstream, answer.status
        attempt.transfer_to(self, former)
        self._move(Phase.SENT)

    def failed(self, error: ApiError | EngineAnswer) -> None:
        try:
            if isinstance(error, ApiError):
                self.fail_or_wait(error, failed=error.code == "upstream_error")
            elif error.means_end and self.gateway.waiting_room.knows(self.request.model):
                self.upstream = error.engine
                self.wait_for_successor()
            else:
                self._fail_as(error)
        except Exception as another:
            self.broke(another)

    def _fail_as(self, error: EngineAnswer) -> None:
        """Pass on the engine's error, in the shape of the route that was asked."""
        # Only the engine knows how many tokens a text has, so it is asked first without the leave to cut.
        if self.guarded and error.says_too_long and self._allows_cutting:
            self._enter_again()
            return
        dialect = error.engine.dialect
        if self.route.path == NATIVE_ROUTE:
            body = dialect.native_error(error.body)
        else:
            body = dialect.wrapped_error(error.status, self.route.path, error.body)
        self.upstream = error.engine
        # None: the error has the shape of the route already.
        if body is None:
            self._write(error.head, [error.body])
        else:
            self._write(ResponseHead(error.status, [_JSON]), [body])

    def hold(self, seconds: float) -> None:
        self.job, self._sent = None, False  # no call has its texts any more
        super().hold(seconds)

    @property
    def _at(self) -> str:
        engine = self.upstream
        return super()._at if engine is None else engine.instance.instance_id

    @property
    def _allows_cutting(self) -> bool:
        return self.gateway.settings.scheduling.embedding_truncation == "allow"

    def _enter_again(self) -> None:
        """Submit again, let the engine cut the text that is too long, and mark the answer."""
        self.truncated = True
        try:
            self._enter(guarded=False)
        except Rejection as refusal:
            self.fail_or_wait(errors.from_refusal(refusal))

    def _write(self, answer: ResponseHead, body: list[bytes]) -> None:
        self.status, self.length = answer.status, sum(map(len, body))
        head = self._head(answer, self.length)
        self._arm(math.inf)
        # One packet, one system call; where that would copy much, two.
        self._rest = iter([head + body[0], *body[1:]] if len(body[0]) < JOIN_BYTES else [head, *body])
        self._pour()

    def _head(self, answer: ResponseHead, length: int | None) -> bytes:
        head = super()._head(answer, length)
        return head[:-2] + _TRUNCATED if self.truncated and answer.status == 200 else head

    def _pour(self) -> None:
        """Write on as long as the caller reads; ``resume`` comes back here."""
        assert self._rest is not None
        for piece in self._rest:
            self.caller.write(piece)
            if self.caller.reads_slowly:
                return
        self._rest = None
        self._move(Phase.DONE)
        self.job = None  # breaks a cycle, so that both are freed without the garbage collector

    def _drop_body(self) -> None:
        super()._drop_body()
        # The texts are slices of the body, which they would keep in memory.
        self.wanted = EmbeddingTexts([], ())

    # Events of the caller and of the clock

    def resume(self) -> None:
        if self._rest is None or FINAL[self.phase]:
            super().resume()
            return
        try:
            self._pour()
        except Exception as error:
            self.broke(error)

    def timed_out(self) -> None:
        if self.batch is not None:
            self._transfer().timed_out()
            return
        if self.job is None or self.phase is not Phase.QUEUED:
            super().timed_out()
            return
        self._abandon()
        # Both timers are the same one: see ``_arm``.
        if self._left_s <= 0:
            self.refused(deadline_passed(self.request, self.gateway.scheduler.retry_after()))
        else:
            self.refused(self.gateway.queue_timeout())

    def _arm(self, seconds: float) -> None:
        """Set the timer. While a text waits, the caller's own deadline counts too."""
        if self.job and seconds < math.inf and self.request.slo_deadline_ms is not None:
            seconds = min(seconds, max(0.0, self._left_s))
        self.gateway.wheel.set(self.caller, seconds)

    @property
    def _left_s(self) -> float:
        deadline_ms = self.request.slo_deadline_ms
        return math.inf if deadline_ms is None else self.queued_at + deadline_ms / 1000 - self.gateway.clock()

    @property
    def _began(self) -> bool:
        return self._rest is not None

    def _abandon(self) -> None:
        # It failed between the choice of its texts and the attempt: no call has them, so they wait again.
        if self.batch is not None and self.attempt is None:
            batch, self.batch = self.batch, None
            self.embeddings.not_sent(batch)
        elif self.batch is not None:
            self._transfer()
        if self.job is None:
            super()._abandon()
        else:
            self.embeddings.leave(self.job)
