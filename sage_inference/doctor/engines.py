"""Checks of the engines: those that the gateway serves, those that run on this machine, and installed programs."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Mapping
from typing import Any

from sage_inference.config.address import Backend, parse_backend
from sage_inference.config.check import name_of
from sage_inference.config.engine_rules import name_of_engine
from sage_inference.config.settings import Settings
from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding
from sage_inference.engines.managed.launch import LaunchError, NotInstalledError
from sage_inference.engines.managed.programs import Program, find, find_command
from sage_inference.engines.managed.recipes.prepare import PROGRAMS
from sage_inference.engines.search import Findings, search

_QUESTION_S = 0.8
_FINE = ("ready", "asleep", "draining", "starting")
_OF_AUTO = ("vllm", "tei", "infinity")
_EDIT = "sage inference config edit"
_ADD = "sage inference load MODEL starts one; sage inference config edit adds instances"


def engines(facts: Facts) -> Iterator[Finding]:
    state = facts.state.value
    if state.live is not None:
        yield from _served(state.live)
        return
    settings = facts.settings.value
    if settings.engines or settings.instances or settings.sources:
        yield from asyncio.run(_configured(settings))
        return
    if not settings.discover:
        yield ENGINES.ok("none is configured, and none is looked for")
        return
    found = asyncio.run(_search(settings))
    for note in found.notes:
        yield _remark(note)
    for each in found.engines:
        models = ", ".join(card.id for card in each.detected.models)
        yield ENGINES.ok(f"found {each.url}, serving {models}")
    if not found.engines:
        yield ENGINES.ok("none runs here, and none is configured")


async def _search(settings: Settings) -> Findings:
    return await search({settings.server.port}, question_s=_QUESTION_S)


async def _configured(settings: Settings) -> list[Finding]:
    """Whether a server listens at the addresses of the instances. The gateway asks them more when it runs."""
    listening = await asyncio.gather(*(_listens(parse_backend(each.url)) for each in settings.instances))
    found, there = [], [*map(name_of_engine, settings.engines)]
    for each, problem in zip(settings.instances, listening, strict=True):
        if problem is None:
            there.append(name_of(each))
        else:
            remedy = "start it, or sage inference config edit corrects its address"
            named = f"{each.name}: " if each.name else ""
            found.append(ENGINES.warn(f"{named}{problem}", remedy))
    if there:
        found.append(ENGINES.ok(f"configured: {', '.join(there)}"))
    return found


async def _listens(backend: Backend) -> str | None:
    """The reason why no connection is made, None if one is."""
    try:
        async with asyncio.timeout(_QUESTION_S):
            if backend.uds:
                _, writer = await asyncio.open_unix_connection(backend.uds)
            else:
                _, writer = await asyncio.open_connection(backend.host, backend.port)
    except TimeoutError:
        return f"no connection to {backend.base_url} within {_QUESTION_S:g} s"
    except OSError as error:
        # The error of a name that is not known has a number of another list, and its own text.
        number = error.errno or 0
        reason = (
            os.strerror(number) if number in errno.errorcode else error.strerror or "nothing listens there"
        )
        return f"no connection to {backend.base_url}: {reason}"
    writer.close()
    return None


def _served(status: Mapping[str, Any]) -> Iterator[Finding]:
    instances = status["instances"]
    for each in instances:
        if each["state"] not in _FINE:
            why = f": {each['last_error']}" if each["last_error"] else ""
            yield ENGINES.warn(
                f"{each['name']} at {each['url']} is {each['state']}{why}", "sage inference status"
            )
    managed = status.get("engines") or ()
    for each in managed:
        failure = each.get("failure")
        if failure and each["state"] in ("failed", "stuck", "lost"):
            hint = failure["hint"] or f"sage inference logs {each['name']}"
            yield ENGINES.fail(f"{each['name']}: {failure['message']}", hint)
    for text in status.get("warnings", ()):
        yield _remark(text)
    if not instances and not managed:
        yield ENGINES.warn("the gateway has no engine, so it refuses every request", _ADD)
    ready = [each["name"] for each in instances if each["state"] in _FINE]
    if ready:
        yield ENGINES.ok(f"served: {', '.join(ready)}")


def _remark(text: str) -> Finding:
    """A warning of the gateway, which ends with its remedy."""
    problem, _, remedy = text.rpartition("; ")
    return ENGINES.warn(problem, remedy) if problem else ENGINES.warn(text, _EDIT)


def programs(facts: Facts) -> Iterator[Finding]:
    """The programs that the configured engines need, and those that are there."""
    settings = facts.settings.value
    found: dict[str, Program] = {}
    missing: dict[str, LaunchError] = {}
    for recipe, kind in PROGRAMS.items():
        try:
            found[recipe] = find(kind, getattr(settings.managed, recipe), facts.environ)
        except LaunchError as error:
            missing[recipe] = error
            if not isinstance(error, NotInstalledError):
                yield PROGRAMS_FOUND.fail(error.message, error.hint or _EDIT)
    for engine in settings.engines:
        name = name_of_engine(engine)
        try:
            if engine.engine == "command":
                for word in engine.command[:1]:
                    find_command(word, facts.environ)
            elif engine.engine != "auto" and engine.engine in missing:
                raise missing[engine.engine]
            elif engine.engine == "auto" and not found.keys() & set(_OF_AUTO):
                raise missing["vllm"]
        except LaunchError as error:
            yield PROGRAMS_FOUND.fail(f"{name}: {error.message}", error.hint or _EDIT)
    if found:
        shown = [f"{recipe} {program.version or ''}".strip() for recipe, program in found.items()]
        yield PROGRAMS_FOUND.ok(f"installed: {', '.join(shown)}")
    elif not settings.engines and all(isinstance(each, NotInstalledError) for each in missing.values()):
        yield PROGRAMS_FOUND.ok("none installed, and none needed")


ENGINES = Check("engines", engines)
PROGRAMS_FOUND = Check("programs", programs)
