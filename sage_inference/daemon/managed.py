"""Managed engines as another process sees them: through the gateway, or through their keepers where none runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin
from sage_inference.daemon.control import DaemonState, inspect, running
from sage_inference.daemon.errors import DaemonError, Unresponsive
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.keeper import files

if TYPE_CHECKING:
    from sage_inference.keeper.spec import KeeperStatus

Document = dict[str, Any]
Verb = Literal["load", "unload", "restart"]
Seen = Callable[[list[Document]], None]

_ROUTE = "/admin/engines"
_LOOK_S = 0.15
_ASK_S = 10.0
_AWAY_S = 20.0  # a successor of the gateway answers by then
_STALE_S = 0.2  # the error of ``since_s``
_BEGIN_S = 1.0  # between the gateway's answer to an order and the engine's first step


class NoSuchEngine(DaemonError):
    """No managed engine has the name, and none serves a model of that name."""

    code = "engine_not_found"


class EngineRefused(DaemonError):
    """The gateway did not accept the order."""

    code = "engine_refused"


class EngineFailed(DaemonError):
    """The engine is in a state that it does not leave by itself."""

    code = "engine_failed"


@dataclass(frozen=True, slots=True)
class EngineListing:
    """``is_watched`` is False for engines whose keepers live while no gateway answers."""

    state: DaemonState
    engines: list[Document]
    is_watched: bool


def listing(paths: Paths) -> EngineListing:
    """All managed engines. Takes one request to the gateway, or one to each keeper."""
    state = inspect(paths)
    if state.live is not None:
        return EngineListing(state, engines_of(state.live), True)
    return EngineListing(state, kept(paths.state_dir), False)


def engines_of(status: Document) -> list[Document]:
    """The managed engines in a status document. A gateway of an older version reports none."""
    return list(status.get("engines") or ())


def kept(state_dir: Path) -> list[Document]:
    """The engines that their keepers hold, without what only a gateway knows."""
    if not (state_dir / files.FOLDER).is_dir():
        return []
    from sage_inference.keeper import client

    found = []
    for directory in client.directories(state_dir):
        try:
            link = client.adopt(directory)
        except client.KeeperError:
            found.append(_document(directory.name, "lost", {}))
            continue
        if link is not None:
            with link:
                found.append(_of_keeper(directory, link.first))
    return found


def find(engines: Sequence[Document], wanted: str) -> Document | None:
    """The engine of that name, otherwise the only one with that model. Case makes no difference to a model."""
    for engine in engines:
        if engine["name"] == wanted:
            return engine
    same = [engine for engine in engines if str(engine.get("model")).lower() == wanted.lower()]
    return same[0] if len(same) == 1 else None


def find_or_fail(engines: Sequence[Document], wanted: str) -> Document:
    """Raises ``NoSuchEngine`` with the names that exist."""
    found = find(engines, wanted)
    if found is None:
        raise unknown(wanted, [str(engine["name"]) for engine in engines])
    return found


def refuse_near_miss(wanted: str, engines: Sequence[Document]) -> None:
    """Raises ``NoSuchEngine`` if ``wanted`` is a part of an engine's name, or much like it."""
    from difflib import get_close_matches

    names = [str(engine["name"]) for engine in engines]
    if any(wanted in name for name in names) or get_close_matches(wanted, names, n=1, cutoff=0.75):
        raise unknown(wanted, names)


def unknown(wanted: str, names: Sequence[str]) -> NoSuchEngine:
    from difflib import get_close_matches

    close = [name for name in names if wanted and wanted in name] or get_close_matches(wanted, names, n=1)
    if close:
        return NoSuchEngine(f'no engine "{wanted}"', f"did you mean {close[0]}?")
    hint = (
        f"there are: {', '.join(names)}" if names else "there are none; sage inference load MODEL starts one"
    )
    return NoSuchEngine(f'no engine "{wanted}"', hint)


def order(info: PidInfo, name: str, verb: Verb) -> Document:
    """Have the gateway load, unload or restart an engine. Returns its document at once."""
    return _engine(info, _ask(info, "POST", f"{_ROUTE}/{quote(name, safe='')}/{verb}"))


def add(info: PidInfo, model: str) -> Document:
    """Have the gateway start an engine for ``model`` that ends with this run."""
    return _engine(info, _ask(info, "POST", _ROUTE, {"model": model}))


def names(paths: Paths) -> list[str]:
    """The engines' names: of the gateway if it runs, otherwise of the configuration and of the keepers."""
    found = inspect(paths, timeout_s=0.5).live
    if found is not None:
        return [str(engine["name"]) for engine in engines_of(found)]
    from sage_inference.config.engine_rules import name_of_engine
    from sage_inference.config.load import load

    configured = [name_of_engine(entry) for entry in load(paths.config_file).engines]
    return list(dict.fromkeys([*configured, *names_with_log(paths.state_dir)]))


def names_with_log(state_dir: Path) -> list[str]:
    """The engines that have run once."""
    from sage_inference.keeper import client

    return sorted(directory.name for directory in client.directories(state_dir))


def log_file(state_dir: Path, name: str) -> Path:
    """The log that the keeper of an engine writes."""
    return state_dir / files.FOLDER / name / files.LOG


def keep_engines(info: PidInfo) -> None:
    """Have the gateway leave its engines running when it ends."""
    _ask(info, "POST", f"{_ROUTE}/keep")


