"""One search for engines on this machine: which ports are worth a question, and which of them answer as engines."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Set
from dataclasses import dataclass, replace

import httpx

from sage_inference.engines.detect import Detected, DetectError, detect, gateway_document
from sage_inference.engines.query_clients import query_client
from sage_inference.engines.search.listeners import Listener, listeners
from sage_inference.engines.search.owners import are_hidden, with_owners
from sage_inference.engines.search.processes import EngineProcess, engine_processes
from sage_inference.netloc import netloc

# The ports that the documentation of this package, of vLLM and of TEI uses. The clients look there, too.
KNOWN_PORTS = (8001, 8000, 8090, 8080)
# Any program may listen on such a port, and one that accepts a question and never answers delays the start.
QUESTION_S = 3.0
_REMEDY = "an entry of the configuration's instances can say more about it"


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """An engine that answers at ``url`` and names its models."""

    url: str
    detected: Detected


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a search. ``notes`` are about servers that look like engines and cannot be used as they are."""

    engines: tuple[FoundEngine, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A port that is worth a question. ``process`` is the engine's, if one was recognized."""

    listener: Listener
    process: EngineProcess | None = None
    url: str = ""

    def located(self) -> _Candidate:
        """The same with its URL."""
        return replace(self, url=f"http://{netloc(self.listener.reached_at(), self.listener.port)}")


async def search(
    own_ports: Collection[int] = (),
    known_ports: Collection[int] = KNOWN_PORTS,
    question_s: float = QUESTION_S,
    own_pids: Set[int] = frozenset(),
) -> Findings:
    """Ask the servers of this machine that may be engines, each for at most ``question_s``.

    Those at ``own_ports`` are not asked, nor the processes of ``own_pids`` and their children.

    Only servers of this user and of the system's accounts are asked: on a machine with several people, any of them
    can listen on a port that engines usually have.
    """
    # Reading the processes takes about 0.1 ms for each of them.
    candidates, notes = await asyncio.to_thread(_candidates, own_ports, known_ports, own_pids)
    client = query_client()
    try:
        answers = await asyncio.gather(*(_question(client, each, question_s) for each in candidates))
    finally:
        await client.aclose()
    engines = tuple(answer for answer in answers if isinstance(answer, FoundEngine))
    notes += [answer for answer in answers if isinstance(answer, str)]
    return Findings(engines, tuple(notes))


def _candidates(
    own_ports: Collection[int], known_ports: Collection[int], own_pids: Set[int]
) -> tuple[list[_Candidate], list[str]]:
    """The ports to ask, and notes on processes without one, or with one that is not asked."""
    listening = listeners()
    found: dict[int, _Candidate] = {}
    notes: list[str] = []
    for process in engine_processes(own_pids):
        at = [each for port in process.ports for each in _at(port, listening)]
        for each in at:
            found.setdefault(each.port, _Candidate(each, process))
        if not at:
            notes.append(
                f"a process of {process.engine} (pid {process.pid}) does not listen yet; it is served once it does"
            )
    for port in known_ports:
        for each in _at(port, listening):
            found.setdefault(port, _Candidate(each))
    for port in own_ports:
        found.pop(port, None)
    if are_hidden():
        owned = with_owners(each.listener for each in found.values())
        found = {each.port: replace(found[each.port], listener=each) for each in owned if each.port in found}
    found = {port: each.located() for port, each in found.items()}
    trusted = {port: each for port, each in found.items() if each.listener.is_trusted}
    notes += [_foreign(each) for port, each in found.items() if port not in trusted]
    return list(trusted.values()), notes


def _at(port: int, listening: list[Listener] | None) -> list[Listener]:
    """The sockets that listen on ``port``, loopback first. Where the system does not list them, one is assumed."""
    if listening is None:
        return [Listener("127.0.0.1", port)]
    there = [each for each in listening if each.port == port]
    return sorted(there, key=lambda each: not each.is_on_loopback)


def _foreign(candidate: _Candidate) -> str:
    return (
        f"a server of another user (uid {candidate.listener.uid}) listens at {candidate.url} and was not asked; "
        f"--llm-backend {candidate.url} uses it"
    )


async def _question(
    client: httpx.AsyncClient, candidate: _Candidate, seconds: float
) -> FoundEngine | str | None:
    """The engine at the candidate's port, a note on it, or None if it is something else."""
    url, process = candidate.url, candidate.process
    server = f"the {process.engine} (pid {process.pid})" if process else "the server"
    try:
        async with asyncio.timeout(seconds):
            gateway, detected = await asyncio.gather(gateway_document(client, url), detect(client, url))
    except TimeoutError:
        return f"{server} at {url} did not answer within {seconds:g} s" if process else None
    except DetectError as error:
        # Any program may listen on a port that engines usually have.
        return f"{server} at {url} {error}; {_REMEDY}" if process or "api_key" in str(error) else None
    if gateway is not None:  # it would hide its engines from this one's scheduler
        return None
    if not detected.models:
        return f"{server} at {url} names no model; {_REMEDY}"
    return FoundEngine(url, detected)
