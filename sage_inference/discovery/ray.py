"""A source of engines that Ray Serve placed: the replicas of an application.

Ray's dashboard lists the replicas, and each replica answers where its engine listens. Both are asked over HTTP. Ray
itself is not imported, because each of its processes ends a minute after Ray's head.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import httpx

from sage_inference.config.secrets import SecretError
from sage_inference.config.settings import SourceSettings
from sage_inference.config.source_rules import place_of
from sage_inference.discovery.entries import entry_of
from sage_inference.discovery.questions import PlainAnswer, QuestionError, ask, question_client
from sage_inference.discovery.ray_document import PATH, RayReplica, RayView, read
from sage_inference.discovery.ray_places import EnginePlace, EnginePlaces
from sage_inference.discovery.source import Listing, Offered, SourceError
from sage_inference.trust import TrustError
from sage_inference.visible import visible

LOOK_S = 30.0  # a busy head was seen to take so long
_DASHBOARD_S = 27.0
_PLACES_S = 12.0
_MOST_BYTES = 16 << 20  # three times as much as Ray's answer on 10,000 replicas


class RaySource:
    """The engines of one Serve application, and of those whose names begin with its name and a dot."""

    kind = "ray"

    def __init__(self, settings: SourceSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = place_of(settings)
        self._url = (settings.ray or "").rstrip("/")
        self._settings = settings
        self._clock = clock
        self._dashboard: httpx.AsyncClient | None = None
        self._replicas = question_client(tls=False)
        self._places = EnginePlaces(self._replicas, clock)
        self._offered: dict[RayReplica, Offered] = {}
        self._seen: set[str] = set()  # applications that had replicas

    async def look(self) -> Listing:
        """The engines now, within ``LOOK_S``. Raises ``SourceError``."""
        began = self._clock()
        try:
            async with asyncio.timeout(_DASHBOARD_S):
                body = await self._ask_dashboard()
        except TimeoutError:
            raise SourceError(f"the dashboard does not answer within {_DASHBOARD_S:g} s") from None
        view, new = await asyncio.to_thread(self._read, body)
        left = LOOK_S - (self._clock() - began)
        await self._places.learn(new, min(max(left, 1.0), _PLACES_S))
        return await asyncio.to_thread(self._listing, view)

    async def aclose(self) -> None:
        await self._replicas.aclose()
        if self._dashboard is not None:
            await self._dashboard.aclose()

    async def _ask_dashboard(self) -> bytes:
        token = self._token()
        try:
            if self._dashboard is None:
                self._dashboard = question_client(self._url.startswith("https:"))
            headers = {"authorization": f"Bearer {token}"} if token else {}
            reply = await ask(self._dashboard, self._url + PATH, _MOST_BYTES, headers)
            return _body_of(reply, bool(token))
        except (QuestionError, TrustError, SourceError) as error:
            words = str(error)  # an answer may repeat the token
            raise SourceError(f"the dashboard {words.replace(token, '***') if token else words}") from None

    def _token(self) -> str:
        """The token for the dashboard, or nothing. A file is read each time, because tokens are renewed."""
        if self._settings.token is None:
            return ""
        try:
            token = self._settings.token.reveal()
        except SecretError as error:
            raise SourceError(f"the token of the source: {error}") from None
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise SourceError("the token of the source holds characters that are not allowed in a header")
        return token

    def _read(self, body: bytes) -> tuple[RayView, list[RayReplica]]:
        view = read(body, self._settings.application)
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


def _body_of(reply: PlainAnswer, has_token: bool) -> bytes:
    """The body of a usable answer. Raises ``SourceError``, whose text continues a sentence on the dashboard."""
    if reply.status == 200:
        return reply.body
    if reply.status in (401, 403):
        remedy = "another token" if has_token else "a token: set sources[].token"
        raise SourceError(f"refuses the question with {reply.status}; it needs {remedy}")
    if 300 <= reply.status < 400:
        where = visible(reply.location.partition("?")[0].rpartition("@")[2])[:200]
        raise SourceError(
            f"sends on to {where or 'nowhere'}, which is not followed; give that address as ray"
        )
    if reply.status == 404:
        raise SourceError(f"has no {PATH}; is this the address of Ray's dashboard?")
    raise SourceError(f"answers {reply.status}: {reply.beginning or 'nothing more'}")
