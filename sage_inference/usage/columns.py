"""The columns of usage: the labels that tell rows apart, and the measures that are added up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HOUR_S = 3600

BY = ("model", "key", "user", "instance", "day", "hour")  # the groups of a report
MEASURES = (
    "requests",
    "errors",  # answers with a status of 400 or more
    "cancelled",  # requests whose caller left first
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",  # of the prompt tokens, those that an engine had cached
    "estimated_prompt_tokens",  # of streams without a usage of their engine; not among ``prompt_tokens``
    "estimated_completion_tokens",
    "embedding_texts",
    "gpu_seconds",  # the share of the instance's busy time
)


class Labels(NamedTuple):
    """``hour`` counts hours since 1970, in UTC. The others are "" where there is none."""

    hour: int
    key: str
    user: str
    model: str
    instance: str


class UsageError(Exception):
    """The usage store cannot be read or written. The message is a sentence for the user."""


Row = tuple[Labels, tuple[float, ...]]  # the measures in the order of ``MEASURES``


@dataclass(frozen=True, slots=True)
class Added:
    """``reserved``: requests that wait in the reserve because of ``problem``. ``lost``: requests of an earlier gateway
    that found no room there. ``aside``: the new path of a store that was damaged.
    """

    aside: Path | None = None
    reserved: int = 0
    problem: str | None = None
    lost: int = 0
