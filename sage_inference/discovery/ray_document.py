"""Reads the answer of a Ray dashboard to ``GET /api/serve/applications/``.

Everything here runs on a thread of its own: the document of a large cluster has megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from sage_inference.config.address import check_host
from sage_inference.config.errors import Invalid
from sage_inference.config.ray_names import (
    APPLICATIONS_PATH,
    DIRECT_INGRESS,
    HA_PROXY,
    REPLICA_ACTOR,
    RUNNING,
)
from sage_inference.discovery.source import SourceError
from sage_inference.netloc import origin
from sage_inference.visible import visible

MOST_BYTES = 16 << 20  # three times as much as the answer on 10,000 replicas
_DELETING = "DELETING"
_CLEAR_STATES = (
    "STARTING",
    RUNNING,
    "STOPPING",
)  # of replicas that Ray shows as soon as they run, and until they stop
_PROXY = "SERVE_PROXY_ACTOR"
# Bounds what a hostile document can hold, because the decoder keeps the interpreter, and so the event loop. Each replica
# has two objects and about 15 values.
_MOST_OBJECTS, _MOST_VALUES = 60_000, 300_000
_MOST_NAMED = 8
_MOST_MESSAGE = 300
_PREFIX = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:-]")
_LONGEST_NAME = 100
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RayReplica:
    """A replica that Ray shows: the address of its own port, and its names in Ray and here."""

    actor: str
    application: str
    ip: str
    url: str

    @property
    def id(self) -> str:
        """Ray's id of the replica, which no other replica ever has."""
        return self.actor.rpartition("#")[2]

    @property
    def name(self) -> str:
        """The name of its instance: ``application.replica``."""
        last = _FORBIDDEN.sub("_", self.id)[: _LONGEST_NAME - 2]
        before = _FORBIDDEN.sub("_", self.application)[: _LONGEST_NAME - 1 - len(last)]
        return f"{before if before[:1].isalnum() else f'a{before[1:]}'}.{last}"


@dataclass(frozen=True, slots=True)
class RayView:
    """The replicas of the wanted applications.

    ``unsettled`` are the applications in which a replica that is not shown may be alive: Ray deploys them, or its
    controller was started anew and has not found all replicas yet.
    """

    replicas: tuple[RayReplica, ...]
    remarks: tuple[str, ...]
    unsettled: frozenset[str]


class _Application(msgspec.Struct):
    status: str
    message: str | None = None
    route_prefix: str | None = None
    deployments: dict[str, msgspec.Raw] | None = None


class _ServeDetails(msgspec.Struct):
    applications: dict[str, _Application]
    target_groups: list[msgspec.Raw] | None = None


class _Deployment(msgspec.Struct):
    replicas: list[msgspec.Raw] | None = None


class _ReplicaState(msgspec.Struct):
    state: str


class _Group(msgspec.Struct):
    targets: list[msgspec.Raw]
    app_name: str | None = None
    protocol: str = "HTTP"
    route_prefix: str | None = "/"


class _Target(msgspec.Struct):
    ip: str
    port: int
    name: str


def read(body: bytes, application: str) -> RayView:
    """The applications of this name, and those named ``application.`` and anything. Raises ``SourceError``."""
    document = _document(body)
    wanted = {name: each for name, each in document.applications.items() if belongs(name, application)}
    if not wanted:
        return RayView((), (_missing(application, document.applications),), frozenset({application}))
    remarks = [_state_of(name, each) for name, each in wanted.items() if each.status != RUNNING]
    replicas: dict[str, RayReplica] = {}
    grouped: set[str] = set()
    for group in _groups(document, remarks):
        if group.app_name in wanted and group.protocol == "HTTP":
            grouped.add(group.app_name or "")
            for replica in _replicas(group, remarks):
                if replicas.setdefault(replica.actor, replica) is not replica:
                    remarks.append(f"replica {replica.name} is listed twice; its first port is used")
    for name in wanted.keys() - grouped:
        _check_ports(name, wanted[name])
    shown = {each.application for each in replicas.values()}
    unsettled = [name for name, each in wanted.items() if _is_unsettled(name, each, name in shown)]
    return RayView(tuple(replicas.values()), tuple(remarks), frozenset(unsettled))


def belongs(name: str, application: str) -> bool:
    """Whether an application of Ray is meant by the configured name."""
    return name == application or name.startswith(f"{application}.")


