"""One engine's process, by its keeper: started, adopted, read and explained. Each function may block for seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.managed import api_key, ports
from sage_inference.engines.managed.failure import EngineFailure, Retry
from sage_inference.engines.managed.gpus import gpus
from sage_inference.engines.managed.launch import EngineLaunch, LaunchError
from sage_inference.keeper import client as keeper
from sage_inference.keeper.client import AlreadyKeptError, EngineEndedError, KeeperError, KeeperLink
from sage_inference.keeper.spec import ExitRecord, KeeperSpec
from sage_inference.port_holder import port_holder

if TYPE_CHECKING:
    from sage_inference.engines.managed.progress import StartPhase
    from sage_inference.engines.managed.recipes.base import Listen


class StartError(Exception):
    """The engine was not started."""

    def __init__(self, failure: EngineFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(slots=True)
class RunningEngine:
    """A living engine. ``about`` is what its start recorded of it, without secrets."""

    link: KeeperLink
    url: str
    api_key: str | None
    spec_hash: str
    about: dict[str, Any]
    pid: int | None
    started_at: float  # of the wall clock


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The engines of this gateway, as a start beside them must know them. ``held``: the GPUs of those that run."""

    entries: Sequence[ManagedEngineSettings] = ()
    held: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ports: frozenset[int] = frozenset()


def start(
    name: str,
    entry: ManagedEngineSettings,
    managed: ManagedSettings,
    *,
    directory: Path,
    environ: Mapping[str, str],
    neighbours: Neighbours,
    change: Mapping[str, Any],
    about: Mapping[str, Any],
    listen: Listen | None = None,
) -> RunningEngine:
    """Start the engine under a keeper. ``change`` are settings for this start alone, ``listen`` is its address.

    Raises ``StartError``.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan = _plan(entry, managed, directory, environ, neighbours, change, listen)
        if plan.api_key is None:  # an adopted engine must not get the key of the one before
            api_key.forget(directory)
        link = keeper.launch(_spec(name, managed, plan, directory, about), managed.supervisor)  # type: ignore[arg-type]
    except LaunchError as error:
        retry = Retry.WHEN_MEMORY if error.waits_for_memory else Retry.NO
        raise StartError(EngineFailure(error.message, error.hint, retry)) from None
    except AlreadyKeptError:
        running = adopt(directory)
        if running is None:
            raise StartError(EngineFailure("its keeper ended while it was adopted")) from None
        return running
    except EngineEndedError as error:
        raise StartError(_ended_at_once(error, directory, entry, plan)) from None
    except KeeperError as error:
        raise StartError(EngineFailure(str(error), error.hint)) from None
    except OSError as error:
        failure = EngineFailure(f"{directory} cannot be used: {error.strerror}", None, Retry.BACK_OFF)
        raise StartError(failure) from None
    return _running(link, plan.api_key)


def _plan(
    entry: ManagedEngineSettings,
    managed: ManagedSettings,
    directory: Path,
    environ: Mapping[str, str],
    neighbours: Neighbours,
    change: Mapping[str, Any],
    listen: Listen | None = None,
) -> EngineLaunch:
    # Here, because a gateway without engines of its own does without recipes.
    from sage_inference.engines.managed.recipes.prepare import prepare

    return prepare(
        entry,
        managed,
        directory=directory,
        gpus=gpus(),
        environ=environ,
        engines=neighbours.entries,
        held=neighbours.held,
        taken=neighbours.ports,
        change=change,
        listen=listen,
    )


def spec_hash_of(
    entry: ManagedEngineSettings, managed: ManagedSettings, recipe: str, environ: Mapping[str, str]
) -> str:
    """The hash of a start with these settings by this recipe."""
    from sage_inference.engines.managed.recipes.prepare import spec_hash

    return spec_hash(entry, managed, recipe, environ)


def obstacle(
    entry: ManagedEngineSettings,
    managed: ManagedSettings,
    directory: Path,
    environ: Mapping[str, str],
    neighbours: Neighbours,
) -> str | None:
    """The reason why the engine could not be started with these settings at any time; None if it could."""
    try:
        _plan(entry, managed, directory, environ, neighbours, {})
    except LaunchError as error:
        return None if error.waits_for_memory else error.message
    except OSError as error:
        return str(error)
    return None


def _spec(
    name: str,
    managed: ManagedSettings,
    plan: EngineLaunch,
    directory: Path,
    about: Mapping[str, Any],
) -> KeeperSpec:
    return KeeperSpec(
        name=name,
        directory=str(directory),
        argv=list(plan.argv),
        env=dict(plan.env),
        spec_hash=plan.spec_hash,
        stop_command=list(plan.stop_command),
        secrets=list(plan.secrets),
        grace_s=managed.stop_grace_s,
        orphan_timeout_s=managed.orphan_timeout_s,
        log_bytes=managed.log_bytes,
        log_backups=managed.log_backups,
        about={**plan.about, **about},
    )


def _ended_at_once(
    error: EngineEndedError, directory: Path, entry: ManagedEngineSettings, plan: EngineLaunch
) -> EngineFailure:
    """The cause of an engine that ended before its keeper could be asked."""
    if error.record is None:
        return EngineFailure(str(error), error.hint)
    return explained(directory, error.record, None, False, entry, plan.about)


def adopt(directory: Path) -> RunningEngine | None:
    """The engine that a keeper of this directory holds. None if no keeper does. Raises ``LostKeeperError``."""
    link = keeper.adopt(directory)
    if link is None:
        return None
    return _running(link, api_key.kept(directory))


def _running(link: KeeperLink, key: str | None) -> RunningEngine:
    first = link.first
    return RunningEngine(
        link,
        str(first.about.get("url", "")),
        key,
        first.spec_hash,
        first.about,
        first.engine_pid,
        first.started_at,
    )


def explained(
    directory: Path,
    record: ExitRecord | None,
    phase: StartPhase | None,
    was_ready: bool,
    entry: ManagedEngineSettings,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> EngineFailure:
    """The cause of the end, from the log of this start and from ``about``, which its start recorded."""
    from sage_inference.engines.managed.failures import explain
    from sage_inference.engines.managed.progress import phase_at_end

    log = keeper.StartLog(directory)
    try:
        on = about.get("gpus") or ()  # in its own order
        there = {gpu.index: gpu for gpu in gpus()} if on else {}
        its = [there[index] for index in on if index in there]
        lines = log.read()
        if not was_ready:
            phase = phase_at_end(lines, phase)
        return explain(
            lines,
            record,
            phase,
            was_ready,
            entry,
            its,
            port=ports.port_of(str(about.get("url", ""))),
            holder_of=port_holder,
        )
    except OSError as error:
        return EngineFailure(f"it ended, and its log cannot be read: {error.strerror}")
    finally:
        log.close()
