"""The pidfile: the running gateway's address, and the flags that it was started with."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sage_inference.daemon.errors import DaemonError
from sage_inference.daemon.process import Process
from sage_inference.netloc import origin, reachable

Phase = Literal["starting", "running", "stopping"]
_LARGEST = 1 << 20
_COPY = "sage-inference-pidfile"
_TYPES: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "bool": bool,
    "str | None": (str, type(None)),
    "dict[str, Any]": dict,
    "Phase": str,
}


class PidfileError(DaemonError):
    """The pidfile cannot be written or removed, mostly because another file has its path."""

    code = "pidfile"

    def __init__(self, path: Path, deed: str, error: OSError) -> None:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room on the disk" if is_full else "remove what is in its place"
        super().__init__(
            f"pidfile {path} cannot be {deed}: {error.strerror}",
            f"{remedy}, or name another folder in SAGE_INFERENCE_HOME",
        )
        self.reason = error.strerror


@dataclass(frozen=True, slots=True, kw_only=True)
class PidInfo:
    """The pidfile's content. Only the lock proves that a gateway runs."""

    pid: int
    create_time: float
    host: str
    port: int
    config_path: str
    log_path: str
    version: str
    started_at: float
    admin_token: str = field(repr=False)
    phase: Phase = "starting"
    drain_s: float = 30.0
    simulate: bool = False
    background: bool = False
    supervised: bool = False
    directory: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    needs_api_key: bool = False  # --api-key was a literal, which is not stored
    certificate: str | None = None  # its SHA-256, if the gateway speaks HTTPS

    @property
    def url(self) -> str:
        """The address by which this machine reaches the gateway."""
        return origin(reachable(self.host), self.port, self.certificate is not None)

    @property
    def process(self) -> Process:
        return Process(self.pid, self.create_time)


def write(path: Path, info: PidInfo) -> None:
    """Write atomically. Only the owner may read it, because it has the run's admin token. Raises ``PidfileError``."""
    # Only the holder of the lock writes, so one temporary name is enough. One that a killed holder left is overwritten.
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(info), file)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PidfileError(path, "written", error) from None


def read(path: Path) -> PidInfo | None:
    """The content. None if the file is missing, unreadable, or not a pidfile."""
    try:
        # Without O_NONBLOCK, opening a FIFO at this path would block.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return parse(file.read(_LARGEST) or b"")
    except OSError:
        return None


def copy_in_memory(info: PidInfo) -> int | None:
    """A copy in memory that ``read_of`` finds even if the file is gone, while this process has the descriptor open."""
    try:
        descriptor = os.memfd_create(_COPY, os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux; no descriptors
        return None
    os.write(descriptor, json.dumps(asdict(info)).encode())
    return descriptor


def read_of(process: Process) -> PidInfo | None:
    """The copy in memory of the pidfile of ``process``, in case the file was removed or replaced."""
    try:
        descriptors = list(os.scandir(f"/proc/{process.pid}/fd"))
    except OSError:
        return None
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            if _COPY in os.readlink(descriptor):  # noqa: PTH115 - may be no path
                info = read(Path(descriptor.path))
                if info is not None and info.process == process:
                    return info
    return None


def parse(raw: bytes) -> PidInfo | None:
    """The content of a pidfile, None for other data. Keys of newer versions are ignored."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    values: dict[str, Any] = {}
    for known in fields(PidInfo):
        if known.name in document:
            if not _fits(document[known.name], str(known.type)):
                return None
            values[known.name] = document[known.name]
        elif known.default is MISSING and known.default_factory is MISSING:
            return None
    return PidInfo(**values)


def remove(path: Path) -> None:
    """Raises ``PidfileError``."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise PidfileError(path, "removed", error) from None


def _fits(value: Any, kind: str) -> bool:
    # Python's bool is an int, which is not meant here.
    return isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