def _is_unsettled(name: str, application: _Application, shown: bool) -> bool:
    if application.status in (RUNNING, _DELETING):
        return False
    return not shown or any(state not in _CLEAR_STATES for state in _states(name, application))


def _check_ports(name: str, application: _Application) -> None:
    """Raises ``SourceError`` if the application, which has no group of targets, has running replicas.

    With direct ingress each application has a group: its replicas, or Ray's proxies while none runs. Otherwise, and
    with HAProxy, there is one group for all applications, which shows the proxies.
    """
    running = sum(state == RUNNING for state in _states(name, application))
    if not running:
        return
    if application.route_prefix is None:
        raise SourceError(f"application {visible(name)} has no route_prefix, so its replicas have no ports")
    raise SourceError(
        f"Ray shows no ports of the {running} replicas of {visible(name)}: start Ray anew on every node with"
        f" {DIRECT_INGRESS}=1, and without {HA_PROXY}"
    )


def _states(name: str, application: _Application) -> Iterator[str]:
    """The states of all replicas."""
    for raw in (application.deployments or {}).values():
        for each in _decoded(raw, _Deployment, f"application {visible(name)[:100]}").replicas or ():
            yield _decoded(each, _ReplicaState, f"a replica of {visible(name)[:100]}").state


def _document(body: bytes) -> _ServeDetails:
    if body.count(b"{") > _MOST_OBJECTS or body.count(b",") > _MOST_VALUES:
        raise SourceError(
            f"{APPLICATIONS_PATH} has more than {_MOST_OBJECTS:,} objects or {_MOST_VALUES:,} values"
        )
    try:
        return msgspec.json.decode(body, type=_ServeDetails)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        start = body.lstrip()[:1]
        if start == b"<":
            raise SourceError(
                f"{APPLICATIONS_PATH} is a web page, not Ray's answer; is this the dashboard's address?"
            ) from None
        raise SourceError(f"{APPLICATIONS_PATH} has another form than Ray's: {_words(error)}") from None


def _decoded(raw: msgspec.Raw, form: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(raw, type=form)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SourceError(f"{where} in Ray's answer has another form: {_words(error)}") from None


def _words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else visible(str(error))[:200]


def _groups(document: _ServeDetails, remarks: list[str]) -> Iterator[_Group]:
    for at, raw in enumerate(document.target_groups or ()):
        try:
            yield msgspec.json.decode(raw, type=_Group)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            remarks.append(f"target_groups[{at}] in Ray's answer is left out: {_words(error)}")


def _replicas(group: _Group, remarks: list[str]) -> Iterator[RayReplica]:
    application = group.app_name or ""
    for at, raw in enumerate(group.targets):
        try:
            target = msgspec.json.decode(raw, type=_Target)
            if target.name.startswith(REPLICA_ACTOR):
                yield _replica(target, application, group.route_prefix or "/")
        except (msgspec.MsgspecError, UnicodeError, RecursionError, Invalid) as error:
            remarks.append(
                f"target {at} of application {visible(application)[:100]} is left out: {_words(error)}"
            )


def _replica(target: _Target, application: str, prefix: str) -> RayReplica:
    """Raises ``Invalid``."""
    check_host(target.ip)
    if not 1 <= target.port <= 65535:
        raise Invalid(f"port {target.port} is not a number from 1 to 65535")
    if not _PREFIX.fullmatch(prefix):
        raise Invalid("its route_prefix is no path")
    if target.name.count("#") < 2 or target.name.endswith("#"):
        raise Invalid("its name has no replica's id")
    return RayReplica(target.name, application, target.ip, origin(target.ip, target.port) + prefix)


def _state_of(name: str, each: _Application) -> str:
    message = " ".join(visible(each.message or "").split())[:_MOST_MESSAGE]
    return f"application {visible(name)} is {visible(each.status)[:40]}{f': {message}' if message else ''}"


def _missing(application: str, there: dict[str, Any]) -> str:
    if not there:
        return f"Ray has no application {application}, and no other one; is it deployed?"
    names = ", ".join(visible(name)[:100] for name in sorted(there)[:_MOST_NAMED])
    more = f" and {len(there) - _MOST_NAMED} more" if len(there) > _MOST_NAMED else ""
    return f"Ray has no application {application}, only {names}{more}; name one as application"
