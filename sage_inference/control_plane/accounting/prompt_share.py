"""The share of an instance's time that prompts may take before overdue requests wait; measured by the streams.

A decode step of s ms beside prompts that take the share p of the time makes s / (1 - p) ms a token. How long a step
is depends on the engine, its model and its batch. So the share follows the answers that ended:

    p + 0.005 for a stream whose tokens took no more than 0.4 of its SLO,
    p - 0.03 for one whose tokens took longer than its SLO,
    p + 0.0005 for one between the two while p is below 0.6, so that a few bad answers do not count for ever,

within 0.45 and 0.75. The steps are 1 to 6 because each answer over its SLO
is lost already: with 1 to 3, in overload a quarter of them may be lost before the share falls.
"""

from __future__ import annotations

import math

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.slo import slo_of
from sage_inference.types import PROMPT_SHARE, ExecutionInstance, SchedulingRequest

LEAST, MOST = 0.45, 0.75
UP, DOWN, BACK = 0.005, 0.03, 0.0005
WELL_UNDER = 0.4  # of the SLO
FEWEST_TOKENS = 8  # of an answer that shows what streams get
# An overdue prompt that takes no longer makes no other request late, so it need not wait for a pause between prompts.
CHEAP_MS = 50.0
# While streams of an instance lose their SLO though overdue prompts get the least share, prompts in time that take more than
# so many times the TPOT stand back. The bound on the share lets one or two good streams pass.
DEAR = 3.0
HARMED = LEAST + 2 * BACK


def stepped(share: float, took_ms: float, slo_ms: float) -> float:
    """The share after a stream ended whose tokens took so many milliseconds each."""
    if took_ms > slo_ms:
        share -= DOWN
        return share if share > LEAST else LEAST
    if took_ms <= WELL_UNDER * slo_ms:
        share += UP
        return share if share < MOST else MOST
    return share + BACK if share < PROMPT_SHARE else share


def stepped_by_several(share: float, took_ms: float, tokens: int, choices: int, slo_ms: float) -> float:
    """The same for a stream of several choices, which share the time and the tokens.

    The longest choice has between ``tokens / choices`` and ``tokens`` of these, and its tokens took the whole time. The
    share follows only if both bounds agree. With 0 choices their number is not known, and the second bound is missing.
    """
    if took_ms / (tokens - 1) > slo_ms:
        return stepped(share, took_ms / (tokens - 1), slo_ms)
    each = tokens / choices if choices else 0.0
    if each < FEWEST_TOKENS or took_ms / (each - 1) > slo_ms:
        return share
    return stepped(share, took_ms / (each - 1), slo_ms)


def learn(placement: Placement, tokens: int) -> None:
    """A streamed answer of so many tokens ended.

    An answer teaches nothing if this process or the engine stood still meanwhile, because no prompt caused that.
    """
    began_at, ended_at = placement.answered_at, placement.ended_at
    if began_at is None or ended_at is None or tokens < FEWEST_TOKENS:
        return
    load, request = placement.instance.load, placement.request
    share = load.prompt_share
    if request.choices == 1:
        token_ms = (ended_at - began_at) * 1000 / (tokens - 1)
        stepped_share = stepped(share, token_ms, slo_of(request).tpot_ms)
    else:
        took_ms = (ended_at - began_at) * 1000
        stepped_share = stepped_by_several(share, took_ms, tokens, request.choices, slo_of(request).tpot_ms)
    if stepped_share == share:  # the usual case
        return
    pushed_at = placement.pushed_at
    if pushed_at > load.stalled_at and pushed_at > load.lost_at:
        load.prompt_share = stepped_share


def is_harmful(request: SchedulingRequest, instance: ExecutionInstance, prompt_ms: float, now: float) -> bool:
    """Whether a prompt in time stands back from the instance: it would take streams there their SLO.

    The share bounds overdue prompts only. If prompts in time alone take more than streams can bear, all streams are too slow,
    and nearly no request keeps its SLO. Then the long ones of these prompts get what the instance can spare, too.
    """
    load = instance.load
    return (
        load.prompt_share < HARMED
        and load.spares_from > now
        and instance.active_requests > load.overdue
        and request.request_type.is_llm
        and prompt_ms > DEAR * slo_of(request).tpot_ms
        and load.window_tokens != math.inf
    )


def can_spare(instance: ExecutionInstance, prompt_ms: float, now: float) -> bool:
    """Whether an overdue request with this prompt may be sent to the instance without harm to requests in time.

    If requests in time are on it, no prompt may be under way, and prompts must have taken no more than their share of its
    time: a request that was sent cannot be taken back, and may occupy the engine for seconds. A cheap prompt only needs
    streams that keep their SLO.
    """
    load = instance.load
    if instance.active_requests <= load.overdue or load.window_tokens == math.inf:
        return True
    if prompt_ms <= CHEAP_MS and load.prompt_share >= PROMPT_SHARE:
        return True
    return not load.pending_tokens and load.spares_from <= now
