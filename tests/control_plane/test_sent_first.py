"""What can be sent before anything of its prompt is known, and what can't."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.prompt_size import measure
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import Hooks
from sage_inference.types import (
    ExecutionInstance,
    ExecutionInstanceType,
    SchedulingDecision,
    SchedulingRequest,
)
from tests.control_plane.parts import EMBED, Clock, Submitted, instance, manager, request, submit

PROMPT = b'"' + b"a b c d " * 50 + b'"'


class Sent(Submitted):
    """Notes whether it was measured when it was sent."""

    measured = False
    measured_when_sent: bool | None = None

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        super().placed(instance, decision)
        self.measured_when_sent = self.measured


def send(m: Scheduler, asked: SchedulingRequest, prompt: bytes = PROMPT) -> Sent:
    asked.prompt_tokens, asked.prompt_bytes = 0, len(prompt)
    submission = Sent(asked)

    def told() -> None:
        measure(asked, prompt, m.estimates)
        submission.measured = True

    m.submit(submission, told)
    return submission


def test_where_one_instance_serves_a_request_is_sent_before_it_is_measured_and_then_counted() -> None:
    m = manager(instance("only"))
    submission = send(m, request(tokens=0))
    assert submission.measured_when_sent is False
    only = m.registry.instances["only"]
    assert submission.where is only
    assert submission.request.prompt_tokens == len(PROMPT) // 4
    assert (only.active_requests, only.load.pending_tokens) == (1, len(PROMPT) // 4)
    assert m.rates.prompt_tokens == m.rates.uncached_tokens == len(PROMPT) // 4
    m.first_byte(submission)
    m.release(submission)
    assert (only.active_requests, only.load.pending_tokens) == (0, 0)


def test_what_its_instance_has_cached_is_not_counted_again() -> None:
    m = manager(instance("only"))
    send(m, request("first", 0))
    again = send(m, request("again", 0))
    held = again.request.cached_tokens[m.registry.instances["only"]]
    assert held >= 64
    assert again.place.tokens == len(PROMPT) // 4 - held


def test_the_record_has_its_instance_as_it_was_before() -> None:
    m = manager(instance("only"))
    attempts: list[Placement] = []
    m.watch(attempts.append)
    first, second = send(m, request("first", 0)), send(m, request("second", 0))
    assert [attempt.request for attempt in attempts] == [first.request, second.request]
    assert [[(seen[1], seen[2]) for seen in attempt.seen] for attempt in attempts] == [
        [(0, 0)],
        [(1, len(PROMPT) // 4)],
    ]


Notes = list[Callable[[], None]]


def putting_off(limit: int = 0, window: float = 8192) -> tuple[Scheduler, ExecutionInstance, Notes]:
    """A manager in the midst of a turn of the event loop, and what it has left for its end."""
    notes: Notes = []
    m = manager(instance("only", limit, window=window), hooks=Hooks(later=notes.append))
    return m, m.registry.instances["only"], notes


def test_all_that_was_sent_in_one_turn_is_counted_at_its_end() -> None:
    m, only, notes = putting_off()
    submissions = [send(m, request(f"r{n}", 0)) for n in range(3)]
    assert [submission.where for submission in submissions] == [only] * 3
    assert (len(notes), only.active_requests, submissions[0].measured) == (1, 0, False)
    notes[0]()
    # What the first leaves in the cache, those after it need not work off.
    held = submissions[1].request.cached_tokens[only]
    assert (only.active_requests, only.load.pending_tokens) == (3, 3 * (len(PROMPT) // 4) - 2 * held)
    send(m, request("of the next turn", 0))
    assert len(notes) == 2


def test_a_turn_sends_no_more_than_there_are_slots() -> None:
    m, only, _ = putting_off(limit=2)
    submissions = [send(m, request(f"r{n}", 0)) for n in range(4)]
    assert [submission.where for submission in submissions] == [only, only, None, None]
    assert (only.active_requests, m.queued) == (2, 2)
    m.release(submissions[0])
    assert (only.active_requests, m.queued) == (2, 1)


def test_a_turn_sends_no_more_bytes_than_the_window_has_tokens() -> None:
    m, only, _ = putting_off(window=2 * len(PROMPT))
    submissions = [send(m, request(f"r{n}", 0)) for n in range(3)]
    # Beside the bytes of two there was no room for the third; beside their tokens there is.
    assert only.active_requests == 2
    assert [submission.measured for submission in submissions] == [True, True, False]
    m._first.settle()
    only.load.window_tokens = only.load.pending_tokens + len(PROMPT) - 1
    assert send(m, request("not sure to fit", 0)).measured
    only.load.window_tokens = only.load.pending_tokens + len(PROMPT)
    assert not send(m, request("of the next turn", 0)).measured


def leaves(m: Scheduler, submission: Submitted) -> None:
    m.release(submission, outcome="cancelled")
    assert submission.place is None
    assert m.registry.instances["only"].active_requests == 0


def answers(m: Scheduler, submission: Submitted) -> None:
    m.first_byte(submission)
    assert submission.place.answered_at is not None
    assert m.registry.instances["only"].load.pending_tokens == 0


def another_comes(m: Scheduler, submission: Submitted) -> None:
    submit(m, request("another"))
    assert m.registry.instances["only"].active_requests == 2


def another_goes_on(m: Scheduler, submission: Submitted) -> None:
    m.go_on(Submitted(request("another")))
    assert m.registry.instances["only"].active_requests == 2


@pytest.mark.parametrize("what", [leaves, answers, another_comes, another_goes_on])
def test_what_was_sent_is_counted_before_anything_else_is_looked_at(
    what: Callable[[Scheduler, Submitted], None],
) -> None:
    m, only, notes = putting_off()
    submission = send(m, request("sent", 0))
    assert only.active_requests == 0
    what(m, submission)
    assert submission.measured
    before = only.active_requests
    notes[0]()
    assert only.active_requests == before


def full(m: Scheduler) -> None:
    submit(m, request("before"))


def waiting(m: Scheduler) -> None:
    submit(m, request("before", 4000))
    submit(m, request("waits", 8000))
    m.use(policy_named("fifo"))


def slow(m: Scheduler) -> None:
    m.registry.instances["only"].load.ms_per_token = 10.0


def nothing(m: Scheduler) -> None: ...


@pytest.mark.parametrize(
    ("before", "limit", "window", "deadline_ms", "sent"),
    [
        (full, 1, 8192, None, False),  # no slot
        (full, 2, 8192, None, True),
        (full, 0, 110, None, False),  # beyond the window, by tokens too
        (full, 0, 300, None, True),  # beyond it only if each byte were a token: measured, and then sent
        (waiting, 0, 8192, None, False),  # others came before it
        (slow, 0, 8192, None, True),  # by its pace the prompt may take long
        (nothing, 0, 8192, 5000.0, True),  # a deadline that is to be checked
    ],
)
def test_what_depends_on_its_prompt_is_measured_first(
    before: Callable[[Scheduler], None],
    limit: int,
    window: float,
    deadline_ms: float | None,
    sent: bool,
) -> None:
    m = manager(instance("only", limit, window=window))
    before(m)
    submission = send(m, request("it", 0, deadline_ms=deadline_ms))
    assert submission.measured
    assert (submission.where is not None) == sent
    if sent and not limit:
        assert submission.measured_when_sent


def test_where_there_is_a_choice_it_is_measured_first() -> None:
    m = manager(instance("one"), instance("other"))
    assert send(m, request(tokens=0)).measured_when_sent


def test_embeddings_wait_for_streams_on_their_gpu_and_streams_for_nobody() -> None:
    clock = Clock()
    m = manager(
        instance("llm", gpu="cuda:0"), instance("embedder", model="e", route=EMBED, gpu="cuda:0"), clock=clock
    )
    assert send(m, request("stream", 0)).measured_when_sent is False
    assert send(m, request("call", 0, model="e", route=EMBED)).measured_when_sent
    assert send(m, request("next", 0, model="e", route=EMBED)).where is None
    assert send(m, request("another", 0)).measured  # an embedding waits: it is asked which lane is its own


def test_an_embedding_call_takes_note_of_what_was_sent_to_its_gpu_in_the_same_turn() -> None:
    m, only, _ = putting_off()
    only.instance_type = ExecutionInstanceType.LLM_EMBEDDING
    only.routes |= {EMBED}
    m.registry.changed()
    m.dispatch()
    call = request("call", route=EMBED)
    assert m.goes_at_once(call, (only,))
    send(m, request("chat", 0))
    assert not m.goes_at_once(call, (only,))
