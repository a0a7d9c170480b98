"""A source of engines that Ray Serve placed: the replicas of an application.

Ray's dashboard lists the replicas, and each replica answers where its engine listens. Both are asked over HTTP. Ray
itself is not imported, because each of its processes ends a minute after Ray's head.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from sage_inference.config.ray_names import APPLICATIONS_PATH
from sage_inference.config.settings import SourceSettings
from sage_inference.config.source_rules import place_of
from sage_inference.discovery.entries import entry_of
from sage_inference.discovery.questions import question_client
from sage_inference.discovery.ray_dashboard import RayDashboard
from sage_inference.discovery.ray_document import MOST_BYTES, RayReplica, RayView, read
from sage_inference.discovery.ray_places import EnginePlace, EnginePlaces
from sage_inference.discovery.source import Listing, Offered, SourceError
from sage_inference.discovery.vetting import MOST_ENGINES

# A busy head was seen to take half a minute. The watch gives a look 30 s, and its list is lost after that.
_LOOK_S = 28.0
_DASHBOARD_S = 25.0
_PLACES_S = 12.0


class RaySource:
    """The engines of one Serve application, and of those whose names begin with its name and a dot."""

    kind = "ray"

    def __init__(self, settings: SourceSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = place_of(settings)
        self.dashboard = RayDashboard(settings.ray or "", settings.token)
        self._settings = settings
        self._clock = clock
        self._replicas = question_client(tls=False)
        self._places = EnginePlaces(self._replicas, clock)
        self._offered: dict[RayReplica, Offered] = {}
        self._seen: set[str] = set()  # applications that had replicas

    async def look(self) -> Listing:
        """The engines now, within ``_LOOK_S``. Raises ``SourceError``."""
        began = self._clock()
        try:
            async with asyncio.timeout(_DASHBOARD_S):
                body = await self.dashboard.get(APPLICATIONS_PATH, MOST_BYTES)
        except TimeoutError:
            raise SourceError(f"the dashboard does not answer within {_DASHBOARD_S:g} s") from None
        view, new = await asyncio.to_thread(self._read, body)
        left = _LOOK_S - (self._clock() - began)
        await self._places.learn(new, min(max(left, 1.0), _PLACES_S))
        return await asyncio.to_thread(self._listing, view)

    async def aclose(self) -> None:
        await self._replicas.aclose()
        await self.dashboard.aclose()

    def _read(self, body: bytes) -> tuple[RayView, list[RayReplica]]:
        view = read(body, self._settings.application)
        if len(view.replicas) > MOST_ENGINES:  # each of the others would be asked in vain
            raise SourceError(
                f"{len(view.replicas):,} replicas run; a gateway takes {MOST_ENGINES:,} of a source"
            )
        return view, self._places.new_among(view.replicas)

    def _listing(self, view: RayView) -> Listing:
        skipped = list(view.remarks)
        offered: dict[RayReplica, Offered] = {}
        for replica in view.replicas:
            place = self._places.of(replica)
            if place is None:
                skipped.append(f"replica {replica.name} {self._places.problem(replica)}")
            else:
                offered[replica] = self._offered.get(replica) or self._offer(replica, place)
        self._offered = offered
        return Listing(tuple(offered.values()), tuple(skipped), self._is_settled(view))

    def _is_settled(self, view: RayView) -> bool:
        """Whether all replicas that are not shown are gone.

        An application that waits for a GPU, and had no replica yet, must not keep those of others from leaving.
        """
        if not view.replicas:
            return not view.unsettled
        self._seen |= {each.application for each in view.replicas}
        return not view.unsettled & self._seen

    def _offer(self, replica: RayReplica, place: EnginePlace) -> Offered:
        entry = entry_of(self._settings, place.url, replica.name)
        return Offered(replace(entry, gpu=place.gpu), place.node)
