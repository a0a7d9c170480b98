"""Processes that look like engines, by their command lines."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

import psutil


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A process that looks like an engine.

    ``ports`` are those that may serve its API. Empty while it listens on none.
    """

    pid: int
    engine: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """The form of an engine's command line. ``word`` follows the program, unless it is empty."""

    engine: str
    program: str  # of an executable or a script, or a Python module
    port: int  # without an option
    word: str = ""


# The defaults of vLLM 0.25, TEI 1.9, infinity 0.0.77, llama.cpp b6000, Ollama 0.12 and SGLang 0.5.
_LOOKS = (
    _Look("vLLM", "vllm", 8000, "serve"),
    _Look("vLLM", "vllm.entrypoints.openai.api_server", 8000),
    _Look("TEI", "text-embeddings-router", 3000),
    _Look("infinity", "infinity_emb", 7997, "v2"),
    _Look("llama-server", "llama-server", 8080),
    _Look("Ollama", "ollama", 11434, "serve"),
    _Look("SGLang", "sglang.launch_server", 30000),
)
_PORT_OPTIONS = ("--port", "-p")


def engine_processes(own: Set[int] = frozenset()) -> list[EngineProcess]:
    """The processes of this machine that look like engines, without those of ``own`` and their children."""
    found: list[EngineProcess] = []
    for process in psutil.process_iter(["cmdline"]):
        argv = process.info["cmdline"]
        look = look_of(argv) if argv else None
        if look is None:
            continue
        with suppress(psutil.NoSuchProcess):
            if own and not own.isdisjoint({process.pid, *(each.pid for each in process.parents())}):
                continue
            ports = _ports_of(process, stated_port(argv, look.port))
            found.append(EngineProcess(process.pid, look.engine, ports))
    return found


def look_of(argv: Sequence[str]) -> _Look | None:
    """The engine that a command line starts. None if it starts none."""
    program, rest = _program_of(argv)
    for look in _LOOKS:
        if program == look.program and (not look.word or look.word in rest[:1]):
            return look
    return None


def _program_of(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The program's name and its arguments. For Python's, the name of the script or of the module."""
    name = PurePath(argv[0]).name
    rest = argv[1:]
    if not name.startswith("python"):
        return name, rest
    while rest and rest[0].startswith("-") and rest[0] != "-m":  # options of the interpreter
        rest = rest[1:]
    if rest[:1] == ["-m"]:
        rest = rest[1:]
    return (PurePath(rest[0]).name, rest[1:]) if rest else ("", ())


def stated_port(argv: Sequence[str], default: int) -> int:
    """The port that the command line names, in either form: ``--port 8001`` or ``--port=8001``."""
    given = [value for option, value in pairwise(argv) if option in _PORT_OPTIONS]
    given += [word.partition("=")[2] for word in argv if word.startswith(f"{_PORT_OPTIONS[0]}=")]
    ports = [int(text) for text in given if text.isascii() and text.isdigit() and 0 < int(text) < 65536]
    return ports[-1] if ports else default


def _ports_of(process: psutil.Process, stated: int) -> tuple[int, ...]:
    """The port of the command line if the process or a child listens on it, otherwise the process's own ports.

    An engine may leave the listening to children: vLLM does with several API servers. Their other ports are not
    tried, because they take no HTTP: torch's store and the ZeroMQ sockets of a distributed engine.
    """
    own: tuple[int, ...] = ()
    for one in (process, *process.children(recursive=True)):
        try:
            listening = _listening(one)
        except psutil.AccessDenied:  # another user's process; whether the port is open is seen elsewhere
            return (stated,)
        except psutil.NoSuchProcess:
            continue
        if stated in listening:
            return (stated,)
        if one is process:
            own = listening
    return own


def _listening(process: psutil.Process) -> tuple[int, ...]:
    # psutil 6 renamed the method.
    connections = process.net_connections if hasattr(process, "net_connections") else process.connections
    ports = [
        each.laddr.port for each in connections("tcp") if each.status == psutil.CONN_LISTEN and each.laddr
    ]
    return tuple(dict.fromkeys(ports))
