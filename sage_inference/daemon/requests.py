"""Reads the requests that ended at the running gateway, and those that end from then on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, control, pidfile
from sage_inference.daemon.errors import DaemonError, Unresponsive
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.process import Process

SENT_KEPT, REFUSED_KEPT = 1024, 100  # requests that the gateway remembers
_REMEMBERED = SENT_KEPT + REFUSED_KEPT
_TIMEOUT_S = 5.0
_NOTICED = 4  # looks in a row without an answer: a gateway that replaces another one is back before

Row = dict[str, Any]


class NoRequests(DaemonError):  # noqa: N818 - a state rather than an error
    """The gateway does not list its requests."""

    code = "no_requests"


@dataclass(slots=True)
class RequestLook:
    """The rows of requests that ended since the look before, oldest first, and what happened besides."""

    rows: list[Row] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


class RequestFeed:
    """Reads requests on from where the last look ended, also from the gateway that replaces this one.

    The numbers of rows are those of the machine's clock. They go on rising in the next gateway.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._process: Process | None = None
        self._last = 0  # the number of the last row
        self._ended = 0  # requests that had ended in this process at the last look
        self._unanswered = 0  # looks in a row

    def first(self) -> list[Row]:
        """The last requests. Raises ``NotRunning``, ``Unresponsive``, ``NoRequests``."""
        info = control.running(self._paths)
        found = _listed(info, f"/admin/requests?limit={_REMEMBERED}")
        self._note(info, found)
        return list(found["requests"])

    def more(self) -> RequestLook:
        """The requests that ended since. Without a gateway there are none, until one runs again."""
        info = pidfile.read(self._paths.pid_file)
        if info is None or not info.process.alive:
            return self._away("the gateway is not running; waiting for the next one")
        try:
            found = _listed(info, f"/admin/requests?limit={_REMEMBERED}&after={self._last}")
        except Unresponsive:
            # While a gateway takes over from another, each of them refuses the token of the other.
            return self._away("the gateway does not answer; waiting for it")
        look = RequestLook(list(found["requests"]))
        if info.process != self._process:
            look.notices.append(
                f"the gateway is a new one (pid {info.pid}); requests that the old one finished meanwhile are missing"
            )
            self._ended = 0
        elif self._unanswered >= _NOTICED:
            look.notices.append("the gateway answers again")
        unseen = found.get("ended", 0) - self._ended - len(look.rows)
        if unseen > 0:
            what = "1 request is" if unseen == 1 else f"{unseen:,} requests are"
            look.notices.append(
                f"{what} not shown: the gateway remembers the last {SENT_KEPT:,} that it sent, and {REFUSED_KEPT} refused ones"
            )
        self._note(info, found)
        return look

    def _note(self, info: PidInfo, found: dict[str, Any]) -> None:
        self._process, self._last, self._ended = info.process, found["last"], found.get("ended", 0)
        self._unanswered = 0

    def _away(self, notice: str) -> RequestLook:
        """Nothing, and the notice once if that lasts."""
        self._unanswered += 1
        return RequestLook(notices=[notice] if self._unanswered == _NOTICED else [])


def _listed(info: PidInfo, path: str) -> dict[str, Any]:
    """The document. Raises ``Unresponsive`` without an answer, or with one for another gateway's token."""
    try:
        status, document = admin.ask(info, "GET", path, timeout_s=_TIMEOUT_S)
        if status == 200:
            return {"last": document["last"], **document}
        problem = str(document["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}") from None
    if status != 404:
        raise Unresponsive(f"pid {info.pid} answers with {status}: {problem}")
    raise NoRequests(
        f"the running gateway (pid {info.pid}, version {info.version}) does not list its requests",
        "sage inference restart, after an upgrade",
    )
