"""Totals of ended requests: one ``Counts`` for each route, status, model, instance and key.

Every request is counted once, here. Metrics, usage and the page add up the counts they need. The usage store takes
the counts by user away (``RequestTally.take_users``). A process that counts for months stays small, whatever callers send.
"""

from __future__ import annotations

from typing import NamedTuple

from sage_inference.types import Usage

MOST_SERIES = 4096  # of the same kind; later ones are counted under OTHER
MOST_USERS = 1024  # users whose parts wait to be taken; later ones are counted under OTHER
OTHER = "(other)"


class TallyKey(NamedTuple):
    """The facts that all requests of one ``Counts`` share.

    ``status`` is 0 if the caller left first. ``model`` and ``instance`` are "" if no instance was asked. ``key`` is the
    name of the caller's key, "" without one.
    """

    route: str
    status: int
    model: str
    instance: str
    key: str


Key = tuple[str, int, str, str, str]  # a ``TallyKey``, or a tuple like it


class Counts:
    """Totals of ended requests. ``prompt``, ``completion`` and ``cached`` are tokens that engines reported.

    ``estimated_prompt`` and ``estimated_completion`` are those of streams whose usage no engine reported, because they
    broke off, or because it reports none. ``texts`` are the texts of embedding requests. ``busy_s`` is the requests'
    share of their instances' busy time, in seconds: n requests in flight share it equally.
    """

    __slots__ = (
        "requests",
        "prompt",
        "completion",
        "cached",
        "estimated_prompt",
        "estimated_completion",
        "texts",
        "busy_s",
    )

    def __init__(self) -> None:
        self.requests = self.prompt = self.completion = self.cached = 0
        self.estimated_prompt = self.estimated_completion = self.texts = 0
        self.busy_s = 0.0

    def note(self, usage: Usage | None, estimated: tuple[int, int] | None, texts: int, busy_s: float) -> None:
        """Add one request. ``estimated`` are the tokens of prompt and answer where no usage was reported."""
        self.requests += 1
        if usage is not None:
            self.prompt += usage.prompt_tokens
            self.completion += usage.completion_tokens
            if usage.cached_tokens:
                self.cached += usage.cached_tokens
        elif estimated is not None:
            self.estimated_prompt += estimated[0]
            self.estimated_completion += estimated[1]
        if texts:
            self.texts += texts
        self.busy_s += busy_s

    def add(self, other: Counts) -> None:
        for name in Counts.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def since(self, before: Counts) -> Counts:
        """The difference to ``before``, an earlier copy of this object."""
        new = Counts()
        for name in Counts.__slots__:
            setattr(new, name, getattr(self, name) - getattr(before, name))
        return new

    def copy(self) -> Counts:
        return self.since(_NOTHING)

    @property
    def is_empty(self) -> bool:
        return not any(getattr(self, name) for name in Counts.__slots__)


_NOTHING = Counts()


class RequestTally:
    """All counts of a gateway since its start. ``series`` only grows, and its objects stay the same.

    ``follows_users``: requests whose body names a user are counted a second time, by user. ``take_users`` returns these.
    """

    def __init__(self) -> None:
        self.series: dict[Key, Counts] = {}
        self.follows_users = False
        self._users: dict[tuple[Key, str], Counts] = {}

    def counts(self, kind: Key) -> Counts:
        """The counts of a kind that has none yet."""
        if len(self.series) >= MOST_SERIES:
            route, status, _, _, key = kind
            kind = TallyKey(route, status, OTHER, OTHER, key)
            found = self.series.get(kind)
            if found is not None:
                return found
        self.series[kind] = counts = Counts()
        return counts

    def of_user(self, kind: Key, user: str) -> Counts:
        """The counts of one user, until they are taken."""
        users, at = self._users, (kind, user)
        if len(users) >= MOST_USERS and at not in users:
            at = (kind, OTHER)
        try:
            return users[at]
        except KeyError:
            users[at] = counts = Counts()
            return counts

    def take_users(self) -> dict[tuple[Key, str], Counts]:
        """The counts by kind and user since the last call."""
        taken, self._users = self._users, {}
        return taken