def current(info: PidInfo) -> list[Document]:
    return list(_ask(info, "GET", _ROUTE)["engines"])


def watch(
    paths: Paths, names: Sequence[str], is_over: Callable[[Document], bool], seen: Seen
) -> list[Document]:
    """Look at the engines until ``is_over`` is true for each. ``seen`` gets their documents at each look.

    A gateway that takes the place of the running one is asked instead. Raises ``NotRunning``, ``Unresponsive``.
    """
    info = running(paths)
    while True:
        try:
            engines = current(info)
        except Unresponsive:
            info = _successor(paths)
            continue
        found = [engine for engine in engines if engine["name"] in names]
        if len(found) < len(set(names)):
            gone = next(name for name in names if name not in [engine["name"] for engine in found])
            raise NoSuchEngine(
                f"{gone} is no longer an engine of the gateway", "sage inference ps shows them"
            )
        seen(found)
        if all(is_over(engine) for engine in found):
            return found
        time.sleep(_LOOK_S)


def settled(began: float) -> Callable[[Document], bool]:
    """A test whether an engine is ready or will not soon be, since ``began`` (``time.monotonic``).

    An engine that fails twice for the same reason will not become ready without a person, although the gateway goes on
    trying: memory that another program holds, or a hub that cannot be reached, may come back in an hour.
    """
    seen: dict[str, tuple[str, float]] = {}  # by name: the last failure's message, and when it happened

    def is_over(engine: Document) -> bool:
        state, passed = engine["state"], time.monotonic() - began
        if state == "failed":
            # A failure of an earlier start is still shown until the engine took up the order.
            since_s = engine.get("since_s") or 0.0
            is_new = passed > _BEGIN_S or since_s < passed + _STALE_S
            return is_new and (will_retry(engine) is None or _is_second(engine, time.monotonic() - since_s))
        return state in ("ready", "stuck", "lost") or (state == "off" and passed > _BEGIN_S)

    def _is_second(engine: Document, at: float) -> bool:
        name, message = engine["name"], (engine.get("failure") or {}).get("message", "")
        before, before_at = seen.setdefault(name, (message, at))
        # The same failure, seen again: a retry comes 2 s later at the soonest.
        if abs(at - before_at) < _BEGIN_S:
            return False
        seen[name] = (message, at)
        return bool(before == message)

    return is_over


def will_retry(engine: Document) -> float | None:
    """The seconds until a failed engine starts again; None if it does not by itself."""
    failure = engine.get("failure") or {}
    retry: float | None = None if failure.get("permanent") else failure.get("retry_in_s")
    return retry


def failure_of(engine: Document) -> EngineFailed:
    """The error for an engine that is not ready and does not become ready by itself."""
    name, failure = engine["name"], engine.get("failure")
    if failure:
        again = "" if will_retry(engine) is None else "; the gateway goes on trying"
        problem = f"{name} failed: {failure['message']}{again}"
        return EngineFailed(problem, failure.get("hint") or _log_hint(name))
    words = {
        "off": "was unloaded meanwhile",
        "stuck": "did not end when it was killed; the system holds its process",
        "lost": "runs, but its keeper does not answer",
    }
    return EngineFailed(f"{name} {words.get(engine['state'], engine['state'])}", _log_hint(name))


def _log_hint(name: str) -> str:
    return f"sage inference logs {name} -n 50"


def _successor(paths: Paths) -> PidInfo:
    deadline = time.monotonic() + _AWAY_S
    while True:
        try:
            return running(paths)
        except Unresponsive:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S)


def _ask(info: PidInfo, method: str, path: str, body: Any = None) -> Any:
    try:
        status, document = admin.ask(info, method, path, body, timeout_s=_ASK_S)
        if status < 300:
            return document
        problem = str(document["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}", "sage inference status") from None
    if status == 404 and document["error"].get("code") != "engine_not_found":
        raise EngineRefused(
            f"the running gateway (pid {info.pid}, version {info.version}) knows no managed engines",
            "sage inference restart, after an upgrade",
        )
    kind = NoSuchEngine if status == 404 else EngineRefused
    raise kind(problem, document["error"].get("hint"))


def _engine(info: PidInfo, document: Any) -> Document:
    try:
        engine: Document = document["engine"]
    except (KeyError, TypeError):
        raise Unresponsive(f"pid {info.pid} gave an answer that is not an engine's") from None
    return engine


def _of_keeper(directory: Path, status: KeeperStatus) -> Document:
    state = "stopping" if status.stopping or status.exit is not None else "running"
    return _document(directory.name, state, status.about) | {
        "pid": status.engine_pid,
        "uptime_s": round(max(0.0, time.time() - status.started_at), 1),
        "log_file": str(log_file(directory.parent.parent, directory.name)),
    }


def _document(name: str, state: str, about: Document) -> Document:
    """The engine's document as the gateway makes it; null for what a keeper does not know."""
    known = {key: about.get(key) for key in ("model", "engine", "kind", "url")}
    return {
        "name": name,
        **known,
        "state": state,
        "phase": None,
        "progress": None,
        "detail": None,
        "since_s": None,
        "expected_s": None,
        "pid": None,
        "gpus": list(about.get("gpus") or ()),
        "restarts": None,
        "adopted": False,
        "outdated": False,
        "failure": None,
        "warning": None,
        "in_flight": None,
        "queued": None,
        "uptime_s": None,
        "memory_mb": None,
        "log_file": None,
    }
