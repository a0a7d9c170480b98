"""The instances that made the latest responses. Engines store their own responses and do not share them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError
from sage_inference.requests.response_routes import is_response_id
from sage_inference.types import EngineState

if TYPE_CHECKING:
    from sage_inference.gateway.upstream import Upstream

MOST = 32768  # responses that are remembered
MOST_BYTES = 4 << 20  # bytes of their ids
_SHOWN = 100  # characters of an id that an error quotes

_STATES = {
    EngineState.STARTING: "not ready yet",
    EngineState.ASLEEP: "asleep (POST /wake_up to that engine wakes it)",
    EngineState.EJECTED: "down",
    EngineState.DRAINING: "draining",
    EngineState.STOPPED: "stopped",
}


class Maker(NamedTuple):
    """The instance that made a response. An instance of the same name at another address does not have it."""

    instance_id: str
    url: str


class StoredResponses:
    """The makers of the latest responses, by tenant (the name of the caller's key) and id.

    With more than ``most`` responses, or ``most_bytes`` of ids, the tenant with the most responses loses its least
    recently used one. Responses of a removed instance stay, so that an error can name the instance.
    """

    def __init__(
        self, upstreams: Mapping[str, Upstream], most: int = MOST, most_bytes: int = MOST_BYTES
    ) -> None:
        self._upstreams = upstreams
        self._most, self._most_bytes = most, most_bytes
        self._of: dict[str, OrderedDict[str, Maker]] = {}
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def remember(self, response_id: str, tenant: str, upstream: Upstream) -> None:
        if not is_response_id(response_id):
            return
        # Engines that number their responses use the same ids: a tenant keeps its own.
        if self._is_anothers(response_id, tenant):
            return
        self.forget(response_id, tenant)
        made = self._of.setdefault(tenant, OrderedDict())
        made[response_id] = Maker(upstream.instance.instance_id, upstream.address.url)
        self._count += 1
        self._bytes += len(response_id)
        while self._count > self._most or self._bytes > self._most_bytes:
            largest = max(self._of, key=lambda name: len(self._of[name]))
            self.forget(next(iter(self._of[largest])), largest)

    def forget(self, response_id: str, tenant: str) -> None:
        made = self._of.get(tenant)
        if made is not None and made.pop(response_id, None) is not None:
            self._count -= 1
            self._bytes -= len(response_id)
            if not made:
                del self._of[tenant]

    def maker(self, response_id: str, tenant: str) -> Maker | None:
        """The maker of the response; None if it is not known, or if the response is another tenant's."""
        made = self._of.get(tenant)
        if made is None or response_id not in made:
            return None
        made.move_to_end(response_id)
        return made[response_id]

    def upstream_of(self, maker: Maker) -> Upstream | None:
        """The maker as an upstream; None if it was removed, or if another instance has its name now."""
        upstream = self._upstreams.get(maker.instance_id)
        return upstream if upstream is not None and upstream.address.url == maker.url else None

    def check_free(self, response_id: str, tenant: str) -> None:
        """Raises ``ApiError`` for another tenant's id, because the engine would overwrite that response."""
        if self._is_anothers(response_id, tenant):
            raise errors.response_id_in_use(_shown(response_id))

    def to_ask(self, response_id: str, tenant: str) -> Upstream:
        """The upstream for a request to read, cancel or delete a response. Raises ``ApiError``."""
        maker = self.maker(response_id, tenant)
        if maker is None:
            raise errors.response_not_found(_shown(response_id))
        upstream = self.upstream_of(maker)
        if upstream is None:
            raise errors.response_not_found(_shown(response_id), maker.instance_id)
        # An engine that sleeps or drains still has its responses.
        if upstream.instance.state in (EngineState.STARTING, EngineState.EJECTED, EngineState.STOPPED):
            raise self._unavailable(response_id, upstream)
        return upstream

    def to_follow(self, response_id: str, tenant: str, *, shared: bool) -> Upstream | None:
        """The upstream for a request that continues a response. Raises ``ApiError``.

        None: the maker is not known, so engines may be asked whether they have the response. If tenants share the
        engines (``shared``), none is asked. Engines know no tenants, and one may have another tenant's response.
        """
        maker = self.maker(response_id, tenant)
        if maker is None:
            if shared or self._is_anothers(response_id, tenant):
                raise errors.previous_response_not_found(_shown(response_id))
            return None
        upstream = self.upstream_of(maker)
        if upstream is None:
            raise errors.previous_response_not_found(_shown(response_id), maker.instance_id)
        if upstream.instance.state is not EngineState.READY:
            raise self._unavailable(response_id, upstream)
        return upstream

    def _is_anothers(self, response_id: str, tenant: str) -> bool:
        return any(response_id in made for name, made in self._of.items() if name != tenant)

    def _unavailable(self, response_id: str, upstream: Upstream) -> ApiError:
        instance = upstream.instance
        return errors.maker_unavailable(_shown(response_id), instance.instance_id, _STATES[instance.state])


def _shown(response_id: str) -> str:
    return response_id if len(response_id) <= _SHOWN else f"{response_id[:_SHOWN]}..."
