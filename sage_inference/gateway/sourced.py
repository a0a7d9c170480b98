"""The instances that sources name: each source adds, changes and removes only its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sage_inference.config.address import parse_backend, reaches
from sage_inference.config.check import name_of
from sage_inference.config.settings import InstanceSettings
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.upstream import Upstream
from sage_inference.visible import visible

if TYPE_CHECKING:
    from sage_inference.discovery.source import Offered

NAME_KEPT_S = 600.0  # a model keeps its name so long after its last instance left
LOOKED_S = 5.0  # engines that left the list serve so long, until those that came were looked at
MOST_NAMES = 1024  # models that left and keep their name; the oldest is forgotten first
_TURN_S = 0.005  # of work between two turns of the event loop
_MOST_LOGGED = 5

log = logging.getLogger("sage_inference.fleet")


@dataclass(slots=True)
class _Owned:
    label: str
    upstream: Upstream
    node: str | None
    leaves_at: float | None = None  # left the list, and is forgotten then at the latest
    was_drained: bool = False  # by an administrator, before it left


class Instances(Protocol):
    """The part of the fleet that sources need."""

    gateway: Gateway

    def configures(self, name: str) -> bool: ...
    def leaves(self, name: str) -> bool: ...
    def keep(self, name: str) -> None: ...
    def differs(self, name: str, wanted: InstanceSettings) -> bool: ...
    def add(
        self, settings: InstanceSettings, known: Upstream | None = None, *, awaited: bool = True
    ) -> Upstream: ...
    def remove(self, name: str) -> bool: ...
    def drain(self, name: str) -> bool: ...
    async def first_looks(self, names: Iterable[str], limit_s: float) -> None: ...


class SourcedInstances:
    """The owners of instances, and the offers of sources. An instance without an owner is not a source's."""

    def __init__(self, fleet: Instances) -> None:
        self._fleet = fleet
        self._gateway = fleet.gateway
        self._owned: dict[str, _Owned] = {}
        self._departed: dict[str, float] = {}  # when the name of a model is forgotten

    @property
    def has_any(self) -> bool:
        """Whether there is an instance of a source, or a model that had one."""
        return bool(self._owned or self._departed)

    def owner_of(self, name: str) -> str | None:
        """The label of the source that an instance belongs to."""
        found = self._of(name)
        return None if found is None else found.label

    def node_of(self, name: str) -> str | None:
        """The machine that an instance runs on, as its source names it."""
        found = self._of(name)
        return None if found is None else found.node

    def _of(self, name: str) -> _Owned | None:
        found = self._owned.get(name)
        # The configuration may have taken the name since.
        if (
            found is None
            or self._gateway.engines.get(name) is not found.upstream
            or self._fleet.configures(name)
        ):
            return None
        return found

    def _names(self, label: str) -> list[str]:
        return [name for name in self._owned if self.owner_of(name) == label]

    async def offer(self, label: str, offered: Sequence[Offered], drain_s: float) -> list[str]:
        """Make the instances of a source those that it names now.

        Engines that are new are added at once, and get work when they were looked at. Engines that left drain for
        ``drain_s`` and are then forgotten. Returns a sentence for each engine that cannot be an instance.
        """
        turns = _Turns()
        taken = self._addresses_of_others(label)
        refused: list[str] = []
        wanted: set[str] = set()
        came: list[str] = []
        for each in offered:
            await turns.next()
            name = name_of(each.settings)
            if why := self._refusal(label, name, each, taken):
                refused.append(why)
                continue
            wanted.add(name)
            if self._put(label, name, each):
                came.append(name)
        gone = [name for name in self._names(label) if name not in wanted and not self.leaves(name)]
        if came or gone:
            log.info("%s: %s", label, _changes(came, gone))
        if gone:
            await self._fleet.first_looks(came, LOOKED_S)
        for name in gone:
            await turns.next()
            self._leave(label, name, drain_s)
        return refused

    async def withdraw(self, label: str, drain_s: float) -> None:
        """Remove the instances of a source that left the configuration, unless another one has taken them over."""
        await self.offer(label, (), drain_s)

    def _addresses_of_others(self, label: str) -> dict[object, str]:
        """The instances that are not the source's, by their address."""
        found: dict[object, str] = {}
        for name, upstream in self._gateway.engines.items():
            owner = self._of(name)
            if owner is None or (owner.label != label and owner.leaves_at is None):
                found[parse_backend(upstream.settings.url).identity] = name
        return found

    def _refusal(self, label: str, name: str, offered: Offered, taken: dict[object, str]) -> str | None:
        server, backend = self._gateway.settings.server, parse_backend(offered.settings.url)
        url = visible(offered.settings.url)
        if reaches(backend, server.host, server.port):
            return f"{name}: {url} is the gateway's own address: requests would run in a circle"
        if twin := taken.get(backend.identity):
            return f"{name}: {url} is an instance already, {twin}"
        owner = self._of(name)
        if name in self._gateway.engines and not self._fleet.leaves(name):
            if owner is None:
                return f"{name}: another instance has this name"
            if owner.label != label and owner.leaves_at is None:
                return f"{name}: {owner.label} has an instance of this name"
        return None

    def _put(self, label: str, name: str, offered: Offered) -> bool:
        """Add or change an instance. Returns whether it is new."""
        fleet, owned = self._fleet, self._of(name)
        known = self._gateway.engines.get(name)
        if known is not None and not fleet.differs(name, offered.settings):
            fleet.keep(name)
            if owned is not None and owned.leaves_at is not None and not owned.was_drained:
                known.undrain()
            self._owned[name] = _Owned(label, known, offered.node)
            return False
        if known is not None:
            fleet.remove(name)
        upstream = fleet.add(offered.settings, known, awaited=False)
        self._owned[name] = _Owned(label, upstream, offered.node)
        return known is None

    def leaves(self, name: str) -> bool:
        """Whether an instance has left the list of its source, and is not forgotten yet."""
        found = self._of(name)
        return found is not None and found.leaves_at is not None

    def _leave(self, label: str, name: str, drain_s: float) -> None:
        """Give an instance that left the list nothing new. Its prefix cache counts as lost."""
        owned = self._of(name)
        if owned is None or owned.label != label or owned.leaves_at is not None:
            return
        owned.was_drained = owned.upstream.drained_by_admin
        owned.leaves_at = time.monotonic() + drain_s
        self._fleet.drain(name)
        self._gateway.scheduler.instance_down(owned.upstream.instance)
        self._forget_if_over(name, owned, time.monotonic())

    def _forget_if_over(self, name: str, owned: _Owned, now: float) -> None:
        assert owned.leaves_at is not None
        instance = owned.upstream.instance
        if instance.active_requests and now < owned.leaves_at:
            return
        for model in instance.models:
            self._departed.pop(model, None)
            self._departed[model] = now + NAME_KEPT_S
            self._gateway.registry.departed[model] = (
                f"the last one left the list of {owned.label}, and the name is kept for "
                f"{NAME_KEPT_S / 60:.0f} minutes"
            )
        while len(self._departed) > MOST_NAMES:
            self._forget_model(next(iter(self._departed)))
        self._owned.pop(name, None)
        self._fleet.remove(name)
        self._gateway.predictions.ratios.pop(name, None)
        log.info("instance %s of %s is forgotten", name, owned.label)

    def _forget_model(self, model: str) -> None:
        self._departed.pop(model, None)
        self._gateway.registry.departed.pop(model, None)

    def tick(self) -> None:
        """Forget instances that have finished, and models that left long ago. Has to be called about once a second."""
        now = time.monotonic()
        for name, owned in list(self._owned.items()):
            if self._of(name) is None:
                del self._owned[name]  # removed, or the configuration has it now
            elif owned.leaves_at is not None:
                self._forget_if_over(name, owned, now)
        while self._departed and next(iter(self._departed.values())) <= now:
            self._forget_model(next(iter(self._departed)))


class _Turns:
    """Lets the event loop run between two pieces of work, if they took long enough together."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def next(self) -> None:
        if time.perf_counter() - self._since > _TURN_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()


def _changes(came: Sequence[str], gone: Sequence[str]) -> str:
    parts = [f"{what} {_some(names)}" for what, names in (("new:", came), ("left:", gone)) if names]
    return "; ".join(parts)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MOST_LOGGED
    return ", ".join(listed[:_MOST_LOGGED]) + (f" and {more:,} more" if more > 0 else "")
