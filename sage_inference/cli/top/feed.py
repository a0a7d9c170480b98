"""The live documents of the running gateway, through its restarts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from sage_inference.cli.errors import Failure
from sage_inference.client.daemon import running_info
from sage_inference.client.sse import EventReader
from sage_inference.daemon import admin
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.netloc import reachable

SILENT_S = 8.0  # the gateway sends each second; one that sends nothing for so long hangs
_CONNECT_S = 5.0
_SHORTEST_S, _LONGEST_S = 0.25, 4.0  # between two attempts to connect
_EARLIER = 200  # requests that ended before the watch began
_PIECE = 1 << 16
_GONE = "the gateway is gone"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Glance:
    """A document of ``GET /admin/live``, and the requests that ended since the one before, oldest first.

    The rates of the first document of a connection may be those of no time, and then are 0.
    """

    document: dict[str, Any]
    ended: list[Row] = field(default_factory=list)
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class Outage:
    """The gateway cannot be watched now. The feed goes on when it can."""

    reason: str


class _UnexpectedAnswerError(Exception):
    """The gateway, or another program at its port, answered no stream."""


def glances(
    info: PidInfo, *, earlier: bool = True, pause: Callable[[float], None] = time.sleep
) -> Iterator[Glance | Outage]:
    """Documents and outages, without end. With ``earlier`` also the requests that ended before.

    Raises ``Failure`` for a gateway that is too old to be watched.
    """
    after: int | None = -1 if earlier else None
    wait_s, reported = _SHORTEST_S, ""
    while True:
        reason = _GONE
        try:
            for found in _of_one(info, after):
                if isinstance(found, str):
                    reason = found
                    continue
                after = max([after or 0, *(row["number"] for row in found.ended)])
                wait_s, reported = _SHORTEST_S, ""
                yield found
        except _UnexpectedAnswerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"the gateway has sent nothing for {SILENT_S:g} s"
        except (OSError, ValueError, KeyError, TypeError, HTTPException):
            pass
        if reason != reported:
            reported = reason
            yield Outage(reason)
        pause(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_S)
        while isinstance(found_info := running_info(os.environ), str):
            pause(_SHORTEST_S)
        info = found_info


def _of_one(info: PidInfo, after: int | None) -> Iterator[Glance | str]:
    """The documents of one connection, and the reason of its end if the gateway gives one."""
    ended: list[Row] = []
    is_first = True
    for name, document in _events(info):
        if name == b"request":
            ended.append(document)
        elif name == b"end":
            yield str(document["reason"])
        elif name == b"state":
            if is_first and after is not None:
                ended = [*_ended_after(info, after), *ended]
            yield Glance(document, ended, is_first)
            ended, is_first = [], False


def _events(info: PidInfo) -> Iterator[tuple[bytes, Any]]:
    connection = HTTPConnection(reachable(info.host), info.port)
    connection.sock = admin.connect(info, _CONNECT_S)
    try:
        connection.request("GET", "/admin/live", headers={"authorization": f"Bearer {info.admin_token}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise _refused(answer)
        connection.sock.settimeout(SILENT_S)
        reader = EventReader()
        while piece := answer.read1(_PIECE):
            for event in reader.feed(piece):
                yield event.name, json.loads(event.data)
    finally:
        connection.close()


def _refused(answer: HTTPResponse) -> Exception:
    if answer.status == 404:
        return Failure("the running gateway is too old for top", "sage inference restart", "no_live_state")
    try:
        return _UnexpectedAnswerError(str(json.loads(answer.read(_PIECE))["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return _UnexpectedAnswerError(f"the gateway answered {answer.status}")


def _ended_after(info: PidInfo, after: int) -> list[Row]:
    """The requests that ended while nobody watched, newest last."""
    query = "" if after < 0 else f"&after={after}"
    status, document = admin.ask(
        info, "GET", f"/admin/requests?limit={_EARLIER}{query}", timeout_s=_CONNECT_S
    )
    return list(document["requests"]) if status == 200 else []
